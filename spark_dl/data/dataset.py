"""Record of a converted DataFrame: its blocks, and the tensors in them.

A block is a Parquet file with one row: for each tensor one binary value that holds the numbers of all the block's rows
in NumPy's C order, so that reading a tensor of numbers needs no Python loop over rows.
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
    "ONE_HOT",
    "WEIGHT",
    "Block",
    "ConvertedDataset",
    "Tensor",
]

# Names of the columns in a block's file; features_0, features_1, ... with several inputs, and likewise with labels.
FEATURES, LABEL, WEIGHT = "features", "label", "weight"
BLOCK_ID, BLOCK_ROWS = "block_id", "block_rows"
# Blocks are read whole, and a rank holds a few of them. Arrow's allocator reuses memory for values of less than 7 MiB
# and returns larger ones to the kernel each time, which would dominate the time of writing and reading.
BLOCK_BYTES = 7_000_000
# The coding of class indices that the model receives as one-hot rows.
ONE_HOT = "one-hot"


@dataclass(frozen=True)
class Tensor:
    """Specification of one tensor of a batch, as it is stored and as the model receives it.

    Attributes:
        name: The tensor's column in the block files.
        shape: The stored shape of one row, () for a number or for bytes.
        stored: The NumPy dtype in the file; "object" for bytes of varying length, whose lengths are a separate column.
        dtype: The NumPy dtype of the model's input or output; "string" for text.
        fed: The shape of one row as the model receives it, where it is decoded; else ().
        key: The name of the model's input or output, where it has several; else "".
        coding: The coding of bytes, "text", "image" or "sparse"; ONE_HOT for class indices that become rows of zeros
            and a one; "" for numbers.
        target: The key of the model output whose label the features also are; None for none.
    """

    name: str
    shape: tuple[int, ...]
    stored: str
    dtype: str
    fed: tuple[int, ...] = ()
    key: str = ""
    coding: str = ""
    target: str | None = None

    @property
    def role(self) -> str:
        """Role of the tensor: FEATURES, LABEL or WEIGHT."""
        return self.name.partition("_")[0]

    @property
    def lengths_name(self) -> str:
        """Name of the column with the byte values' lengths."""
        return f"{self.name}_lengths"


@dataclass(frozen=True)
class Block:
    """Record of one block file.

    Attributes:
        block_id: The block's number, which the file contains, too; two silos may have blocks of the same number.
        name: The file's name in the store.
        rows: The number of rows.
        validation: Whether the rows are for validation.
        checksum: The checksum of the values, which doesn't depend on the order of rows.
        class_rows: The number of rows or positions of each class, where they are counted; else empty.
        silo: The number of the silo that the rows belong to, in federated training; else 0.
    """

    block_id: int
    name: str
    rows: int
    validation: bool
    checksum: int = 0
    class_rows: tuple[int, ...] = ()
    silo: int = 0


@dataclass(frozen=True)
class ConvertedDataset:
    """Small, picklable handle of a converted DataFrame.

    Attributes:
        store: The directory of the blocks.
        tensors: The tensors of a block: features, labels and the optional weight, in this order.
        blocks: All blocks, in the order of the DataFrame's partitions.
        bytes: The size of the rows in the blocks.
    """

    store: Store
    tensors: tuple[Tensor, ...]
    blocks: tuple[Block, ...]
    bytes: int

    def part(self, validation: bool) -> list[Block]:
        """Return the blocks for training or for validation."""
        return [block for block in self.blocks if block.validation == validation]

    def of_silo(self, silo: int) -> ConvertedDataset:
        """Return the part of the dataset with the blocks of one silo."""
        blocks = tuple(block for block in self.blocks if block.silo == silo)
        return replace(self, blocks=blocks, bytes=self.bytes * rows_of(blocks) // max(1, rows_of(self.blocks)))

    @property
    def checksum(self) -> int:
        """Checksum of all values, which doesn't depend on the order of rows and blocks."""
        return sum(block.checksum for block in self.blocks) % (1 << 63)

    def class_rows(self, validation: bool) -> list[int]:
        """Return the number of rows of each class where the only label is a class index, or of positions if counted."""
        return [sum(same) for same in zip(*(block.class_rows for block in self.part(validation)), strict=True)]

    def for_reading(self) -> ConvertedDataset:
        """Return a copy without checksums and class counts, which only the driver needs and which can be large."""
        return replace(self, blocks=tuple(replace(block, checksum=0, class_rows=()) for block in self.blocks))

    def rows(self, validation: bool) -> int:
        """Return the number of rows for training or for validation."""
        return rows_of(self.part(validation))


def rows_of(blocks: Sequence[Block]) -> int:
    """Return the number of rows in a sequence of blocks."""
    return sum(block.rows for block in blocks)
