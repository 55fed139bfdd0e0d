"""A fitted model as trackers write it, and back: files that need no Spark to be written or read."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from pyarrow import fs as arrow_fs
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import ModelError, SavedModelError, explain
from spark_dl.estimators.io import described, revived
from spark_dl.estimators.model import KerasModel
from spark_dl.session import running_session
from spark_dl.track import LoggedData, LoggedModel, LoggedStage
from spark_dl.workspace import Workspace

__all__ = ["digest_of", "fetched_model", "logged", "logged_data", "logged_model"]

# Spark's own models that may hold ours.
_AROUND = (
    "pyspark.ml.pipeline.PipelineModel",
    "pyspark.ml.tuning.CrossValidatorModel",
    "pyspark.ml.tuning.TrainValidationSplitModel",
)

# Python and JSON know one kind of whole numbers and one of fractions.
_TYPES: dict[type[T.DataType], str] = {
    T.BooleanType: "boolean",
    T.ByteType: "long",
    T.ShortType: "long",
    T.IntegerType: "long",
    T.LongType: "long",
    T.FloatType: "double",
    T.DoubleType: "double",
    T.StringType: "string",
    T.BinaryType: "binary",
}


def logged_model(model: KerasModel) -> LoggedModel:
    """What a tracker writes of a fitted model.

    Raises:
        ModelError: the model was saved by a release that didn't note its columns.
    """
    serving, scored = model._serving()
    metadata, content = described(model)
    filled = {column.name for spec in serving.features for column in spec.columns if column.fill is not None}
    fields = serving.head.fields()
    return LoggedModel(
        keras=content or b"",
        stage=json.dumps(metadata),
        serving=serving.to_json(),
        scored=None if scored == content else scored,
        inputs=_types(model._columns or T.StructType([]), filled),
        outputs=[
            (name, "double" if fields[field].kind == "double" else ("array", "double"))
            for field, name in serving.outputs.items()
        ],
        example=serving.example(),
    )


def logged(model: Any, cache_dir: str | None) -> LoggedModel | LoggedStage:
    """What a tracker writes of a fitted model, or of a fitted Pipeline or tuning.

    Args:
        model: a model of ours, or one of Spark's own around some.
        cache_dir: a directory that driver and executors share, where Spark writes it first; None for a temporary one.

    Raises:
        ModelError: it is another thing, or was saved by a release that didn't note its columns.
    """
    if isinstance(model, KerasModel):
        return logged_model(model)
    kind = _name(type(model))
    if kind not in _AROUND:
        expected = f"a KerasModel, {', '.join(name.rpartition('.')[2] for name in _AROUND)}"
        raise ModelError(explain("This model can't be logged.", expected=expected, received=kind))
    spark = running_session()
    with Workspace(cache_dir, spark.conf.get("spark.master", "") or "") as workspace:
        below = workspace.child("stage")
        model.write().save(below.url)
        filesystem, path = below.open()
        files = filesystem.get_file_info(arrow_fs.FileSelector(path, recursive=True))
        contents = {
            one.path.removeprefix(f"{path}/"): filesystem.open_input_stream(one.path).read()
            for one in files
            if one.type == arrow_fs.FileType.File
        }
    return LoggedStage(kind, contents)


def logged_data(
    dataset: ConvertedDataset, columns: T.StructType, files: Callable[[], Sequence[str]]
) -> list[LoggedData]:
    """What a tracker writes of the rows for training, and of those for validation, where there are any.

    Args:
        dataset: the converted rows.
        columns: Spark's types of the columns that were read.
        files: tells what they were read from.
    """
    read = files()
    parts = {"training": dataset.part(validation=False), "validation": dataset.part(validation=True)}
    return [
        LoggedData(
            context=context,
            rows=sum(block.rows for block in blocks),
            digest=digest_of(dataset, validation=context == "validation"),
            columns=_types(columns),
            files=read,
        )
        for context, blocks in parts.items()
        if blocks
    ]


def digest_of(dataset: ConvertedDataset, *, validation: bool) -> str:
    """Of a dataset's numbers, whatever the order of the rows."""
    return f"{sum(block.checksum for block in dataset.part(validation=validation)) % (1 << 63):016x}"


