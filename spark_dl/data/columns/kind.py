"""What a kind of column must know: its Spark types, its projection, its values in Arrow and TensorFlow, its examples.

A kind has no state. Ranks import the kinds without pyspark: the methods for Spark import it when they are called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from spark_dl.data.column import Column, quoted
from spark_dl.data.columns.extracted import Extracted
from spark_dl.data.ragged import Values
from spark_dl.errors import DataError, explain

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql.types import DataType

__all__ = ["OPEN", "ColumnKind", "InputRules", "ModelInput", "array_of", "unfit"]

# In the shape of one row of a model input, the length that differs between batches: that of a batch's longest row.
OPEN = -1
# Vectors up to this width are mostly dense (pixels, embeddings); wider ones are mostly counts and hashes.
_DENSE_WIDTH = 4096


@dataclass(frozen=True)
class InputRules:
    """Options for the interpretation of feature columns beyond their Spark type.

    Attributes:
        binary: The content of binary columns: "image" (encoded) or "raw" (uint8 numbers).
        sparse: The Vectors that stay sparse: "auto" (wide ones), "always" or "never".
        validate: Whether a conversion decodes images to find damaged ones.
    """

    binary: str = "image"
    sparse: str = "auto"
    validate: bool = False

    def stays_sparse(self, width: int) -> bool:
        """Return whether a Vector of this width stays sparse."""
        return self.sparse == "always" or (self.sparse == "auto" and width > _DENSE_WIDTH)


@dataclass(frozen=True)
class ModelInput:
    """Model input that columns are matched with.

    Attributes:
        shape: The shape of one row, with OPEN as the first length if it differs between batches.
        dtype: The NumPy dtype; "string" for text.
        columns: The columns that feed it.
        rules: The options for the columns' interpretation.
    """

    shape: tuple[int, ...]
    dtype: str
    columns: tuple[Column, ...]
    rules: InputRules = field(default_factory=InputRules)

    @property
    def is_open(self) -> bool:
        """Whether the length of a row differs between batches."""
        return self.shape[:1] == (OPEN,)


class ColumnKind(ABC):
    """One kind of column, from its Spark type to the model's input.

    Attributes:
        name: The kind's name, in `Column.kind` and in messages.
        coding: The coding of rows that are stored as bytes until the batch, in `Tensor.coding`; "" for numbers.
        is_scalar: Whether a row is one number.
        is_label: Whether the column may be a label.
        is_flat: Whether a NumPy array of shape (rows,) holds the column in serving.
        plan_note: The words about the decoding in a fit's plan; "" for none.
    """

    name: ClassVar[str]
    coding: ClassVar[str] = ""
    is_scalar: ClassVar[bool] = False
    is_label: ClassVar[bool] = True
    is_flat: ClassVar[bool] = False
    plan_note: ClassVar[str] = ""

    # --- the schema check

    @abstractmethod
    def column(self, name: str, data_type: DataType) -> Column | None:
        """Return the column of this name, or None if its Spark type isn't of this kind."""

    def feeds(self, model_input: ModelInput) -> str | None:
        """Return the name of the kind as which the column feeds an input; None if it can't."""
        return None if model_input.dtype == "string" else self.name

    def check_input(self, model_input: ModelInput, param: str) -> None:  # noqa: B027 - most kinds join others as numbers
        """Check an input that a column of bytes feeds; columns of numbers are checked together.

        Args:
            model_input: The input, with all columns that feed it.
            param: The option that named the columns, for messages.

        Raises:
            DataError: The columns can't feed this input.
        """

    def matched(self, column: Column, width: int, model_input: ModelInput) -> Column:
        """Return the column as it feeds an input, with the number of values in a row that remains for it."""
        return replace(column, width=width)

    def fill_value(self, column: Column, fill: Any) -> float | str | None:
        """Return the option's replacement for missing values as it is kept; None if this column can't take it."""
        return None

    def pad_value(self, column: Column, pad: Any) -> float | str | None:
        """Return the option's padding as it is kept; None if the column's rows can't be padded, or not with it."""
        return None

    # --- the projection in Spark

    def select(self, column: Column) -> SparkColumn:
        """Build the expression that selects the column for Arrow."""
        from pyspark.sql import functions as F

        return F.col(quoted(column.name))

    def sent(self, column: Column) -> list[SparkColumn]:
        """Build the Arrow columns that carry the column in a conversion; `received` joins them again."""
        return [self.select(column)]

    def group(self, column: Column) -> object:
        """Return a key that is the same for columns that a conversion sends together."""
        return column

    def received(self, arrays: Sequence[pa.Array]) -> pa.Array:
        """Join the Arrow columns of `sent` to the array that `decode` takes."""
        return arrays[0]

    @property
    def sent_columns(self) -> int:
        """Number of Arrow columns of `sent`."""
        return 1

    def udf_argument(self, column: Column, wide: bool) -> SparkColumn:
        """Build the argument of a UDF that scores: an Arrow array that `decode` takes, or a Series for `from_pandas`.

        Args:
            column: The column.
            wide: Whether the model's input needs more than float32.
        """
        return self.select(column)

    def is_present(self, column: Column) -> SparkColumn:
        """Build the condition that a value is present, so that nullPolicy neither drops nor fills it."""
        return self.select(column).isNotNull()

    # --- Arrow

    @abstractmethod
    def decode(self, array: pa.Array, column: Column) -> Extracted:
        """Convert the projected column in one Arrow batch to NumPy, in training and scoring."""

    def from_parquet(self, array: pa.Array, column: Column) -> pa.Array:
        """Convert the column as Parquet files have it to the projected form."""
        return array

    @abstractmethod
    def from_pandas(self, values: Any, column: Column) -> pa.Array:
        """Convert the projected column as pandas has it to the projected form in Arrow.

        Raises:
            DataError: The values aren't of this kind.
        """

    def from_served(self, values: pd.Series, column: Column) -> pd.Series:
        """Convert the column as users of serving have it to the projected form in pandas.

        Raises:
            DataError: The values aren't of this kind.
        """
        return values

    # --- from NumPy to the model

    def prepare(
        self, contents: Values, shape: tuple[int, ...], keep: np.ndarray
    ) -> tuple[Values, dict[str, np.ndarray]]:
        """Bring bytes to a form that `decode_tensor` takes.

        Args:
            contents: The bytes objects, shape (rows,), or byte rows.
            shape: The shape of one row of the model's input.
            keep: The boolean mask of the rows that are used.

        Returns:
            The bytes objects or byte rows; and by reason a boolean mask of the rows that can't be decoded.
        """
        return contents, {}

    def damaged(self, contents: Values, keep: np.ndarray) -> dict[str, np.ndarray]:
        """Decode bytes once to find those that `decode_tensor` would fail on, where the column asks for it.

        Args:
            contents: The bytes objects, shape (rows,), or byte rows.
            keep: The boolean mask of the rows that are used.

        Returns:
            By reason a boolean mask of the rows that can't be decoded.
        """
        return {}

    def filler(self, column: Column) -> bytes | None:
        """Return the bytes that replace those that can't be decoded; None if nullPolicy doesn't fill the column."""
        return None

    def decode_tensor(self, contents: Any, shape: tuple[int, ...], dtype: str) -> Any:
        """Decode bytes to the model's input, in a TensorFlow graph.

        Args:
            contents: A string tensor of shape (rows,).
            shape: The shape of one row of the input.
            dtype: The input's dtype; "string" for texts.

        Returns:
            A tensor of shape (rows, *shape).
        """
        raise NotImplementedError(f"A column of kind {self.name} isn't decoded from bytes.")

    # --- what is logged

    def signature_type(self, column: Column) -> Any:
        """Return MLflow's type of the column as its Spark type has it, ("array", type) for arrays; None for no type."""
        return None

    def example(self, column: Column, shape: tuple[int, ...]) -> Any:
        """Build an example of a row's value, of zeros and empty texts; None where there is no example."""
        return None


def unfit(column: Column, expected: str, received: str, fix: str = "") -> DataError:
    """Build the error for a column whose values can't be scored."""
    return DataError(
        explain(
            f"The column {column.name!r} can't be scored.",
            expected=expected,
            received=received,
            fix=fix or "Clean the column before transform, for example with dropna or fillna.",
        )
    )


def array_of(values: Any, column: Column, expected: str, kind: pa.DataType | None = None) -> pa.Array:
    """Convert a Series to Arrow, with NaN as null.

    Args:
        values: The Series.
        column: The column, for the message.
        expected: What each row should hold, for the message.
        kind: The Arrow type; None for that of the values.

    Raises:
        DataError: The values aren't of one type, or not of this one.
    """
    try:
        array = pa.array(values, kind, from_pandas=True)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise unfit(column, expected, f"{type(error).__name__}: {error}"[:200]) from error
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
