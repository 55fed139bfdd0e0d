"""The most probable classes of each row, made by Spark itself from the column of probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl.data.schema import quoted

__all__ = ["top_classes"]


def top_classes(frame: DataFrame, probability: str, into: str, count: int, labels: Sequence[str] | None) -> DataFrame:
    """The frame with a column of arrays of (label, probability), the most probable class first.

    Args:
        frame: has the column of probabilities.
        probability: that column, of Vectors.
        into: the new column.
        count: how many classes; all, where there are fewer. Of equal ones the first come first.
        labels: the classes' names; their indices (int) where there are none.
    """
    each = F.transform(
        vector_to_array(F.col(quoted(probability))),
        lambda value, index: F.struct((-value).alias("order"), index.alias("index"), value.alias("probability")),
    )
    # A row for which the model gives NaN has no probable class.
    known = F.filter(each, lambda item: ~F.isnan(item["probability"]))
    first = F.slice(F.array_sort(known), 1, count)
    names = F.array(*map(F.lit, labels)) if labels else None
    named = F.transform(
        first,
        lambda item: F.struct(
            (F.element_at(names, item["index"] + 1) if names is not None else item["index"]).alias("label"),
            item["probability"].alias("probability"),
        ),
    )
    return frame.withColumn(into, named)
