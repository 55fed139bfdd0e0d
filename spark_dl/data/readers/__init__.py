"""Ways to read blocks, by name. A reader is one file here and its line in the table."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.shards import Segment
from spark_dl.errors import OptionError, explain, hint

__all__ = ["READERS", "Reader", "reader"]

# Gives the tensors' rows of each segment, in the segments' order.
Reader = Callable[[ConvertedDataset, Sequence[Segment]], Iterator[list[np.ndarray]]]

READERS = {"petastorm": "spark_dl.data.readers.petastorm"}


def reader(name: str) -> Reader:
    """The reader of that name, imported now.

    Raises:
        OptionError: there is none.
    """
    if name not in READERS:
        raise OptionError(explain(f"There is no reader {name!r}.", fix=hint(name, READERS)))
    read: Reader = importlib.import_module(READERS[name]).read
    return read
