"""Columns against the model, on the driver: what fits, and what the user is told where it doesn't."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T

from spark_dl.data.column import Column
from spark_dl.data.columns import column_of
from spark_dl.data.schema import boolean_column, feature_spec, label_spec, weight_column
from spark_dl.data.specs import FeatureSpec, LabelSpec, weight_tensor
from spark_dl.errors import DataError

SCHEMA = T.StructType(
    [
        T.StructField("pixels", T.ArrayType(T.FloatType())),
        T.StructField("bytes", T.ArrayType(T.ByteType())),
        T.StructField("vector", VectorUDT()),
        T.StructField("assembled", VectorUDT(), metadata={"ml_attr": {"num_attrs": 5}}),
        T.StructField("flag", T.BooleanType()),
        T.StructField("byte", T.ByteType()),
        T.StructField("short", T.ShortType()),
        T.StructField("int", T.IntegerType()),
        T.StructField("long", T.LongType()),
        T.StructField("float", T.FloatType()),
        T.StructField("double", T.DoubleType()),
        T.StructField("name", T.StringType()),
        T.StructField("words", T.ArrayType(T.StringType())),
        T.StructField("key", T.DecimalType(20, 0)),
        T.StructField("a.b", T.DoubleType()),
        T.StructField("twice", T.DoubleType()),
        T.StructField("twice", T.IntegerType()),
        T.StructField("Case", T.DoubleType()),
        T.StructField("case", T.DoubleType()),
        T.StructField("place", T.StructType([T.StructField("x", T.DoubleType())])),
        T.StructField("prices", T.ArrayType(T.DecimalType(10, 2))),
    ]
)


MASKS = T.StructType([T.StructField("mask", T.BinaryType())])


def features(*names: str, shape: tuple[int, ...], dtype: str = "float32") -> FeatureSpec:
    return feature_spec(SCHEMA, names, "inputCols" if len(names) > 1 else "featuresCol", shape, dtype)


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    [
        ("flag", "boolean", "bool"),
        ("byte", "number", "int8"),
        ("short", "number", "int16"),
        ("int", "number", "int32"),
        ("long", "number", "int64"),
        ("float", "number", "float32"),
        ("double", "number", "float64"),
        ("a.b", "number", "float64"),
        ("pixels", "array", "float32"),
        ("bytes", "array", "int8"),
        ("vector", "vector", "float64"),
    ],
)
def test_a_column_that_can_be_fed_is_known_by_its_type(name: str, kind: str, dtype: str) -> None:
    width = 1 if kind in ("number", "boolean") else 6
    shape = (1,) if kind in ("number", "boolean") else (2, 3)
    assert features(name, shape=shape).columns == (Column(name, kind, dtype, width),)


def test_scalars_and_one_array_share_the_models_input_in_order() -> None:
    spec = features("int", "pixels", "flag", shape=(6,))
    assert [(column.name, column.width) for column in spec.columns] == [("int", 1), ("pixels", 4), ("flag", 1)]
    assert (spec.shape, spec.dtype) == ((6,), "float32")


def test_an_input_without_axes_takes_one_number() -> None:
    assert features("int", shape=(), dtype="int32").columns[0].width == 1


@pytest.mark.parametrize(
    ("names", "dtype", "stored"),
    [
        (["byte"], "float32", "int8"),
        (["flag"], "float32", "int8"),
        (["short"], "float32", "int16"),
        (["int"], "float32", "float32"),
        (["long"], "float32", "float32"),
        (["double"], "float32", "float32"),
        (["double"], "float64", "float64"),
        (["int"], "float64", "int32"),
        (["float"], "float64", "float32"),
        (["long"], "int32", "int32"),
        (["byte"], "int32", "int8"),
        (["byte", "flag"], "float32", "float32"),
    ],
)
def test_rows_are_stored_in_the_columns_dtype_where_that_is_smaller(names: list[str], dtype: str, stored: str) -> None:
    tensor = features(*names, shape=(len(names),), dtype=dtype).tensor()
    assert (tensor.name, tensor.stored, tensor.dtype) == ("features", stored, dtype)


# --- labels, weights, validation -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "output", "classes", "expected"),
    [
        ("int", (10,), 10, ((), "int32", 10)),
        ("double", (10,), 10, ((), "int32", 10)),
        ("flag", (1,), 2, ((), "int32", 2)),
        ("double", (1,), None, ((), "float32", None)),
        ("float", (1,), None, ((), "float32", None)),
        ("long", (1,), None, ((), "int64", None)),
        ("flag", (1,), None, ((), "int8", None)),
        ("pixels", (2, 2), None, ((2, 2), "float32", None)),
        ("vector", (3,), None, ((3,), "float32", None)),
    ],
)
def test_a_label_takes_the_shape_of_the_models_output(
    name: str, output: tuple[int, ...], classes: int | None, expected: Any
) -> None:
    spec = label_spec(SCHEMA, name, output, classes)
    assert (spec.shape, spec.dtype, spec.classes) == expected
    assert spec.column.name == name
    assert spec.tensor().shape == spec.shape


def test_an_array_label_is_as_wide_as_the_output() -> None:
    spec = label_spec(SCHEMA, "pixels", (2, 3), None)
    assert spec == LabelSpec(Column("pixels", "array", "float32", 6), (2, 3), "float32", None)


def test_weights_are_numbers_and_marks_are_booleans() -> None:
    assert weight_column(SCHEMA, "double") == (Column("double", "number", "float64", 1), ())
    assert weight_column(SCHEMA, "double", positions=(5,))[1] == (1,)
    assert weight_column(SCHEMA, "pixels", positions=(5,)) == (Column("pixels", "array", "float32", 5), (5,))
    assert weight_tensor().stored == "float32"
    assert boolean_column(SCHEMA, "flag") == Column("flag", "boolean", "bool", 1)


# --- what the user is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "texts"),
    [
        (
            lambda: features("pixel", shape=(3,)),
            ["no column 'pixel', which featuresCol names", "columns pixels, bytes", "Did you mean 'pixels'"],
        ),
        (lambda: features("twice", shape=(1,)), ["2 columns 'twice', which featuresCol names", "toDF"]),
        (lambda: features("case", shape=(1,)), ["2 columns 'case'", "columns pixels, bytes"]),
        (lambda: label_spec(SCHEMA, "twice", (1,), None), ["2 columns 'twice', which labelCol names"]),
        (lambda: weight_column(SCHEMA, "Case"), ["2 columns 'Case', which weightCol names"]),
        (lambda: boolean_column(SCHEMA, "twice"), ["2 columns 'twice', which validationCol names"]),
        (lambda: features("`a.b`", shape=(1,)), ["no column '`a.b`'", "without backticks: 'a.b'"]),
        (lambda: features("place.x", shape=(1,)), ["no column 'place.x'", "df.withColumn('x', F.col('place.x'))"]),
        (lambda: features("place", shape=(1,)), ["'place'", "Select the fields"]),
        (lambda: features("prices", shape=(1,)), ["'prices'", "to double, an array to array<double>"]),
        (lambda: features("Pixels", shape=(3,)), ["no column 'Pixels'", "Did you mean 'pixels'"]),
        (lambda: features("int", "dubble", shape=(2,)), ["no column 'dubble', which inputCols names", "'double'"]),
        (lambda: label_spec(SCHEMA, "lable", (1,), None), ["no column 'lable', which labelCol names"]),
        (lambda: weight_column(SCHEMA, "weight"), ["no column 'weight', which weightCol names"]),
        (lambda: boolean_column(SCHEMA, "flags"), ["which validationCol names", "Did you mean 'flag'"]),
        (
            lambda: features("name", shape=(1,)),
            ["column 'name', which featuresCol names, can't be fed", "name: string"],
        ),
        (lambda: features("words", shape=(1,)), ["'words'", "words: array<string>", "StringIndexer"]),
        (lambda: features("key", shape=(1,)), ["'key'", "key: decimal(20,0)", "Cast"]),
        (lambda: label_spec(SCHEMA, "name", (3,), 3), ["'name', which labelCol names, can't be fed", "string"]),
        (
            lambda: label_spec(MASKS, "mask", (4, 4), 3),
            ["'mask', which labelCol", "mask: binary", "class of each pixel"],
        ),
        (
            lambda: label_spec(SCHEMA, "pixels", (), 3),
            ["label column 'pixels' can't hold class indices", "from 0 to 2", "pixels: array<float>"],
        ),
        (lambda: weight_column(SCHEMA, "vector"), ["'vector', which weightCol names", "a number in each row"]),
        (lambda: boolean_column(SCHEMA, "int"), ["'int', which validationCol names", "int: int", "Cast it to boolean"]),
        (
            lambda: features("int", "long", shape=(3,)),
            ["3 numbers per row, for the model's input of shape (batch, 3)", "2 numbers per row from int, long"],
        ),
        (lambda: features("int", shape=(2, 2)), ["4 numbers per row", "(batch, 2, 2)", "1 number per row from int"]),
        (
            lambda: features("assembled", shape=(4,)),
            ["4 numbers per row, for the model's input of shape (batch, 4)", "5 numbers per row from assembled"],
        ),
        (lambda: features("int", "assembled", shape=(5,)), ["6 numbers per row from int, assembled"]),
        (lambda: features("int", "pixels", shape=(1,)), ["1 numbers per row", "from int, pixels"]),
        (
            lambda: features("pixels", "int", "vector", shape=(9,)),
            ["Only one of the inputCols", "pixels (array), int (number), vector (vector)", "VectorAssembler"],
        ),
    ],
)
def test_what_does_not_fit_is_told_with_both_sides(check: Any, texts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        check()
    for text in texts:
        assert re.search(re.escape(text), str(caught.value)), str(caught.value)
    assert "Expected:" in str(caught.value)
    assert "Received:" in str(caught.value)


@pytest.mark.parametrize(
    ("precision", "scale", "fits"), [(15, 0, True), (16, 0, False), (13, -2, True), (14, -2, False), (38, 18, True)]
)
def test_whole_decimals_of_more_digits_than_a_double_keeps_are_no_numbers(
    precision: int, scale: int, fits: bool
) -> None:
    assert (column_of("x", T.DecimalType(precision, scale)) is not None) == fits
