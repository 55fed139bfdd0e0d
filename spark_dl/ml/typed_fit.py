"""The class of the fitted model, for type checkers, which read the methods in `typed_fit.pyi`."""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["TypedFit"]

M = TypeVar("M")


class TypedFit(Generic[M]):
    """Base of an estimator whose fitted model is of a narrower class than that of its base estimator.

    It comes before the base estimator in the list of bases.
    """
