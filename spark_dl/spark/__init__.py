"""Helpers around Spark: sessions, jobs, Python workers."""
