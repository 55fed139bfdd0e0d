"""How names of the user's objects look that no name of Python's tells apart; without Keras, for drivers that score."""

from __future__ import annotations

__all__ = ["PACKAGE"]

# As of a package that is registered with Keras.
PACKAGE = "spark_dl.custom>"
