"""Registry of block readers by name; each reader is one module here and one line of READERS."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.shards import Segment
from spark_dl.errors import OptionError, explain, hint

__all__ = ["READERS", "Reader", "reader"]

# Yields for each segment, in order, the rows of each tensor.
Reader = Callable[[ConvertedDataset, Sequence[Segment]], Iterator[list[np.ndarray]]]

READERS = {"petastorm": "spark_dl.data.readers.petastorm"}


def reader(name: str) -> Reader:
    """Import the reader of a name.

    Raises:
        OptionError: No reader has this name.
    """
    if name not in READERS:
        raise OptionError(
            explain(
                f"There is no reader {name!r}.", expected="the name of a reader", received=name, fix=hint(name, READERS)
            )
        )
    read: Reader = importlib.import_module(READERS[name]).read
    return read
