"""Keras layers for tasks that Keras has none for; they work in plain Keras, too."""

from __future__ import annotations

from spark_dl.layers.crf import CRF, CRFLoss
from spark_dl.layers.reconstruction import ReconstructionError
from spark_dl.layers.with_assets import WithAssets

__all__ = ["CRF", "CRFLoss", "ReconstructionError", "WithAssets"]
