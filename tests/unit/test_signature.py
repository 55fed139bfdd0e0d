"""The signature of a served model takes what pandas holds of a Spark column, with MLflow's own checks."""

from __future__ import annotations

import decimal
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc import scoring_server
from pyspark.sql import types as T

import spark_dl.mlflow
from spark_dl import KerasRegressorModel
from spark_dl.data.column import Column
from spark_dl.data.specs import FeatureSpec
from spark_dl.errors import DataError
from spark_dl.ml import logged
from spark_dl.score.heads import Regression
from spark_dl.score.serving import Serving
from spark_dl.track import LoggedModel, flavor
from spark_dl.train.model.serialization import to_bytes

KINDS: dict[str, tuple[str, T.DataType]] = {
    "bool": ("boolean", T.BooleanType()),
    "int8": ("long", T.ByteType()),
    "int16": ("long", T.ShortType()),
    "int32": ("long", T.IntegerType()),
    "int64": ("long", T.LongType()),
    "float32": ("double", T.FloatType()),
    "float64": ("double", T.DoubleType()),
}


def saved(path: Path, fill: float | None) -> Any:
    """A model whose prediction is the sum of seven columns, one of each type, as a pyfunc."""
    columns = tuple(Column(name, "boolean" if name == "bool" else "number", name, 1, fill=fill) for name in KINDS)
    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    serving = Serving((FeatureSpec(columns, (7,), "float32"),), Regression(), {"prediction": "p"}, 8)
    schema = T.StructType([T.StructField(name, kind) for name, (_, kind) in KINDS.items()])
    inputs = logged._types(schema, set(KINDS) if fill is not None else set())
    content = LoggedModel(to_bytes(model), "{}", serving.to_json(), None, inputs, [("p", "double")], serving.example())
    flavor.save_model(str(path), content)
    return mlflow.pyfunc.load_model(str(path))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return saved(tmp_path_factory.mktemp("filled") / "model", 1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return saved(tmp_path_factory.mktemp("whole") / "model", None)


def test_types_are_those_of_the_columns_unless_values_may_be_missing(filled: Any, whole: Any) -> None:
    types = [(one["name"], one["type"]) for one in whole.metadata.signature.inputs.to_dict()]
    assert types == [(name, kind) for name, (kind, _) in KINDS.items()]
    assert {one["type"] for one in filled.metadata.signature.inputs.to_dict()} == {"any"}


HELD: dict[str, Callable[[list[Any]], Any]] = {
    "objects": lambda values: pd.Series(values, dtype=object),
    "floats": lambda values: pd.Series([np.nan if value is None else value for value in values], dtype="float64"),
    "single floats": lambda values: pd.Series(
        [np.nan if value is None else value for value in values], dtype="float32"
    ),
    "nullable": lambda values: pd.array(values, "Int64"),
    "nullable floats": lambda values: pd.array(values, "Float64"),
    "arrow": lambda values: pd.array(values, "int64[pyarrow]"),
    "decimals": lambda values: [None if value is None else decimal.Decimal(value) for value in values],
}


@pytest.mark.parametrize("held", HELD)
def test_numbers_that_may_be_missing_are_taken_however_pandas_holds_them(filled: Any, held: str) -> None:
    for values in ([1, 0, 100], [1, None, 100], [None, None, None]):
        present = [value if name != "bool" or value is None else value % 2 for name in KINDS for value in values]
        columns = dict(zip(KINDS, np.array(present, object).reshape(7, -1).tolist(), strict=True))
        found = filled.predict(pd.DataFrame({name: HELD[held](column) for name, column in columns.items()}))
        expected = np.sum(
            [[1.0 if value is None else value for value in column] for column in columns.values()], axis=0
        )
        assert found["p"].tolist() == expected.tolist()


def test_whole_numbers_and_booleans_without_missing_ones_are_taken_as_they_are(filled: Any) -> None:
    frame = pd.DataFrame({name: [1, 0] for name in KINDS})
    assert set(frame.dtypes) == {np.dtype("int64")}
    assert filled.predict(frame)["p"].tolist() == [7, 0]
    assert filled.predict(frame.astype(bool))["p"].tolist() == [7, 0]
    assert filled.predict([dict.fromkeys(KINDS, 1), dict.fromkeys(KINDS)])["p"].tolist() == [7, 7]


def test_columns_of_their_own_types_are_taken_where_none_may_be_missing(whole: Any) -> None:
    # As toPandas gives them, and as pandas makes them of lists.
    given = pd.DataFrame({name: np.array([1, 0], name) for name in KINDS})
    assert whole.predict(given)["p"].tolist() == [7, 0]
    made = pd.DataFrame({name: [kind(1), kind(0)] for name, kind in zip(KINDS, [bool, *[int] * 4, *[float] * 2])})  # noqa: B905
    assert whole.predict(made)["p"].tolist() == [7, 0]
    nullable = made.convert_dtypes(convert_floating=False)[list(KINDS)[:5]].join(made[list(KINDS)[5:]])
    assert whole.predict(nullable)["p"].tolist() == [7, 0]


def arrays(path: Path, typed: bool) -> Any:
    """A model whose prediction is the sum of an array of two floats and of a number, as a pyfunc."""
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    columns = T.StructType([T.StructField("pair", T.ArrayType(T.FloatType())), T.StructField("one", T.LongType())])
    fitted = KerasRegressorModel.fromKeras(network, columns, inputCols=["pair", "one"])
    spark_dl.mlflow.save_model(fitted, str(path), typed_arrays=typed)
    return mlflow.pyfunc.load_model(str(path))


PAIRS = pd.DataFrame({"pair": [[1.5, 2.0], [0, 1]], "one": [1, 2]})


def requests() -> dict[str, tuple[bytes, str]]:
    """The rows of PAIRS as requests to a server, with their content types."""
    forms = {
        "records": {"dataframe_records": PAIRS.to_dict("records")},
        "split": {"dataframe_split": PAIRS.to_dict("split")},
        "inputs": {"inputs": PAIRS.to_dict("list")},
    }
    stream = io.BytesIO()
    PAIRS.to_parquet(stream)
    encoded = {name: (json.dumps(form).encode(), "application/json") for name, form in forms.items()}
    return {**encoded, "parquet": (stream.getvalue(), "application/vnd.apache.parquet")}


def test_arrays_without_types_are_taken_in_every_form_and_checked_by_the_model(tmp_path: Path) -> None:
    typed, untyped = arrays(tmp_path / "typed", typed=True), arrays(tmp_path / "untyped", typed=False)
    signatures = [model.metadata.signature for model in (typed, untyped)]
    assert [one["type"] for one in signatures[0].inputs.to_dict()] == ["array", "long"]
    assert [one["type"] for one in signatures[1].inputs.to_dict()] == ["any", "long"]
    assert signatures[0].outputs == signatures[1].outputs
    for model in (typed, untyped):
        for rows in (PAIRS, PAIRS.assign(pair=[np.float32([1.5, 2]), np.float32([0, 1])]), PAIRS.to_dict("records")):
            assert model.predict(rows)["prediction"].tolist() == [4.5, 3.0]
        for form, (body, kind) in requests().items():
            if model is untyped or form != "inputs":  # MLflow takes a dict of typed arrays for one row
                answer = scoring_server.invocations(body, kind, model, model.metadata.get_input_schema())
                assert json.loads(answer.response) == {"predictions": [{"prediction": 4.5}, {"prediction": 3.0}]}
    for wrong in ([[1.0], [1.0]], [["a", "b"], ["a", "b"]], [1.0, 1.0]):
        with pytest.raises(DataError, match="'pair'"):
            untyped.predict(PAIRS.assign(pair=wrong))
