"""Vectors that stay sparse until the batch: against NumPy, and a walk over the rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T
from rows import pack, scored_input

from spark_dl.data.batches import _ready, tensorflow_batches
from spark_dl.data.column import Column
from spark_dl.data.columns import Extracted, decode, decode_tensor
from spark_dl.data.readers import reader
from spark_dl.data.schema import ColumnRules, feature_spec
from spark_dl.data.shards import shards
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.errors import DataError
from spark_dl.io.store import Store
from spark_dl.score.scoring_model import rows_at_once

from .test_arrow import VECTOR, WIDTH, cut, cuts, vectors, walked


def decoded(extracted: Extracted, width: int, dtype: str = "float32") -> np.ndarray:
    contents = tf.constant(extracted.values[~extracted.missing], tf.string)
    numbers: np.ndarray = decode_tensor(contents, "sparse", (width,), dtype).numpy()
    return numbers


@settings(max_examples=200, deadline=None)
@given(st.data(), cuts, st.booleans())
def test_they_are_what_a_walk_over_the_rows_finds(data: st.DataObject, around: tuple[int, int], ragged: bool) -> None:
    drawn = data.draw(st.lists(vectors(ragged), max_size=9))
    array, _ = cut([content for content, _ in drawn], VECTOR, *around)
    found = decode(array, spec(WIDTH).columns[0])
    values, *expected = walked([numbers for _, numbers in drawn][around[0] :][: len(array)])
    assert [found.missing.tolist(), found.nulls, found.nans, found.lengths] == expected
    present = [numbers for numbers in values if numbers is not None]
    np.testing.assert_array_equal(decoded(found, WIDTH), np.array(present, np.float32).reshape(-1, WIDTH))


def row(size: int, entries: dict[int, float]) -> dict[str, Any]:
    return {"type": 0, "size": size, "indices": list(entries), "values": list(entries.values())}


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 6e4), ("float32", 1e38), ("float64", 1e308)])
def test_numbers_must_fit_the_models_input(dtype: str, largest: float) -> None:
    rows = [row(2, {1: largest}), row(2, {0: math.inf}), None]
    extracted = decode(pa.array(rows, VECTOR), spec(2, dtype).columns[0])
    assert extracted.beyond is not None
    assert extracted.beyond.tolist() == [False, False, False]
    assert decoded(extracted, 2, dtype).tolist() == np.array([[0, largest], [math.inf, 0]], dtype).tolist()
    if dtype != "float64":
        extracted = decode(pa.array([row(2, {1: 10 * largest})], VECTOR), spec(2, dtype).columns[0])
        assert (extracted.beyond.tolist(), extracted.missing.tolist()) == ([True], [False])


def test_a_row_takes_as_many_bytes_as_it_has_numbers() -> None:
    width = 1 << 18
    array = pa.array([row(width, {7: 1.0, width - 1: 2.0}), row(width, {})], VECTOR)
    extracted = decode(array, spec(width).columns[0])
    assert [len(value) for value in extracted.values] == [16, 0]
    (first, second) = decoded(extracted, width)
    assert np.flatnonzero(first).tolist() == [7, width - 1]
    assert not second.any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_batch_has_the_inputs_shape_and_dtype(dtype: str) -> None:
    of_numpy = "float32" if dtype == "bfloat16" else dtype
    contents = decode(pa.array([row(6, {1: 0.5, 4: -2.0})], VECTOR), spec(6, of_numpy).columns[0]).values
    batch = decode_tensor(tf.constant(contents, tf.string), "sparse", (2, 3), dtype)
    assert batch.dtype == dtype
    assert tf.cast(batch, "float32").numpy().tolist() == [[[0, 0.5, 0], [0, -2, 0]]]


def spec(width: int, dtype: str = "float32") -> FeatureSpec:
    return FeatureSpec((Column("x", "sparse vector", "float64", width, sparse=dtype),), (width,), dtype)


def test_blocks_and_batches_carry_them(tmp_path: Path) -> None:
    width, rows = 5000, 40
    random = np.random.default_rng(0)
    drawn = [{int(place): float(place) for place in random.choice(width, 3, replace=False)} for _ in range(rows)]
    batch = pa.RecordBatch.from_pydict(
        {
            "x": pa.array([row(width, dict(sorted(entries.items()))) for entries in drawn], VECTOR),
            "y": pa.array(range(rows), pa.int32()),
        }
    )
    labels = (LabelSpec(Column("y", "number", "int32", 1), (), "int32", None),)
    conversion = ConversionSpec(store=Store.at(str(tmp_path)), features=(spec(width),), labels=labels)
    dataset, faults = pack(conversion, batch)
    assert not faults
    assert dataset.bytes == rows * (3 * 8 + 4)
    (mine,) = shards(dataset.blocks, 1, 16, 1)
    seen: dict[int, np.ndarray] = {}
    for features, ids in tensorflow_batches(dataset, [mine], reader("petastorm"), seed=1, one_pass=True):
        seen.update(zip(ids.numpy().tolist(), features.numpy(), strict=True))
    assert sorted(seen) == list(range(rows))
    for number, entries in enumerate(drawn):
        expected = np.zeros(width, np.float32)
        expected[list(entries)] = list(entries.values())
        np.testing.assert_array_equal(seen[number], expected)


def test_what_is_wrong_with_them_is_counted(tmp_path: Path) -> None:
    rows = [row(4, {0: 1.0}), None, row(3, {0: 1.0}), row(4, {1: 1e300}), row(4, {1: math.nan})]
    batch = pa.RecordBatch.from_pydict({"x": pa.array(rows, VECTOR), "y": pa.array(range(5), pa.int32())})
    labels = (LabelSpec(Column("y", "number", "int32", 1), (), "int32", None),)
    _, faults = pack(ConversionSpec(store=Store.at(str(tmp_path)), features=(spec(4),), labels=labels), batch)
    assert faults == {
        ("null", "x", ""): 1,
        ("length", "x", "3"): 1,
        ("range", "x", "float32"): 1,
        ("nan", "x", ""): 1,
    }


def test_a_row_that_is_left_out_for_another_column_may_hold_what_does_not_fit(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict(
        {"x": pa.array([row(4, {0: 1e300}), row(4, {0: 1.0})], VECTOR), "y": pa.array([None, 1], pa.int32())}
    )
    labels = (LabelSpec(Column("y", "number", "int32", 1, drop=True), (), "int32", None),)
    dataset, faults = pack(ConversionSpec(store=Store.at(str(tmp_path)), features=(spec(4),), labels=labels), batch)
    assert not faults
    assert dataset.rows(validation=False) == 1


def test_a_vector_may_be_feature_and_label(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict({"x": pa.array([row(4, {2: 1.0}), None], VECTOR)})
    labels = (LabelSpec(Column("x", "vector", "float64", 4), (4,), "float32", None),)
    conversion = ConversionSpec(store=Store.at(str(tmp_path)), features=(spec(4),), labels=labels)
    _, faults = pack(conversion, batch)
    assert faults == {("null", "x", ""): 1}
    dataset, _ = pack(conversion, batch.slice(0, 1))
    (mine,) = shards(dataset.blocks, 1, 1, 1)
    ((features, label),) = tensorflow_batches(dataset, [mine], reader("petastorm"), seed=1, one_pass=True)
    assert features.numpy().tolist() == label.numpy().tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize(("width", "ready"), [(100, 4), (1 << 18, 1), (10_000, 2)])
def test_wide_batches_are_not_made_far_ahead(width: int, ready: int) -> None:
    assert _ready([spec(width).tensor()], 512) == ready
    assert rows_at_once([spec(width)], 4096) == min(4096, (64 << 20) // (4 * width))


def test_no_rows_are_scored_too() -> None:
    for empty in (pd.Series([], dtype="float64"), SCORED["of Spark"].iloc[:0]):
        assert scored_input(spec(3), empty).shape == (0,)


SCORED = {
    "of Spark": pd.DataFrame(
        {"type": [0, 1], "size": [3, None], "indices": [[2], None], "values": [[5.0], [1.0, 0.0, 2.0]]}
    ),
    "dense": pd.Series([np.array([0.0, 0, 5]), [1.0, 0, 2]]),
}


@pytest.mark.parametrize("form", SCORED)
def test_rows_to_be_scored_come_as_vectors_or_dense(form: str) -> None:
    contents = scored_input(spec(3), SCORED[form])
    assert decode_tensor(tf.constant(contents, tf.string), "sparse", (3,), "float32").numpy().tolist() == [
        [0, 0, 5],
        [1, 0, 2],
    ]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (pd.Series([np.zeros(3), None]), "1 null or NaN in a batch of 2 rows"),
        (pd.Series([np.array([0.0, math.nan, 1])]), "1 null or NaN"),
        (pd.Series([np.zeros(2)]), "3 numbers per row.*a row of 2"),
        (pd.Series([np.array([1e300, 0, 0])]), r"can hold \(float32\).*1 rows beyond it"),
    ],
)
def test_rows_that_can_not_be_scored_are_told(values: pd.Series, told: str) -> None:
    with pytest.raises(DataError, match=f"(?s)'x' can't be scored.*{told}"):
        scored_input(spec(3), values)


@pytest.mark.parametrize(
    ("rule", "width", "dtype", "sparse"),
    [
        ("auto", 4096, "float32", ""),
        ("auto", 4097, "float32", "float32"),
        ("always", 2, "float64", "float64"),
        ("never", 1 << 18, "float32", ""),
    ],
)
def test_which_stay_sparse(rule: str, width: int, dtype: str, sparse: str) -> None:
    schema = T.StructType([T.StructField("x", VectorUDT())])
    found = feature_spec(schema, ["x"], "featuresCol", (width,), dtype, ColumnRules(sparse=rule))
    assert found.columns[0].sparse == sparse
    assert found.coding == ("sparse" if sparse else "")
