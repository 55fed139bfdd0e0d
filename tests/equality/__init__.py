"""Tests with ranks on two executors."""
