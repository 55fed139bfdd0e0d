"""The record of a converted DataFrame: where its blocks are, and how to read them.

A block is one Parquet file with one row: for each tensor a binary value that holds the rows' numbers one after
the other, as NumPy lays them out. Reading it costs a copy, whatever the number of rows: no row is ever touched
in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spark_dl.io.store import Store

__all__ = [
    "BLOCK_BYTES",
    "BLOCK_ID",
    "BLOCK_ROWS",
    "FEATURES",
    "LABEL",
    "WEIGHT",
    "Block",
    "ConvertedDataset",
    "Tensor",
]

# Names of the columns in a block's file; of several inputs or labels, features_0, features_1, ...
FEATURES, LABEL, WEIGHT = "features", "label", "weight"
BLOCK_ID, BLOCK_ROWS = "block_id", "block_rows"
# A block is read whole; a rank holds a few of them. Arrow's allocator keeps memory for values of less than 7 MiB and
# gives larger ones back to the kernel each time, which then takes most of the time of writing and of reading.
BLOCK_BYTES = 7_000_000


@dataclass(frozen=True)
class Tensor:
    """One tensor of a batch.

    Attributes:
        name: its column in the block files.
        shape: the shape of one row, () for a number.
        stored: NumPy dtype in the file; "object" for bytes of different lengths, whose lengths have a column of theirs.
        dtype: NumPy dtype that the model is fed; "string" for bytes.
        fed: shape of one row as the model is fed it, where that is made of bytes.
        key: name of the model's input or output, where it has several.
        coding: what these bytes are: "text", "image" or "sparse".
    """

    name: str
    shape: tuple[int, ...]
    stored: str
    dtype: str
    fed: tuple[int, ...] = ()
    key: str = ""
    coding: str = ""

    @property
    def role(self) -> str:
        """FEATURES, LABEL or WEIGHT."""
        return self.name.partition("_")[0]

    @property
    def lengths_name(self) -> str:
        """The column of the lengths."""
        return f"{self.name}_lengths"


@dataclass(frozen=True)
class Block:
    """One file.

    Attributes:
        block_id: its number, which is also written in the file.
        name: the file's name in the store.
        rows: how many rows it holds.
        validation: whether they are for validation.
        checksum: of its numbers, whatever the order of the rows.
        class_rows: rows of each class, where labels are class indices; else empty.
    """

    block_id: int
    name: str
    rows: int
    validation: bool
    checksum: int = 0
    class_rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class ConvertedDataset:
    """A small, picklable handle of converted data.

    Attributes:
        store: the directory of the blocks.
        tensors: features, labels and perhaps weight, in this order.
        blocks: all blocks, in the order of the DataFrame's partitions.
        bytes: size of the packed rows.
    """

    store: Store
    tensors: tuple[Tensor, ...]
    blocks: tuple[Block, ...]
    bytes: int

    def part(self, validation: bool) -> list[Block]:
        """The blocks for training or for validation."""
        return [block for block in self.blocks if block.validation == validation]

    @property
    def checksum(self) -> int:
        """Of all numbers, whatever the order of rows and blocks."""
        return sum(block.checksum for block in self.blocks) % (1 << 63)

    def class_rows(self, validation: bool) -> list[int]:
        """The number of rows of each class, where labels are class indices."""
        return [sum(same) for same in zip(*(block.class_rows for block in self.part(validation)), strict=True)]

    def for_reading(self) -> ConvertedDataset:
        """Without what only the driver asks for: with many classes, their rows are most of the record."""
        return replace(self, blocks=tuple(replace(block, checksum=0, class_rows=()) for block in self.blocks))

    def rows(self, validation: bool) -> int:
        """The number of rows for training or for validation."""
        return rows_of(self.part(validation))


def rows_of(blocks: Sequence[Block]) -> int:
    """The number of rows in some blocks."""
    return sum(block.rows for block in blocks)
