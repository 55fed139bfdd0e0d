"""Numbers that a dtype can't hold: which rows have them, in training and in scoring."""

from __future__ import annotations

import contextlib
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rows import pack, scored_input

from spark_dl.data.column import Column
from spark_dl.data.limits import beyond, greatest, inexact
from spark_dl.data.row_errors import describe
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.errors import DataError, ModelError
from spark_dl.io.store import Store
from spark_dl.train.model.exact_ids import check_exact_ids

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1.0, 1e300, -1e39, INF, NAN], "float32", [False, True, True, False, False]),
        ([65504.0, 65505.0, 1e5, 0, 0], "float16", [False, True, True, False, False]),
        ([1e300, 1, 1, 1, 1], "float64", [False] * 5),
    ],
)
def test_numbers_beyond_the_range(values: list[float], dtype: str, expected: list[bool]) -> None:
    assert beyond(np.array(values).reshape(-1, 1), dtype).tolist() == expected


@pytest.mark.parametrize(
    ("kind", "dtype", "digits"),
    [(kind, *float_kind) for kind in ("int32", "int64") for float_kind in (("float16", 11), ("float32", 24))]
    + [("int64", "float64", 53)],
)
def test_whole_numbers_are_inexact_as_soon_as_a_cast_changes_them(kind: str, dtype: str, digits: int) -> None:
    limit = 1 << digits
    given = [0, limit - 1, limit, limit + 1, limit + 2, -limit - 1, np.iinfo(kind).max, np.iinfo(kind).min]
    values = np.array(given, kind)
    with np.errstate(over="ignore"):
        cast = [float(number) for number in values.astype(dtype)]
    expected = [not np.isfinite(there) or int(there) != here for here, there in zip(given, cast, strict=True)]
    assert inexact(values.reshape(-1, 1), dtype).tolist() == expected
    assert expected[2:4] == [False, True]
    assert greatest(values) == np.iinfo(kind).min


def test_fractions_and_small_integers_are_never_inexact() -> None:
    assert not inexact(np.array([[2.0**24 + 1]]), "float32").any()
    assert not inexact(np.array([[127]], np.int8), "float16").any()
    assert not inexact(np.array([[1 << 40]]), "int64").any()


def packed(
    tmp_path: Path, x: pa.Array, y: list[float], column: Column, dtype: str = "float32"
) -> dict[tuple[str, str, str], int]:
    label = LabelSpec(Column("y", "number", "float64", 1), (), "float32", None)
    feature = FeatureSpec((column,), (column.width,), dtype)
    conversion = ConversionSpec(Store.at(str(tmp_path)), (feature,), (label,))
    _, faults = pack(conversion, pa.RecordBatch.from_pydict({"x": x, "y": pa.array(y)}))
    return faults


LONG = Column("x", "number", "int64", 1)
DOUBLE = Column("x", "number", "float64", 1)


