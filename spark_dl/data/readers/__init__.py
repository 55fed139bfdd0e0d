"""Registry of block readers by name; each reader is one module here and one line of READERS."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.shards import Segment
from spark_dl.errors import OptionError, explain, hint

__all__ = ["READERS", "Reader", "check_reader", "reader"]

# Yields for each segment, in order, the rows of each tensor.
Reader = Callable[[ConvertedDataset, Sequence[Segment]], Iterator[list[np.ndarray]]]

READERS = {
    "auto": "spark_dl.data.readers.auto",
    "petastorm": "spark_dl.data.readers.petastorm",
    "arrow": "spark_dl.data.readers.arrow",
}


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


def check_reader(name: str) -> None:
    """Check that Petastorm is installed where it is set by name; nothing is imported.

    Raises:
        OptionError: It isn't.
    """
    if name == "petastorm" and importlib.util.find_spec("petastorm") is None:
        raise OptionError(
            explain(
                "Petastorm isn't installed here.",
                expected="the package petastorm, on the driver and on every executor",
                received="reader='petastorm'",
                fix="pip install petastorm==0.13.1, or set reader='auto', which reads with pyarrow then.",
            )
        )
