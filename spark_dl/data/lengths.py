"""Words about rows of wrong lengths, for conversions and scoring."""

from __future__ import annotations

from collections.abc import Mapping

from spark_dl.data.column import Column

__all__ = ["lengths_text"]


def lengths_text(column: Column, found: Mapping[int, int]) -> str:
    """Describe lengths: the only one; or the shortest, the longest and the commonest of several.

    Args:
        column: The column.
        found: The number of rows of each wrong length, at least one. In columns with inner arrays, 0 also stands for
            inner arrays of wrong lengths.
    """
    if list(found) == [0] and column.inner and column.pad is not None:
        return f"with inner arrays that aren't of {' x '.join(map(str, column.inner))}"
    if len(found) == 1:
        return f"of length {next(iter(found))}"
    common = max(sorted(found), key=lambda length: found[length])
    return f"of lengths {min(found)} to {max(found)}, most often {common} (in {found[common]})"
