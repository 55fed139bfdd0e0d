"""Columns of Spark's image data source: a struct of an image's size and pixels, carried as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from spark_dl.data.column import Column
from spark_dl.data.columns.image import ImageKind
from spark_dl.data.columns.kind import unfit
from spark_dl.data.media import SPARK_IMAGE, image_bytes

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql.types import DataType

__all__ = ["ImageStructKind"]

# The struct fields that are read; Spark's have `origin` and `mode`, too.
_FIELDS = ("height", "width", "nChannels", "data")


class ImageStructKind(ImageKind):
    """A struct of Spark's image data source in each row."""

    name = "image struct"

    def column(self, name: str, data_type: DataType) -> Column | None:
        fields = getattr(data_type, "names", ())
        return Column(name, self.name, "uint8", 0) if {*_FIELDS, "mode"} <= set(fields) else None

    def select(self, column: Column) -> SparkColumn:
        from pyspark.sql import functions as F

        value = super().select(column)
        sizes = [F.unhex(F.lpad(F.hex(value[name]), 8, "0")) for name in _FIELDS[:3]]
        return F.concat(F.lit(SPARK_IMAGE), *sizes, value["data"])

    def from_parquet(self, array: pa.Array, column: Column) -> pa.Array:
        fields = [pc.struct_field(array, name).to_pylist() for name in _FIELDS]
        rows = zip(array.is_valid().to_pylist(), *fields, strict=True)
        return pa.array([image_bytes(*parts) if there else None for there, *parts in rows], pa.binary())

    def from_served(self, values: pd.Series, column: Column) -> pd.Series:
        return values.map(lambda image: _served_image(image, column))


def _served_image(image: Any, column: Column) -> Any:
    if image is None or isinstance(image, float):
        return None
    if not isinstance(image, Mapping) or not set(_FIELDS) <= image.keys():
        expected = f"images as Spark has them, with {', '.join(_FIELDS)}"
        fix = "Send images as spark.read.format('image') reads them."
        raise unfit(column, expected, type(image).__name__, fix)
    height, width, channels, data = (image[name] for name in _FIELDS)
    return image_bytes(int(height), int(width), int(channels), bytes(data))
