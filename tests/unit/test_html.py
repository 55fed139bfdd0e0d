"""What notebooks show of estimators, models and summaries, and their figures."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import keras
import pytest

from spark_dl import KerasClassifier, KerasClassifierModel, KerasEstimator
from spark_dl.figures import history_figure
from spark_dl.ml.summary import TrainingSummary
from spark_dl.notebook.html import curve, heading, table
from spark_dl.notebook.kernel import in_notebook, no_display


def parsed(html: str) -> ElementTree.Element:
    """The elements; the HTML has to be well-formed."""
    return ElementTree.fromstring(f"<div>{html.replace('<br>', '<br/>')}</div>")  # noqa: S314


def cells(html: str) -> dict[str, str]:
    """The rows of all tables."""
    rows = [["".join(cell.itertext()) for cell in row.iter("td")] for row in parsed(html).iter("tr")]
    return dict(rows)  # type: ignore[arg-type]


@pytest.fixture
def model() -> keras.Model:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")], name="small")


def test_an_estimator_shows_the_params_that_differ_from_their_defaults(model: keras.Model) -> None:
    estimator = KerasClassifier(
        model=model, epochs=3, batchSize=32, optimizer=keras.optimizers.SGD(name="plain"), topK=None
    )
    html = estimator._repr_html_()
    assert estimator.uid in html
    assert cells(html) == {"model": "small", "epochs": "3", "optimizer": "plain"}


def test_as_text_an_estimator_is_a_line_with_its_uid_and_such_params(model: keras.Model) -> None:
    estimator = KerasClassifier(model=model, epochs=3, cacheDir="s3://key:secret@bucket/rows", columnShapes={"x": [2]})
    assert str(estimator) == repr(estimator)
    start = f"KerasClassifier: uid={estimator.uid}, model=small, columnShapes={{'x': [2]}}, epochs=3, cacheDir="
    assert repr(estimator).startswith(start)
    assert "secret" not in repr(estimator)
    assert repr(KerasClassifierModel(topK=2)).endswith(", topK=2")


def test_an_estimator_without_params_shows_its_name() -> None:
    html = KerasEstimator()._repr_html_()
    assert "KerasEstimator" in html
    assert cells(html) == {}


def test_a_function_is_shown_by_its_name_and_a_dict_as_it_is(model: keras.Model) -> None:
    def build(units: int) -> keras.Model:
        return model

    estimator = KerasEstimator(modelFn=build, modelParams={"units": 4}, inputCols=["a", "b"])
    assert cells(estimator._repr_html_()) == {
        "modelFn": "build",
        "modelParams": "{'units': 4}",
        "inputCols": "['a', 'b']",
    }


def test_a_model_without_content_shows_its_params() -> None:
    model = KerasClassifierModel(topK=2)
    assert cells(model._repr_html_()) == {"topK": "2"}


def test_a_summary_shows_its_last_epoch_and_a_curve_of_the_loss() -> None:
    history = {"loss": [0.9, 0.5], "val_loss": [0.8, 0.6], "each": [[1.0, 2.0], [3.0, 4.0]]}
    summary = TrainingSummary(history=history, rows=1200, validation_rows=100, best_epoch=1)
    html = summary._repr_html_()
    shown = cells(html)
    assert shown["rows"] == "1,200"
    assert shown["best epoch"] == "2"
    assert shown["val_loss"] == "0.6000"
    assert html.count("<polyline") == 2


def test_a_printed_summary_has_a_line_for_each_number() -> None:
    history = {"loss": [0.9, 0.512345], "auc": [0.7, 0.8]}
    lines = str(TrainingSummary(history=history, rows=1200, run_id="abc", seconds=2.04)).splitlines()
    shown = {line[:15].strip(): line[15:].strip() for line in lines}
    assert shown["rows"] == "1,200"
    assert shown["loss"] == "0.5123"
    assert shown["MLflow run"] == "abc"
    assert shown["seconds"] == "2.0"


def test_a_summary_without_epochs_shows_nothing() -> None:
    assert TrainingSummary()._repr_html_() == ""


def test_texts_are_escaped_cut_and_redacted() -> None:
    html = heading("<b>", "a & b") + table({"<i>": "x" * 1000, "url": "s3a://user:secret@host/path"})
    assert "<i>" not in html
    assert "secret" not in html
    assert len(cells(html)["<i>"]) < 300


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [1.0, math.nan, 0.2], [math.inf, 1.0]])
def test_a_curve_has_finite_coordinates(values: list[float]) -> None:
    html = curve({"loss": values}, "loss")
    assert "<svg" in html
    (points,) = [line.get("points") for line in parsed(html).iter("polyline")]
    assert points
    assert all(math.isfinite(float(number)) for point in points.split() for number in point.split(","))


def test_a_curve_of_nothing_is_empty() -> None:
    assert curve({"loss": [math.nan]}, "loss") == curve({}, "loss") == ""


def test_a_figure_is_a_picture_for_notebooks() -> None:
    assert history_figure({"loss": [1.0, 0.5]})._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_this_process_is_no_notebook() -> None:
    assert not in_notebook()
    with no_display():
        pass
