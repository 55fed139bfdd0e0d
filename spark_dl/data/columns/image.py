"""Columns with an encoded image in each row; the formats are those of `image_files`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_dl.data.column import Column
from spark_dl.data.columns.extracted import Extracted, byte_rows, filled
from spark_dl.data.columns.kind import ColumnKind, ModelInput, array_of
from spark_dl.data.columns.number import number_of_dtype
from spark_dl.data.image_files import alike_jpegs, can_be_decoded, plain_image, prepare_images
from spark_dl.data.media import pixels
from spark_dl.data.ragged import BYTES, ByteRows, Values, as_array
from spark_dl.errors import DataError, explain, shape_text

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

__all__ = ["ImageKind"]


class ImageKind(ColumnKind):
    """An encoded image in each row, as a file's bytes; `BinaryKind.feeds` decides which columns these are."""

    name = "image"
    coding = "image"
    is_label = False
    is_flat = True
    plan_note = "decoded"

    def column(self, name: str, data_type: DataType) -> Column | None:
        return None

    def check_input(self, model_input: ModelInput, param: str) -> None:
        shape, dtype = model_input.shape, model_input.dtype
        if len(model_input.columns) > 1 or len(shape) != 3 or shape[-1] not in (1, 3, 4) or dtype == "int8":
            raise DataError(
                explain(
                    "Images take one column, and a model input that is an image.",
                    expected="one binary column, and an input of (batch, height, width, 1, 3 or 4 channels) that takes "
                    "255",
                    received=", ".join(f"{c.name} ({c.kind})" for c in model_input.columns)
                    + f", and an input of shape {shape_text(shape)}, {dtype}",
                    fix=f"Change {param}, or set binaryFormat='raw' where the bytes are the numbers themselves.",
                )
            )

    def matched(self, column: Column, width: int, model_input: ModelInput) -> Column:
        return replace(column, dtype=BYTES, validate=model_input.rules.validate)

    def fill_value(self, column: Column, fill: Any) -> float | str | None:
        return number_of_dtype(fill, "uint8")

    def decode(self, array: pa.Array, column: Column) -> Extracted:
        return filled(byte_rows(array), self.filler(column))

    def from_pandas(self, values: Any, column: Column) -> pa.Array:
        return array_of(values, column, "an image's bytes in each row", pa.large_binary())

    def prepare(
        self, contents: Values, shape: tuple[int, ...], keep: np.ndarray
    ) -> tuple[Values, dict[str, np.ndarray]]:
        if isinstance(contents, ByteRows) and (keep <= alike_jpegs(contents, shape[-1], keep)).all():
            return contents, {}
        rows, objects = np.flatnonzero(keep), as_array(contents)
        images = np.full(len(keep), b"", object)
        images[rows], reasons = prepare_images(objects[rows], shape[-1])
        undecodable = {reason: np.zeros(len(keep), bool) for reason in reasons}
        for row in rows if reasons else ():
            for reason in prepare_images(objects[row : row + 1], shape[-1])[1]:
                undecodable[reason][row] = True
        return images, undecodable

    def damaged(self, contents: Values, keep: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.zeros(len(keep), bool)
        rows[keep] = [not can_be_decoded(content) for content in as_array(contents)[keep]]
        return {"files that are whole": rows} if rows.any() else {}

    def filler(self, column: Column) -> bytes | None:
        return None if column.fill is None else plain_image(int(column.fill))

    def decode_tensor(self, contents: Any, shape: tuple[int, ...], dtype: str) -> Any:
        return pixels(contents, shape, dtype)
