"""What the package takes from inside other libraries than Keras: each name still gives what `spark_dl._compat` says."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
import tensorflow as tf
from mlflow.models import Model
from mlflow_stores import sqlite_store
from pyspark.ml.param import Params
from pyspark.sql import SparkSession
from pyspark.sql import types as T
from pyspark.sql.connect.session import SparkSession as ConnectSession

from spark_dl._compat import horovod as horovod_files
from spark_dl._compat import mlflow as tracking
from spark_dl._compat import spark
from spark_dl._compat import tensorflow as graphs
from spark_dl._compat.legacy_pyarrow import ParquetDataset, ParquetDatasetPiece, has_legacy_pyarrow, legacy_parquet
from spark_dl._compat.petastorm import block_reader
from spark_dl._compat.spark_ml import class_param
from spark_dl.errors import StoreError

# TensorFlow.


def test_the_settings_of_litert_are_known() -> None:
    assert {"optimizations", "representative_dataset", "target_spec"} <= graphs.litert_settings()
    assert graphs.builtin_operations() == [tf.lite.OpsSet.TFLITE_BUILTINS]


def test_a_function_knows_whether_it_has_created_variables() -> None:
    held: list[Any] = []

    @tf.function
    def counted() -> Any:
        if not held:
            held.append(tf.Variable(1.0))
        return held[0] + 1.0

    plain = tf.function(lambda: tf.constant(1.0))
    for function, expected in ((counted, True), (plain, False)):
        assert not graphs.has_created_variables(function)
        function()
        assert graphs.has_created_variables(function) is expected


@pytest.mark.parametrize("python", [False, True])
def test_a_graph_knows_its_resources_and_its_operations(python: bool) -> None:
    one, other = tf.Variable(1.0), tf.Variable(2.0)
    traced = []

    @tf.function(autograph=False)
    def inner(number: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(lambda x: x, [number], tf.float32) if python else number

    @tf.function(autograph=False)
    def step(number: tf.Tensor) -> tf.Tensor:
        traced.append(tf.compat.v1.get_default_graph())
        other.assign_add(1.0)
        return inner(number) + one

    step(tf.constant(1.0))
    (graph,) = traced
    assert {id(handle) for handle in graphs.captured_resources(graph)} == {id(one.handle), id(other.handle)}
    operations = graphs.operations_of(graph)
    assert "AssignAddVariableOp" in operations
    # Only the function that the step calls calls Python.
    assert ("EagerPyFunc" in operations or "PyFunc" in operations) is python


def test_the_state_of_a_traced_function_makes_an_equal_one_without_graphs() -> None:
    @tf.function
    def tripled(x: Any) -> Any:
        """Multiply."""
        return x * 3.0

    assert float(tripled(2.0)) == 6.0
    copy = type(tripled).__new__(type(tripled))
    copy.__setstate__(graphs.untraced_state(tripled))
    assert copy.experimental_get_tracing_count() == 0
    assert (float(copy(2.0)), copy.__name__, copy.__doc__) == (6.0, "tripled", "Multiply.")


# MLflow.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sqlite_store(tmp_path_factory.mktemp("store"), "inside") as experiment:
        yield experiment


def test_the_current_experiment(store: str) -> None:
    assert mlflow.get_experiment(tracking.current_experiment_id()).name == store


@pytest.mark.stack
def test_the_active_run_of_another_thread(store: str) -> None:
    found: list[str] = []
    main = threading.get_ident()
    with mlflow.start_run(), mlflow.start_run(nested=True) as run:
        thread = threading.Thread(target=lambda: found.append(tracking.active_run_of_thread(main)))
        thread.start()
        thread.join()
    assert found == [run.info.run_id]
    assert tracking.active_run_of_thread(main) == ""


@pytest.mark.stack
def test_a_run_ends_with_its_status_and_nothing_is_printed(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = mlflow.MlflowClient()
    run_id = client.create_run(tracking.current_experiment_id()).info.run_id
    tracking.end_run(client, run_id, "KILLED")
    ended = client.get_run(run_id).info
    assert ended.status == "KILLED"
    assert ended.end_time >= ended.start_time
    assert capsys.readouterr().out == ""


def test_tags_are_those_that_mlflow_gives_its_own_runs(store: str) -> None:
    with mlflow.start_run(tags={"mine": "1"}) as run:
        given = {name: value for name, value in run.data.tags.items() if name != "mlflow.runName"}
    assert tracking.context_tags({"mine": "1"}) == given
    assert "mlflow.user" in given


@pytest.mark.stack
def test_tags_of_parents_and_of_datasets_are_those_of_mlflow(store: str) -> None:
    with mlflow.start_run() as outer, mlflow.start_run(nested=True) as run:
        mlflow.log_input(mlflow.data.from_pandas(pd.DataFrame({"a": [1.0]})), context="training")
    found = mlflow.get_run(run.info.run_id)
    assert found.data.tags[tracking.PARENT_RUN_TAG] == outer.info.run_id
    (tag,) = found.inputs.dataset_inputs[0].tags
    assert (tag.key, tag.value) == (tracking.DATASET_CONTEXT_TAG, "training")


def test_a_server_is_asked_once_with_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(503)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        tracking.check_server(f"http://127.0.0.1:{server.server_port}", timeout=5.0)
        server.shutdown()
        thread.join()
    assert asked == [("/health", "Basic bWU6c2VjcmV0")]
    with pytest.raises(Exception, match="Max retries"):
        tracking.check_server(f"http://127.0.0.1:{server.server_port}", timeout=5.0)


@pytest.mark.stack
def test_the_version_that_an_alias_names(store: str, tmp_path: Path) -> None:
    client = mlflow.MlflowClient()
    client.create_registered_model("model")
    for _ in range(2):
        client.create_model_version("model", str(tmp_path))
    client.set_registered_model_alias("model", "best", "1")
    assert tracking.registered_version(client, "models:/model@best") == ("model", "1")
    with pytest.raises(ValueError, match="unpack"):
        tracking.registered_version(client, "models:/m-1234")


@pytest.mark.stack
def test_an_input_example_is_written_and_read_by_mlflow(tmp_path: Path) -> None:
    model, rows = Model(), pd.DataFrame([{"a": 1.0, "b": "x"}])
    tracking.save_input_example(model, rows, str(tmp_path))
    pd.testing.assert_frame_equal(model.load_input_example(str(tmp_path)), rows)


@pytest.mark.stack
def test_the_environment_of_a_model_holds_its_requirements(tmp_path: Path) -> None:
    tracking.write_environment(tmp_path, ["numpy==1.26.4"])
    requirements = (tmp_path / "requirements.txt").read_text().splitlines()
    assert requirements == [f"mlflow=={mlflow.__version__}", "numpy==1.26.4"]
    assert "numpy==1.26.4" in (tmp_path / tracking.CONDA_FILE).read_text()
    assert "requirements.txt" in (tmp_path / tracking.PYTHON_FILE).read_text()


# PySpark, without a JVM. `tests/spark/test_persistence.py` has what needs one.


@pytest.mark.stack
def test_a_client_of_spark_connect_is_told_from_a_classic_session_and_knows_its_server() -> None:
    client = ConnectSession("sc://localhost:1")  # connects at its first command
    assert spark.is_connect(client)
    assert spark.server_host(client) == "localhost"
    assert not spark.is_connect(object.__new__(SparkSession))


@pytest.mark.stack
def test_arrow_types_are_those_of_sparks_columns() -> None:
    kinds = {T.IntegerType(): pa.int32(), T.StringType(): pa.string(), T.DateType(): pa.date32()}
    assert {kind: spark.arrow_type(kind) for kind in kinds} == kinds
    assert spark.arrow_type(T.ArrayType(T.FloatType())).value_type == pa.float32()
    schema = pa.schema([("a", pa.int64()), ("b", pa.list_(pa.float32()))])
    assert spark.spark_schema(schema).simpleString() == "struct<a:bigint,b:array<float>>"


@pytest.mark.stack
def test_arrow_udfs_are_there_from_spark_4_1_on() -> None:
    lines = tuple(map(int, pyspark.__version__.split(".")[:2]))
    assert (spark.arrow_udf() is not None) == (lines >= (4, 1))


@pytest.mark.stack
def test_a_param_of_a_class_is_copied_to_each_instance() -> None:
    class Stage(Params):
        size = class_param("size", "The size.", int)

    one, other = Stage(), Stage()
    one._set(size="3")
    assert (one.size.parent, one.size.doc, one.getOrDefault("size")) == (one.uid, "The size.", 3)
    assert not other.isSet(other.size)


# Petastorm.


@pytest.mark.stack
def test_row_groups_are_read_once_for_each_time_that_a_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        pq.write_table(pa.table({"number": [number], "content": [bytes([number])]}), tmp_path / f"{number}.parquet")
    urls = [(tmp_path / f"{number}.parquet").as_uri() for number in (0, 1, 2, 1)]
    with block_reader(urls, 2) as next_block:
        blocks: list[Any] = [next_block() for _ in urls]
        assert sorted((int(block.number[0]), block.content[0]) for block in blocks) == [
            *((0, b"\x00"), (1, b"\x01"), (1, b"\x01"), (2, b"\x02")),
        ]
        with pytest.raises(StoreError, match="fewer blocks"):
            next_block()
    assert capsys.readouterr().out == ""


@pytest.mark.stack
def test_petastorm_gets_pyarrows_api_where_there_is_one_and_ours_elsewhere() -> None:
    import petastorm.arrow_reader_worker  # late imports: they need the names that _compat supplies
    import petastorm.etl.dataset_metadata
    import petastorm.reader

    for module in (petastorm.reader, petastorm.arrow_reader_worker, petastorm.etl.dataset_metadata):
        assert (module.pq is pq) == has_legacy_pyarrow()
        assert issubclass(module.pq.ParquetDatasetPiece, ParquetDatasetPiece) != has_legacy_pyarrow()


LEGACY = """
import importlib, sys
import numpy, pyarrow
from spark_dl._compat.legacy_pyarrow import has_legacy_pyarrow, legacy_names
has = {name: hasattr(numpy, name) and getattr(numpy, name) for name in ("string_", "unicode_")}
error = getattr(pyarrow.lib, "ArrowIOError", None)
with legacy_names():
    for name in ("filesystem.LocalFileSystem", "hdfs.HadoopFileSystem"):
        module, member = name.split(".")
        kind = getattr(importlib.import_module(f"pyarrow.{module}"), member)
        assert kind.__module__.startswith("pyarrow") == has_legacy_pyarrow(), kind
    assert issubclass(pyarrow.lib.ArrowIOError, OSError)
    assert error in (None, pyarrow.lib.ArrowIOError)
