"""Registry of block readers by name; each reader is one module here and one line of READERS."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.shards import Segment
from spark_dl.errors import OptionError, explain, hint
from spark_dl.io.paths import missing_package, normalized

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
        name: The name. For "auto", pyarrow reads URLs whose package Petastorm lacks; it opens S3 and GCS itself.
        url: The URL of the blocks' directory; "" if it is local.

    Raises:
        OptionError: No reader has this name.
    """
    if name not in READERS:
        raise OptionError(
            explain(
                f"There is no reader {name!r}.", expected="the name of a reader", received=name, fix=hint(name, READERS)
            )
        )
    if name == "auto" and url and missing_package(url):
        name = "arrow"
    read: Reader = importlib.import_module(READERS[name]).read
    return read


def check_reader(name: str, cache_dir: str | None = None) -> None:
    """Check that Petastorm and its package for a URL are installed where it is set by name; Petastorm isn't imported.

    Args:
        name: The reader's name.
        cache_dir: The path or URL below which the blocks will be.

    Raises:
        OptionError: One of them isn't.
        StoreError: The path can't be used (see `paths.normalized`).
    """
    if name != "petastorm":
        return
    if importlib.util.find_spec("petastorm") is None:
        raise OptionError(
            explain(
                "Petastorm isn't installed here.",
                expected="the package petastorm, on the driver and on every executor",
                received="reader='petastorm'",
                fix="pip install petastorm==0.13.1, or set reader='auto', which reads with pyarrow then.",
            )
        )
    if cache_dir is not None and (package := missing_package(normalized(cache_dir))):
        raise OptionError(
            explain(
                f"Petastorm opens this cacheDir with the package {package}, which isn't installed here.",
                expected=f"{package}, on the driver and on every executor",
                received=f"reader='petastorm' with cacheDir={cache_dir!r}",
                fix=f"pip install {package}, or set reader='auto', which reads with pyarrow where pyarrow can.",
            )
        )
