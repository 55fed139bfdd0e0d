"""The notebook's kernel: whether there is one, its displays, and output that is updated in place."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["LiveOutput", "in_notebook", "no_display"]


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, which shows HTML."""
    return hasattr(_shell(), "kernel")


@contextlib.contextmanager
def no_display() -> Iterator[None]:
    """Discard what libraries display in the notebook while the `with` lasts; printed text is still shown."""
    if not in_notebook():
        yield
        return
    with importlib.import_module("IPython.utils.capture").capture_output(stdout=False, stderr=False, display=True):
        yield


class LiveOutput:
    """One output of the current cell, updated in place, so that a saved notebook has its last state alone."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, html: str, text: str) -> None:
        """Replace the output.

        Args:
            html: The output as HTML.
            text: The output as plain text, for front ends without HTML.
        """
        content = {"text/html": html, "text/plain": text}
        if self._handle is None:
            display = importlib.import_module("IPython.display").display
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def _shell() -> Any:
    """Return IPython's shell; None where IPython isn't running."""
    ipython = sys.modules.get("IPython")  # running only if it is imported
    return ipython.get_ipython() if ipython is not None else None
