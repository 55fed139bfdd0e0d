"""Federated training: one rank trains on each silo's rows, and models are averaged in rounds."""

from __future__ import annotations

from spark_dl.federated.training import fit

__all__ = ["fit"]
