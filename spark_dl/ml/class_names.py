"""Names of the package's classes in saved metadata: the public ones, so that modules can be renamed."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["class_name", "current_name"]

_PUBLIC = (
    *("KerasEstimator", "KerasClassifier", "KerasRegressor", "KerasTagger"),
    *("KerasModel", "KerasClassifierModel", "KerasRegressorModel", "KerasTaggerModel"),
    "TokenEvaluator",
)
# Version 0.1 wrote the classes' module paths.
_OLD = re.compile(r"spark_dl\.estimators\.(base|model|classifier|regressor)\.(\w+)")


def class_name(cls: type) -> str:
    """Return the name of a class for metadata, such as `spark_dl.KerasModel`; of a user's subclass, with its module."""
    own = cls.__module__.startswith("spark_dl.") and cls.__name__ in _PUBLIC
    return f"spark_dl.{cls.__name__}" if own else f"{cls.__module__}.{cls.__qualname__}"


def current_name(written: Any) -> Any:
    """Translate a class name from metadata of any release to its current name."""
    old = _OLD.fullmatch(written) if isinstance(written, str) else None
    return f"spark_dl.{old[2]}" if old and old[2] in _PUBLIC else written
