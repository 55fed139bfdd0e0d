"""Metrics and step logs, joined over all ranks."""
