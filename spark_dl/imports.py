"""Importing much at once."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

__all__ = ["importing"]


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import without looking for garbage: what TensorFlow makes stays, and to search it takes long."""
    if "tensorflow" in sys.modules:  # what else is alive by now may be garbage some day
        yield
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
