"""Conversion of fitted models and datasets to the records and files that trackers log; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from pyarrow import fs as arrow_fs
from pyspark.sql import types as T

from spark_dl.data.columns import column_of, kind_of
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import ModelError, explain
from spark_dl.io.delta import delta_table
from spark_dl.io.workspace import Workspace
from spark_dl.ml.fetched import SPARK_CONTAINER_MODELS
from spark_dl.ml.model import KerasModel
from spark_dl.ml.persistence import described
from spark_dl.score.engines import extension, requirements
from spark_dl.spark.row_source import RowSource
from spark_dl.spark.session import master_of, running_session
from spark_dl.track import LoggedData, LoggedModel, LoggedStage

__all__ = ["digest_of", "logged", "logged_data", "logged_model"]

# Types of numbers, for which pandas has no missing value.
_MAY_BE_MISSING = ("boolean", "long", "double")


def logged_model(model: KerasModel) -> LoggedModel:
    """Convert a fitted model to the record that a tracker logs.

    Args:
        model: The fitted model.

    Raises:
        ModelError: The model was saved by a release that didn't save its columns.
    """
    serving, scored = model._serving()
    metadata, content = described(model)
    takes_nulls = serving.nulls != "error"
    read = [column for spec in serving.features for column in spec.columns]
    filled = {column.name for column in read if takes_nulls or column.fill is not None}
    fields = serving.head.fields()
    return LoggedModel(
        keras=content or b"",
        stage=json.dumps(metadata),
        serving=serving.to_json(),
        scored=None if scored == content else scored,
        inputs=_types(model._columns or T.StructType([]), filled),
        outputs=[(name, _array_type(fields[field].axes)) for field, name in serving.outputs.items()],
        example=serving.example(),
        scored_extension=extension(serving.engine),
        needs=requirements(serving.engine),
    )


def _array_type(axes: int) -> Any:
    """Return MLflow's type of numbers, or of arrays of them with one array for each axis."""
    kind: Any = "double"
    for _ in range(axes):
        kind = ("array", kind)
    return kind


def logged(model: Any, cache_dir: str | None) -> LoggedModel | LoggedStage:
    """Convert a fitted model, Pipeline or search to the record that a tracker logs.

    Args:
        model: A `KerasModel`, or a PipelineModel, CrossValidatorModel or TrainValidationSplitModel.
        cache_dir: A directory that driver and executors share, where Spark first writes a Pipeline or search; None for
            a temporary one.

    Raises:
        ModelError: The model is of another class, or was saved by a release that didn't save its columns.
    """
    if isinstance(model, KerasModel):
        return logged_model(model)
    kind = f"{type(model).__module__}.{type(model).__name__}"
    if kind not in SPARK_CONTAINER_MODELS:
        expected = f"a KerasModel, {', '.join(name.rpartition('.')[2] for name in SPARK_CONTAINER_MODELS)}"
        raise ModelError(
            explain(
                "This model can't be logged.",
                expected=expected,
                received=kind,
                fix="Log a fitted model of spark_dl, or a PipelineModel that has one.",
            )
        )
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


def logged_data(dataset: ConvertedDataset, columns: T.StructType, source: RowSource) -> list[LoggedData]:
    """Convert training and validation rows to the records that a tracker logs; no record for no rows.

    Args:
        dataset: The converted dataset.
        columns: The Spark types of the columns that were read.
        source: The files and tables that the DataFrame was read from.
    """
    delta = delta_table(source.files)
    parts = {"training": dataset.part(validation=False), "validation": dataset.part(validation=True)}
    return [
        LoggedData(
            context=context,
            rows=sum(block.rows for block in blocks),
            digest=digest_of(dataset, validation=context == "validation"),
            columns=_types(columns),
            files=[delta.path] if delta else source.files,
            tables=source.tables,
            is_delta=delta is not None,
            version=delta.version if delta else None,
        )
        for context, blocks in parts.items()
        if blocks
    ]


def digest_of(dataset: ConvertedDataset, *, validation: bool) -> str:
    """Return a digest of a dataset's values, independent of the order of the rows."""
    return f"{sum(block.checksum for block in dataset.part(validation=validation)) % (1 << 63):016x}"


def _types(columns: T.StructType, filled: Collection[str] = ()) -> list[tuple[str, Any]] | None:
    found = [(field.name, column_of(field.name, field.dataType)) for field in columns.fields]
    types = [(name, None if column is None else kind_of(column).signature_type(column)) for name, column in found]
    # With missing values, pandas holds numbers as float64 or objects, otherwise as int64.
    types = [(name, "any" if kind in _MAY_BE_MISSING and name in filled else kind) for name, kind in types]
    return None if any(kind is None for _, kind in types) else types