@pytest.mark.parametrize(
    ("column", "x", "dtype", "fault"),
    [
        (LONG, pa.array([16777216, 16777217, -16777219]), "float32", ("inexact", "x", "float32 -16777219")),
        (
            Column("x", "array", "int32", 2),
            pa.array([[1, 2], [1, 33554433], [16777217, 0]], pa.list_(pa.int32())),
            "float32",
            ("inexact", "x", "float32 33554433"),
        ),
        (LONG, pa.array([2048, 2049, 3001]), "float16", ("inexact", "x", "float16 3001")),
        (LONG, pa.array([1 << 53, (1 << 53) + 1, (1 << 62) + 1]), "float64", ("inexact", "x", f"float64 {2**62 + 1}")),
        (DOUBLE, pa.array([0.0, INF, -INF]), "float32", ("infinite", "x", "")),
        (DOUBLE, pa.array([0.0, 1e300, -1e300]), "float32", ("range", "x", "float32")),
        (DOUBLE, pa.array([0.0, 7e4, -7e4]), "float16", ("range", "x", "float16")),
        (DOUBLE, pa.array([3.0, 0.5, -2.25]), "int32", ("whole", "x", "int32 0.5")),
        (DOUBLE, pa.array([3.0, 2.0**31, -1e300]), "int32", ("range", "x", "int32")),
        (DOUBLE, pa.array([3.0, 2.0**53, -(2.0**60)]), "int64", ("inexact", "x", f"float64 {-(2**60)}")),
        (DOUBLE, pa.array([3.0, 2.0**63, -(2.0**70)]), "int64", ("range", "x", "int64")),
        (DOUBLE, pa.array([3.0, INF, -INF]), "int32", ("infinite", "x", "")),
        (
            Column("x", "number", "float32", 1),
            pa.array([3.0, 2.0**24, 2.0**25], pa.float32()),
            "int32",
            ("inexact", "x", "float32 33554432"),
        ),
        (
            Column("x", "array", "float64", 2),
            pa.array([[1.0, 2.0], [1.0, 2.5], [0.1, 2.0]]),
            "int64",
            ("whole", "x", "int64 2.5"),
        ),
    ],
)
def test_numbers_that_the_input_would_change_are_counted(
    tmp_path: Path, column: Column, x: pa.Array, dtype: str, fault: tuple[str, str, str]
) -> None:
    assert packed(tmp_path, x, [0.0] * 3, column, dtype=dtype) == {fault: 2}
    with pytest.raises(DataError, match="'x' can't be scored"):
        scored_input(FeatureSpec((column,), (column.width,), dtype), x.to_pandas())


def test_the_greatest_of_all_batches_is_told(tmp_path: Path) -> None:
    label = LabelSpec(Column("y", "number", "float64", 1), (), "float32", None)
    conversion = ConversionSpec(Store.at(str(tmp_path)), (FeatureSpec((LONG,), (1,), "float32"),), (label,))
    batches = [pa.RecordBatch.from_pydict({"x": [2**24 + 1, n], "y": [0.0, 0.0]}) for n in (-(2**30) - 1, 2**25 + 1)]
    _, faults = pack(conversion, *batches)
    assert faults == {("inexact", "x", f"float32 {-(2**30) - 1}"): 4}
    rows = [{"kind": k, "name": n, "detail": d, "rows": count} for (k, n, d), count in faults.items()]
    rows.append({"kind": "inexact", "name": "x", "detail": f"float32 {2**40 + 1}", "rows": 1})  # of another partition
    message = describe(rows, conversion.columns, conversion.labels)  # type: ignore[arg-type]
    assert f"'x': 5 rows with whole numbers that float32 can't hold exactly, the greatest {2**40 + 1}" in message
    assert "integer input" in message


@pytest.mark.parametrize(
    ("y", "kind"), [([0.0, INF], "infinite"), ([0.0, -INF], "infinite"), ([0.0, 1e300], "range"), ([NAN, 0.0], "nan")]
)
def test_labels_that_float32_can_not_hold(tmp_path: Path, y: list[float], kind: str) -> None:
    faults = packed(tmp_path, pa.array([1.0, 2.0]), y, DOUBLE)
    assert {(found, name): count for (found, name, _), count in faults.items()} == {(kind, "y"): 1}


@pytest.mark.parametrize(
    ("w", "kind"),
    [([1.0, INF], "infinite"), ([1.0, -INF], "infinite"), ([1.0, 1e39], "range"), ([1.0, -1.0], "negative")],
)
def test_weights_that_float32_can_not_hold(tmp_path: Path, w: list[float], kind: str) -> None:
    label = LabelSpec(Column("y", "number", "float64", 1), (), "float32", None)
    weight = Column("w", "number", "float64", 1)
    conversion = ConversionSpec(Store.at(str(tmp_path)), (FeatureSpec((DOUBLE,), (1,), "float32"),), (label,), weight)
    _, faults = pack(conversion, pa.RecordBatch.from_pydict({"x": [1.0, 2.0], "y": [0.0, 0.0], "w": w}))
    assert {(found, name): count for (found, name, _), count in faults.items()} == {(kind, "w"): 1}


