"""Other engines than Keras: the same numbers, without TensorFlow; what they can't compute is refused by its layer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import models
import numpy as np
import pytest

import spark_dl.mlflow
from spark_dl import KerasClassifierModel, KerasModel
from spark_dl.data.column import Column
from spark_dl.data.specs import FeatureSpec
from spark_dl.errors import ModelError, OptionError, StoreError
from spark_dl.score.engine_files import convert_model
from spark_dl.score.engines import Loadable, opened
from spark_dl.score.heads import TensorOutput
from spark_dl.score.predict import _pandas_scorer
from spark_dl.score.quantizing import quantized
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.train.model.serialization import from_bytes, to_bytes

L = keras.layers
ENGINES = ["onnx", "litert"]
ROWS = np.random.default_rng(3).normal(size=(7, 4)).astype(np.float32)


def several() -> keras.Model:
    """Two inputs and two outputs whose order by name isn't that in the code, with statistics in a layer."""
    keras.utils.set_random_seed(2)
    number, word = keras.Input((4,), name="z"), keras.Input((1,), dtype="int32", name="a")
    scaled = L.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[2.0] * 4)(number)
    body = L.Dense(8, "relu")(L.Concatenate()([scaled, L.Flatten()(L.Embedding(5, 3)(word))]))
    return keras.Model({"z": number, "a": word}, {"q": L.Dense(2, name="q")(body), "p": L.Dense(3, name="p")(body)})


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_gives_kerass_numbers_in_the_order_of_inputs_and_outputs(engine: str) -> None:
    model = several()
    rows = {"a": np.array([[0], [4], [2], [1], [3], [0], [1]], np.int32), "z": ROWS}
    source = Loadable(to_bytes(model), {}, {"a": ((1,), "int32"), "z": ((4,), "float32")})
    predict = opened(engine, convert_model(source, engine), ["int32", "float32"], 1)
    for count in (1, 7, 2):
        given = {name: part[:count] for name, part in rows.items()}
        expected = model(given, training=False)
        for ours, name in zip(predict(*given.values()), ["p", "q"], strict=True):
            np.testing.assert_allclose(ours, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("engine", "layer"),
    [("litert", L.LSTM(2, name="memory")), ("onnx", L.Discretization([0.5], name="bins"))],
    ids=ENGINES[::-1],
)
def test_a_layer_that_an_engine_lacks_is_named(engine: str, layer: Any) -> None:
    net = keras.Sequential([keras.Input((3, 2)), L.Dense(2), layer, L.Flatten(), L.Dense(1)])
    with pytest.raises(ModelError, match=f"can't be converted to {engine}.*{layer.name!r}"):
        convert_model(Loadable(to_bytes(net), {}, {"x": ((3, 2), "float32")}), engine)


def test_an_operation_that_an_engine_lacks_is_named() -> None:
    given = keras.Input((3,))
    net = keras.Model(given, L.Dense(1)(keras.ops.erfinv(given)))
    with pytest.raises(ModelError, match="its layer 'erfinv"):
        convert_model(Loadable(to_bytes(net), {}, {"x": ((3,), "float32")}), "litert")


def test_an_engine_that_takes_numbers_for_others_is_refused() -> None:
    """ONNX's OneHot counts -1 from the end, where Keras gives zeros."""
    net = keras.Sequential([keras.Input((1,), dtype="int32"), L.CategoryEncoding(5, output_mode="one_hot"), L.Dense(3)])
    source = Loadable(to_bytes(net), {}, {"x": ((1,), "int32")})
    with pytest.raises(ModelError, match="its outputs differ"):
        convert_model(source, "onnx")
    unknown = np.array([[-1], [2]], np.int32)
    predict = opened("litert", convert_model(source, "litert"), ["int32"], 1)
    np.testing.assert_allclose(predict(unknown)[0], net(unknown), atol=1e-6)
    norm = keras.Sequential([keras.Input((3,)), L.UnitNormalization(), L.Dense(3)])  # of a row of zeros: NaN in LiteRT
    with pytest.raises(ModelError, match="its outputs differ"):
        convert_model(Loadable(to_bytes(norm), {}, {"x": ((3,), "float32")}), "litert")


def test_texts_and_unknown_engines_are_refused() -> None:
    text = keras.Input((1,), dtype="string")
    net = keras.Model(text, L.Dense(1)(L.StringLookup(vocabulary=["a"], output_mode="one_hot")(text)))
    with pytest.raises(ModelError, match="takes texts"):
        convert_model(Loadable(to_bytes(net), {}, {"word": ((1,), "string")}), "onnx")
    photo = FeatureSpec((Column("photo", "image", "uint8", 0),), (4, 4, 3), "float32")
    with pytest.raises(OptionError, match="can't read the column 'photo'"):
        ScoringModel.of(b"", b"", [photo], TensorOutput.of((1,)), 8, engine="litert")
    with pytest.raises(OptionError, match="onnx"):
        KerasModel(scoreEngine="onyx")


_WORKER = """
import json, pickle, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("keras", "tensorflow"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
directory = sys.argv[1]
import cloudpickle
import mlflow
import numpy as np
import pandas as pd

rows = pd.Series(list(np.load(f"{directory}/rows.npy")))
with open(f"{directory}/worker", "rb") as file:
    (scored,) = cloudpickle.load(file)(iter([rows]))
served = mlflow.pyfunc.load_model(f"{directory}/logged").predict(pd.DataFrame({"features": rows}))
loaded = sorted({name.partition(".")[0] for name in sys.modules} & {"keras", "tensorflow", "onnxruntime"})
print("RESULT", json.dumps([scored.values.tolist(), served["probability"].tolist(), loaded]))
"""


