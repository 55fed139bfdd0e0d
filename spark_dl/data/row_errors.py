"""What is wrong with rows, counted where they are read and told once, on the driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from pyspark.sql import Row

from spark_dl.data.arrow import Extracted
from spark_dl.data.column import Column, LabelSpec
from spark_dl.data.label_rules import RULES
from spark_dl.data.limits import EXACT_FIX
from spark_dl.errors import explain

__all__ = ["RowErrors", "describe"]

_MISSING = ("null", "nan", "infinite")
# Different labels that are told one by one; the rest are counted together.
_MOST_VALUES = 8
_OTHERS = "others"


@dataclass
class RowErrors:
    """What is wrong with the rows of a partition: counts by kind, column and detail.

    Kinds: null, nan, infinite, length (the detail is the length), fraction and class (of a label), label (that its loss
    doesn't take; the detail is the loss and the number), negative (of a weight), range (the detail is the dtype),
    inexact (the detail is the dtype and the greatest number), image (the detail says what it is, or the formats that it
    could be in).
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
            self.add("infinite", column.name, 0 if extracted.infinite is None else int(extracted.infinite.sum()))
        for length, count in extracted.lengths.items():
            self.add("length", column.name, count, str(length))

    def add_inexact(self, column: str, count: int, dtype: str, number: int) -> None:
        """Count rows whose whole numbers a dtype rounds, and keep the greatest of these."""
        held = [key for key in self.counts if key[:2] == ("inexact", column) and key[2].split()[0] == dtype]
        rows = count + sum(self.counts.pop(key) for key in held)
        numbers = [number, *(int(key[2].split()[1]) for key in held)]
        self.counts["inexact", column, f"{dtype} {max(numbers, key=abs)}"] = rows

    def add_labels(self, column: str, loss: str, wrong: np.ndarray) -> None:
        """Count labels that their loss doesn't take, by what is wrong with each."""
        values, counts = np.unique(wrong, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            told = ("label", column, f"{loss} {value:g}")
            known = sum(key[:2] == told[:2] for key in self.counts)
            self.add(*told[:2], count, told[2] if told in self.counts or known < _MOST_VALUES else f"{loss} {_OTHERS}")


def describe(faults: Iterable[Row], columns: Iterable[Column], labels: Iterable[LabelSpec]) -> str:
    """The message for all faults together.

    Args:
        faults: rows of kind, name, detail and rows, from all partitions.
        columns: all that are read; their widths are named.
        labels: their classes are named.
    """
    specs = {label.column.name: label for label in labels}
    widths = {column.name: column.width for column in columns}
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in faults:
        counts[row["kind"], row["name"], row["detail"]] += row["rows"]
    lines = [_line(key, counts[key], widths, specs) for key in sorted(counts) if key[0] not in _BY_VALUE]
    by_value: dict[tuple[str, str, str], dict[str, int]] = {}
    for (kind, name, detail), rows in counts.items():
        if kind in _BY_VALUE:
            about, value = detail.split()
            by_value.setdefault((kind, name, about), {})[value] = rows
    lines += [_BY_VALUE[kind](name, about, found) for (kind, name, about), found in sorted(by_value.items())]
    return explain(
        "Rows can't be fed to the model.",
        expected="a value in every feature, label and weight, of the model's shape",
        received="; ".join(lines),
        fix=" ".join(_fixes(counts, specs)),
    )


def _line(key: tuple[str, str, str], count: int, widths: Mapping[str, int], specs: Mapping[str, LabelSpec]) -> str:
    kind, name, detail = key
    rows = _rows(count)
    classes = specs[name].classes if name in specs else 0
    side = "output" if name in specs else "input"
    return {
        "null": f"column {name!r}: {rows} with a null",
        "nan": f"column {name!r}: {rows} with NaN",
        "infinite": f"column {name!r}: {rows} with an infinite number",
        "length": f"column {name!r}: {rows} of length {detail}, the model's {side} has {widths.get(name)}",
        "fraction": f"label {name!r}: {rows} with a value that is not whole, such as {detail}",
        "class": f"label {name!r}: {rows} outside the model's {classes} classes, such as {detail}",
        "negative": f"weight {name!r}: {rows} below 0",
        "range": f"column {name!r}: {rows} with values beyond {detail}",
        "image": f"column {name!r}: {rows} without an image that can be decoded ({detail})",
    }[kind]


def _label_line(name: str, loss: str, found: Mapping[str, int]) -> str:
    """Tell of labels that a loss doesn't take: number -> rows."""
    values = sorted((pair for pair in found.items() if pair[0] != _OTHERS), key=lambda pair: (-pair[1], pair[0]))
    told, rest = values[:_MOST_VALUES], sum(rows for _, rows in values[_MOST_VALUES:]) + found.get(_OTHERS, 0)
    by_value = [f"{value} in {rows}" for value, rows in [*told, *([("others", rest)] if rest else [])]]
    rule = RULES[loss]
    what = "numbers, or sums of a row" if rule.sums else "numbers"
    return (
        f"label {name!r}: {_rows(sum(found.values()))} that the loss {loss} doesn't take, which takes {rule.text} "
        f"({what}: {', '.join(by_value)})"
    )


def _inexact_line(name: str, dtype: str, found: Mapping[str, int]) -> str:
    """Tell of whole numbers that a dtype rounds: the greatest of a partition -> rows."""
    greatest = max(map(int, found), key=abs)
    rows = _rows(sum(found.values()))
    return f"column {name!r}: {rows} with whole numbers that {dtype} can't hold exactly, the greatest {greatest}"


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


# Kinds whose details are what it is about and a number, by how they are told.
_BY_VALUE = {"label": _label_line, "inexact": _inexact_line}


def _fixes(counts: Mapping[tuple[str, str, str], int], specs: Mapping[str, LabelSpec]) -> list[str]:
    kinds, fixes = {kind for kind, _, _ in counts}, []
    if kinds & set(_MISSING):
        fixes.append("Set nullPolicy='drop', or a value for the column: nullPolicy={column: {'fill': 0}}.")
    for name in sorted({name for kind, name, _ in counts if kind in ("fraction", "class")}):
        last = (specs[name].classes or 1) - 1
        fixes.append(f"Labels are class indices, whole numbers from 0 to {last}: see StringIndexer.")
    named = (RULES[detail.split()[0]].fix for kind, _, detail in sorted(counts) if kind == "label")
    fixes += [fix for fix in dict.fromkeys(named) if fix]
    if "length" in kinds:
        fixes.append("Make all rows as long as the model's input, and labels as long as its output.")
    if "range" in kinds:
        fixes.append("Scale the numbers, or leave these rows out.")
    if "inexact" in kinds:
        fixes.append(EXACT_FIX)
    if "image" in kinds:
        fixes.append("Set binaryFormat='raw' where the bytes are the numbers themselves.")
    return fixes
