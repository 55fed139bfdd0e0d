"""Reader of blocks with Petastorm, or with pyarrow alone where Petastorm can't be imported: chosen at the import."""

from __future__ import annotations

import logging

try:
    from spark_dl.data.readers.petastorm import read
except (ImportError, AttributeError) as error:  # not installed, or it lacks a name of this pyarrow or NumPy
    from spark_dl.data.readers.arrow import read

    logging.getLogger(__name__).info("Blocks are read with pyarrow: Petastorm can't be imported (%s)", error)

__all__ = ["read"]
