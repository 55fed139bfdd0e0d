"""Byte rows in one buffer are what an array of bytes objects is, whatever rows are chosen and joined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from spark_dl.data.block_writer import checksum
from spark_dl.data.ragged import ByteRows, Values, as_array, concatenated, joined, lengths, row_sizes, split


def objects(values: list[bytes]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def assert_same(rows: Values, array: np.ndarray) -> None:
    assert as_array(rows).tolist() == array.tolist()
    assert joined(rows).tobytes() == joined(array).tobytes()
    assert lengths(rows).tolist() == row_sizes(rows).tolist() == lengths(array).tolist()
    assert split(joined(rows).data, lengths(rows)).tolist() == array.tolist()
    assert checksum([rows]) == checksum([array])


@given(values=st.lists(st.binary(max_size=9), max_size=9), cut=st.integers(0, 9), data=st.data())
def test_chosen_rows_are_those_of_an_array(values: list[bytes], cut: int, data: st.DataObject) -> None:
    # A part of a longer Arrow array, whose buffer begins before it.
    whole = pa.array([b"before", *values, b"after"], pa.large_binary())
    rows, array = ByteRows(whole[1:-1]), objects(values)
    assert_same(rows, array)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))), bool)
    drawn = st.lists(st.integers(0, len(values) - 1), max_size=9) if values else st.just([])
    chosen: list[Any] = [slice(cut), slice(cut, None), slice(1, cut), mask, np.array(data.draw(drawn), np.int64)]
    for which in chosen:
        assert_same(rows[which], array[which])
        assert_same(rows[1:][: cut - 1][:3], array[1:][: cut - 1][:3])


@given(parts=st.lists(st.tuples(st.booleans(), st.lists(st.binary(max_size=5), max_size=4)), min_size=1, max_size=4))
def test_both_forms_are_concatenated(parts: list[tuple[bool, list[bytes]]]) -> None:
    given = [ByteRows(pa.array(values, pa.large_binary())) if one else objects(values) for one, values in parts]
    assert_same(concatenated(given), objects([value for _, values in parts for value in values]))
