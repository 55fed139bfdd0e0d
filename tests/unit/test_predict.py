"""The body of the scoring UDF: columns in, the model's own predictions out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cloudpickle
import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql.pandas.serializers import ArrowStreamPandasUDFSerializer
from rows import scored_input

from spark_dl.data.column import Column
from spark_dl.data.specs import FeatureSpec
from spark_dl.errors import DataError
from spark_dl.score.heads import Head, Regression, TensorOutput
from spark_dl.score.predict import _pandas_scorer
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.score.series import output_series
from spark_dl.train.model.serialization import to_bytes

ARRAY = Column("x", "array", "float32", 3)
SCALAR = Column("s", "number", "float64", 1)


def _tensor(series: tuple[pd.Series, ...], spec: FeatureSpec) -> np.ndarray:
    return scored_input(spec, *series)


def a_scorer(columns: tuple[Column, ...], head: Head, units: int, batch_size: int) -> tuple[keras.Model, Any]:
    width = sum(column.width for column in columns)
    keras.utils.set_random_seed(4)
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(units), keras.layers.Dropout(0.9)])
    features = FeatureSpec(columns, (width,), "float32")
    scoring = ScoringModel.of(to_bytes(model), cloudpickle.dumps({}), [features], head, batch_size)
    return model, _pandas_scorer(scoring, head.fields())


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_of_any_size_give_the_models_own_predictions(batch_size: int) -> None:
    model, run = a_scorer((ARRAY,), TensorOutput(2), 2, batch_size)
    x = np.random.default_rng(0).normal(size=(10, 3)).astype("float32")
    batches: Iterator[Any] = iter([pd.Series(list(x[:7])), pd.Series(list(x[7:7])), (pd.Series(list(x[7:])),)])
    scored = list(run(batches))
    assert [len(frame) for frame in scored] == [7, 0, 3]
    got = np.concatenate([frame[["field0_0", "field0_1"]].to_numpy() for frame in scored])
    np.testing.assert_allclose(got, model.predict(x, verbose=0), rtol=1e-5)


def test_many_numbers_a_row_travel_as_a_list() -> None:
    model, run = a_scorer((ARRAY,), TensorOutput(300), 300, 4)
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    full, empty = run(iter([pd.Series(list(x)), pd.Series([], dtype=object)]))
    assert (list(full.columns), list(empty.columns), len(empty)) == (["field0"], ["field0"], 0)
    np.testing.assert_allclose(np.stack(full["field0"]), model.predict(x, verbose=0), rtol=1e-5)


def test_several_columns_are_joined_in_their_order() -> None:
    model, run = a_scorer((SCALAR, ARRAY), Regression(), 1, 4)
    x = np.arange(8, dtype="float32").reshape(2, 4)
    (frame,) = run(iter([(pd.Series(x[:, 0]), pd.Series(list(x[:, 1:])))]))
    assert frame["field0"].dtype == np.float64
    np.testing.assert_allclose(frame["field0"], model.predict(x, verbose=0)[:, 0], rtol=1e-5)


def test_rows_take_the_shape_and_dtype_of_the_models_input() -> None:
    spec = FeatureSpec((SCALAR, ARRAY), (2, 2), "float32")
    tensor = _tensor((pd.Series([1.0, 5.0]), pd.Series([[2, 3, 4], [6, 7, 8]])), spec)
    assert tensor.dtype == np.float32
    assert tensor.tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    flags = FeatureSpec((Column("b", "boolean", "bool", 1),), (1,), "float32")
    assert _tensor((pd.Series([True, False]),), flags).tolist() == [[1], [0]]
    assert _tensor((pd.Series([], dtype=object),), FeatureSpec((ARRAY,), (3,), "float32")).shape == (0, 3)


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        (SCALAR, [1.0, None, float("nan")], "column 's' can't be scored.*no nulls.*2 null or NaN in a batch of 3 rows"),
        (ARRAY, [[1.0, 2, 3], None], "column 'x' can't be scored.*1 null or NaN in a batch of 2"),
        (ARRAY, [[1.0, 2, 3], [1.0]], "column 'x'.*3 numbers per row.*a row of 1"),
        (ARRAY, [np.array([1.0, np.nan, 3])], "column 'x'.*no NaN"),
        (ARRAY, [np.array([1.0, None, 3], object)], "column 'x'.*no nulls"),
    ],
)
def test_what_can_not_be_scored_is_told_by_column(column: Column, values: list[Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        _tensor((pd.Series(values),), FeatureSpec((column,), (column.width,), "float32"))


WIDE = Column("w", "array", "float64", 2)


@pytest.mark.parametrize(
    ("dtype", "values", "told"),
    [
        (
            "float32",
            [[1.0, 2.0], [3.0, 1e300]],
            r"column 'w'.*finite.*float32.*1e\+300; 1 rows beyond it in a batch of 2",
        ),
        (
            "float32",
            [[np.inf, 2.0], [1.0, -np.inf]],
            r"column 'w'.*inf; 2 rows with an infinite number.*the first is row 0",
        ),
        ("float16", [[1.0, 2.0], [70000.0, 1.0]], r"column 'w'.*float16.*70000\.0.*the first is row 1"),
        ("float64", [[1.0, 2.0], [1.0, np.inf]], r"column 'w'.*float64.*inf.*row 1"),
    ],
)
def test_numbers_beyond_the_input_are_told_by_column_and_row(dtype: str, values: list[Any], told: str) -> None:
    spec = FeatureSpec((SCALAR, WIDE), (3,), dtype)
    with pytest.raises(DataError, match=told):
        _tensor((pd.Series([1.0, 2.0]), pd.Series(values)), spec)
    numbers = _tensor((pd.Series([1e300]), pd.Series([[-1e300, 0.0]])), FeatureSpec((SCALAR, WIDE), (3,), "float64"))
    assert numbers.tolist() == [[1e300, -1e300, 0.0]]


def test_arrays_of_other_lengths_within_a_row_are_told() -> None:
    nested = Column("n", "nested array", "float32", 4, nested=1, inner=(2,))
    with pytest.raises(DataError, match=r"'n'.*4 numbers per row, in arrays of 2.*arrays of another length .*row 1"):
        _tensor((pd.Series([[1, 2, 3, 4], []]),), FeatureSpec((nested,), (2, 2), "float32"))


def test_nan_reaches_spark_as_nan() -> None:
    serializer = ArrowStreamPandasUDFSerializer("UTC", True, True)
    for values in (np.array([1.0, np.nan]), np.array([[1.0, np.nan], [2.0, 3.0]]), np.array([1.0, 2.0])):
        kind = pa.float64() if values.ndim == 1 else pa.list_(pa.float64())
        array = serializer._create_array(output_series(values), kind)
        assert (array.flatten() if values.ndim > 1 else array).null_count == 0
        np.testing.assert_array_equal(np.array(array.to_pylist()), values)


def test_a_row_that_the_model_can_not_compute_is_told() -> None:
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(5, 1), keras.layers.Flatten()])
    index = Column("i", "array", "int32", 2)
    scoring = ScoringModel.of(
        to_bytes(model), cloudpickle.dumps({}), [FeatureSpec((index,), (2,), "int32")], TensorOutput(2), 4
    )
    rows = np.zeros((10, 2), np.int32)
    assert scoring.score_pandas([pd.Series(list(rows))]).columns["prediction"].shape == (10, 2)
    rows[6] = 9
    with pytest.raises(DataError, match=r"can't compute a row of 'i'.*row 6 of a batch of 10 rows; "):
        scoring.score_pandas([pd.Series(list(rows))])


def test_models_are_the_same_where_their_bytes_are() -> None:
    spec, head = FeatureSpec((ARRAY,), (3,), "float32"), Regression()
    one, again = (ScoringModel.of(b"model", b"objects", [spec], head, 4) for _ in range(2))
    assert one == again
    assert hash(one) == hash(again)
    assert one != ScoringModel.of(b"other", b"objects", [spec], head, 4)
    assert one != ScoringModel.of(b"model", b"others", [spec], head, 4)
    assert "content" not in repr(one)


def test_images_are_decoded_together_only_up_to_some_megabytes() -> None:
    column, words = Column("x", "image", "object", 0), Column("x", "text", "object", 0)
    image = FeatureSpec((column,), (224, 224, 3), "float32")
    small = FeatureSpec((column,), (8, 8, 3), "float32")
    text = FeatureSpec((words,), (1,), "string")
    steps = [ScoringModel.of(b"", b"", [spec], Regression(), 4096).step for spec in (image, small, text)]
    assert steps == [(64 << 20) // (224 * 224 * 3 * 4), 4096, 4096]
    huge = FeatureSpec((column,), (9000, 9000, 3), "float32")
    assert ScoringModel.of(b"", b"", [huge], Regression(), 4096).step == 1


def test_models_that_are_loaded_one_after_the_other_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """TensorFlow warns of traces that repeat; a worker of a search scores many models."""
    import tensorflow as tf

    logger = tf.get_logger()
    logger.addHandler(caplog.handler)
    try:
        for units in range(2, 9):
            _, run = a_scorer((ARRAY,), TensorOutput(units), units, 4)
            assert [len(frame) for frame in run(iter([pd.Series(list(np.zeros((2, 3), "float32")))]))] == [2]
    finally:
        logger.removeHandler(caplog.handler)
    assert [record.message for record in caplog.records if "retracing" in record.message] == []
