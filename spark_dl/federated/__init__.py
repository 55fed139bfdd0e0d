"""Federated training: each silo's rows are trained on by one rank alone, and models are averaged in rounds."""

from __future__ import annotations

from spark_dl.federated.training import fit

__all__ = ["fit"]