assert (getattr(pyarrow.lib, "ArrowIOError", None)) is error
assert ("pyarrow.hdfs" in sys.modules) == has_legacy_pyarrow()
assert (numpy.string_, numpy.unicode_) == (numpy.bytes_, numpy.str_)
assert all(not kind or kind is getattr(numpy, name) for name, kind in has.items())
"""


@pytest.mark.stack
def test_missing_names_of_pyarrow_are_there_for_the_import_alone_and_none_is_replaced() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", LEGACY], check=True)


@pytest.mark.stack
def test_a_dataset_of_files_has_a_piece_for_each_and_no_metadata(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    for path in paths:
        pq.write_table(pa.table({"number": [1, 2, 3], "other": [4, 5, 6]}), path, row_group_size=2)
    files = fsspec.filesystem("file")
    dataset = ParquetDataset(paths, filesystem=files, validate_schema=False, metadata_nthreads=10, filters=None)
    assert (dataset.fs, dataset.paths, [piece.path for piece in dataset.pieces]) == (files, paths, paths)
    assert (dataset.partitions, dataset.metadata, dataset.common_metadata) == (None, None, None)


@pytest.mark.stack
def test_a_piece_is_a_row_group_of_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"number": [1, 2, 3], "other": [4, 5, 6]}), path, row_group_size=2)
    names = legacy_parquet()
    piece = names.ParquetDatasetPiece(path, open_file_func=fsspec.filesystem("file").open, row_group=1)
    assert (piece.row_group, list(piece.partition_keys)) == (1, [])
    assert piece.get_metadata().num_row_groups == names.read_metadata(path).num_row_groups == 2
    assert piece.read(columns={"other"}, partitions=None).to_pydict() == {"other": [6]}
    assert piece.read().to_pydict() == {"number": [3], "other": [6]}


# Horovod.


@pytest.mark.stack
def test_the_build_of_the_installed_horovod_is_known_without_importing_it() -> None:
    build = horovod_files.installed_build()
    assert build is not None
    assert build.has_tensorflow
    assert build.tensorflow == tf.__version__
