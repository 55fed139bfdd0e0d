"""Tests on Spark in local mode."""
