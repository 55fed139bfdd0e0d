"""Rows that a rank has read once, kept near it for the epochs that follow."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import psutil

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.readers import Reader
from spark_dl.data.shards import Segment
from spark_dl.errors import ClusterError, explain

__all__ = ["CACHES", "cached"]

Arrays = list[np.ndarray]


class _Memory:
    """Arrays as they are."""

    place = "memory"

    def __init__(self) -> None:
        self.free = int(psutil.virtual_memory().available)

    def keep(self, arrays: Arrays) -> Callable[[], Arrays]:
        # A part of a block would keep the whole block alive.
        own = [array if array.base is None else array.copy() for array in arrays]
        return lambda: own


class _Disk:
    """Arrays in a file without a name, on the executor's disk: nothing is left of it, however the process ends."""

    def __init__(self) -> None:
        directories = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")  # where Spark itself puts such files
        self.place = next((name for name in directories if name and os.access(name, os.W_OK)), tempfile.gettempdir())
        self.free = shutil.disk_usage(self.place).free
        self._file: BinaryIO = tempfile.TemporaryFile(dir=self.place)  # noqa: SIM115

    def keep(self, arrays: Arrays) -> Callable[[], Arrays]:
        places = []
        for array in arrays:
            places.append((self._file.tell(), array.dtype, array.shape))
            array.tofile(self._file)
        self._file.flush()
        return lambda: [self._at(*place) for place in places]

    def _at(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.memmap(self._file, dtype, "r", offset, shape)


CACHES: dict[str, Callable[[], _Memory | _Disk]] = {"memory": _Memory, "disk": _Disk}


def cached(read: Reader, where: str, size: int, neighbours: int) -> Reader:
    """A reader that keeps what it has read.

    Args:
        read: the reader.
        where: "memory" or "disk".
        size: bytes of all that will be read.
        neighbours: ranks on this host that keep as much.

    Raises:
        ClusterError: it can't fit.
    """
    cache = CACHES[where]()
    if size * neighbours > cache.free:
        raise ClusterError(
            explain(
                f"The rows don't fit into cacheData={where!r}.",
                expected=f"at most {cache.free / 1e9:,.1f} GB, free in {cache.place}",
                received=f"{size / 1e9:,.1f} GB for each of {neighbours} ranks on this host",
                fix="Use more hosts, or " + ("cacheData='disk'." if where == "memory" else "cacheData='none'."),
            )
        )
    kept: dict[tuple[int, int, int], Callable[[], Arrays]] = {}

    def read_once(dataset: ConvertedDataset, segments: Sequence[Segment]) -> Iterator[Arrays]:
        keys = [(segment.block.block_id, segment.start, segment.stop) for segment in segments]
        fresh = read(dataset, [s for s, key in zip(segments, keys, strict=True) if key not in kept])
        for key in keys:
            if key in kept:
                yield kept[key]()
            else:
                arrays = next(fresh)
                kept[key] = cache.keep(arrays)
                yield arrays

    return read_once
