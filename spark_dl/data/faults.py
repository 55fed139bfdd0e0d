"""What is wrong with rows, counted where they are read and told once, on the driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyspark.sql import Row

from spark_dl.data.arrow import Extracted
from spark_dl.data.column import Column, LabelSpec
from spark_dl.errors import explain

__all__ = ["Faults", "describe"]


@dataclass
class Faults:
    """What is wrong with the rows of a partition: counts by kind, column and detail.

    Kinds: null, nan, length (the detail is the length), fraction and class (of a label), negative (of a weight),
    range (the detail is the dtype), image (the detail lists the formats that it could be in).
    """

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, kind: str, column: str, count: int, detail: str = "") -> None:
        """Count some rows; nothing for none."""
        if count:
            self.counts[kind, column, detail] += count

    def add_extracted(self, column: Column, extracted: Extracted) -> None:
        """Count what was wrong with a column's rows; missing values only where they aren't dropped."""
        if not column.drop:
            self.add("null", column.name, extracted.nulls)
            self.add("nan", column.name, extracted.nans)
        for length, count in extracted.lengths.items():
            self.add("length", column.name, count, str(length))


def describe(faults: Iterable[Row], columns: Iterable[Column], labels: Iterable[LabelSpec]) -> str:
    """The message for all faults together.

    Args:
        faults: rows of kind, name, detail and rows, from all partitions.
        columns: all that are read; their widths are named.
        labels: their classes are named.
    """
    widths = {column.name: column.width for column in columns}
    classes_of = {label.column.name: label.classes or 0 for label in labels}
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in faults:
        counts[row["kind"], row["name"], row["detail"]] += row["rows"]
    missing = [(k, c, d) for k, c, d in counts if k in ("null", "nan")]
    lines = []
    for kind, name, detail in sorted(counts):
        count = counts[kind, name, detail]
        rows = f"{count} row{'s' * (count != 1)}"
        lines.append(
            {
                "null": f"column {name!r}: {rows} with a null",
                "nan": f"column {name!r}: {rows} with NaN",
                "length": f"column {name!r}: {rows} of length {detail}, the model's input has {widths.get(name)}",
                "fraction": f"label {name!r}: {rows} with a value that is not whole, such as {detail}",
                "class": f"label {name!r}: {rows} outside the model's {classes_of.get(name)} classes, such as {detail}",
                "negative": f"weight {name!r}: {rows} below 0",
                "range": f"column {name!r}: {rows} with values beyond {detail}",
                "image": f"column {name!r}: {rows} without an image that can be decoded ({detail})",
            }[kind]
        )
    fixes = []
    if missing:
        fixes.append("Set nullPolicy='drop', or a value for the column: nullPolicy={column: {'fill': 0}}.")
    for name in sorted({name for kind, name, _ in counts if kind in ("fraction", "class")}):
        fixes.append(f"Labels are class indices, whole numbers from 0 to {classes_of[name] - 1}: see StringIndexer.")
    if any(kind == "length" for kind, _, _ in counts):
        fixes.append("Make all rows as long as the model's input.")
    if any(kind == "image" for kind, _, _ in counts):
        fixes.append("Set binaryFormat='raw' where the bytes are the numbers themselves.")
    return explain(
        "Rows can't be fed to the model.",
        expected="a value in every feature, label and weight, of the model's shape",
        received="; ".join(lines),
        fix=" ".join(fixes),
    )
