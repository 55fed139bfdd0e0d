"""Names of pyarrow's removed API that Petastorm's `make_batch_reader` takes. Checked with Petastorm 0.13.1.

pyarrow 15 removed `pyarrow.filesystem`, `pyarrow.hdfs` and the datasets of row groups in `pyarrow.parquet`, and NumPy 2
two names of types. Nothing that exists is replaced: where pyarrow still has its API, Petastorm gets that.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["ParquetDataset", "ParquetDatasetPiece", "has_legacy_pyarrow", "legacy_names", "legacy_parquet"]


def has_legacy_pyarrow() -> bool:
    """Return whether pyarrow has the API itself (`pyarrow.parquet.ParquetDatasetPiece`)."""
    return hasattr(pq, "ParquetDatasetPiece")


@contextlib.contextmanager
def legacy_names() -> Iterator[None]:
    """Supply what is missing while Petastorm is imported.

    The import takes `pyarrow.filesystem.LocalFileSystem`, `pyarrow.hdfs.HadoopFileSystem`, `pyarrow.lib.ArrowIOError`.
    Reading doesn't use them, so that they are removed afterwards. `numpy.string_` and `numpy.unicode_` are looked up by
    each reader, and stay.
    """
    for name, kind in (("string_", np.bytes_), ("unicode_", np.str_)):
        if not hasattr(np, name):
            setattr(np, name, kind)
    modules = {"pyarrow.filesystem": "LocalFileSystem", "pyarrow.hdfs": "HadoopFileSystem"}
    missing = {} if has_legacy_pyarrow() else {name: m for name, m in modules.items() if _is_missing(name)}
    no_error = not hasattr(pa.lib, "ArrowIOError")
    for name, member in missing.items():
        module = types.ModuleType(name)
        setattr(module, member, type(member, (), {}))
        sys.modules[name] = module
    if no_error:
        pa.lib.ArrowIOError = OSError
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
        if no_error:
            del pa.lib.ArrowIOError


def _is_missing(name: str) -> bool:
    return name not in sys.modules and importlib.util.find_spec(name) is None


def legacy_parquet() -> types.SimpleNamespace:
    """Return what Petastorm takes from `pyarrow.parquet`, for a pyarrow without it."""
    return types.SimpleNamespace(
        ParquetDataset=ParquetDataset, ParquetDatasetPiece=ParquetDatasetPiece, read_metadata=pq.read_metadata
    )


class ParquetDatasetPiece:
    """A Parquet file, or one row group of it.

    Args:
        path: The file's path.
        open_file_func: Opens a path for reading.
        row_group: The number of the row group; None for the file.
        partition_keys: The values that the path's directories tell; these datasets have none.
    """

    def __init__(
        self,
        path: str,
        open_file_func: Callable[[str], Any],
        row_group: int | None = None,
        partition_keys: Sequence[Any] = (),
    ) -> None:
        self.path = path
        self.row_group = row_group
        self.partition_keys = partition_keys
        self._open = open_file_func

    def get_metadata(self) -> pq.FileMetaData:
        """Read the file's footer."""
        with self._open(self.path) as file:
            return pq.ParquetFile(file).metadata

    def read(self, columns: Collection[str] | None = None, partitions: None = None) -> pa.Table:
        """Read the row group.

        Args:
            columns: The names of the columns; None for all.
            partitions: None, as these datasets have none.
        """
        with self._open(self.path) as file:
            parquet = pq.ParquetFile(file)
            chosen = None if columns is None else list(columns)
            return parquet.read_row_group(self.row_group, columns=chosen, use_threads=False)


class ParquetDataset:
    """Parquet files without a common metadata file.

    Args:
        path_or_paths: The paths of the files.
        filesystem: The file system, with `open`.
        validate_schema: Without effect: blocks are written with one schema.
        metadata_nthreads: Without effect: footers are read by the caller.
        filters: None, as row groups aren't filtered.
    """

    partitions = metadata = common_metadata = None

    def __init__(
        self,
        path_or_paths: Sequence[str],
        filesystem: Any,
        validate_schema: bool = False,
        metadata_nthreads: int = 1,
        filters: None = None,
    ) -> None:
        self.fs = filesystem
        self.paths = path_or_paths
        self.pieces = [ParquetDatasetPiece(path, filesystem.open) for path in path_or_paths]
