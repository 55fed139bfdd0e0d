"""A model's predictions without Spark: rows as pandas, NumPy and JSON have them."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from spark_dl.data.column import Column
from spark_dl.data.specs import FeatureSpec
from spark_dl.errors import DataError, SavedModelError
from spark_dl.score.heads import Classification, Regression, SeveralOutputs
from spark_dl.score.serving import Served, Serving
from spark_dl.train.model.serialization import to_bytes

FEATURES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
ARRAY = Column("features", "array", "float32", 4)


def model(units: int = 3) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, "softmax" if units > 1 else None)])


def classifier(*columns: Column, thresholds: tuple[float, ...] = ()) -> Served:
    serving = Serving(
        (FeatureSpec(columns or (ARRAY,), (4,), "float32"),),
        Classification(3, 3, from_logits=False, thresholds=thresholds),
        {"prediction": "class", "probability": "p"},
        2,
    )
    return Served(Serving.of_json(serving.to_json()), to_bytes(model()))


def test_the_columns_are_those_that_are_named_with_the_models_numbers() -> None:
    found = classifier().predict(pd.DataFrame({"id": range(5), "features": list(FEATURES)}, index=list("abcde")))
    expected = model().predict(FEATURES, verbose=0)
    assert list(found.columns) == ["class", "p"]
    assert list(found.index) == list("abcde")
    np.testing.assert_allclose(np.stack(found["p"]), expected, rtol=1e-6)
    assert found["class"].tolist() == expected.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    "rows",
    [
        FEATURES,
        FEATURES.astype(np.float64),
        {"features": FEATURES},
        {"features": FEATURES.tolist()},
        [{"features": row} for row in FEATURES.tolist()],
        json.loads(json.dumps([{"features": row, "more": None} for row in FEATURES.tolist()])),
    ],
)
def test_rows_may_come_in_any_form(rows: Any) -> None:
    found = np.stack(classifier().predict(rows)["p"])
    np.testing.assert_allclose(found, model().predict(FEATURES, verbose=0), rtol=1e-6)


def test_several_numbers_are_columns_or_the_columns_of_an_array() -> None:
    served = classifier(*(Column(name, "number", "float32", 1) for name in "abcd"))
    expected = model().predict(FEATURES, verbose=0)
    for rows in (FEATURES, pd.DataFrame(FEATURES[:, ::-1], columns=list("dcba"))):
        np.testing.assert_allclose(np.stack(served.predict(rows)["p"]), expected, rtol=1e-6)


def test_thresholds_are_kept() -> None:
    raised = classifier(thresholds=(1.0, 1e-9, 1.0)).predict(FEATURES)
    assert raised["class"].tolist() == [1.0] * 5


def test_arrays_of_arrays_and_several_inputs_and_outputs() -> None:
    inputs = {"grid": keras.Input((2, 3), name="grid"), "n": keras.Input((1,), name="n")}
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(inputs["grid"]), inputs["n"]])
    outputs = {"one": keras.layers.Dense(1)(joined), "two": keras.layers.Dense(2)(joined)}
    several = keras.Model(inputs, outputs)
    grid, n = np.random.default_rng(1).normal(size=(4, 2, 3)).astype(np.float32), np.arange(4)
    serving = Serving(
        (
            FeatureSpec(
                (Column("grid", "nested array", "float32", 6, nested=1, inner=(3,)),), (2, 3), "float32", "grid"
            ),
            FeatureSpec((Column("count", "number", "int64", 1),), (1,), "float32", "n"),
        ),
        SeveralOutputs((("one", 1), ("two", 2))),
        {"one": "first", "two": "second"},
        100,
    )
    served = Served(serving, to_bytes(several))
    found = served.predict({"grid": grid.tolist(), "count": n})
    expected = several.predict({"grid": grid, "n": n.astype(np.float32)[:, None]}, verbose=0)
    np.testing.assert_allclose(found["first"], expected["one"][:, 0], rtol=1e-5)
    np.testing.assert_allclose(np.stack(found["second"]), expected["two"], rtol=1e-5)
    with pytest.raises(DataError, match=r"'grid' can't be scored.*an array of arrays of 3 of numbers"):
        served.predict({"grid": grid.transpose(0, 2, 1).tolist(), "count": n})


def test_texts_are_fed_as_they_are() -> None:
    words = keras.layers.TextVectorization(output_sequence_length=2)
    words.adapt(["good", "bad"])
    texts = keras.Sequential([keras.Input((1,), dtype="string"), words, keras.layers.Dense(1)])
    spec = FeatureSpec((Column("text", "text", "object", 0, fill="bad"),), (1,), "string")
    served = Served(Serving((spec,), Regression(), {"prediction": "prediction"}, 8), to_bytes(texts))
    found = served.predict({"text": ["good", "bad"]})["prediction"]
    assert found[0] != found[1]
    assert served.predict([{"text": None}])["prediction"][0] == pytest.approx(found[1])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"feature": FEATURES}, r"no column 'features'.*Expected: features.*Received: feature\b"),
        ({"features": FEATURES[:, :3]}, r"'features' can't be scored.*4 numbers per row.*a row of 3"),
        ({"features": [[1, 2, 3, None]]}, r"'features' can't be scored.*no nulls"),
        ({"features": [[1, 2, 3, float("nan")]]}, r"'features' can't be scored.*no NaN"),
        ({"features": [None]}, r"'features' can't be scored.*no nulls"),
        ({"features": [["a", "b", "c", "d"]]}, r"'features' can't be scored.*an array of numbers"),
        ({"features": [1.0, 2.0]}, r"'features' can't be scored"),
        ("features", r"These rows can't be read.*str"),
        ([], r"These rows can't be read.*list"),
    ],
)
def test_rows_that_can_not_be_scored_are_one_clear_error(rows: Any, expected: str) -> None:
    with pytest.raises(DataError, match=rf"(?s){expected}"):
        classifier().predict(rows)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"features": [], "head": {"name": "no"}, "outputs": {}, "batch_size": 1}']
)
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(SavedModelError):
        Serving.of_json(text)


def test_an_example_has_the_shape_and_kind_of_each_column() -> None:
    specs = (
        FeatureSpec((Column("age", "number", "int32", 1), Column("paid", "boolean", "bool", 1)), (2,), "float32", "a"),
        FeatureSpec((Column("v", "vector", "float64", 3),), (3,), "float32", "b"),
        FeatureSpec((Column("grid", "nested array", "float32", 6, 1, (3,)),), (2, 3), "float32", "c"),
        FeatureSpec((Column("text", "text", "uint8", 0),), (), "string", "d"),
    )
    serving = Serving(specs, Regression(), {"prediction": "p"}, 2)
    example = serving.example()
    assert example == {"age": 0, "paid": False, "v": [0.0] * 3, "grid": [[0.0] * 3] * 2, "text": ""}
    assert example["paid"] is False
    image = FeatureSpec((Column("image", "image", "uint8", 0),), (8, 8, 3), "float32")
    assert Serving((image,), Regression(), {"prediction": "p"}, 2).example() is None


def whole(nulls: str = "error") -> Served:
    """A model of whole numbers, whose prediction is their sum."""
    adds = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Dense(1, kernel_initializer="ones")])
    spec = FeatureSpec((Column("features", "array", "int64", 4),), (4,), "int32")
    return Served(Serving((spec,), Regression(), {"prediction": "sum"}, 8, nulls), to_bytes(adds))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([1.9, 2, 3, 4], "whole numbers"),
        ([2**40, 2, 3, 4], "int32.*1099511627776"),
        ([1, 2, None, 4], "no nulls|no NaN|null"),
    ],
)
def test_served_whole_numbers_are_never_cut_or_wrapped(row: Any, told: str) -> None:
    with pytest.raises(DataError, match=f"'features' can't be scored(.|\n)*({told})"):
        whole().predict({"features": [row]})
    assert whole().predict({"features": [[1.0, 2, 3, 4]]})["sum"].tolist() == [10.0]


def test_served_nulls_within_arrays_fall_under_the_policy() -> None:
    found = whole("null").predict({"features": [[1, 2, None, 4], [1, 2, 3, 4], None]})["sum"]
    assert found.isna().tolist() == [True, False, True]
    assert found[1] == 10


def test_served_rows_of_varying_length_are_padded() -> None:
    adds = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
    spec = FeatureSpec((Column("n", "array", "float32", 3, pad=0.0),), (3,), "float32")
    served = Served(Serving((spec,), Regression(), {"prediction": "sum"}, 8), to_bytes(adds))
    assert served.predict({"n": [[1, 2, 3], [5]]})["sum"].tolist() == [6.0, 5.0]
