"""Training with differential privacy.

`DPSGD` is an Estimator that wraps an estimator: it trains by noisy gradients that are clipped row by row, and reports
the privacy loss (epsilon) of the weights.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spark_dl.privacy.accounting import epsilon, noise_for
    from spark_dl.privacy.dpsgd import DPSGD

_PUBLIC = {
    "DPSGD": "spark_dl.privacy.dpsgd",
    "epsilon": "spark_dl.privacy.accounting",
    "noise_for": "spark_dl.privacy.accounting",
}

__all__ = ["DPSGD", "epsilon", "noise_for"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