def test_infinite_numbers_are_dropped_and_filled_as_nan_is(tmp_path: Path) -> None:
    y = [0.0, 1.0, 2.0]
    for column in (Column("x", "number", "float64", 1, drop=True), Column("x", "number", "float64", 1, fill=5.0)):
        assert packed(tmp_path, pa.array([1.0, INF, NAN]), y, column) == {}
    # In a row that is dropped for its infinite number, nothing else is a fault, and other rows stay as they are.
    vectors = Column("x", "array", "float64", 2, drop=True)
    assert packed(tmp_path, pa.array([[1.0, 2.0], [INF, 1e300], [1.0, NAN]]), y, vectors) == {}
    filling = FeatureSpec((Column("x", "number", "float64", 1, fill=5.0),), (1,), "float32")
    filled = scored_input(filling, pd.Series([1.0, INF, -INF, NAN]))
    assert filled.ravel().tolist() == [1, 5, 5, 5]


def test_scoring_refuses_what_training_does() -> None:
    spec = FeatureSpec((LONG, Column("z", "number", "float64", 1)), (2,), "float32")
    good = scored_input(spec, pd.Series([1 << 24]), pd.Series([0.1]))
    assert good.tolist() == [[1 << 24, np.float32(0.1)]]
    for parts, told in (
        (((1 << 24) + 1, 0.1), "'x' can't be scored.*float32 can hold exactly.*greatest 16777217"),
        ((1, INF), "'z' can't be scored.*finite"),
        ((1, 1e300), "'z' can't be scored.*1 rows beyond it"),
    ):
        with pytest.raises(DataError, match=told):
            scored_input(spec, *(pd.Series([part]) for part in parts))


def test_whole_numbers_of_any_type_feed_an_integer_input() -> None:
    spec = FeatureSpec((DOUBLE, LONG, Column("z", "number", "float32", 1)), (3,), "int32")
    found = scored_input(
        spec, pd.Series([3.0, -1.0]), pd.Series([7, 2**24 + 1]), pd.Series([2.0, 0.0], dtype="float32")
    )
    assert (found.dtype, found.tolist()) == ("int32", [[3, 7, 2], [-1, 2**24 + 1, 0]])


def test_all_columns_that_are_not_whole_are_one_error(tmp_path: Path) -> None:
    columns = [Column(name, "number", "float64", 1) for name in ("a", "b", "c")]
    spec = FeatureSpec(tuple(columns), (3,), "int32")
    with pytest.raises(
        DataError, match=r"The columns 'a', 'c' can't be scored.*a 0\.5 in 1 row of.*c 1\.5 in 2 rows of"
    ):
        scored_input(spec, pd.Series([0.5, 1.0]), pd.Series([1.0, 2.0]), pd.Series([1.5, 2.5]))
    label = LabelSpec(Column("y", "number", "float64", 1), (), "float32", None)
    conversion = ConversionSpec(Store.at(str(tmp_path)), (spec,), (label,))
    batches = [{"a": [x, 1.0], "b": [1.0, 2.0], "c": [x, x], "y": [0.0, 0.0]} for x in (0.5, 1.5)]
    _, faults = pack(conversion, *map(pa.RecordBatch.from_pydict, batches))
    rows = [{"kind": k, "name": n, "detail": d, "rows": count} for (k, n, d), count in faults.items()]
    message = describe(rows, conversion.columns, conversion.labels)  # type: ignore[arg-type]
    for name, count in (("a", 2), ("c", 4)):
        assert (
            f"column '{name}': {count} rows with numbers that aren't whole, for an input of int32, such as 0.5"
            in message
        )
    assert "'b'" not in message
    assert "StringIndexer" in message


@pytest.mark.parametrize(
    ("dtype", "rows", "refused"),
    [
        ("float32", 2**24, False),
        ("float32", 2**24 + 1, True),
        ("int32", 2**24 + 1, False),
        ("float16", 5000, True),
        ("float64", 2**24 + 1, False),
    ],
)
def test_an_embedding_whose_ids_its_input_would_round_is_refused(dtype: str, rows: int, refused: bool) -> None:
    ids = keras.Input((3,), dtype=dtype)
    model = keras.Sequential([ids, keras.layers.Embedding(rows, 1, embeddings_initializer="zeros")])
    with pytest.raises(ModelError, match="Ids can't reach the layer") if refused else contextlib.nullcontext():
        check_exact_ids(model)
