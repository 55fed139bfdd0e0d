"""Arrow columns to NumPy arrays: whole batches at once give what a walk over the rows gives."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_dl.data.column import Column
from spark_dl.data.columns import Extracted, decode
from spark_dl.data.columns.number import decode_together

WIDTH = 3
NAN = float("nan")
VECTOR = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)


def scalar(name: str, dtype: str) -> Column:
    return Column(name, "boolean" if dtype == "bool" else "number", dtype, 1)


fractions = st.sampled_from([0.0, -1.5, 2.25, 7.0, NAN, math.inf])
numbers = {
    "float64": (pa.float64(), fractions),
    "float32": (pa.float32(), fractions),
    "int8": (pa.int8(), st.integers(-128, 127)),
    "int64": (pa.int64(), st.integers(-(1 << 40), 1 << 40)),
    "bool": (pa.bool_(), st.booleans()),
}
dtypes = st.sampled_from(sorted(numbers))
# Where a batch is cut out of a longer one: rows before it, and rows after.
cuts = st.tuples(st.integers(0, 3), st.integers(0, 3))


def cut(values: list[Any], kind: pa.DataType, before: int, after: int) -> tuple[pa.Array, list[Any]]:
    """An Arrow array that begins within its buffers, and its rows."""
    stop = max(before, len(values) - after)
    return pa.array(values, kind)[before:stop], values[before:stop]


def walked(rows: list[list[Any] | None], width: int = WIDTH) -> tuple[list[Any], list[bool], int, int, dict[int, int]]:
    """Row by row: values (None where it doesn't matter), missing, nulls, NaNs, wrong lengths."""
    lengths = Counter(len(row) for row in rows if row is not None and len(row) != width)
    wrong = [row is not None and len(row) != width for row in rows]
    null = [row is None or (not bad and None in row) for row, bad in zip(rows, wrong, strict=True)]
    nan = [
        not bad and not hole and row is not None and any(isinstance(v, float) and math.isnan(v) for v in row)
        for row, bad, hole in zip(rows, wrong, null, strict=True)
    ]
    missing = [any(flags) for flags in zip(wrong, null, nan, strict=True)]
    values = [None if gone else [float(v) for v in row or []] for row, gone in zip(rows, missing, strict=True)]
    return values, missing, sum(null), sum(nan), dict(lengths)


def agree(extracted: Extracted, rows: list[list[Any] | None], width: int = WIDTH) -> None:
    """What was extracted is what a walk over the rows finds."""
    values, missing, nulls, nans, lengths = walked(rows, width)
    assert extracted.lengths == lengths
    assert extracted.values.shape == (len(rows), width)
    assert extracted.missing.shape == (len(rows),)
    if lengths:
        # Then the batch is refused as a whole, and the rest is only looked through for the message.
        assert [bool(m) for m, row in zip(extracted.missing, rows, strict=True) if row and len(row) != width] == [
            True for row in rows if row and len(row) != width
        ]
        return
    assert extracted.missing.tolist() == missing
    assert (extracted.nulls, extracted.nans) == (nulls, nans)
    for got, expected in zip(extracted.values, values, strict=True):
        if expected is not None:
            assert got.astype(np.float64).tolist() == expected


@settings(max_examples=200)
@given(st.data(), dtypes, cuts)
def test_scalars(data: st.DataObject, dtype: str, around: tuple[int, int]) -> None:
    kind, value = numbers[dtype]
    array, rows = cut(data.draw(st.lists(st.none() | value, max_size=9)), kind, *around)
    extracted = decode(array, scalar("x", dtype))
    agree(extracted, [[row] for row in rows], width=1)
    assert extracted.values.dtype == ("int8" if dtype == "bool" else dtype)


@settings(max_examples=200)
@given(st.data(), dtypes, cuts, st.booleans())
def test_arrays(data: st.DataObject, dtype: str, around: tuple[int, int], ragged: bool) -> None:
    kind, value = numbers[dtype]
    lengths = {"min_size": 0, "max_size": 5} if ragged else {"min_size": WIDTH, "max_size": WIDTH}
    row = st.lists(st.none() | value if data.draw(st.booleans()) else value, **lengths)
    array, rows = cut(data.draw(st.lists(st.none() | row, max_size=9)), pa.list_(kind), *around)
    extracted = decode(array, Column("x", "array", dtype, WIDTH))
    agree(extracted, rows)


@st.composite
def vectors(draw: st.DrawFn, ragged: bool) -> tuple[dict[str, Any] | None, list[float] | None]:
    """A Vector as Arrow has it, and its numbers."""
    form = draw(st.sampled_from(["null", "dense", "dense", "sparse"]))
    size = draw(st.integers(1, 5)) if ragged else WIDTH
    if form == "null":
        return None, None
    if form == "dense":
        values = draw(st.lists(fractions, min_size=size, max_size=size))
        return {"type": 1, "size": None, "indices": None, "values": values}, values
    entries = draw(st.dictionaries(st.integers(0, size - 1), fractions))
    content = {"type": 0, "size": size, "indices": sorted(entries), "values": [entries[i] for i in sorted(entries)]}
    return content, [entries.get(index, 0.0) for index in range(size)]


@settings(max_examples=200)
@given(st.data(), cuts, st.booleans())
def test_vectors(data: st.DataObject, around: tuple[int, int], ragged: bool) -> None:
    drawn = data.draw(st.lists(vectors(ragged), max_size=9))
    array, _ = cut([content for content, _ in drawn], VECTOR, *around)
    rows = [values for _, values in drawn][around[0] :][: len(array)]
    extracted = decode(array, Column("x", "vector", "float64", WIDTH))
    assert extracted.values.dtype == np.float64
    agree(extracted, rows)


@settings(max_examples=200)
@given(st.data(), dtypes, cuts)
def test_scalars_that_travel_together(data: st.DataObject, dtype: str, around: tuple[int, int]) -> None:
    kind, value = numbers[dtype]
    row = st.lists(st.none() | value, min_size=3, max_size=3)
    array, rows = cut(data.draw(st.lists(row, max_size=9)), pa.list_(kind), *around)
    together = decode_together(array, [scalar(f"x{i}", dtype) for i in range(3)])
    assert len(together) == 3
    for index, extracted in enumerate(together):
        agree(extracted, [[found[index]] for found in rows], width=1)
        assert extracted.values.dtype == ("int8" if dtype == "bool" else dtype)


@pytest.mark.parametrize("kind", ["number", "array", "vector"])
def test_an_empty_batch_has_no_rows_but_a_width(kind: str) -> None:
    arrow = {"number": pa.float64(), "array": pa.list_(pa.float64()), "vector": VECTOR}[kind]
    width = 1 if kind == "number" else WIDTH
    empty = pa.array([], arrow)
    column = Column("x", kind, "float64", width)
    extracted = decode(empty, column)
    assert extracted.values.shape == (0, width)
    assert (extracted.missing.tolist(), extracted.nulls, extracted.nans, extracted.lengths) == ([], 0, 0, {})


def test_a_row_with_a_null_and_a_nan_counts_as_a_null() -> None:
    extracted = decode(pa.array([[NAN, None], [NAN, 1.0]]), Column("x", "array", "float64", 2))
    assert (extracted.nulls, extracted.nans, extracted.missing.tolist()) == (1, 1, [True, True])


def test_sparse_rows_keep_their_places_among_dense_and_null_ones() -> None:
    rows = [
        {"type": 0, "size": 2, "indices": [1], "values": [5.0]},
        None,
        {"type": 1, "size": None, "indices": None, "values": [3.0, 4.0]},
        {"type": 0, "size": 2, "indices": [], "values": []},
        {"type": 0, "size": 2, "indices": [0, 1], "values": [6.0, 7.0]},
    ]
    extracted = decode(pa.array(rows, VECTOR), Column("x", "vector", "float64", 2))
    assert extracted.values[[0, 2, 3, 4]].tolist() == [[0, 5], [3, 4], [0, 0], [6, 7]]
    assert extracted.missing.tolist() == [False, True, False, False, False]


def test_a_null_row_may_hide_numbers_of_any_length() -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 3, 5, 8], pa.int32()), pa.array(np.arange(8.0)))
    hidden = pa.ListArray.from_buffers(
        lists.type, 3, [pa.py_buffer(bytes([0b101])), lists.buffers()[1]], children=[lists.values]
    )
    extracted = decode(hidden, Column("x", "array", "float64", 3))
    assert extracted.lengths == {}
    assert extracted.missing.tolist() == [False, True, False]
    assert extracted.values[[0, 2]].tolist() == [[0, 1, 2], [5, 6, 7]]


def test_whole_batches_are_not_copied() -> None:
    numbers = np.arange(12.0)
    lists = pa.ListArray.from_arrays(pa.array([0, 3, 6, 9, 12], pa.int32()), pa.array(numbers))
    extracted = decode(lists, Column("x", "array", "float64", 3))
    assert np.shares_memory(extracted.values, lists.values.to_numpy())
