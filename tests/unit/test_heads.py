"""What a model's output means: predictions, probabilities and raw predictions that agree with each other."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from spark_dl.errors import DataError, SavedModelError
from spark_dl.score.heads import (
    HEADS,
    Classification,
    Head,
    Reconstruction,
    Regression,
    SeveralOutputs,
    Tagging,
    TensorOutput,
    head_from_dict,
)

finite = st.integers(-50, 50)


def outputs(units: int, elements: st.SearchStrategy[Any] = finite) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(units)), elements=elements)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


@given(outputs(4))
def test_logits_of_many_units_become_probabilities_by_softmax(logits: np.ndarray) -> None:
    columns = Classification(classes=4, units=4, from_logits=True).columns([logits])
    np.testing.assert_allclose(columns["probability"], softmax(logits), rtol=1e-9)
    np.testing.assert_array_equal(columns["rawPrediction"], logits)
    np.testing.assert_array_equal(columns["prediction"], logits.argmax(axis=1))


@given(outputs(4))
def test_probabilities_of_many_units_stay_and_their_logarithms_are_raw(logits: np.ndarray) -> None:
    probability = softmax(logits)
    columns = Classification(classes=4, units=4, from_logits=False).columns([probability])
    np.testing.assert_array_equal(columns["probability"], probability)
    np.testing.assert_allclose(softmax(columns["rawPrediction"]), probability, rtol=1e-9)
    np.testing.assert_array_equal(columns["prediction"], probability.argmax(axis=1))


@given(outputs(1))
def test_one_logit_is_that_of_class_1_as_in_sparks_logistic_regression(logits: np.ndarray) -> None:
    columns = Classification(classes=2, units=1, from_logits=True).columns([logits])
    positive = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    np.testing.assert_allclose(columns["probability"], np.stack([1 - positive, positive], axis=1), rtol=1e-9)
    np.testing.assert_array_equal(columns["rawPrediction"], np.concatenate([-logits, logits], axis=1))
    np.testing.assert_array_equal(columns["prediction"], positive > 0.5)


@given(outputs(1, st.floats(0.0078125, 0.9921875, width=32)))
def test_one_probability_is_that_of_class_1(probability: np.ndarray) -> None:
    columns = Classification(classes=2, units=1, from_logits=False).columns([probability])
    positive = probability[:, 0].astype(np.float64)
    np.testing.assert_array_equal(columns["probability"][:, 1], positive)
    raw = columns["rawPrediction"]
    np.testing.assert_allclose(1 / (1 + np.exp(-raw[:, 1])), positive, rtol=1e-9)
    np.testing.assert_array_equal(raw[:, 0], -raw[:, 1])
    np.testing.assert_array_equal(columns["prediction"], positive > 0.5)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("units", [1, 3])
def test_extreme_outputs_stay_finite(units: int, from_logits: bool) -> None:
    extreme = np.array([[3.4e38], [-3.4e38], [0.0]]) if from_logits else np.array([[1.0], [0.0], [1e-45]])
    values = np.tile(extreme, (1, units)) * np.eye(3, units) if units > 1 else extreme
    with np.errstate(all="raise", under="ignore"):
        columns = Classification(max(units, 2), units, from_logits).columns([values.astype(np.float32)])
    for name in ("probability", "rawPrediction"):
        assert np.isfinite(columns[name]).all()
    assert ((columns["probability"] >= 0) & (columns["probability"] <= 1)).all()


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("thresholds", [False, True])
def test_an_output_that_is_nan_has_no_class(units: int, from_logits: bool, thresholds: bool) -> None:
    classes = max(units, 2)
    head = Classification(classes, units, from_logits, thresholds=(0.5,) * classes if thresholds else ())
    outputs = np.full((3, units), 0.3, np.float32)
    outputs[1, -1] = np.nan
    with np.errstate(all="raise", under="ignore"):
        columns = head.columns([outputs])
    for values in columns.values():
        assert np.isnan(values[1]).all()
        assert np.isfinite(values[[0, 2]]).all()


def test_infinite_logits_are_certain_classes() -> None:
    inf = np.inf
    with np.errstate(all="raise", under="ignore"):
        columns = Classification(3, 3, True).columns([np.array([[0, inf, 1], [-inf, 0, 0], [-inf, -inf, -inf]])])
        binary = Classification(2, 1, True).columns([np.array([[inf], [-inf]])])
    assert columns["prediction"].tolist() == [1, 1, 0]
    np.testing.assert_allclose(columns["probability"], [[0, 1, 0], [0, 0.5, 0.5], [1 / 3] * 3], atol=1e-12)
    assert binary["prediction"].tolist() == [1, 0]
    np.testing.assert_allclose(binary["probability"], [[0, 1], [1, 0]], atol=1e-12)


def test_scores_become_probabilities_as_keras_loss_takes_them() -> None:
    import keras

    scores = np.array([[0.9, 0.6, 0.1], [0.0, 0.0, 0.0], [1.0, 1.0, 0.5]], np.float32)
    columns = Classification(3, 3, False, normalize=True).columns([scores])
    losses = [keras.losses.sparse_categorical_crossentropy(np.full(3, index), scores) for index in range(3)]
    np.testing.assert_allclose(columns["probability"], np.exp(-np.stack(losses, axis=1)), rtol=1e-4)
    assert columns["prediction"].tolist() == [0, 0, 0]


def test_outputs_of_one_unit_may_come_without_the_axis() -> None:
    head = Classification(classes=2, units=1, from_logits=True)
    assert head.columns([np.array([3.0, -3.0])])["prediction"].tolist() == [1, 0]


def test_a_regression_is_one_number_a_row() -> None:
    for shape in ((3, 1), (3,), (3, 1, 1)):
        (prediction,) = Regression().columns([np.arange(3, dtype=np.float32).reshape(shape)]).values()
        assert prediction.tolist() == [0, 1, 2]
        assert prediction.dtype == np.float64


def test_a_tensor_is_flattened_in_c_order() -> None:
    values = np.arange(12).reshape(2, 2, 3)
    (prediction,) = TensorOutput(6).columns([values]).values()
    assert prediction.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert prediction.dtype == np.float32


def test_integers_that_the_column_would_round_are_an_error_and_others_are_kept() -> None:
    ids = np.array([[2**24 + 1, -7], [1, 2**40]])
    head = SeveralOutputs((("one", 1), ("ids", 2)))
    assert head.columns([ids[:, 1], np.array([[2**24, -7]] * 2)])["ids"].tolist() == [[2**24, -7]] * 2
    with pytest.raises(DataError, match=r"float32 rounds .* 16,777,216\. .* 16,777,217\. .*outputFormat='vector'"):
        head.columns([ids[:, 1], ids])
    as_vectors = replace(head, vectors=True)
    assert as_vectors.columns([ids[:, 1], ids])["ids"].tolist() == ids.tolist()
    with pytest.raises(DataError, match=r"float64 rounds integers .*smaller integers"):
        as_vectors.columns([ids[:, 1], ids + 2**53])
    with pytest.raises(DataError, match="float64 rounds integers"):
        head.columns([ids[:, 0] + 2**53, ids[:1] * 0])


ALL = [
    (Classification(3, 3, False), [(3,)]),
    (Classification(2, 1, True), [(1,)]),
    (Classification(3, 3, False, normalize=True), [(3,)]),
    (Regression(), [(1,)]),
    (Tagging(2, 3, from_logits=True), [(2, 3)]),
    (TensorOutput(6), [(2, 3)]),
    (TensorOutput.of((2, 3)), [(2, 3)]),
    (SeveralOutputs((("price", 1), ("kind", 4))), [(1,), (4,)]),
    (SeveralOutputs.of({"price": (1,), "kind": (2, 3)}), [(1,), (2, 3)]),
    (Reconstruction(TensorOutput(4)), [(4,), ()]),
]
# What an option makes of them isn't saved with them.
AS_VECTORS = [(replace(head, vectors=True), shapes) for head, shapes in ALL if hasattr(head, "vectors")]


@pytest.mark.parametrize(("head", "shapes"), [*ALL, *AS_VECTORS])
def test_every_head_gives_the_fields_that_it_promises(head: Head, shapes: list[tuple[int, ...]]) -> None:
    for rows in (0, 1, 4):
        columns = head.columns([np.full((rows, *shape), 0.5, np.float32) for shape in shapes])
        assert list(columns) == list(head.fields())
        for name, field in head.fields().items():
            assert columns[name].shape == ((rows,) if field.kind == "double" else (rows, field.width))
            assert columns[name].dtype == ("float32" if field.kind == "array<float>" else "float64")


def test_several_numbers_may_be_a_vector() -> None:
    kinds = [{name: field.kind for name, field in head.fields().items()} for head, _ in AS_VECTORS]
    assert kinds == [{"prediction": "vector"}] * 2 + [{"price": "double", "kind": "vector"}] * 2


def test_an_output_of_several_axes_is_an_array_of_arrays() -> None:
    (field,) = TensorOutput.of((2, 3)).fields().values()
    assert (field.array_type, field.width) == ("array<array<float>>", 6)
    assert field.nested(np.arange(6).reshape(1, 6)).tolist() == [[[0, 1, 2], [3, 4, 5]]]
    fields = SeveralOutputs.of({"price": (1,), "kind": (2, 3), "row": (4,)}).fields()
    kinds = {name: field.array_type for name, field in fields.items()}
    assert kinds == {"price": "double", "kind": "array<array<float>>", "row": "array<float>"}
    # Models that were saved before have no shape, and go on as they were.
    assert head_from_dict({"name": "tensor", "width": 6}).fields()["prediction"].array_type == "array<float>"


def test_a_tagger_gives_the_class_and_the_probabilities_of_each_position() -> None:
    logits = np.array([[[0.0, 2.0, 1.0], [np.nan, 0.0, 0.0]], [[3.0, 0.0, 0.0], [0.0, 0.0, 1.0]]], np.float32)
    head = Tagging(2, 3, from_logits=True)
    found = {name: head.fields()[name].nested(values) for name, values in head.columns([logits]).items()}
    np.testing.assert_array_equal(found["prediction"], [[1, np.nan], [0, 2]])
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found["probability"], expected, rtol=1e-6)


@pytest.mark.parametrize("head", [head for head, _ in ALL])
def test_every_head_survives_json(head: Head) -> None:
    assert head_from_dict(json.loads(json.dumps(head.as_dict()))) == head


def test_all_heads_of_the_table_are_tested() -> None:
    assert {type(head) for head, _ in ALL} == set(HEADS.values())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"name": "clasification"}, "no head 'clasification'.*Did you mean 'classification'"),
        ({}, "no head ''"),
        ({"name": "tensor"}, "head 'tensor' can't be read"),
        ({"name": "several", "widths": [["a", "b"]]}, "head 'several' can't be read"),
        ({"name": "regression", "width": 3}, "head 'regression' can't be read"),
    ],
)
def test_a_head_that_is_not_known_is_a_saved_models_fault(content: dict[str, Any], told: str) -> None:
    with pytest.raises(SavedModelError, match=told):
        head_from_dict(content)
