"""What a store is given of a fit: metrics under names that it accepts, and each entry's refusal its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["MetricNames", "log_each", "numbers_of"]

_LONGEST_NAME = 250
_FOREIGN = re.compile(r"[^/\w.\- :]")
# So many entries in a row are refused before the store is taken to refuse all.
_REFUSED_AT_MOST = 8


class MetricNames:
    """Names of metrics as MLflow accepts them: distinct names stay distinct.

    Args:
        known: name -> accepted name, as the run has them already.

    Attributes:
        changed: the names that aren't accepted as they are -> those under which they are logged.
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self.changed = dict(known or {})
        self._owners = {accepted: name for name, accepted in self.changed.items()}

    def accepted(self, names: Sequence[str]) -> dict[str, str]:
        """The accepted name of each."""
        # What may keep its name does: another's changed name makes way.
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
    """A name of letters, digits and `_-. :/` that is a plain relative path; the name itself where it is one."""
    parts = [part for part in _FOREIGN.sub("_", name[:_LONGEST_NAME]).split("/") if part]
    text = "/".join("_" * len(part) if part in (".", "..") else part for part in parts)
    return re.sub(r"^\.\.", "__", text) or "metric"


def numbers_of(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """The numbers of metrics: the metric's name, the number's, which of a vector is `name_0`, `name_1`, and itself."""
    for name, value in metrics.items():
        for part, number in _parts(name, value):
            while part != name and part in metrics:  # another metric is called so
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
    """Write entries together; where the store refuses them, in ever smaller parts, so that one costs no other.

    Args:
        write: writes some of them, all or none.
        entries: what is written.
        is_refusal: whether an error may be for what was written, and not for the store's state.

    Returns:
        those that were refused, with the reasons.

    Raises:
        Exception: the store refuses all, or can't be used.
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
