"""Saved directories: loaded in a new process, refused where they are damaged, foreign or hostile."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasClassifier, KerasClassifierModel, KerasRegressor, KerasRegressorModel
from spark_dl.errors import ModelError, SavedModelError
from spark_dl.ml import persistence as io
from spark_dl.train.model.serialization import to_bytes

QUIET = {"tracking": None, "verbose": 0}
SCALARS = ["f0", "f1", "f2", "f3"]

IN_A_NEW_PROCESS = """
import sys
from sessions import session
from pyspark.ml import PipelineModel
with session("local[1]") as spark:
    pipeline = PipelineModel.load(sys.argv[1])
    heavy = sorted({"tensorflow", "keras", "horovod", "petastorm", "mlflow"} & set(sys.modules))
    rows = pipeline.transform(spark.read.parquet(sys.argv[2])).orderBy("id").select("prediction").collect()
    print("RESULT", [row[0] for row in rows], heavy)
"""


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return models.frame(spark, rows=60).cache()


@pytest.fixture(scope="module")
def pipeline(data: DataFrame) -> PipelineModel:
    assembler = VectorAssembler(inputCols=SCALARS, outputCol="v")
    return Pipeline(stages=[assembler, KerasClassifier(model=models.classifier(), featuresCol="v", **QUIET)]).fit(data)


@pytest.fixture
def saved(pipeline: PipelineModel, tmp_path: Path) -> Path:
    """The directory of a saved KerasClassifierModel."""
    pipeline.stages[-1].write().save(str(tmp_path / "model"))
    return tmp_path / "model"


@pytest.mark.stack
def test_a_saved_pipeline_predicts_the_same_in_a_new_process(
    pipeline: PipelineModel, data: DataFrame, tmp_path: Path
) -> None:
    pipeline.write().overwrite().save(str(tmp_path / "pipeline"))
    data.write.parquet(str(tmp_path / "data"))
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path / "pipeline"), str(tmp_path / "data")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    here = [row[0] for row in pipeline.transform(data).orderBy("id").select("prediction").collect()]
    (line,) = (line for line in ran.stdout.splitlines() if line.startswith("RESULT"))
    # The driver that only scores needs none of the heavy libraries.
    assert line == f"RESULT {here} []"


@pytest.mark.stack
def test_a_model_of_an_older_release_loads_and_scores_the_same(data: DataFrame, tmp_path: Path) -> None:
    """Saved in format 1, when models had one input and one output."""
    saved = Path(__file__).parent / "saved"
    expected = json.loads((saved / "format-1.json").read_text())
    model = KerasClassifierModel.load(str(saved / "format-1"))
    assert model.summary.best_epoch >= 0
    model.write().save(str(tmp_path / "again"))
    assert metadata(tmp_path / "again")[1]["sparkDL"]["format"] == 2
    for loaded in (model, KerasClassifierModel.load(str(tmp_path / "again"))):
        rows = {row.id: row for row in loaded.transform(data).collect()}
        for row, told, probability in expected:
            assert rows[row].told == told
            np.testing.assert_allclose(rows[row].probability.toArray(), probability, atol=1e-6)
    with pytest.raises(ModelError, match=r"can't be evaluated.*saved by an older release"):
        model.evaluate(data)


def test_a_pipeline_with_the_class_paths_of_version_0_1_loads(pipeline: PipelineModel, tmp_path: Path) -> None:
    pipeline.write().save(str(tmp_path / "pipeline"))
    (part,) = (tmp_path / "pipeline" / "stages").glob(f"*_{pipeline.stages[-1].uid}/metadata/part-*")
    written = part.read_text()
    assert '"spark_dl.KerasClassifierModel"' in written
    part.write_text(written.replace("spark_dl.Keras", "spark_dl.estimators.classifier.Keras"))
    part.with_name(f".{part.name}.crc").unlink(missing_ok=True)
    loaded = PipelineModel.load(str(tmp_path / "pipeline"))
    assert type(loaded.stages[-1]) is KerasClassifierModel
    assert type(KerasClassifierModel.load(str(part.parent.parent))) is KerasClassifierModel


def test_saving_refuses_an_existing_path_unless_told_to_overwrite(pipeline: PipelineModel, saved: Path) -> None:
    model = pipeline.stages[-1]
    with pytest.raises(Exception, match=r"(?i)exist"):
        model.write().save(str(saved))
    assert KerasClassifierModel.load(str(saved)).uid == model.uid
    model.write().overwrite().save(str(saved))
    assert KerasClassifierModel.load(str(saved)).uid == model.uid


def test_a_large_model_is_saved_in_chunks(
    pipeline: PipelineModel, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "_CHUNK_BYTES", 1000)
    model = pipeline.stages[-1]
    model.write().save(str(tmp_path / "model"))
    chunks = spark.read.parquet(str(tmp_path / "model" / "model"))
    assert chunks.count() > 5
    assert chunks.selectExpr("max(length(content))").first()[0] == 1000
    weights = KerasClassifierModel.load(str(tmp_path / "model")).keras().get_weights()
    for ours, theirs in zip(weights, model.keras().get_weights(), strict=True):
        assert (ours == theirs).all()


def test_nothing_in_the_directory_is_a_pickle(saved: Path) -> None:
    files = [path for path in saved.rglob("*") if path.is_file() and not path.name.endswith(".crc")]
    kinds = {path.read_bytes()[:4] for path in files if path.name.startswith("part-")}
    assert kinds == {b"PAR1", b'{"cl'}
    assert {path.name for path in files if not path.name.startswith("part-")} == {"_SUCCESS"}


def metadata(saved: Path) -> tuple[Path, dict[str, Any]]:
    (part,) = (saved / "metadata").glob("part-*")
    return part, json.loads(part.read_text())


def rewrite(saved: Path, change: Any) -> None:
    """Change the metadata, and forget Hadoop's checksum of them."""
    part, content = metadata(saved)
    change(content)
    part.write_text(json.dumps(content))
    (part.parent / f".{part.name}.crc").unlink()


