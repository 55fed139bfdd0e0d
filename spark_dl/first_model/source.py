"""The code of a suggested model."""

from __future__ import annotations

import itertools
import math
import pprint
import textwrap
from collections.abc import Collection, Sequence
from typing import Any

from spark_dl.first_model.columns import MISSING, Columns, FeatureColumn

__all__ = ["source_of"]

_ONE_HOT = 20  # categories with more values are embedded
_SMALL = 5_000  # rows below which the linear part dominates
_IMAGE = 96
_WIDTH = 100


def source_of(columns: Columns) -> str:
    """Return the Python code that builds the suggested model and its estimator.

    Args:
        columns: The columns with their roles and statistics.
    """
    parts = [_numbers(columns, missing=False), _numbers(columns, missing=True)]
    names = _input_names(columns)
    parts += [_single(column, names[column.name]) for column in columns.used if column.role != "number"]
    parts = [part for part in parts if part]
    kind = "KerasClassifier" if columns.classes else "KerasRegressor"
    return "\n".join(
        [
            _head(columns, kind),
            "def build() -> keras.Model:",
            '    """Return the model: one input for each kind of column, a linear part and a deep part."""',
            "    inputs, features = {}, []",
            *(textwrap.indent(part["code"], "    ") for part in parts),
            textwrap.indent(_body(columns), "    "),
            "",
            "",
            _estimator(columns, kind, parts),
        ]
    )


def _input_names(columns: Columns) -> dict[str, str]:
    """Return the name of the input of each column that has one of its own: the column's where it can be one."""
    names: dict[str, str] = {}
    taken = {"numbers", "incomplete_numbers"}
    single = [column.name for column in columns.used if column.role != "number"]
    for name in single:
        if name.isidentifier() and name not in taken:
            names[name] = name
            taken.add(name)
    for place, name in enumerate(single):
        if name not in names:
            others = (f"column_{number}" for number in itertools.count(place))
            names[name] = next(one for one in others if one not in taken)
            taken.add(names[name])
    return names


def _comment(text: str) -> str:
    """Return a text, such as a column's name, that can't end the line of a comment."""
    return "".join(one if one.isprintable() else " " for one in text)


def _head(columns: Columns, kind: str) -> str:
    left = [f"#   {_comment(name)}: {reason}" for name, reason in columns.left_out.items()]
    task = f"{columns.classes} classes" if columns.classes else "a number"
    lines = [f"# A first model of {_comment(columns.label)} ({task}), from {columns.rows} rows with a label."]
    lines += ["# Columns that it doesn't use:", *left] if left else []
    imports = ["import keras", "import numpy as np", f"from spark_dl import {kind}"]
    return "\n".join([*lines, *imports, "", "layers, ops = keras.layers, keras.ops", "", ""])


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=_WIDTH, compact=True)


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.7g}") for value in values]


def _assigned(name: str, value: Any) -> str:
    text = _literal(value)
    return f"{name} = {text}" if "\n" not in text else f"{name} = (\n{textwrap.indent(text, '    ')}\n)"


def _items(values: dict[str, Any]) -> str:
    """Return a dict's literal with a line for each item, as an argument of a call."""
    lines = [f"{name!r}: {textwrap.indent(_literal(value), '        ').lstrip()}," for name, value in values.items()]
    return "{\n" + textwrap.indent("\n".join(lines), "        ") + "\n    }"


def _numbers(columns: Columns, *, missing: bool) -> dict[str, Any]:
    """Return the code for all numbers that are always known, or for those that may be missing."""
    chosen = [column for column in columns.used if column.role == "number" and column.missing == missing]
    if not chosen:
        return {}
    name = "incomplete_numbers" if missing else "numbers"
    names = [column.name for column in chosen]
    lines = [
        f"# {_comment(', '.join(names))}.",
        f'{name} = inputs["{name}"] = keras.Input(({len(chosen)},), name="{name}")',
        _assigned("mean", _rounded([column.mean for column in chosen])),  # type: ignore[misc]
        _assigned("variance", _rounded([column.variance for column in chosen])),  # type: ignore[misc]
    ]
    if missing:
        lines += [
            _assigned("filled", [column.fill for column in chosen]) + "  # what nullPolicy puts in the place of null",
            f'is_missing = ops.equal({name}, np.array(filled, "float32"))',
            f'{name} = ops.where(is_missing, np.array(mean, "float32"), {name})',
            'features.append(ops.cast(is_missing, "float32"))',
        ]
    lines.append(f"features.append(layers.Normalization(mean=mean, variance=variance)({name}))")
    skewed = [place for place, column in enumerate(chosen) if column.log_mean is not None]
    if skewed:
        log_mean = _rounded([chosen[place].log_mean or 0.0 for place in skewed])
        log_variance = _rounded([chosen[place].log_variance or 1.0 for place in skewed])
        lines += [
            f"# Logarithms: {_comment(', '.join(names[place] for place in skewed))}.",
            f"skewed = ops.log1p(ops.maximum(ops.take({name}, {skewed}, axis=1), 0.0))",
            _assigned("mean", log_mean),
            _assigned("variance", log_variance),
            "features.append(layers.Normalization(mean=mean, variance=variance)(skewed))",
        ]
    fills = {column.name: {"fill": column.fill} for column in chosen if column.fill is not None}
    return {"code": "\n".join(lines), "input": {name: names}, "nulls": fills}


