"""Prefix of the distinct names of custom objects whose Python names are ambiguous; importable without Keras."""

from __future__ import annotations

__all__ = ["PACKAGE"]

# Has the form of a package name registered with Keras.
PACKAGE = "spark_dl.custom>"
