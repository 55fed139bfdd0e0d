"""Cache of a rank's rows in memory or on local disk, so that later epochs don't read the store again."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import psutil

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.ragged import BYTES, joined, lengths, split
from spark_dl.data.readers import Reader
from spark_dl.data.shards import Segment
from spark_dl.errors import ClusterError, explain
from spark_dl.redaction import warn

__all__ = ["CACHES", "Cache"]

Arrays = list[np.ndarray]
# The location of an array in a file: offset in bytes, dtype, shape.
_Place = tuple[int, np.dtype, tuple[int, ...]]


class _Memory:
    """Storage of arrays in the rank's memory."""

    place = "memory"

    def __init__(self) -> None:
        self.free = int(psutil.virtual_memory().available)

    def keep(self, arrays: Arrays) -> Callable[[], Arrays]:
        own = [array.copy() for array in arrays]  # a view would keep its whole block in memory
        return lambda: own


class _Disk:
    """Storage of arrays in an unnamed temporary file on the executor's disk, removed whenever the process ends."""

    def __init__(self) -> None:
        directories = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")  # Spark's own temporary files are there
        self.place = next((name for name in directories if name and os.access(name, os.W_OK)), tempfile.gettempdir())
        self.free = shutil.disk_usage(self.place).free

    @functools.cached_property
    def _file(self) -> BinaryIO:
        return tempfile.TemporaryFile(dir=self.place)

    def keep(self, arrays: Arrays) -> Callable[[], Arrays]:
        places = []
        for array in arrays:
            ragged = array.dtype == BYTES
            places.append([self._write(part) for part in ([joined(array), lengths(array)] if ragged else [array])])
        self._file.flush()
        return lambda: [self._read(*place) for place in places]

    def _write(self, array: np.ndarray) -> _Place:
        place = self._file.tell(), array.dtype, array.shape
        array.tofile(self._file)
        return place

    def _read(self, place: _Place, lengths_at: _Place | None = None) -> np.ndarray:
        numbers = self._at(*place)
        return numbers if lengths_at is None else split(numbers.data, self._at(*lengths_at))

    def _at(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.memmap(self._file, dtype, "r", offset, shape)


CACHES: dict[str, Callable[[], _Memory | _Disk]] = {"memory": _Memory, "disk": _Disk}


class Cache:
    """Cache of the segments that a reader has read, which stores only while it is on.

    Args:
        where: The storage, "memory" or "disk".
        size: The bytes of all rows that the rank will read.
        neighbours: The number of ranks on this host, each of which caches as much.
    """

    def __init__(self, where: str, size: int, neighbours: int) -> None:
        self.on = self._failed = False
        self._where = where
        self._size = size
        self._neighbours = neighbours
        self._cache = CACHES[where]()
        self._kept: dict[tuple[int, int, int], Callable[[], Arrays]] = {}

    def turn_on(self) -> None:
        """Store all rows read from now on.

        Raises:
            ClusterError: The rows of this host's ranks don't fit into the free memory or disk, or an earlier write
                failed.
        """
        if not self.has_room():
            raise ClusterError(
                explain(
                    f"The rows don't fit into cacheData={self._where!r}.",
                    expected=f"at most {self._cache.free / 1e9:,.1f} GB, free in {self._cache.place}",
                    received=f"{self._size / 1e9:,.1f} GB for each of {self._neighbours} ranks on this host",
                    fix="Use more hosts, or "
                    + ("cacheData='disk'." if self._where == "memory" else "cacheData='none'."),
                )
            )
        self.on = True

    def has_room(self, part: float = 1.0) -> bool:
        """Return whether the rows of this host's ranks fit into a fraction of the free space.

        The free space is measured once, when the cache is created. False after a failed write.

        Args:
            part: The fraction of the free space, 0 to 1.
        """
        return not self._failed and self._size * self._neighbours <= part * self._cache.free

    def reading(self, read: Reader) -> Reader:
        """Wrap a reader, so that cached segments come from the cache and the others from that reader."""

        def read_missing(dataset: ConvertedDataset, segments: Sequence[Segment]) -> Iterator[Arrays]:
            keys = [(segment.block.block_id, segment.start, segment.stop) for segment in segments]
            # Computed once, as the cache may grow while the segments are read.
            missing = {key for key in keys if key not in self._kept}
            fresh = read(dataset, [s for s, key in zip(segments, keys, strict=True) if key in missing])
            for key in keys:
                if key not in missing:
                    yield self._kept[key]()
                else:
                    arrays = next(fresh)
                    if self.on:
                        self._keep(key, arrays)
                    yield arrays

        return read_missing

    def _keep(self, key: tuple[int, int, int], arrays: Arrays) -> None:
        try:
            self._kept[key] = self._cache.keep(arrays)
        except OSError as error:  # other processes may have filled the disk
            self.on, self._failed = False, True
            warn(f"Rows are read in each epoch, since they can't be cached. {error}")
