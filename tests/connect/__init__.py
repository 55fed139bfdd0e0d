"""Tests of a client of Spark Connect, against a server of its own with two executors."""
