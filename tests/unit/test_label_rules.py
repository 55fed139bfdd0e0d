"""Labels and the losses that they teach by: what gives a wrong loss in plain Keras is refused, and nothing else."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T
from rows import pack, sent

from spark_dl import KerasEstimator
from spark_dl.data import convert
from spark_dl.data.column import Column
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.label_rules import OF_CLASS_INDICES, RULES, apply_loss
from spark_dl.data.row_errors import describe
from spark_dl.data.schema import label_spec
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.errors import DataError
from spark_dl.fit.columns import OutputFacts
from spark_dl.fit.converted import ConvertedData, comparable
from spark_dl.fit.input_plan import InputPlan
from spark_dl.io.store import Store
from spark_dl.spark.row_source import RowSource
from spark_dl.train.model.losses import loss_facts
from spark_dl.train.model.shape import ModelOutput

SCALAR = LabelSpec(Column("y", "number", "float64", 1), (), "float32", None)


@pytest.mark.parametrize("loss", RULES)
def test_every_rule_is_of_a_loss_that_keras_has(loss: str) -> None:
    own = [thing for name, thing in vars(keras.losses).items() if name not in ("deserialize", "get", "serialize")]
    assert loss in {loss_facts(thing).name for thing in (*filter(inspect.isfunction, own), "KLDivergence")}


@pytest.mark.parametrize(
    ("loss", "good", "bad"),
    [
        ("binary_crossentropy", [0, 1, 0.3, 1.0000001], [-1, 2, 1.1, -0.01]),
        ("binary_focal_crossentropy", [0, 1], [-1]),
        ("kl_divergence", [0, 0.5], [-0.5, 3]),
        ("poisson", [0, 2.5, 1e6], [-1]),
        ("mean_squared_logarithmic_error", [0, 7], [-0.5]),
        ("hinge", [-1, 0, 1], [0.5, 2, -3]),
        ("squared_hinge", [-1, 1], [7]),
        ("dice", [0, 1], [255]),
    ],
)
@pytest.mark.parametrize("kind", ["float64", "int64"])
def test_numbers_that_a_loss_takes(loss: str, good: list[float], bad: list[float], kind: str) -> None:
    good, bad = (np.unique(np.array(part).astype(kind)).tolist() for part in (good, bad))
    values = np.array([*good, *bad], kind).reshape(-1, 1)
    wrong = [number for number in bad if number not in good]
    marks, found = RULES[loss].breaches(values[: len(good)], 1)
    assert not marks.any()
    assert not len(found)
    marks, found = RULES[loss].breaches(np.array(wrong, kind).reshape(-1, 1), 1)
    assert marks.all()
    assert found.tolist() == wrong


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([0, 1, 0], None),
        ([0.33, 0.33, 0.33], None),
        ([0.2, 0.3, 0.5000001], None),
        ([1, 1, 0], 2),
        ([0, 0, 0], 0),
        ([-1, 1, 1], -1),
        ([0, 2, 0], 2),
    ],
)
def test_rows_of_categorical_crossentropy_are_shares_of_one(row: list[float], told: float | None) -> None:
    marks, found = RULES["categorical_crossentropy"].breaches(np.array([row, [1, 0, 0]]), 3)
    assert (marks.tolist(), found.tolist()) == (([True, False], [told]) if told is not None else ([False] * 2, []))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([0, 1, 0], None),
        ([-1, 1, -1], None),
        ([0, 0, 0], 0),
        ([-1, -1, -1], 0),
        ([1, 1, 0], 2),
        ([0.5, 1, 0], 0.5),
    ],
)
def test_rows_of_categorical_hinge_have_one_class(row: list[float], told: float | None) -> None:
    marks, found = RULES["categorical_hinge"].breaches(np.array([row, [1.0, 0, 0]]), 3)
    assert (marks.tolist(), found.tolist()) == (([True, False], [told]) if told is not None else ([False] * 2, []))


def test_each_step_of_a_sequence_is_a_row_of_its_own() -> None:
    steps = np.array([[1, 0, 0, 1], [1, 1, 0, 0]])  # two steps of two classes
    marks, found = RULES["categorical_crossentropy"].breaches(steps, 2)
    assert (marks.tolist(), found.tolist()) == ([False, True], [2])


@pytest.mark.parametrize(
    ("loss", "known"),
    [("mse", True), ("mae", True), ("huber", True), (lambda y, p: p, False)],
    ids=["mse", "mae", "huber", "own"],
)
def test_other_losses_take_any_number(loss: object, known: bool) -> None:
    facts = loss_facts(loss)
    assert facts.known == known
    assert apply_loss(SCALAR, (1,), facts.name if facts.known else "").loss == ""


def test_classes_along_another_axis_are_told() -> None:
    losses = keras.losses
    assert loss_facts(losses.CategoricalCrossentropy()).last_axis
    assert loss_facts(losses.Dice()).last_axis
    assert not loss_facts(losses.CategoricalCrossentropy(axis=1)).last_axis


def test_labels_are_counted_by_value_over_all_partitions(tmp_path: Path) -> None:
    label = apply_loss(SCALAR, (1,), "binary_crossentropy")
    feature = FeatureSpec((Column("x", "number", "float64", 1),), (1,), "float32")
    conversion = ConversionSpec(Store.at(str(tmp_path)), (feature,), (label,))
    batch = pa.RecordBatch.from_pydict({"x": [0.0] * 6, "y": [-1.0, 1, -1, -1, 1, 2]})
    dataset, faults = pack(conversion, batch)
    assert faults == {("label", "y", "binary_crossentropy -1"): 3, ("label", "y", "binary_crossentropy 2"): 1}
    assert dataset.blocks == ()
    rows = [{"kind": k, "name": n, "detail": d, "rows": count} for (k, n, d), count in faults.items()] * 2
    message = describe(rows, conversion.columns, conversion.labels)  # type: ignore[arg-type]
    for part in ("label 'y': 8 rows", "binary_crossentropy", "from 0 to 1", "-1 in 6, 2 in 2", "(label + 1) / 2"):
        assert part in message
    many = pa.RecordBatch.from_pydict({"x": [0.0] * 50, "y": [2.0 + n for n in range(50)]})
    _, faults = pack(conversion, many)
    assert len(faults) == 9
    assert faults["label", "y", "binary_crossentropy others"] == 42


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize(
    ("parts", "mixed"),
    [([[0, 1], [-1, 1]], True), ([[0, -1]], True), ([[0, 1], [0, 1]], False), ([[-1], [1]], False)],
)
def test_labels_of_0_beside_those_of_minus_1_are_refused(
    tmp_path: Path, loss: str, parts: list[list[float]], mixed: bool
) -> None:
    label = apply_loss(SCALAR, (1,), loss)
    feature = FeatureSpec((Column("x", "number", "float64", 1),), (1,), "float32")
    conversion = ConversionSpec(Store.at(str(tmp_path)), (feature,), (label,))
    batches = [pa.RecordBatch.from_pydict({"x": [0.0] * len(y), "y": [float(one) for one in y]}) for y in parts]
    (result,) = convert._convert_partition(conversion, [sent(batch, conversion.columns) for batch in batches])
    found = {row["detail"] for row in result.to_pylist()}
    with pytest.raises(DataError, match=r"The label 'y' mixes.* 0 and -1") if mixed else contextlib.nullcontext():
        convert._check_exclusive(conversion.labels, found)


def test_whole_numbers_in_a_label_array_that_float32_rounds_are_refused(tmp_path: Path) -> None:
    label = LabelSpec(Column("y", "array", "int64", 2), (2,), "float32", None)
    feature = FeatureSpec((Column("x", "number", "float64", 1),), (1,), "float32")
    conversion = ConversionSpec(Store.at(str(tmp_path)), (feature,), (label,))
    batch = pa.RecordBatch.from_pydict({"x": [0.0, 0.0], "y": [[1, 2**24 + 1], [2**24, 2**25]]})
    assert pack(conversion, batch)[1] == {("inexact", "y", "float32 16777217"): 1}


def test_the_class_that_a_loss_ignores_is_a_label(tmp_path: Path) -> None:
    label = LabelSpec(Column("y", "number", "int32", 1), (), "int32", 3, ignored=-1)
    feature = FeatureSpec((Column("x", "number", "float64", 1),), (1,), "float32")
    conversion = ConversionSpec(Store.at(str(tmp_path)), (feature,), (label,))
    dataset, faults = pack(conversion, pa.RecordBatch.from_pydict({"x": [0.0] * 4, "y": [-1, 0, 2, 2]}))
    assert (faults, dataset.rows(validation=False)) == ({}, 4)
    _, faults = pack(conversion, pa.RecordBatch.from_pydict({"x": [0.0] * 2, "y": [-2, 3]}))
    assert faults == {("class", "y", "-2"): 2}
    assert loss_facts(keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)).ignored == -1
    assert loss_facts("sparse_categorical_crossentropy").ignored is None


def test_rows_that_are_left_out_may_have_any_label(tmp_path: Path) -> None:
    label = apply_loss(SCALAR, (1,), "binary_crossentropy")
    feature = FeatureSpec((Column("x", "number", "float64", 1, drop=True),), (1,), "float32")
    conversion = ConversionSpec(Store.at(str(tmp_path)), (feature,), (label,))
    _, faults = pack(conversion, pa.RecordBatch.from_pydict({"x": [0.0, None], "y": [1.0, -1.0]}))
    assert faults == {}


SCHEMA = T.StructType(
    [
        T.StructField("y", T.DoubleType()),
        T.StructField("rows", T.ArrayType(T.DoubleType())),
        T.StructField("assembled", VectorUDT(), metadata={"ml_attr": {"num_attrs": 5}}),
    ]
)


@pytest.mark.parametrize(
    ("column", "output", "loss", "told"),
    [
        ("y", (3,), "mean_squared_error", r"'y' doesn't fit.*3 numbers.*\(batch, 3\).*one number per row"),
        ("y", (4, 2), "binary_crossentropy", r"8 numbers.*\(batch, 4, 2\)"),
        (
            "y",
            (4, 2),
            "sparse_categorical_crossentropy",
            r"can't be used with.*\(batch, 4, 2\)",
        ),
        ("rows", (4, 2), "sparse_categorical_crossentropy", "categorical_crossentropy"),
        ("assembled", (3,), "mean_squared_error", "3 numbers per row.*5 numbers per row"),
        ("assembled", (3,), "", "3 numbers per row.*5 numbers per row"),
    ],
)
def test_labels_of_another_shape_than_the_output_are_refused_before_any_job(
    column: str, output: tuple[int, ...], loss: str, told: str
) -> None:
    spec = label_spec(SCHEMA, column, output, None)
    width = 5 if column == "assembled" else None
    with pytest.raises(DataError, match=told):
        apply_loss(spec, output, loss, width)


def test_an_own_loss_may_compare_one_number_with_several() -> None:
    assert apply_loss(SCALAR, (3,), "") == SCALAR
    assert apply_loss(SCALAR, (3,), loss_facts("Circle").name) == SCALAR  # a class for an embedding


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", keras.losses.CategoricalGeneralizedCrossEntropy()])
def test_losses_of_class_indices_are_known(loss: object) -> None:
    facts = loss_facts(loss)
    assert facts.name in OF_CLASS_INDICES
    assert KerasEstimator()._classes(ModelOutput("o", (7,), "softmax"), facts) == 7
    assert KerasEstimator()._classes(ModelOutput("o", (4, 7), "softmax"), facts) == 7  # at each position


class WithArguments(keras.losses.SparseCategoricalCrossentropy):
    def __init__(self, **kwargs: object) -> None:
        super().__init__(from_logits=True, **kwargs)


class Weighed(keras.losses.SparseCategoricalCrossentropy):
    def call(self, y_true: object, y_pred: object) -> object:
        return 2 * super().call(y_true, y_pred)


class Swapped(keras.losses.MeanSquaredError):
    def __init__(self) -> None:
        super().__init__()
        self.fn = lambda y, p: y - p


def test_a_subclass_that_overrides_nothing_takes_the_labels_of_kerass() -> None:
    facts = loss_facts(WithArguments(name="own"))
    assert (facts.name, facts.known, facts.from_logits) == ("sparse_categorical_crossentropy", True, True)
    assert not loss_facts(Weighed()).known
    assert not loss_facts(Swapped()).known


def test_one_number_takes_the_shape_of_an_output_of_one_number() -> None:
    assert apply_loss(SCALAR, (1, 1), "mean_squared_error").shape == (1, 1)
    assert apply_loss(SCALAR, (1,), "mean_squared_error").shape == ()
    assert apply_loss(SCALAR, (), "mean_squared_error").shape == ()


def test_facts_of_outputs_that_earlier_releases_saved_have_no_loss() -> None:
    saved = {"name": "o", "shape": [1], "classes": None}
    assert OutputFacts.of(saved) == OutputFacts("o", (1,), None)
    assert OutputFacts.of({**saved, "loss": "poisson"}).loss == "poisson"
    assert replace(SCALAR, loss="poisson").tensor() == SCALAR.tensor()


@pytest.mark.parametrize(
    ("converted_for", "fitted_by", "fits"),
    [
        ("binary_crossentropy", "mean_squared_error", True),
        ("mean_squared_error", "mean_absolute_error", True),
        ("mean_squared_error", "binary_crossentropy", False),
        ("poisson", "binary_crossentropy", False),
    ],
)
def test_converted_rows_serve_a_loss_that_takes_what_they_were_held_to(
    converted_for: str, fitted_by: str, fits: bool
) -> None:
    feature = FeatureSpec((Column("x", "number", "float64", 1),), (1,), "float32")
    had, wanted = (
        ConversionSpec(Store(""), (feature,), (apply_loss(SCALAR, (1,), loss),)) for loss in (converted_for, fitted_by)
    )
    dataset = ConvertedDataset(Store(""), had.tensors, (), 0)
    converted = ConvertedData(
        rows=0,
        validationRows=0,
        bytes=0,
        schema=SCHEMA,
        plan=InputPlan(()),
        source=RowSource(),
        spark=None,  # type: ignore[arg-type]
        _dataset=dataset,
        _conversion=comparable(had),
        _owned=contextlib.ExitStack(),
    )
    if fits:
        assert converted.dataset_for(wanted) == dataset
    else:
        with pytest.raises(DataError, match=r"converted in another way.*labels"):
            converted.dataset_for(wanted)
