"""Explanations of fitted models: attributions by row, and the importance of columns.

`IntegratedGradients` is a Transformer that adds attributions to each row; `PermutationImportance` measures how much
worse a model gets when the values of a column are shuffled among the rows.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spark_dl.explain.integrated_gradients import IntegratedGradients
    from spark_dl.explain.permutation import ColumnImportance, Importances, PermutationImportance

_PUBLIC = {
    "ColumnImportance": "spark_dl.explain.permutation",
    "Importances": "spark_dl.explain.permutation",
    "IntegratedGradients": "spark_dl.explain.integrated_gradients",
    "PermutationImportance": "spark_dl.explain.permutation",
}

__all__ = ["ColumnImportance", "Importances", "IntegratedGradients", "PermutationImportance"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
