"""Entries of a tracking store: metric names that MLflow accepts, and writing in batches where some may be refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["MetricNames", "log_each", "numbers_of"]

_LONGEST_NAME = 250
_FOREIGN = re.compile(r"[^/\w.\- :]")
# After this many refused entries and none written, the store counts as refusing all.
_REFUSED_AT_MOST = 8


class MetricNames:
    """Mapping of metric names to names that MLflow accepts, where distinct names stay distinct.

    Args:
        known: The names that the run has already changed: name -> accepted name.
        taken: The names that metrics of the user's own have in the run.

    Attributes:
        changed: The names that are taken or that MLflow doesn't accept unchanged: name -> accepted name.
    """

    def __init__(self, known: Mapping[str, str] | None = None, taken: Iterable[str] = ()) -> None:
        self.changed = dict(known or {})
        self._owners = dict.fromkeys(taken, "")
        self._owners |= {accepted: name for name, accepted in self.changed.items()}

    def accepted(self, names: Sequence[str]) -> dict[str, str]:
        """Map each name to its accepted name."""
        # Acceptable names come first, so that they stay unchanged and a changed name gives way.
        for name in sorted(names, key=lambda one: _accepted(one) != one):
            if name not in self.changed and self._owners.get(name) != name:
                accepted = self._free(_accepted(name))
                self._owners[accepted] = name
                if accepted != name:
                    self.changed[name] = accepted
        return {name: self.changed.get(name, name) for name in names}

    def _free(self, wanted: str) -> str:
        candidate, count = wanted, 1
        while candidate in self._owners:
            count += 1
            ending = f"_{count}"
            candidate = wanted[: _LONGEST_NAME - len(ending)] + ending
        return candidate


def _accepted(name: str) -> str:
    """Turn a name into a plain relative path of letters, digits and `_-. :/`; a name that is one stays unchanged."""
    parts = [part for part in _FOREIGN.sub("_", name[:_LONGEST_NAME]).split("/") if part]
    text = "/".join("_" * len(part) if part in (".", "..") else part for part in parts)
    return re.sub(r"^\.\.", "__", text) or "metric"


def numbers_of(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield each number of metrics as (metric's name, number's name, number).

    The numbers of a vector are named `name_0`, `name_1` and so on.
    """
    for name, value in metrics.items():
        for part, number in _parts(name, value):
            while part != name and part in metrics:  # another metric has this name
                part += "_"
            yield name, part, number


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        for index, part in enumerate(value):
            yield from _parts(f"{name}_{index}", part)
    else:
        yield name, value


def log_each(
    write: Callable[[Sequence[Any]], None], entries: Sequence[Any], is_refusal: Callable[[Exception], bool]
) -> list[tuple[Any, Exception]]:
    """Write entries together and bisect refused batches, so that a refused entry doesn't cost others.

    Args:
        write: Writes a batch, all or nothing.
        entries: The entries.
        is_refusal: Tells whether an error may be due to the entries, and not to the store's state.

    Returns:
        The refused entries, each with the error.

    Raises:
        Exception: An error isn't a refusal, or the first entries (8, or all if they are fewer) are all refused.
    """
    refused: list[tuple[Any, Exception]] = []
    written = 0
    waiting = [entries] if entries else []
    while waiting:
        some = waiting.pop()
        try:
            write(some)
            written += len(some)
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(some) > 1:
                waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
                continue
            refused.append((some[0], error))
            if not written and len(refused) >= min(_REFUSED_AT_MOST, len(entries)):
                raise
    return refused