def test_a_worker_and_a_server_need_no_tensorflow(tmp_path: Path) -> None:
    model = models.classifier()
    fitted = KerasClassifierModel.fromKeras(model, scoreEngine="onnx")
    spark_dl.mlflow.save_model(fitted, f"{tmp_path}/logged")
    needed = (tmp_path / "logged" / "requirements.txt").read_text()
    assert "onnxruntime==" in needed
    assert "tensorflow" not in needed
    content, head = fitted._scored()
    features = [FeatureSpec((Column("features", "array", "float32", 4),), (4,), "float32")]
    fields = {"probability": head.fields()["probability"]}
    worker = _pandas_scorer(fitted._scoring_model(content, head, features), fields)
    (tmp_path / "worker").write_bytes(cloudpickle.dumps(worker))
    np.save(tmp_path / "rows.npy", ROWS)
    done = subprocess.run([sys.executable, "-c", _WORKER, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "RESULT" in done.stdout, done.stderr[-3000:]
    scored, served, loaded = json.loads(done.stdout.partition("RESULT")[2])
    expected = model.predict(ROWS, verbose=0)
    np.testing.assert_allclose(scored, expected, atol=1e-5)
    np.testing.assert_allclose(served, expected, atol=1e-5)
    assert loaded == ["onnxruntime"]


def test_quantized_weights_are_small_and_the_loss_stays(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), L.Dense(256, "relu"), L.Dense(256, "relu"), L.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    whole = to_bytes(model)
    small = quantized(whole, {}, "int8")
    assert len(small) < 0.4 * len(whole)
    again = from_bytes(small)
    assert again.loss == "sparse_categorical_crossentropy"
    np.testing.assert_allclose(again.predict(ROWS, verbose=0), model.predict(ROWS, verbose=0), atol=0.02)
    fitted = KerasClassifierModel.fromKeras(model, predictionCol="class")
    made = fitted.quantize()
    assert type(made) is KerasClassifierModel
    assert made.uid != fitted.uid
    assert made.getPredictionCol() == "class"
    assert fitted.keras().layers[0].kernel.dtype == "float32"
    with pytest.raises(OptionError, match="int8 or int4"):
        fitted.quantize("int3")
    with pytest.raises(OptionError, match=r"Can't quantize to 8.*int8 or int4"):
        fitted.quantize(8)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"quantized already.*dense"):
        made.quantize()
    with pytest.raises(ModelError, match=r"layer 'dense.*isn't known there: 'tfl.fully_connected' op"):
        made.export(f"{tmp_path}/net.tflite", format="litert")
    sequence = keras.Input((3, 4))
    attended = L.Dense(2, name="query")(L.MultiHeadAttention(2, 4)(sequence, sequence))  # it has a layer of this name
    small = from_bytes(quantized(to_bytes(keras.Model(sequence, attended)), {}, "int8"))
    assert small.layers[-1].dtype_policy.quantization_mode == "int8"
    with pytest.raises(ModelError, match="can't be quantized"):
        KerasModel.fromKeras(keras.Sequential([keras.Input((4,)), L.ReLU()])).quantize()


def test_an_exported_file_has_the_models_numbers(tmp_path: Path) -> None:
    model = models.classifier()
    fitted = KerasClassifierModel.fromKeras(model)
    fitted.export(f"{tmp_path}/net.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(f"{tmp_path}/net.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: ROWS})
    np.testing.assert_allclose(found, model.predict(ROWS, verbose=0), atol=1e-5)
    fitted.export(f"{tmp_path}/saved", format="saved_model")
    assert (tmp_path / "saved" / "saved_model.pb").is_file()
    with pytest.raises(StoreError, match="already exists"):
        fitted.export(f"{tmp_path}/net.onnx")
    with pytest.raises(OptionError, match="tflite"):
        fitted.export(f"{tmp_path}/net", format="litert")
    with pytest.raises(OptionError, match="saved_model"):
        fitted.export(f"{tmp_path}/net", format="savedmodel")


@pytest.mark.parametrize(
    ("form", "options", "text"),
    [
        ("onnx", {"opset": 17}, "'onnx' has no argument 'opset'.*Known: input_signature, opset_version"),
        ("saved_model", {"verbose": True}, "'saved_model' has no argument 'verbose'.*input_signature"),
        ("litert", {"optimization": []}, "'litert' has no argument 'optimization'.*'optimizations'"),
    ],
)
def test_arguments_of_an_export_are_checked(form: str, options: dict[str, Any], text: str, tmp_path: Path) -> None:
    fitted = KerasClassifierModel.fromKeras(models.classifier())
    with pytest.raises(OptionError, match=text):
        fitted.export(f"{tmp_path}/net{'.onnx' if form == 'onnx' else '.tflite'}", format=form, **options)


def test_a_file_that_litert_could_not_run_is_not_written(tmp_path: Path) -> None:
    """Keras writes operations of TensorFlow, too, for which LiteRT's interpreter has no code."""
    net = keras.Sequential([keras.Input((3, 2)), L.LSTM(2, name="memory"), L.Dense(1)])
    with pytest.raises(ModelError, match=r"'memory' \(LSTM\).*TensorFlow's operations.*TensorListReserve"):
        KerasModel.fromKeras(net).export(f"{tmp_path}/net.tflite", format="litert")
    assert not list(tmp_path.iterdir())
