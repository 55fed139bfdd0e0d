"""Row errors, which tasks count while they read rows and the driver reports in one message."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pyspark.sql import Row

from spark_dl.data.column import Column
from spark_dl.data.columns import Extracted
from spark_dl.data.label_rules import RULES
from spark_dl.data.lengths import lengths_text
from spark_dl.data.limits import EXACT_FIX, WHOLE_FIX, greatest
from spark_dl.data.specs import LabelSpec
from spark_dl.errors import explain

__all__ = ["RowErrors", "describe"]

_MISSING = ("null", "nan", "infinite")
# The number of distinct invalid labels that are listed; the others are counted together.
_MOST_VALUES = 8
_OTHERS = "others"


@dataclass
class RowErrors:
    """Row errors of a partition.

    The kinds of errors, and their details:
    - null, nan, infinite: no detail.
    - length: the length; of a padded array of arrays, its number of inner arrays.
    - fraction, class (a label that is no class index): the first such label of a batch.
    - label (a label that the loss doesn't accept): the loss, and the label or its sum.
    - negative (a weight): no detail.
    - range: the dtype.
    - whole (a feature that isn't a whole number): the dtype, and the first such number of a batch.
    - inexact: the dtype and the integer of the greatest magnitude.
    - image: the reason, or the supported formats.
    - content (of texts and arrays that are kept as bytes): what is expected.

    Attributes:
        counts: The number of rows by (kind, column, detail).
    """

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, kind: str, column: str, count: int, detail: str = "") -> None:
        """Add a number of rows with an error; 0 adds no entry."""
        if count:
            self.counts[kind, column, detail] += count

    def add_extracted(self, column: Column, extracted: Extracted) -> None:
        """Count the errors of a column's rows: wrong lengths, and missing values unless the column drops them."""
        if not column.drop:
            self.add("null", column.name, extracted.nulls)
            self.add("nan", column.name, extracted.nans)
            self.add("infinite", column.name, 0 if extracted.infinite is None else int(extracted.infinite.sum()))
        for length, count in extracted.lengths.items():
            self.add("length", column.name, count, str(length))

    def add_out_of_range(self, column: Column, values: np.ndarray, rows: np.ndarray, dtype: str) -> None:
        """Count the rows with numbers outside a dtype's range."""
        self.add("range", column.name, int(rows.sum()), dtype)

    def add_undecodable(self, column: Column, rows: np.ndarray, reason: str) -> None:
        """Count the rows whose image can't be decoded, or whose content isn't what the input takes."""
        if not column.drop or column.kind == "ragged array":  # numbers of other kinds aren't dropped either
            self.add("image" if column.kind.startswith("image") else "content", column.name, int(rows.sum()), reason)

    def add_inexact(self, column: Column, values: np.ndarray, rows: np.ndarray, dtype: str) -> None:
        """Count the rows with integers that a dtype rounds, and record the one of the greatest magnitude."""
        if rows.any():
            self._add_rounded(column.name, int(rows.sum()), dtype, greatest(values[rows]))

    def _add_rounded(self, column: str, count: int, dtype: str, number: int) -> None:
        held = [key for key in self.counts if key[:2] == ("inexact", column) and key[2].split()[0] == dtype]
        rows = count + sum(self.counts.pop(key) for key in held)
        numbers = [number, *(int(key[2].split()[1]) for key in held)]
        self.counts["inexact", column, f"{dtype} {max(numbers, key=abs)}"] = rows

    def add_fractions(self, found: Sequence[tuple[Column, np.ndarray, np.ndarray]], dtype: str) -> None:
        """Count the rows with numbers that aren't whole, and record one of them."""
        for column, values, rows in found:
            if rows.any():
                numbers = values[rows]
                self.add("whole", column.name, int(rows.sum()), f"{dtype} {numbers[numbers != np.floor(numbers)][0]:g}")

    def add_labels(self, column: str, loss: str, wrong: np.ndarray) -> None:
        """Count labels that their loss doesn't accept, by the invalid number or sum."""
        values, counts = np.unique(wrong, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            key = ("label", column, f"{loss} {value:g}")
            known = sum(one[:2] == key[:2] for one in self.counts)
            self.add(*key[:2], count, key[2] if key in self.counts or known < _MOST_VALUES else f"{loss} {_OTHERS}")


def describe(faults: Iterable[Row], columns: Iterable[Column], labels: Iterable[LabelSpec]) -> str:
    """Build one error message for the row errors of all partitions.

    Args:
        faults: Rows of (kind, name, detail, rows), from all partitions.
        columns: All columns that are read; the message has their widths.
        labels: The labels' specifications; the message has their numbers of classes.
    """
    specs = {label.name: label for label in labels}
    read = {column.name: column for column in columns}
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in faults:
        counts[row["kind"], row["name"], row["detail"]] += row["rows"]
    lines = [_line(key, counts[key], specs) for key in sorted(counts) if key[0] not in ("length", *_BY_VALUE)]
    lengths: dict[str, dict[int, int]] = {}
    for (kind, name, detail), rows in sorted(counts.items()):
        if kind == "length":
            lengths.setdefault(name, {})[int(detail)] = rows
    lines += [
        _length_line(read[name], found, "output" if name in specs else "input") for name, found in lengths.items()
    ]
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
        fix=" ".join(_fixes(counts, specs, read)),
    )


def _line(key: tuple[str, str, str], count: int, specs: Mapping[str, LabelSpec]) -> str:
    kind, name, detail = key
    rows = _rows(count)
    classes = specs[name].classes if name in specs else 0
    return {
        "null": f"column {name!r}: {rows} with a null",
        "nan": f"column {name!r}: {rows} with NaN",
        "infinite": f"column {name!r}: {rows} with an infinite number",
        "fraction": f"label {name!r}: {rows} with a value that is not whole, such as {detail}",
        "class": f"label {name!r}: {rows} outside the model's {classes} classes, such as {detail}",
        "negative": f"weight {name!r}: {rows} below 0",
        "range": f"column {name!r}: {rows} with values beyond {detail}",
        "image": f"column {name!r}: {rows} without an image that can be decoded ({detail})",
        "content": f"column {name!r}: {rows} without {detail}",
    }[kind]


def _length_line(column: Column, found: Mapping[int, int], side: str) -> str:
    """Describe the rows of wrong lengths in one line, however many lengths there are."""
    rows, limit = _rows(sum(found.values())), column.width if column.pad is None else column.width // column.unit
    text = f"column {column.name!r}: {rows} {lengths_text(column, found)}"
    return f"{text}, the model's {side} has {limit}" if limit else text


def _label_line(name: str, loss: str, found: Mapping[str, int]) -> str:
    """Describe the labels that a loss doesn't accept, from the number of rows by label."""
    values = sorted((pair for pair in found.items() if pair[0] != _OTHERS), key=lambda pair: (-pair[1], pair[0]))
    shown, rest = values[:_MOST_VALUES], sum(rows for _, rows in values[_MOST_VALUES:]) + found.get(_OTHERS, 0)
    by_value = [f"{value} in {rows}" for value, rows in [*shown, *([("others", rest)] if rest else [])]]
    rule = RULES[loss]
    what = "numbers, or sums of a row" if rule.sums else "numbers"
    return (
        f"label {name!r}: {_rows(sum(found.values()))} that the loss {loss} doesn't take, which takes {rule.text} "
        f"({what}: {', '.join(by_value)})"
    )


def _inexact_line(name: str, dtype: str, found: Mapping[str, int]) -> str:
    """Describe the integers that a dtype rounds, from the number of rows by each partition's greatest integer."""
    greatest = max(map(int, found), key=abs)
    rows = _rows(sum(found.values()))
    return f"column {name!r}: {rows} with whole numbers that {dtype} can't hold exactly, the greatest {greatest}"


def _whole_line(name: str, dtype: str, found: Mapping[str, int]) -> str:
    """Describe the numbers that aren't whole, from the number of rows by each batch's first such number."""
    rows = _rows(sum(found.values()))
    return f"column {name!r}: {rows} with numbers that aren't whole, for an input of {dtype}, such as {min(found)}"


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


# For each kind whose detail is a subject and a number, the function that describes it.
_BY_VALUE = {"label": _label_line, "inexact": _inexact_line, "whole": _whole_line}


def _length_fixes(columns: Sequence[Column], specs: Mapping[str, LabelSpec]) -> list[str]:
    """Return the fixes for the columns with rows of wrong lengths."""
    short = {column.name for column in columns if column.pad is None}
    fixes = []
    if padded := sorted(short - specs.keys() - {column.name for column in columns if column.kind.endswith("vector")}):
        fixes.append(f"Set padding={{{padded[0]!r}: 0}} for short rows, with truncate='end' or 'start' for long ones.")
    if short:
        fixes.append("Or make" if padded else "Make")
        fixes[-1] += " all rows as long as the model's input, and labels as long as its output."
    if any(column.pad is not None for column in columns):
        fixes.append("Set truncate='end' or 'start', or a greater length in columnShapes.")
    return fixes


def _position_fixes(wrong: Sequence[tuple[Column, int]], specs: Mapping[str, LabelSpec]) -> list[str]:
    """Return the fixes for labels of as many numbers as an output has positions, of a loss of the user's.

    Args:
        wrong: Columns, each with a wrong length of its rows.
        specs: The labels' specifications, by the columns' names.
    """
    shapes = {name: spec.shape[:-1] for name, spec in specs.items() if len(spec.shape) > 1 and spec.classes is None}
    return [
        f"Set labelShapes={{{column.name!r}: {list(shapes[column.name])}}} for a class index at each position."
        for column, length in wrong
        if column.name in shapes and length == math.prod(shapes[column.name])
    ]


def _fixes(
    counts: Mapping[tuple[str, str, str], int], specs: Mapping[str, LabelSpec], columns: Mapping[str, Column]
) -> list[str]:
    kinds, fixes = {kind for kind, _, _ in counts}, []
    if kinds & set(_MISSING):
        fixes.append("Set nullPolicy='drop', or a value for the column: nullPolicy={column: {'fill': 0}}.")
    for name in sorted({name for kind, name, _ in counts if kind in ("fraction", "class")}):
        last = (specs[name].classes or 1) - 1
        fixes.append(f"Labels are class indices, whole numbers from 0 to {last}: see StringIndexer.")
    named = (RULES[detail.split()[0]].fix for kind, _, detail in sorted(counts) if kind == "label")
    fixes += [fix for fix in dict.fromkeys(named) if fix]
    wrong = [(columns[name], int(detail)) for kind, name, detail in counts if kind == "length"]
    fixes += _position_fixes(wrong, specs)
    fixes += _length_fixes([column for column, _ in wrong], specs)
    if "range" in kinds:
        fixes.append("Scale the numbers, or leave these rows out.")
    if "negative" in kinds:
        fixes.append("Weights are at least 0: leave the other rows out.")
    if "whole" in kinds:
        fixes.append(WHOLE_FIX)
    if "inexact" in kinds:
        fixes.append(EXACT_FIX)
    if "image" in kinds:
        fixes.append("Set binaryFormat='raw' where the bytes are the numbers themselves.")
    ragged = {name for name, column in columns.items() if column.kind == "ragged array"}
    kept = [name in ragged for kind, name, _ in counts if kind in ("image", "content")]
    if not all(kept):
        fixes.append("Set nullPolicy='drop' to leave rows out that can't be decoded.")
    if any(kept):
        fixes.append("Change the numbers of these rows, or leave them out.")
    return fixes