def fetched_model(uri: str, cache_dir: str | None = None) -> Any:
    """A logged, registered or saved model as the stage that it was.

    Args:
        uri: where it is.
        cache_dir: a directory that driver and executors share, where a Pipeline is put for Spark to read it.

    Raises:
        SavedModelError: there is none; it is damaged, another flavor's, or of a newer release.
    """
    from spark_dl.track import flavor  # MLflow is imported where it is used

    with flavor.fetched(uri) as root:
        modules = flavor.import_code(root)
        if (written := flavor.stage_files(root)) is not None:
            return _read_by_spark(uri, *written, modules, cache_dir)
        stage, content = flavor.stage_content(root)
    try:
        metadata = json.loads(stage)
        kind = _kinds()[metadata["class"]]
    except (ValueError, KeyError, TypeError) as error:
        raise SavedModelError(
            explain(
                f"The model at {uri!r} can't be loaded.",
                expected=f"metadata of one of {', '.join(_kinds())}",
                received=f"{type(error).__name__}: {error}",
            )
        ) from error
    model: KerasModel = revived(kind, metadata, content, uri)
    return model


def _read_by_spark(uri: str, kind: str, root: Path, modules: Sequence[str], cache_dir: str | None) -> Any:
    if kind not in _AROUND:
        raise SavedModelError(
            explain(f"The model at {uri!r} can't be loaded.", expected=" or ".join(_AROUND), received=kind)
        )
    _check_stages(uri, root, modules)
    module, _, name = kind.rpartition(".")
    spark = running_session()
    with contextlib.ExitStack() as owned:
        workspace = owned.enter_context(Workspace(cache_dir, spark.conf.get("spark.master", "") or ""))
        filesystem, path = workspace.child("stage").open()
        for file in sorted(root.rglob("*")):
            place = f"{path}/{file.relative_to(root).as_posix()}"
            if file.is_dir():
                filesystem.create_dir(place, recursive=True)
            else:
                with filesystem.open_output_stream(place) as stream:
                    stream.write(file.read_bytes())
        try:
            loaded = getattr(importlib.import_module(module), name).load(workspace.child("stage").url)
        except SavedModelError:
            raise
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SavedModelError(
                explain(f"The model at {uri!r} can't be loaded.", expected=f"a saved {name}", received=first)
            ) from error
        atexit.register(owned.pop_all().close)  # some of Spark's models read their files when they are used
    return loaded


def _check_stages(uri: str, root: Path, modules: Sequence[str]) -> None:
    """Refuse stages of other classes than Spark's, ours, and those of the code that the model brings along.

    Spark imports whatever its metadata name.
    """
    allowed = ("org.apache.spark.ml.", "pyspark.ml.", "spark_dl.estimators.", *(f"{name}." for name in modules))
    for file in sorted(root.rglob("metadata/part-*")):
        try:
            kind = str(json.loads(file.read_bytes().partition(b"\n")[0])["class"])
        except (ValueError, KeyError, TypeError) as error:
            raise SavedModelError(
                explain(
                    f"The model at {uri!r} can't be loaded.",
                    expected="metadata as Spark writes them",
                    received=f"{type(error).__name__}: {error}",
                )
            ) from error
        if not kind.startswith(allowed):
            raise SavedModelError(
                explain(
                    f"The model at {uri!r} can't be loaded.",
                    expected=f"stages of {', '.join(allowed)}",
                    received=f"one of {kind}",
                    fix="Bring its module along (code_paths).",
                )
            )


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _kinds() -> dict[str, type[KerasModel]]:
    """What may be loaded, by the name that its metadata have."""
    from spark_dl.estimators.classifier import KerasClassifierModel
    from spark_dl.estimators.regressor import KerasRegressorModel

    kinds = (KerasModel, KerasClassifierModel, KerasRegressorModel)
    return {_name(kind): kind for kind in kinds}


def _types(columns: T.StructType, filled: Collection[str] = ()) -> list[tuple[str, Any]] | None:
    types = [(field.name, _type(field.dataType)) for field in columns.fields]
    # pandas knows no whole numbers that may be missing.
    types = [(name, "double" if kind == "long" and name in filled else kind) for name, kind in types]
    return None if any(kind is None for _, kind in types) else types


def _type(kind: T.DataType) -> Any:
    if isinstance(kind, VectorUDT):
        return ("array", "double")
    if isinstance(kind, T.ArrayType):
        inner = _type(kind.elementType)
        return None if inner is None else ("array", inner)
    return _TYPES.get(type(kind))
