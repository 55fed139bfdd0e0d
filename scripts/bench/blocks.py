"""Blocks as a conversion writes them, of random floats, for benches that read."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spark_dl.data.dataset import BLOCK_BYTES, BLOCK_ID, BLOCK_ROWS, FEATURES, Block, ConvertedDataset, Tensor
from spark_dl.io.store import Store

__all__ = ["make_blocks"]


def make_blocks(directory: str, rows: int, width: int) -> ConvertedDataset:
    """`rows` rows of `width` float32, in blocks of the usual size."""
    store, blocks, full = Store.at(directory), [], BLOCK_BYTES // (4 * width)
    for index, start in enumerate(range(0, rows, full)):
        count = min(full, rows - start)
        content = np.random.default_rng(index).random((count, width), np.float32).tobytes()
        columns = {BLOCK_ID: pa.array([index]), BLOCK_ROWS: pa.array([count]), FEATURES: pa.array([content])}
        path = f"{store.path}/{index}.parquet"
        pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False, write_statistics=False)
        blocks.append(Block(index, f"{index}.parquet", count, False))
    tensor = Tensor(FEATURES, (width,), "float32", "float32")
    return ConvertedDataset(store, (tensor,), tuple(blocks), rows * width * 4)
