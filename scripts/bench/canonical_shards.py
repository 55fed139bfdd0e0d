"""The cost of globalBatchSize in reading: rows/s through Petastorm into tf.data batches, compared with batchSize.

`python scripts/bench/canonical_shards.py` makes 1,000,000 rows of 64 floats and reads one rank's part, shuffled, of 1
and of 2 ranks, in alternating runs; it prints medians and their ratio.
"""

import statistics
import tempfile
import time

from blocks import make_blocks

from spark_dl.data.batches import POOL_BYTES, tensorflow_batches
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.readers.petastorm import read
from spark_dl.data.shards import canonical_count, canonical_shards, shards

ROWS, WIDTH, BATCH, TURNS = 1_000_000, 64, 1024, 11


def rows_per_second(data: ConvertedDataset, ranks: int, canonical: bool) -> float:
    if canonical:
        mine = canonical_shards(data.blocks, ranks, BATCH * ranks, 1)[0]
        pool_bytes = POOL_BYTES // canonical_count(len(data.blocks), BATCH * ranks)
    else:
        mine, pool_bytes = [shards(data.blocks, ranks, BATCH, 1)[0]], POOL_BYTES
    batches = tensorflow_batches(data, mine, read, seed=1, pool_bytes=pool_bytes, one_pass=True)
    began, rows = time.perf_counter(), 0
    for features in batches:
        rows += len(features)
    return rows / (time.perf_counter() - began)


with tempfile.TemporaryDirectory() as made:
    data = make_blocks(made, ROWS, WIDTH)
    rows_per_second(data, 1, False)
    for ranks in (1, 2):
        rates: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(TURNS):
            for canonical, known in rates.items():
                known.append(rows_per_second(data, ranks, canonical))
        plain, shared = (statistics.median(rates[canonical]) for canonical in (False, True))
        print(
            f"{ranks} ranks: batchSize {plain:,.0f} rows/s, globalBatchSize {shared:,.0f} rows/s: {shared / plain:.2f}"
        )
