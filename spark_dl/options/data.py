"""Options of the columns and of the validation rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spark_dl.options import checks
from spark_dl.options.fields import Options, option

__all__ = ["ColumnOptions", "DataOptions"]


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(Options):
    """Options of the feature, label and weight columns; a fitted model has them as well."""

    features_col: str = option(
        "The feature column: a Vector, an array of numbers, a number, a string (for a model that takes strings), "
        "binary (see binaryFormat), or Spark's image struct.",
        checks.text,
        "features",
        on_resume="same",
    )
    input_cols: list[str] | dict[str, Any] | None = option(
        "Several feature columns, in place of featuresCol: a list, concatenated in this order into the model's input, "
        "or one column for each of several inputs; or a dict from an input's name to its column or columns.",
        checks.named_columns(several=True),
        None,
        on_resume="same",
    )
    binary_format: str = option(
        "What a binary feature column holds: 'image' (JPEG, PNG, GIF, BMP or WebP, decoded, and resized to the model's "
        "input), or 'raw' (uint8 numbers, as many as the model's input has).",
        checks.choice("image", "raw"),
        "image",
        on_resume="same",
    )
    sparse_vectors: str = option(
        "Whether a Vector that feeds an input alone stays sparse until the batch, which takes 8 bytes per nonzero "
        "number (16 for a float64 input) instead of 4 bytes per number: 'auto' (if it has more than 4,096 numbers), "
        "'always', or 'never' (for wide Vectors that are mostly dense).",
        checks.choice("auto", "always", "never"),
        "auto",
        on_resume="same",
    )
    label_col: str | None = option(
        "The label column: a number, or an array or Vector of numbers; 'features' for the feature columns themselves "
        "(an autoencoder), which may also be images; None for a model that computes its own loss without labels "
        "(add_loss, or a custom train_step or compute_loss).",
        checks.text_or_none,
        "label",
        on_resume="same",
    )
    label_cols: list[str] | dict[str, Any] | None = option(
        "The label columns of a model with several outputs: a list, in the model's order, or a dict from an output's "
        "name.",
        checks.named_columns(several=False),
        None,
        on_resume="same",
    )
    label_shapes: dict[str, list[int]] | None = option(
        "The shape of one row of label columns for a custom loss whose labels have another shape than the output, such "
        "as {'tags': [40]} for an output of 40 positions with a score for each class; [] is one number.",
        checks.shapes,
        None,
        on_resume="same",
    )
    weight_col: str | None = option(
        "The column of sample weights: a number, or for an output with several positions an array with a number for "
        "each; not set, all weights are 1.",
        checks.text,
        None,
        on_resume="same",
    )
    null_policy: str | dict[str, Any] = option(
        "How a null, NaN or infinite number in a feature, a label or the weight, or bytes that can't be decoded, are "
        "handled: 'error', or 'drop' to leave the row out of training; or a dict by column of 'error', 'drop' or "
        "{'fill': value}, which also fills them in transform (an image with one gray value, from 0 to 255).",
        checks.null_policy,
        "error",
        on_resume="same",
    )
    padding: dict[str, Any] | None = option(
        "The padding value of array columns whose rows vary in length, by column: {'ids': 0} pads rows that are "
        "shorter than the model's input (or columnShapes) with zeros at the end, in training and in scoring.",
        checks.padding,
        None,
        on_resume="same",
    )
    truncate: str = option(
        "Where rows of the columns in padding are cut if they are longer than the model's input: at the 'end' or the "
        "'start'; 'error' raises an error.",
        checks.choice("error", "end", "start"),
        "error",
        on_resume="same",
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions(ColumnOptions):
    """Options of the columns and of the validation rows."""

    column_shapes: dict[str, list[int]] | None = option(
        "The shape of one row of columns that feed inputs whose shape the model leaves open, such as {'steps': [20, "
        "8]}.",
        checks.shapes,
        None,
        on_resume="same",
    )
    validate_images: bool = option(
        "Whether images are decoded once when rows are converted, so that nullPolicy also applies to files damaged "
        "beyond their first bytes, which would fail training otherwise; it costs the time of decoding.",
        checks.boolean,
        False,
        on_resume="rows",
    )
    validation_col: str | None = option(
        "A boolean column that is true in validation rows.",
        checks.text,
        None,
        on_resume="rows",
    )
    validation_data: Any = option(
        "A DataFrame of validation rows, with the same columns.",
        checks.anything,
        None,
        on_resume="rows",
    )
    validation_fraction: float = option(
        "The fraction of the rows that is sampled, by the seed, for validation.",
        checks.number(0, 1),
        0.0,
        on_resume="rows",
    )
    reader: str = option(
        "How workers read the converted rows, the same rows in the same order: with 'petastorm', with 'arrow' (pyarrow "
        "alone), or 'auto' (Petastorm, and pyarrow for URLs or where Petastorm can't be imported).",
        checks.choice("auto", "petastorm", "arrow"),
        "auto",
        on_resume="any",
    )
