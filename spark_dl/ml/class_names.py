"""The names by which saved metadata know the classes: public ones, so that files of the package may move."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["class_name", "current_name"]

_PUBLIC = (
    *("KerasEstimator", "KerasClassifier", "KerasRegressor"),
    *("KerasModel", "KerasClassifierModel", "KerasRegressorModel"),
)
# Version 0.1 wrote the files that held them then.
_OLD = re.compile(r"spark_dl\.estimators\.(base|model|classifier|regressor)\.(\w+)")


def class_name(cls: type) -> str:
    """Name a class in metadata: `spark_dl.KerasModel`, or a user's subclass by its module."""
    own = cls.__module__.startswith("spark_dl.") and cls.__name__ in _PUBLIC
    return f"spark_dl.{cls.__name__}" if own else f"{cls.__module__}.{cls.__qualname__}"


def current_name(written: Any) -> Any:
    """Translate a class's name as metadata of any version have it into today's."""
    old = _OLD.fullmatch(written) if isinstance(written, str) else None
    return f"spark_dl.{old[2]}" if old and old[2] in _PUBLIC else written
