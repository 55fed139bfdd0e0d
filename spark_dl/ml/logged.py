"""A fitted model and its rows as trackers write them: records and files, in which nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pyarrow import fs as arrow_fs
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import ModelError, explain
from spark_dl.io.workspace import Workspace
from spark_dl.ml.fetched import SPARK_CONTAINER_MODELS
from spark_dl.ml.model import KerasModel
from spark_dl.ml.persistence import described
from spark_dl.spark.session import master_of, running_session
from spark_dl.track import LoggedData, LoggedModel, LoggedStage

__all__ = ["digest_of", "logged", "logged_data", "logged_model"]

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
_MAY_BE_MISSING = ("boolean", "long", "double")


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
    kind = f"{type(model).__module__}.{type(model).__name__}"
    if kind not in SPARK_CONTAINER_MODELS:
        expected = f"a KerasModel, {', '.join(name.rpartition('.')[2] for name in SPARK_CONTAINER_MODELS)}"
        raise ModelError(explain("This model can't be logged.", expected=expected, received=kind))
    spark = running_session()
    with Workspace(cache_dir, master_of(spark)) as workspace:
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


def _types(columns: T.StructType, filled: Collection[str] = ()) -> list[tuple[str, Any]] | None:
    types = [(field.name, _type(field.dataType)) for field in columns.fields]
    # Of a number that may be missing pandas has several types: int64 where none is, float64 or objects where some are.
    types = [(name, "any" if kind in _MAY_BE_MISSING and name in filled else kind) for name, kind in types]
    return None if any(kind is None for _, kind in types) else types


def _type(kind: T.DataType) -> Any:
    if isinstance(kind, VectorUDT):
        return ("array", "double")
    if isinstance(kind, T.ArrayType):
        inner = _type(kind.elementType)
        return None if inner is None else ("array", inner)
    return _TYPES.get(type(kind))
