"""Tests of the notebooks, each in a kernel of its own."""