def _single(column: FeatureColumn, name: str) -> dict[str, Any]:
    """Return the code for a column with an input of its own, of this name."""
    lines = {"array": _array, "category": _category, "hashed": _hashed, "text": _text, "image": _image}[column.role](
        column, f'inputs["{name}"]', name
    )
    fill = "" if column.role == "text" else MISSING
    # Later rows may lack a string even where no training row does.
    nulls = {column.name: {"fill": fill}} if column.role in ("category", "hashed", "text") else {}
    code = "\n".join([f"# {_comment(column.name)}: {column.role}.", *lines])
    return {"code": code, "input": {name: column.name}, "nulls": nulls}


def _array(column: FeatureColumn, made: str, name: str) -> list[str]:
    mean, variance = column.mean, column.variance
    return [
        f'{made} = keras.Input(({len(mean)},), name="{name}")',  # type: ignore[arg-type]
        _assigned("mean", _rounded(mean)),  # type: ignore[arg-type]
        _assigned("variance", _rounded(variance)),  # type: ignore[arg-type]
        f"features.append(layers.Normalization(mean=mean, variance=variance)({made}))",
    ]


def _category(column: FeatureColumn, made: str, name: str) -> list[str]:
    values = list(column.values)
    lines = [f'{made} = keras.Input((1,), dtype="string", name="{name}")', _assigned("values", values)]
    if len(values) <= _ONE_HOT:
        return [
            *lines,
            f'features.append(layers.StringLookup(vocabulary=values, output_mode="one_hot")({made}))',
        ]
    return [
        *lines,
        f"index = layers.StringLookup(vocabulary=values)({made})",
        f"features.append(layers.Flatten()(layers.Embedding({len(values) + 1}, {_width(len(values))})(index)))",
    ]


def _hashed(column: FeatureColumn, made: str, name: str) -> list[str]:
    bins = min(20_000, 2 * column.distinct)
    return [
        f'{made} = keras.Input((1,), dtype="string", name="{name}")',
        f"index = layers.Hashing({bins})({made})  # about {column.distinct} values",
        f"features.append(layers.Flatten()(layers.Embedding({bins}, {_width(column.distinct)})(index)))",
    ]


def _text(column: FeatureColumn, made: str, name: str) -> list[str]:
    return [
        f'{made} = keras.Input((), dtype="string", name="{name}")',
        _assigned("words", list(column.values)),
        f'features.append(layers.TextVectorization(vocabulary=words, output_mode="multi_hot")({made}))',
    ]


def _image(column: FeatureColumn, made: str, name: str) -> list[str]:
    return [
        f'{made} = keras.Input(({_IMAGE}, {_IMAGE}, 3), name="{name}")',
        f"picture = layers.Rescaling(1 / 255)({made})",
        "for filters in (32, 64, 128):",
        '    picture = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(picture)',
        "features.append(layers.GlobalAveragePooling2D()(picture))",
    ]


def _width(values: int) -> int:
    """Return the width of an embedding of this many values."""
    return min(50, int(1.6 * values**0.56) + 1)


def _body(columns: Columns) -> str:
    small = columns.rows < _SMALL
    units = columns.classes if columns.classes > 2 else 1
    hidden, dropout, penalty = ((32,), 0.5, 1e-3) if small else ((128, 64), 0.1, 1e-5)
    lines = [
        "features = layers.Concatenate()(features)" if len(columns.used) else "",
        "",
        f"# A linear model{', which is hard to beat with few rows' if small else ''}.",
        f"linear = layers.Dense({units}, kernel_regularizer=keras.regularizers.L2({penalty}))(features)",
        "# What it misses.",
        "hidden = features",
        f"for units in {hidden}:",
        f'    hidden = layers.Dropout({dropout})(layers.Dense(units, "relu")(hidden))',
        f'deep = layers.Dense({units}, use_bias=False, kernel_initializer="zeros")(hidden)',
        "output = layers.Add()([linear, deep])",
    ]
    if not columns.classes:
        lines.append(f"output = layers.Rescaling({columns.deviation:.7g}, {columns.mean:.7g})(output)")
    return "\n".join([*lines, "return keras.Model(inputs, output)"])


def _estimator(columns: Columns, kind: str, parts: Sequence[dict[str, Any]]) -> str:
    inputs = {name: column for part in parts for name, column in part["input"].items()}
    nulls = {name: rule for part in parts for name, rule in part["nulls"].items()}
    if columns.unlabelled:
        nulls[columns.label] = "drop"  # the rows without a label
    batch = 32 if columns.rows < _SMALL else 128 if columns.rows < 100_000 else 512
    steps = math.ceil(columns.rows / batch)
    epochs = max(3, min(40, round(4_000 / steps)))
    lines = [
        f"EPOCHS, STEPS = {epochs}, {steps}  # of {batch} rows",
        "rate = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * STEPS)",
        f"estimator = {kind}(",
        "    modelFn=build,",
        f"    inputCols={_items(inputs)},",
        f"    labelCol={columns.label!r},",
        "    optimizer=keras.optimizers.AdamW(rate, weight_decay=1e-3),",
        f"    batchSize={batch},",
        "    epochs=EPOCHS,",
    ]
    if columns.classes:
        lines.append('    outputKind="logits",')
    else:
        lines.append('    loss="mse",')
    outputs = ("prediction", "probability", "rawPrediction") if columns.classes else ("prediction",)
    names = {column.name.lower() for column in columns.used}
    # A feature column of such a name stays; the model's column gets another one.
    lines += [f"    {output}Col={_free(f'model_{output}', names)!r}," for output in outputs if output.lower() in names]
    if nulls:
        lines.append(f"    nullPolicy={_items(nulls)},")
    return "\n".join([*lines, ")", ""])


def _free(name: str, taken: Collection[str]) -> str:
    """Return a name that isn't taken, with underscores added if need be."""
    while name.lower() in taken:
        name += "_"
    return name
