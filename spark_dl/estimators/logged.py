"""A fitted model as trackers write it, and back: files that need no Spark to be written or read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import SavedModelError, explain
from spark_dl.estimators.io import described, revived
from spark_dl.estimators.model import KerasModel
from spark_dl.track import LoggedData, LoggedModel

__all__ = ["fetched_model", "logged_data", "logged_model"]

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
    fields = serving.head.fields()
    return LoggedModel(
        keras=content or b"",
        stage=json.dumps(metadata),
        serving=serving.to_json(),
        scored=None if scored == content else scored,
        inputs=_types(model._columns or T.StructType([])),
        outputs=[
            (name, "double" if fields[field].kind == "double" else ("array", "double"))
            for field, name in serving.outputs.items()
        ],
    )


def logged_data(dataset: ConvertedDataset, columns: T.StructType, files: Sequence[str]) -> list[LoggedData]:
    """What a tracker writes of the rows for training, and of those for validation, where there are any.

    Args:
        dataset: the converted rows.
        columns: Spark's types of the columns that were read.
        files: what they were read from.
    """
    parts = {"training": dataset.part(validation=False), "validation": dataset.part(validation=True)}
    return [
        LoggedData(
            context=context,
            rows=sum(block.rows for block in blocks),
            digest=f"{sum(block.checksum for block in blocks) % (1 << 63):016x}",
            columns=_types(columns),
            files=files,
        )
        for context, blocks in parts.items()
        if blocks
    ]


def fetched_model(uri: str) -> KerasModel:
    """A logged, registered or saved model as the stage that it was.

    Raises:
        SavedModelError: there is none; it is damaged, another flavor's, or of a newer release.
    """
    from spark_dl.track import flavor  # MLflow is imported where it is used

    root = flavor.fetched(uri)
    flavor.import_code(root)
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


def _kinds() -> dict[str, type[KerasModel]]:
    """What may be loaded, by the name that its metadata have."""
    from spark_dl.estimators.classifier import KerasClassifierModel
    from spark_dl.estimators.regressor import KerasRegressorModel

    kinds = (KerasModel, KerasClassifierModel, KerasRegressorModel)
    return {f"{kind.__module__}.{kind.__name__}": kind for kind in kinds}


def _types(columns: T.StructType) -> list[tuple[str, Any]] | None:
    types = [(field.name, _type(field.dataType)) for field in columns.fields]
    return None if any(kind is None for _, kind in types) else types


def _type(kind: T.DataType) -> Any:
    if isinstance(kind, VectorUDT):
        return ("array", "double")
    if isinstance(kind, T.ArrayType):
        inner = _type(kind.elementType)
        return None if inner is None else ("array", inner)
    return _TYPES.get(type(kind))
