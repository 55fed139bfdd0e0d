"""What real ranks sum: small buffers and large ones, of every dtype that gradients have."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import SparkSession

from spark_dl import HorovodLauncher


@pytest.mark.parametrize("elements", [0, 1, 1000, 300_001])
def test_sums_are_the_ranks_sums_whatever_their_size(spark: SparkSession, elements: int) -> None:
    def summed() -> list[tuple[bool, str, tuple[int, ...]]]:
        import horovod.tensorflow as hvd
        import numpy as np
        import tensorflow as tf

        from spark_dl.collectives import HorovodCollectives
        from spark_dl.world import worlds

        def part(rank: int, dtype: Any) -> np.ndarray:
            return np.random.default_rng(rank).integers(-8, 8, elements).astype(dtype.as_numpy_dtype)

        collectives = HorovodCollectives(worlds(["here"] * hvd.size())[hvd.rank()])
        dtypes = [tf.float32, tf.float16, tf.float64]
        tensors = [tf.constant(part(hvd.rank(), dtype)) for dtype in dtypes]
        found = []
        for call in (collectives.sum_tensors, tf.function(collectives.sum_tensors)):
            for total, dtype in zip(call(tensors, "buffers"), dtypes, strict=True):
                expected = sum(part(rank, dtype) for rank in range(hvd.size()))
                found.append((bool(np.array_equal(total.numpy(), expected)), total.dtype.name, tuple(total.shape)))
        return found

    names = ["float32", "float16", "float64"] * 2
    assert HorovodLauncher(2).run(summed) == [[(True, name, (elements,)) for name in names]] * 2
