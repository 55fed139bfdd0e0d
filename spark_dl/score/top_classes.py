"""Top-k classes of each row, as a Spark expression over the probability column."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_dl.data.column import quoted

__all__ = ["top_classes"]


def top_classes(frame: DataFrame, probability: str, into: str, count: int, labels: Sequence[str] | None) -> DataFrame:
    """Add a column with each row's most probable classes: arrays of (label, probability), the most probable first.

    Args:
        frame: The DataFrame with the probability column.
        probability: The name of the probability column, of Vectors.
        into: The name of the new column.
        count: The maximum number of classes per row. Of equally probable classes, the lower index comes first.
        labels: The class names; empty or None for class indices (int).
    """
    given = F.col(quoted(probability))
    each = F.transform(
        F.when(given.isNotNull(), vector_to_array(given)),  # null for a row that couldn't be scored
        lambda value, index: F.struct((-value).alias("order"), index.alias("index"), value.alias("probability")),
    )
    # A row with NaN outputs gets an empty array.
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
