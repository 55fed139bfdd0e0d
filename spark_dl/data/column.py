"""Record of a DataFrame column that feeds a model, independent of Spark."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Column", "quoted"]


@dataclass(frozen=True)
class Column:
    """DataFrame column that can feed a model.

    Attributes:
        name: The column's name.
        kind: The name of the column's kind in `columns.KINDS`.
        dtype: The NumPy dtype of the column's numbers in Arrow batches; "object" for bytes.
        width: The number of values in a row; 1 for a scalar, 0 for bytes and for arrays that are padded in the batch.
        nested: The nesting depth of an array beyond the first level; 0 for an array of numbers.
        inner: The required lengths of the inner arrays, from outer to inner; empty for no requirement.
        drop: Whether rows without a value are left out of training instead of being errors.
        fill: The replacement for a missing value; None for no replacement.
        sparse: For a Vector that stays sparse until the batch, and arrays that are padded there, the dtype of the
            model's input; else "".
        pad: For an array, the value that follows the values of a row that is too short; None for no padding.
        truncate: What a padded array's rows that are too long lose: "end" or "start"; "error" to refuse them.
        validate: Whether a conversion decodes the images to find damaged ones.
    """

    name: str
    kind: str
    dtype: str
    width: int
    nested: int = 0
    inner: tuple[int, ...] = ()
    drop: bool = False
    fill: float | str | None = None
    sparse: str = ""
    pad: float | str | None = None
    truncate: str = "error"
    validate: bool = False

    @property
    def unit(self) -> int:
        """Number of values in one element of the outermost array: 1, or those of its inner arrays."""
        return math.prod(self.inner)


def quoted(name: str) -> str:
    """Quote a column's name for Spark SQL, whatever characters it contains.

    >>> quoted("a.b")
    '`a.b`'
    """
    return "`" + name.replace("`", "``") + "`"
