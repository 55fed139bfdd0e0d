"""Rows of varying length, padded and cut: alike in training and in every way of scoring, against a NumPy reference."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Row
from pyspark.sql import types as T
from rows import pack, scored_input, sent

from spark_dl import KerasEstimator, KerasRegressorModel
from spark_dl.data.batches import keras_batch
from spark_dl.data.column import Column
from spark_dl.data.columns import OPEN, decode, decode_tensor, kind_of
from spark_dl.data.convert import convert_batches
from spark_dl.data.padding_policy import PaddingPolicy
from spark_dl.data.row_errors import describe
from spark_dl.data.schema import ColumnRules, feature_spec, label_spec
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.errors import DataError, ModelError, OptionError
from spark_dl.fit.padding_check import check_padding
from spark_dl.fit.spec import build_fit_spec
from spark_dl.io.store import Store
from spark_dl.ml.sql_function import _scorer
from spark_dl.score.heads import Regression
from spark_dl.score.saved_specs import spec_from_dict, spec_to_dict
from spark_dl.score.scoring_model import ScoringModel

LABEL = LabelSpec(Column("y", "number", "int32", 1), (), "int32", None)
LONGS, FLOATS = T.ArrayType(T.LongType()), T.ArrayType(T.FloatType())
FLAGS, TEXTS, STEPS = T.ArrayType(T.BooleanType()), T.ArrayType(T.StringType()), T.ArrayType(FLOATS)
ARROW = {
    "longs": pa.list_(pa.int64()),
    "floats": pa.list_(pa.float32()),
    "flags": pa.list_(pa.bool_()),
    "texts": pa.list_(pa.string()),
    "steps": pa.list_(pa.list_(pa.float32())),
    "bytes": pa.binary(),
}
SCHEMA = T.StructType().add("longs", LONGS).add("floats", FLOATS).add("flags", FLAGS).add("texts", TEXTS)
SCHEMA = SCHEMA.add("steps", STEPS).add("bytes", "binary").add("vector", VectorUDT()).add("number", "long")
# By column: the padding, the shape of one row, the input's dtype, and how a row of some numbers is made.
KINDS: dict[str, tuple[Any, tuple[int, ...], str, Any]] = {
    "longs": (-1, (3,), "int32", lambda numbers: numbers),
    "floats": (0.5, (3,), "float32", lambda numbers: [float(number) for number in numbers]),
    "flags": (True, (3,), "int8", lambda numbers: [number > 2 for number in numbers]),
    "texts": ("pad", (3,), "string", lambda numbers: ["é" * number for number in numbers]),
    "steps": (-7, (3, 2), "float32", lambda numbers: [[float(number), float(number) + 0.5] for number in numbers]),
    "bytes": (9, (3,), "float32", bytes),
}


def a_spec(name: str, truncate: str = "error", pad: Any = None, shape: tuple[int, ...] = ()) -> FeatureSpec:
    padding, own_shape, dtype, _ = KINDS.get(name, (0, (3,), "float32", None))
    policy = PaddingPolicy({name: padding if pad is None else pad}, truncate)
    return feature_spec(SCHEMA, [name], "featuresCol", shape or own_shape, dtype, ColumnRules("raw", padding=policy))


def reference(name: str, rows: list[Any], truncate: str) -> np.ndarray:
    """The rows as NumPy pads and cuts them, one by one."""
    pad, shape, dtype, _ = KINDS[name]
    length = shape[0]
    made = np.full((len(rows), *shape), pad, object)
    for index, row in enumerate(rows):
        kept = list(row)[-length:] if truncate == "start" else list(row)[:length]
        for place, value in enumerate(kept):
            made[index, place] = value
    if dtype == "string":
        return np.vectorize(lambda text: text.encode(), otypes=[object])(made)
    return made.astype(dtype)


def in_spark(name: str, rows: list[Any]) -> pa.Array:
    """The rows as a conversion gets them from Spark: arrays of arrays by `NestedArrayKind.from_parquet`, its twin."""
    return pa.array(rows, ARROW[name])


def all_ways(name: str, rows: list[Any], spec: FeatureSpec) -> dict[str, np.ndarray]:
    (column,) = spec.columns
    kind = kind_of(column)
    parquet = kind.from_parquet(in_spark(name, rows), column)
    conversion = ConversionSpec(Store("memory://"), (spec,), (LABEL,))
    batch = pa.RecordBatch.from_pydict({name: parquet, "y": pa.array(np.arange(len(rows)), pa.int32())})
    errors, batches = convert_batches(conversion, [sent(batch, conversion.columns)])
    (fed,) = (keras_batch(conversion.tensors, arrays)[0].numpy() for arrays in batches)
    assert not errors.counts
    udf = pd.Series([value if isinstance(value, bytes) else np.array(value) for value in parquet.to_pylist()])
    if name == "texts":
        udf = pd.Series([np.array([text.encode() for text in row], object) for row in rows])
    model = ScoringModel.of(b"", b"", [spec], Regression(), 8)
    scored = {
        "scoreParquet": model.inputs({column: parquet})[0],
        "transform": scored_input(spec, udf),
        "serving": scored_input(spec, kind.from_served(pd.Series(rows), column)),
    }
    return {
        "fit": fed,
        **{way: decode_tensor(x, spec.coding, spec.shape, spec.dtype).numpy() for way, x in scored.items()},
    }


@pytest.mark.parametrize("truncate", ["end", "start"])
@pytest.mark.parametrize("name", KINDS)
def test_rows_are_padded_and_cut_alike_in_every_way(name: str, truncate: str) -> None:
    rows = [KINDS[name][3](numbers) for numbers in ([1, 2], [], [1, 2, 3], [4, 3, 2, 1, 0], [5])]
    for way, found in all_ways(name, rows, a_spec(name, truncate)).items():
        np.testing.assert_array_equal(found, reference(name, rows, truncate), err_msg=way)


lists = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5)


@given(lists, st.sampled_from(sorted(KINDS)), st.sampled_from(["end", "start"]), st.integers(0, 2))
def test_any_rows_are_those_of_numpy(numbers: list[list[int]], name: str, truncate: str, skipped: int) -> None:
    rows = [KINDS[name][3](row) for row in numbers]
    spec = a_spec(name, truncate)
    (column,) = spec.columns
    kind = kind_of(column)
    # A slice of a batch, as Arrow's readers give it.
    before = [KINDS[name][3]([1] * count) for count in range(skipped)]
    array = kind.from_parquet(pa.array([*before, *rows], ARROW[name]).slice(skipped), column)
    found = decode(array, column)
    assert not found.missing.any()
    made = decode_tensor(
        found.values.reshape(-1, *(() if spec.coding else spec.shape)), spec.coding, spec.shape, spec.dtype
    )
    np.testing.assert_array_equal(made.numpy(), reference(name, rows, truncate))


@pytest.mark.parametrize("name", KINDS)
def test_nulls_stay_missing_values_and_long_rows_are_refused_by_default(name: str) -> None:
    make = KINDS[name][3]
    (column,) = a_spec(name).columns
    rows = [make([1]), None, make([1, 2, 3, 4]), make([1] * 6), make([1] * 6)]
    found = decode(kind_of(column).from_parquet(in_spark(name, rows), column), column)
    assert (found.missing.tolist(), found.nulls) == ([False, True, True, True, True], 1)
    assert found.lengths == {4: 1, 6: 2}
    if name not in ("bytes", "steps"):
        within = decode(pa.array([[None], make([1])], ARROW[name]), column)
        assert (within.missing.tolist(), within.nulls, within.lengths) == ([True, False], 1, {})
    if name == "floats":
        nan = decode(pa.array([[1.0, float("nan")], [float("inf")], [1.0]], ARROW[name]), column)
        assert (nan.usable.tolist(), nan.nans) == ([False, False, True], 1)


def test_a_value_that_is_cut_off_is_not_missed() -> None:
    (column,) = a_spec("floats", "end").columns
    found = decode(pa.array([[1.0, 2.0, 3.0, None], [1.0, 2.0, 3.0, float("nan")]], ARROW["floats"]), column)
    assert found.usable.all()
    assert decode(pa.array([[None, 2.0, 3.0, 4.0]], ARROW["floats"]), a_spec("floats", "start").columns[0]).usable.all()


def test_inner_arrays_of_another_length_are_refused_and_a_row_without_arrays_is_padding() -> None:
    (column,) = a_spec("steps", "end").columns
    rows = [[[1.0, 2.0]], [[1.0], [2.0, 3.0, 4.0]], [], [[1.0, 2.0], [3.0]], None]
    found = decode(kind_of(column).from_parquet(in_spark("steps", rows), column), column)
    assert found.missing.tolist() == [False, True, False, True, True]
    assert (found.lengths, found.nulls) == ({0: 2}, 1)
    assert found.values[2].tolist() == [-7.0] * 6
    with pytest.raises(
        DataError, match=r"at most 3 arrays per row, in arrays of 2.*arrays of another length in 2 rows"
    ):
        ScoringModel.of(b"", b"", [a_spec("steps")], Regression(), 8).inputs(
            {column: kind_of(column).from_parquet(in_spark("steps", rows[:-1]), column)}
        )


def told(spec: FeatureSpec, rows: list[Any], name: str) -> str:
    (column,) = spec.columns
    conversion = ConversionSpec(Store("memory://"), (spec,), (LABEL,))
    array = kind_of(column).from_parquet(in_spark(name, rows), column)
    batch = pa.RecordBatch.from_pydict({name: array, "y": pa.array(np.arange(len(rows)), pa.int32())})
    errors, _ = convert_batches(conversion, [])
    errors, batches = convert_batches(conversion, [sent(batch, conversion.columns)])
    assert not list(batches)
    faults = [Row(kind=k, name=n, detail=d, rows=count) for (k, n, d), count in errors.counts.items()]
    return describe(faults, conversion.columns, conversion.labels)


def test_many_wrong_lengths_are_one_line() -> None:
    rows = [[1] * length for length in (1, 2, 3, 5, 5, 9)]
    plain = feature_spec(SCHEMA, ["longs"], "featuresCol", (3,), "int32")
    text = told(plain, rows, "longs")
    assert "column 'longs': 5 rows of lengths 1 to 9, most often 5 (in 2), the model's input has 3" in text
    assert "Set padding={'longs': 0} for short rows, with truncate='end' or 'start' for long ones" in text
    padded = told(a_spec("longs"), rows, "longs")
    assert "column 'longs': 3 rows of lengths 5 to 9, most often 5 (in 2), the model's input has 3" in padded
    assert "Set truncate='end' or 'start', or a greater length in columnShapes." in padded
    steps = told(a_spec("steps"), [[[1.0, 2.0]] * 4], "steps")
    assert "column 'steps': 1 row of length 4, the model's input has 3" in steps
    inner = told(a_spec("steps"), [[[1.0]] * 4], "steps")
    assert "column 'steps': 1 row with inner arrays that aren't of 2, the model's input has 3" in inner
    with pytest.raises(DataError, match=r"rows of lengths 1 to 9, most often 5 \(in 2\), in 5 rows of a batch of 6"):
        scored_input(plain, pd.Series(rows))
    with pytest.raises(DataError, match=r"at most 3 numbers per row.*rows of lengths 5 to 9.*setTruncate"):
        scored_input(a_spec("longs"), pd.Series(rows))


def test_labels_of_one_number_at_each_position_are_told_of_label_shapes() -> None:
    label = label_spec(SCHEMA, "longs", (4, 3), None)  # as for CRFLoss, which also takes rows of 4 x 3 numbers
    faults = [Row(kind="length", name="longs", detail="4", rows=5)]
    assert "Set labelShapes={'longs': [4]} for a class" in describe(faults, [label.column], [label])
    other = [Row(kind="length", name="longs", detail="5", rows=5)]
    assert "labelShapes" not in describe(other, [label.column], [label])


@pytest.mark.parametrize("length", [3, None])
@pytest.mark.parametrize("number", [float, int, Decimal])
def test_a_sql_function_pads_and_cuts_arrays_of_arrays(length: int | None, number: Any) -> None:
    given = keras.Input((length, 2))
    model = keras.Model(given, keras.layers.Dense(1)(keras.layers.SimpleRNN(3)(keras.layers.Masking(-7)(given))))
    fitted = KerasRegressorModel.fromKeras(model, featuresCol="steps", padding={"steps": -7}, truncate="end")
    content, head = fitted._scored()
    model_alone, options = fitted._scoring_model(content, head, ()), fitted._options()
    call = _scorer(model_alone, options, fitted._inputs, ["steps"], "prediction")
    rows = [[[1, 2], [3, 4]], [], [[5, 6]] * 5]
    series = pd.Series([in_pandas([in_pandas([number(n) for n in pair]) for pair in row]) for row in rows])
    (found,) = call(iter([(series,)]))
    padded = np.array([(row + [[-7, -7]] * 5)[: length or 5] for row in rows], np.float32)
    np.testing.assert_allclose(found, model.predict(padded, verbose=0)[:, 0], atol=1e-6)


def in_pandas(parts: list[Any]) -> np.ndarray:
    """An array as Spark passes it to a pandas UDF."""
    array = np.empty(len(parts), object)
    array[:] = parts
    return array


def test_strings_that_are_not_utf8_are_counted() -> None:
    array = pa.array([[b"a", b"\xff"], [b"b"], [b"a", b"b", b"c", b"\xff"]], pa.list_(pa.binary()))
    batch = pa.RecordBatch.from_pydict({"texts": array, "y": pa.array([0, 1, 2], pa.int32())})
    conversion = ConversionSpec(Store("memory://"), (a_spec("texts", "end"),), (LABEL,))
    errors, batches = convert_batches(conversion, [batch])
    assert not list(batches)
    assert errors.counts == {("content", "texts", "strings that are UTF-8"): 1}


@pytest.mark.parametrize(
    ("name", "pad"),
    [("longs", 0.5), ("longs", 2**40), ("texts", 0), ("floats", "a"), ("vector", 0), ("number", 0), ("bytes", 256)],
)
def test_padding_that_does_not_fit_is_refused(name: str, pad: Any) -> None:
    with pytest.raises(DataError, match=rf"padding can't pad the column '{name}' with this value"):
        a_spec(name, pad=pad, shape=(1,) if name == "number" else (3,))


def test_padding_names_feature_columns() -> None:
    check_padding(KerasEstimator(padding={"longs": 0}, truncate="end")._options(), ["longs"])
    with pytest.raises(OptionError, match=r"padding names 'long', which isn't a column of the.*Did you mean 'longs'"):
        check_padding(KerasEstimator(padding={"long": 0})._options(), ["longs"])
    with pytest.raises(OptionError, match="truncate is set without padding"):
        check_padding(KerasEstimator(truncate="end")._options(), ["longs"])
    for wrong in ([1], {"x": None}, {}, {1: 0}):
        with pytest.raises(OptionError, match="padding can't have this value"):
            KerasEstimator(padding=wrong)


@pytest.mark.parametrize("name", KINDS)
def test_a_saved_specification_keeps_the_padding_and_earlier_ones_have_none(name: str) -> None:
    spec = a_spec(name, "start")
    assert spec_from_dict(spec_to_dict(spec)) == spec
    saved = spec_to_dict(feature_spec(SCHEMA, ["longs"], "featuresCol", (3,), "int32"))
    assert "pad" not in saved["columns"][0]


def test_padded_rows_are_written_and_cut_in_blocks(tmp_path: Path) -> None:
    conversion = ConversionSpec(Store.at(str(tmp_path)), (a_spec("texts", "end"),), (LABEL,))
    rows = pa.array([["a"], [], ["b", "c", "d", "e"]], ARROW["texts"])
    dataset, faults = pack(
        conversion, pa.RecordBatch.from_pydict({"texts": rows, "y": pa.array([0, 1, 2], pa.int32())})
    )
    assert not faults
    assert sum(block.rows for block in dataset.blocks) == 3


# --- rows that are padded to the longest of a batch


def open_spec(name: str, pad: Any = None, dtype: str = "") -> FeatureSpec:
    padding, shape, own, _ = KINDS[name]
    rules = ColumnRules(padding=PaddingPolicy({name: padding if pad is None else pad}))
    return feature_spec(SCHEMA, [name], "featuresCol", (OPEN, *shape[1:]), dtype or own, rules)


@given(lists, st.sampled_from(["longs", "floats", "flags", "texts", "steps"]))
def test_a_batch_is_as_long_as_its_longest_row_at_least(numbers: list[list[int]], name: str) -> None:
    rows = [KINDS[name][3](row[:3]) for row in numbers]
    for way, found in all_ways(name, rows, open_spec(name)).items():
        assert found.shape[:2] == (len(rows), 8), way
        np.testing.assert_array_equal(found[:, :3], reference(name, rows, "end"), err_msg=way)
        padding = KINDS[name][0].encode() if name == "texts" else KINDS[name][0]
        assert (found[:, 3:] == padding).all(), way


@pytest.mark.parametrize(("longest", "length"), [(0, 8), (8, 8), (9, 16), (16, 16), (17, 32), (1025, 2048)])
def test_batches_have_few_lengths(longest: int, length: int) -> None:
    rows = [[1], [1] * longest]
    assert {found.shape for found in all_ways("longs", rows, open_spec("longs")).values()} == {(2, length)}


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64", "int64", "float16", "float64"])
def test_numbers_of_any_dtype_are_padded_in_the_batch(dtype: str) -> None:
    for way, found in all_ways("longs", [[1, 2], [3]], open_spec("longs", 7, dtype)).items():
        assert (found.dtype, found.tolist()) == (dtype, [[1, 2] + [7] * 6, [3] + [7] * 7]), way


def test_a_batch_without_rows_has_a_length() -> None:
    spec = open_spec("steps")
    assert decode_tensor(np.empty(0, object), spec.coding, spec.shape, spec.dtype).shape == (0, 8, 2)


def test_numbers_that_an_open_input_can_not_hold_are_counted() -> None:
    rows = [[1.0, 2.5], [1e30], [2.0**25, 1.0], [3.0]]
    text = told(open_spec("floats", 0, "int32"), rows, "floats")
    for expected in (
        "column 'floats': 1 row without whole numbers, for an input of int32",
        "column 'floats': 1 row with values beyond int32",
        "column 'floats': 1 row without numbers that int32 and float32 hold exactly",
    ):
        assert expected in text
    with pytest.raises(DataError, match=r"'floats' can't be scored.*whole numbers"):
        scored_input(open_spec("floats", 0, "int32"), pd.Series([np.array([1.5], np.float32)]))


def test_an_open_input_takes_one_padded_column_nested_as_it_is() -> None:
    for name, shape, pad in (("steps", (OPEN,), 0), ("longs", (OPEN, 2), 0), ("longs", (OPEN,), None)):
        rules = ColumnRules(padding=PaddingPolicy({} if pad is None else {name: pad}))
        with pytest.raises(DataError, match=f"'{name}' can't feed an input of open length"):
            feature_spec(SCHEMA, [name], "featuresCol", shape, "float32", rules)


def a_table(mask: bool) -> keras.Model:
    ids = keras.Input((None,), name="longs", dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 4, mask_zero=mask)(ids))
    model = keras.Model(ids, keras.layers.Dense(1)(pooled))
    model.compile("sgd", "mse")
    return model


def test_a_model_whose_outputs_depend_on_the_padding_is_refused() -> None:
    schema = T.StructType().add("longs", LONGS).add("y", "double")

    def built(model: keras.Model, **options: Any) -> Any:
        estimator = KerasEstimator(
            model=model, loss="mse", featuresCol="longs", labelCol="y", padding={"longs": 0}, **options
        )
        return build_fit_spec(estimator, schema, estimator._options())

    spec = built(a_table(mask=True))
    assert spec.inputs[0].shape == (OPEN,)
    assert "int32 (None,), padded to the longest of a batch" in str(spec.plan)
    with pytest.raises(ModelError, match=r"outputs depend on how far rows are padded.*columnShapes=\{'longs'"):
        built(a_table(mask=False))
    assert built(a_table(mask=False), columnShapes={"longs": [4]}).inputs[0].shape == (4,)
    ids = keras.Input((None,), dtype="int32")
    tagger = keras.Model(ids, keras.layers.Dense(2)(keras.layers.Embedding(10, 4, mask_zero=True)(ids)))
    with pytest.raises(ModelError, match=r"The length of the output .* follows from that of the rows"):
        built(tagger)