def newer(content: dict[str, Any]) -> None:
    content["sparkDL"]["format"] = 99


def headless(content: dict[str, Any]) -> None:
    content["sparkDL"]["head"] = {"name": "clasification"}


def torn(content: dict[str, Any]) -> None:
    del content["sparkDL"]["inputs"]


def swapped(content: dict[str, Any]) -> None:
    content["sparkDL"]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (newer, "format 2 or older.*format 99"),
        (headless, "no head 'clasification'.*'classification'"),
        (torn, "inputs"),
        (swapped, "digest"),
    ],
)
def test_damaged_metadata_are_refused(saved: Path, change: Any, text: str) -> None:
    rewrite(saved, change)
    with pytest.raises(SavedModelError, match=text):
        KerasClassifierModel.load(str(saved))


def test_a_missing_directory_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(SavedModelError, match="nowhere"):
        KerasClassifierModel.load(str(tmp_path / "nowhere"))


def test_another_stages_directory_is_refused(saved: Path, data: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(SavedModelError, match=r"a saved .*KerasRegressorModel.*a saved .*KerasClassifierModel"):
        KerasRegressorModel.load(str(saved))
    VectorAssembler(inputCols=SCALARS).write().save(str(tmp_path / "assembler"))
    with pytest.raises(SavedModelError, match="VectorAssembler"):
        KerasClassifierModel.load(str(tmp_path / "assembler"))


def test_metadata_that_arent_json_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "odd" / "metadata").mkdir(parents=True)
    (tmp_path / "odd" / "metadata" / "part-00000").write_text("cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(SavedModelError, match="odd can't be loaded"):
        KerasClassifierModel.load(str(tmp_path / "odd"))


def test_a_url_of_a_file_system_that_spark_lacks_is_one_error(saved: Path) -> None:
    model = KerasClassifierModel.load(str(saved))
    for way in (model.save, KerasClassifierModel.load):
        with pytest.raises(SavedModelError, match=r"(?s)nosuch://bucket/model.*Spark has the file system's jar"):
            way("nosuch://bucket/model")


def test_a_model_without_its_chunks_is_refused(saved: Path) -> None:
    for part in (saved / "model").glob("*"):
        part.unlink()
    with pytest.raises(SavedModelError, match="model"):
        KerasClassifierModel.load(str(saved))


def test_a_lambda_layer_in_a_saved_model_is_not_run(saved: Path, spark: SparkSession, tmp_path: Path) -> None:
    mark = str(tmp_path / "executed")
    hostile = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: (os.makedirs(mark), x)[1])])
    os.rmdir(mark)
    content = to_bytes(hostile)
    frame = spark.createDataFrame([(0, bytearray(content))], "chunk int, content binary")
    frame.write.mode("overwrite").parquet(str(saved / "model"))
    rewrite(saved, lambda c: c["sparkDL"].update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)))
    with pytest.raises(SavedModelError, match="Lambda"):
        KerasClassifierModel.load(str(saved)).keras()
    assert not os.path.exists(mark)


def test_an_estimator_with_callbacks_is_not_saved(spark: SparkSession, tmp_path: Path) -> None:
    estimator = KerasRegressor(model=models.regressor(), callbacks=[keras.callbacks.TerminateOnNaN()])
    with pytest.raises(SavedModelError, match=r"callbacks can't be saved.*TerminateOnNaN"):
        estimator.write().save(str(tmp_path / "estimator"))
