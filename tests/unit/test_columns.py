"""Which columns feed which inputs and outputs: lists and dicts, refusals, missing values, nested arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T
from rows import pack, scored_input

from spark_dl import KerasEstimator, KerasModel
from spark_dl.data.batches import keras_batch
from spark_dl.data.column import Column
from spark_dl.data.columns import decode
from spark_dl.data.columns.nested_array import flattened
from spark_dl.data.columns.number import decode_together
from spark_dl.data.dataset import Tensor
from spark_dl.data.null_policy import NullPolicy
from spark_dl.data.readers import reader
from spark_dl.data.schema import ColumnRules, feature_spec
from spark_dl.data.shards import Segment
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.errors import DataError, OptionError
from spark_dl.fit.columns import (
    InputFacts,
    OutputFacts,
    feature_specs,
    input_columns,
    label_specs,
    output_columns,
    shapes_of_inputs,
)
from spark_dl.fit.input_plan import input_plan
from spark_dl.fit.row_columns import validation_column, weight_and_shape
from spark_dl.io.store import Store
from spark_dl.options import EstimatorOptions

SCHEMA = (
    T.StructType()
    .add("a", "float")
    .add("b", "long")
    .add("flag", "boolean")
    .add("text", "string")
    .add("steps", T.ArrayType(T.ArrayType(T.FloatType())))
    .add("array", T.ArrayType(T.DoubleType()))
    .add("price", T.DecimalType(20, 0))
    .add("day", "date")
    .add("at", "timestamp")
    .add("vector", VectorUDT())
)


def values(**options: Any) -> EstimatorOptions:
    return KerasEstimator(**options)._options()


# --- columns of inputs and outputs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "inputs", "expected"),
    [
        (None, ["x"], {"x": ["features"]}),
        (["a", "b"], ["x"], {"x": ["a", "b"]}),
        (["a", "b"], ["x", "y"], {"x": ["a"], "y": ["b"]}),
        ({"y": "b", "x": ["a", "c"]}, ["x", "y"], {"x": ["a", "c"], "y": ["b"]}),
        ({"x": "a"}, ["x"], {"x": ["a"]}),
    ],
)
def test_columns_of_inputs(given: Any, inputs: list[str], expected: Any) -> None:
    columns, _ = input_columns(values(inputCols=given), inputs)
    assert (columns, list(columns)) == (expected, inputs)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, r"several inputs.*a column for each of x, y.*featuresCol='features'.*inputCols=\{'x'"),
        (["a"], r"inputCols doesn't match the model's inputs.*each of x, y.*\['a'\]"),
        (["a", "b", "c"], "inputCols doesn't match"),
        ({"x": "a"}, "inputCols doesn't match"),
        ({"x": "a", "y": "b", "z": "c"}, "inputCols doesn't match.*dict from input to column"),
    ],
)
def test_columns_that_are_not_those_of_the_inputs_are_refused(given: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        input_columns(values(inputCols=given), ["x", "y"])


def outputs(*names: str) -> list[OutputFacts]:
    return [OutputFacts(name, (1,), None) for name in names]


def test_columns_of_labels() -> None:
    (alone,) = label_specs(SCHEMA, values(labelCol="a"), outputs("price"))
    assert (alone.column.name, alone.key) == ("a", "")
    for given in (["a", "b"], {"kind": "b", "price": "a"}):
        both = label_specs(SCHEMA, values(labelCols=given), outputs("price", "kind"))
        assert [(spec.key, spec.column.name) for spec in both] == [("price", "a"), ("kind", "b")]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "several outputs.*labelCols, with a column for each of price, kind.*labelCol='label'"),
        ({"labelCols": ["a"]}, "labelCols doesn't match the model's outputs"),
        ({"labelCols": {"price": "a"}}, "labelCols doesn't match"),
    ],
)
def test_labels_that_are_not_those_of_the_outputs_are_refused(options: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        label_specs(SCHEMA, values(**options), outputs("price", "kind"))


def test_several_labels_of_one_output_are_to_be_one_column() -> None:
    with pytest.raises(OptionError, match=r"labelCols doesn.t match.*one column of arrays"):
        label_specs(SCHEMA, values(labelCols=["a", "b"]), outputs("price"))


def test_a_label_column_is_named_by_its_own_option() -> None:
    with pytest.raises(DataError, match="'text', which labelCols names"):
        label_specs(SCHEMA, values(labelCols=["a", "text"]), outputs("price", "kind"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"price": "told_price", "kind": "told_kind"}),
        (["p", "k"], {"price": "p", "kind": "k"}),
        ({"kind": "k"}, {"kind": "k"}),
    ],
)
def test_columns_of_outputs(given: Any, expected: Any) -> None:
    assert output_columns(values(predictionCol="told", outputCols=given), ["price", "kind"]) == expected


@pytest.mark.parametrize("given", [["p"], {"other": "p"}])
def test_columns_of_no_output_are_refused(given: Any) -> None:
    with pytest.raises(OptionError, match="outputCols doesn't match the model's outputs"):
        output_columns(values(outputCols=given), ["price", "kind"])


def test_shapes_are_given_by_column() -> None:
    columns = {"x": ["steps"], "y": ["a", "b"]}
    assert shapes_of_inputs(values(columnShapes={"steps": (5, 2)}), columns) == {"x": (5, 2)}
    with pytest.raises(OptionError, match=r"columnShapes gives a shape for 'a'.*columns among steps"):
        shapes_of_inputs(values(columnShapes={"a": [1]}), columns)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("columnShapes", {"x": [0]}),
        ("columnShapes", {"x": "ab"}),
        ("columnShapes", [1, 2]),
        ("nullPolicy", {"x": "fill"}),
        ("nullPolicy", {"x": {"fill": None}}),
        ("nullPolicy", {"x": {"value": 1}}),
        ("inputCols", {}),
        ("inputCols", {"x": 3}),
        ("labelCols", {"x": ["a", "b"]}),
        ("lossWeights", "two"),
        ("lossWeights", {"x": -1}),
    ],
)
def test_values_that_are_no_mappings_of_columns_are_refused(option: str, value: Any) -> None:
    with pytest.raises((OptionError, TypeError), match=f"{option}"):
        KerasEstimator(**{option: value})


# --- missing values ----------------------------------------------------------------------------------------------


def test_each_column_has_its_own_policy() -> None:
    given = {"a": {"fill": 0.5}, "b": "drop", "text": {"fill": "?"}, "flag": {"fill": True}}
    specs = feature_specs(
        SCHEMA,
        values(inputCols={"x": ["a", "b", "flag"], "t": "text"}, nullPolicy=given),
        [InputFacts("x", (3,), "float32"), InputFacts("t", (1,), "string")],
    )
    told = {column.name: (column.drop, column.fill) for spec in specs for column in spec.columns}
    assert told == {"a": (False, 0.5), "b": (True, None), "flag": (False, 1), "text": (False, "?")}
    assert [spec.key for spec in specs] == ["x", "t"]
    options = values(weightCol="a", validationCol="flag", nullPolicy=given)
    (weight, _), validation = weight_and_shape(SCHEMA, options, []), validation_column(SCHEMA, options)
    assert weight == Column("a", "number", "float32", 1, fill=0.5)
    assert validation == Column("flag", "boolean", "bool", 1, fill=1)
    assert weight_and_shape(SCHEMA, values(), []) == (None, ())
    assert validation_column(SCHEMA, values()) is None


@pytest.mark.parametrize(
    ("column", "fill"),
    [("a", "text"), ("b", 0.5), ("b", 1 << 70), ("array", 0.0), ("vector", 0.0), ("flag", 300), ("a", float("nan"))],
)
def test_a_value_that_can_not_stand_for_a_missing_one_is_refused(column: str, fill: Any) -> None:
    with pytest.raises(DataError, match=f"nullPolicy can't fill the column '{column}'.*Imputer"):
        feature_spec(
            SCHEMA, [column], "featuresCol", (1,), "float32", ColumnRules(nulls=NullPolicy.of({column: {"fill": fill}}))
        )


NAN = float("nan")


@pytest.mark.parametrize(
    ("column", "given", "expected"),
    [
        (Column("x", "number", "float32", 1, fill=7.5), pa.array([1, None, NAN], pa.float32()), [[1], [7.5], [7.5]]),
        (Column("x", "number", "int64", 1, fill=-3), pa.array([1, None], pa.int64()), [[1], [-3]]),
        (Column("x", "boolean", "bool", 1, fill=1), pa.array([False, None]), [[0], [1]]),
        (Column("x", "text", "object", 0, fill="é"), pa.array(["a", None]), [b"a", "é".encode()]),
    ],
    ids=["float", "long", "boolean", "string"],
)
def test_missing_values_are_filled_alike_in_training_and_scoring(
    column: Column, given: pa.Array, expected: Any
) -> None:
    extracted = decode(given, column)
    assert extracted.values.tolist() == expected
    assert not extracted.missing.any()
    assert (extracted.nulls, extracted.nans) == (0, 0)
    scored = scored_input(
        FeatureSpec((column,), (1,), "string" if column.kind == "text" else "float32"), given.to_pandas()
    )
    assert scored.tolist() == expected
    if column.kind != "text":
        together = pa.array([[value] for value in given.to_pylist()], pa.list_(given.type))
        (other,) = decode_together(together, [column])
        assert other.values.tolist() == expected


# --- nested arrays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [slice(None), slice(1, 4)])
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_arrays_of_arrays_are_flattened_row_by_row(kind: Any, cut: slice) -> None:
    rows = [[[1.0, 2], [3, 4]], [], None, [[5.0, 6], [7, 8]], [[9.0]]]
    array = pa.array(rows, kind(kind(pa.float64())))[cut]
    expected = [None if row is None else [number for part in row for number in part] for row in rows][cut]
    assert flattened(array, 1).to_pylist() == expected
    deep = pa.array([[[[1, 2]], [[3], [4]]]], kind(kind(kind(pa.int32()))))
    assert flattened(deep, 2).to_pylist() == [[1, 2, 3, 4]]


def test_an_array_of_arrays_takes_the_models_shape() -> None:
    spec = feature_spec(SCHEMA, ["steps"], "featuresCol", (3, 2), "float32")
    assert spec.columns == (Column("steps", "nested array", "float32", 6, nested=1, inner=(2,)),)
    rows = [[[1.0, 2], [3, 4], [5, 6]], [[1.0, 2, 3], [4, 5, 6]], [[1.0], [2, 3], [4, 5, 6]], None]
    array = flattened(pa.array(rows, pa.list_(pa.list_(pa.float32()))), 1, spec.columns[0].inner)
    extracted = decode(array, spec.columns[0])
    assert (extracted.lengths, extracted.nulls) == ({0: 2}, 1)


@pytest.mark.parametrize(
    ("column", "fix"), [("price", "Cast it"), ("day", "dayofweek"), ("at", "unix_timestamp"), ("vector", "")]
)
def test_what_has_no_one_meaning_as_a_number_is_refused_with_a_way_out(column: str, fix: str) -> None:
    if fix:
        with pytest.raises(DataError, match=f"'{column}', which featuresCol names, can't be fed.*{fix}"):
            feature_spec(SCHEMA, [column], "featuresCol", (1,), "float32")
    else:
        assert feature_spec(SCHEMA, [column], "featuresCol", (1,), "float32").columns[0].kind == "vector"


# --- to batches --------------------------------------------------------------------------------------------------


def test_several_inputs_and_labels_come_back_from_their_blocks(tmp_path: Path) -> None:
    b, a, t = Column("b", "number", "int64", 1), Column("a", "array", "float32", 2), Column("t", "text", "object", 0)
    conversion = ConversionSpec(
        store=Store.at(str(tmp_path)),
        features=(
            FeatureSpec((b,), (), "int32", "id"),
            FeatureSpec((a, b), (3,), "float32", "numbers/all"),
            FeatureSpec((t,), (1,), "string", "text"),
        ),
        labels=(LabelSpec(b, (), "int64", None, "one"), LabelSpec(a, (2,), "float32", None, "two")),
        weight=b,
    )
    batch = pa.RecordBatch.from_pydict(
        {
            "b": pa.array([1, 2], pa.int64()),
            "a": pa.array([[1.5, 2], [3, 4]], pa.list_(pa.float32())),
            "t": pa.array(["x", "yz"]),
        }
    )
    dataset, faults = pack(conversion, batch)
    assert not faults
    assert [tensor.name for tensor in dataset.tensors] == [
        "features_0", "features_1", "features_2", "label_0", "label_1", "weight",
    ]  # fmt: skip
    (parts,) = reader("petastorm")(dataset, [Segment(dataset.blocks[0], 0, 2)])
    x, y, w = keras_batch(dataset.tensors, parts)
    told = {name: tensor.numpy().tolist() for name, tensor in {**x, **y, "weight": w}.items()}
    assert told == {
        "id": [1, 2],
        "numbers/all": [[1.5, 2, 1], [3, 4, 2]],
        "text": [[b"x"], [b"yz"]],
        "one": [1, 2],
        "two": [[1.5, 2], [3, 4]],
        "weight": [1, 2],
    }


def test_one_input_and_one_label_are_fed_as_they_are() -> None:
    tensors = (Tensor("features", (2,), "int8", "float32"), Tensor("label", (), "int32", "int32"))
    x, y = keras_batch(tensors, [np.ones((3, 2), np.int8), np.arange(3, dtype=np.int32)])
    assert (x.dtype, x.shape, y.numpy().tolist()) == ("float32", (3, 2), [0, 1, 2])


# --- the plan ----------------------------------------------------------------------------------------------------


def test_the_plan_is_a_table_of_all_columns() -> None:
    inputs = [InputFacts("x", (2,), "float32"), InputFacts("t", (1,), "string")]
    told = [OutputFacts("kind", (4,), 4)]
    options = values(
        inputCols={"x": ["a", "flag"], "t": "text"},
        labelCol="b",
        weightCol="a",
        validationCol="flag",
        nullPolicy={"a": {"fill": 0.5}, "b": "drop"},
    )
    conversion = ConversionSpec(
        Store(""),
        feature_specs(SCHEMA, options, inputs),
        label_specs(SCHEMA, options, told),
        *weight_and_shape(SCHEMA, options, told),
        validation_column(SCHEMA, options),
    )
    lines = str(input_plan(SCHEMA, conversion, inputs, told)).splitlines()
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "a float float32 (1,), joined input x (2,) 0.5 for each",
        "flag boolean float32 (1,), joined input x (2,) an error",
        "text string string (1,) input t (1,) an error",
        "b bigint int32 (), classes 0 to 3 label of output kind (4,) dropped",
        "a float float32 () weight of the row 0.5 for each",
        "flag boolean bool () true for validation an error",
    ]


def test_a_model_knows_its_columns_by_the_same_options() -> None:
    shared = {option.name for option in KerasModel.options} & {option.name for option in KerasEstimator.options}
    assert {"inputCols", "labelCols", "outputCols", "weightCol", "nullPolicy", "binaryFormat"} <= shared
