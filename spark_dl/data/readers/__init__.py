"""Registry of block readers by name; each reader is one module here and one line of READERS."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.shards import Segment
from spark_dl.errors import OptionError, explain, hint
from spark_dl.io.paths import LOCAL, normalized

__all__ = ["READERS", "Reader", "check_reader", "reader"]

# Yields for each segment, in order, the rows of each tensor.
Reader = Callable[[ConvertedDataset, Sequence[Segment]], Iterator[list[np.ndarray]]]

READERS = {
    "auto": "spark_dl.data.readers.auto",
    "petastorm": "spark_dl.data.readers.petastorm",
    "arrow": "spark_dl.data.readers.arrow",
}


def reader(name: str, url: str = "") -> Reader:
    """Import the reader of a name.

    Args:
        name: The name. "auto" is pyarrow where Petastorm can't read the directory.
        url: The URL of the blocks' directory.

    Raises:
        OptionError: No reader has this name.
    """
    if name not in READERS:
        raise OptionError(
            explain(
                f"There is no reader {name!r}.", expected="the name of a reader", received=name, fix=hint(name, READERS)
            )
        )
    if name == "auto" and url and not _for_petastorm(url):
        name = "arrow"
    read: Reader = importlib.import_module(READERS[name]).read
    return read


def check_reader(name: str, cache_dir: str | None = None) -> None:
    """Check that Petastorm can be imported and read the directory where it is set by name.

    Args:
        name: The reader's name.
        cache_dir: The path or URL below which the blocks will be.

    Raises:
        OptionError: It can't be imported, or can't read the directory.
        StoreError: The path can't be used (see `paths.normalized`).
    """
    if name != "petastorm":
        return
    try:
        importlib.import_module(READERS[name])
    except (ImportError, AttributeError) as error:  # the latter with a pyarrow or NumPy that Petastorm doesn't know
        raise OptionError(
            explain(
                "Petastorm can't be imported here.",
                expected="the package petastorm, on the driver and on every executor",
                received=f"reader='petastorm' ({type(error).__name__}: {error})",
                fix="pip install petastorm==0.13.1, or set reader='auto', which reads with pyarrow then.",
            )
        ) from error
    if cache_dir is not None and not _for_petastorm(normalized(cache_dir)):
        raise OptionError(
            explain(
                "Petastorm reads local directories only.",
                expected="a cacheDir that all hosts mount, without # and ?, or reader='auto'",
                received=f"reader='petastorm' with cacheDir={cache_dir!r}",
                fix="Set reader='auto', which reads the same rows with pyarrow.",
            )
        )


def _for_petastorm(url: str) -> bool:
    """Return whether Petastorm can read a directory: no fsspec file system with pyarrow 14, no path that it cuts."""
    return url.startswith(LOCAL) and not any(mark in url for mark in "#?")
