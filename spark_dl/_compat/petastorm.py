"""Petastorm's reader without its faults, on any pyarrow and NumPy. Checked with Petastorm 0.13.1."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fsspec

from spark_dl._compat.legacy_pyarrow import has_legacy_pyarrow, legacy_names, legacy_parquet
from spark_dl.errors import StoreError, explain

with legacy_names():
    import petastorm.arrow_reader_worker
    import petastorm.etl.dataset_metadata
    import petastorm.reader

__all__ = ["block_reader"]

if not has_legacy_pyarrow():
    for _module in (petastorm.arrow_reader_worker, petastorm.etl.dataset_metadata, petastorm.reader):
        _module.pq = legacy_parquet()


@contextlib.contextmanager
def block_reader(urls: Sequence[str], threads: int) -> Iterator[Callable[[], object]]:
    """Open Petastorm's reader of Parquet files with one row group each.

    It isn't used as a context manager itself, since that prints a line at its end.

    Args:
        urls: The URLs of the files; a file that is listed twice is read twice.
        threads: The number of threads that read.

    Yields:
        The function that returns the next row group, in any order: an object with one array per column. It must not be
        called more often than there are files.
    """
    reader = petastorm.reader.make_batch_reader(
        list(urls),
        reader_pool_type="thread",
        workers_count=threads,
        shuffle_row_groups=False,
        num_epochs=1,
        filesystem=_filesystem(urls[0]),
    )
    try:
        yield lambda: _next(reader)
    finally:
        reader.stop()
        reader.join()


def _filesystem(url: str) -> Any:
    """Return the file system to read with; None for Petastorm's choice, which pyarrow's removed API has to serve."""
    return None if has_legacy_pyarrow() else fsspec.core.url_to_fs(url)[0]


def _next(reader: Iterator[object]) -> object:
    """Return the reader's next row group, where one must follow, despite a race in Petastorm.

    Petastorm's pool checks first that all ventilated items are processed, and then that all items are ventilated. If
    the last files are ventilated between the checks, it reports the end too early, which can happen only once.

    Raises:
        StoreError: Petastorm delivered fewer row groups than files.
    """
    for _ in range(2):
        with contextlib.suppress(StopIteration):
            return next(reader)
    raise StoreError(
        explain(
            "Petastorm gave fewer blocks than files.",
            expected="one for each file",
            received="fewer",
            fix="Report it as a bug, with the versions that `spark-dl doctor` prints.",
        )
    )
