"""The replay buffer: a bounded sample of a stream's rows, by class, that is trained on again.

Source: Chrysakis and Moens: Online Continual Learning from Imbalanced Data, ICML 2020.
"""

from __future__ import annotations

import bisect
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spark_dl.data.ragged import joined, lengths, split
from spark_dl.streaming.checks import check_integer, check_number

__all__ = ["ReplayBuffer", "Sample"]


@dataclass(frozen=True)
class ReplayBuffer:
    """Settings of the rows that a stream trainer keeps and trains on again, in addition to those of each micro-batch.

    If the labels are class indices, the sample is balanced: each class has the same number of rows, as far as that many
    have arrived, and within a class each row was kept with the same probability. So a rare class is trained on as often
    as the others. Otherwise it is a uniform sample of all rows.

    Attributes:
        rows: The maximum number of rows.
        ratio: The number of replayed rows for each new row, sampled with replacement if there are fewer.

    Raises:
        OptionError: A value can't be used.
    """

    rows: int = 10_000
    ratio: float = 1.0

    def __post_init__(self) -> None:
        check_integer("rows", self.rows, 1)
        check_number("ratio", self.ratio, 0)


@dataclass
class Sample:
    """Reservoir of rows, balanced by class.

    Attributes:
        capacity: The maximum number of rows.
        arrays: The rows of each tensor.
        classes: The class of each row, int64 (rows,); 0 for all rows without classes.
        seen: The number of rows of each class that have been offered.
        full: The classes that have been the largest one when the reservoir was full.
    """

    capacity: int
    arrays: list[np.ndarray] = field(default_factory=list)
    classes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    seen: dict[int, int] = field(default_factory=dict)
    full: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.classes)

    def add(self, arrays: list[np.ndarray], classes: np.ndarray, random: np.random.Generator) -> None:
        """Offer rows in their order.

        Args:
            arrays: The rows of each tensor.
            classes: The class of each row, int64 (rows,).
            random: The generator of the draws.
        """
        held, offered = len(self), len(classes)
        if not self.arrays:
            self.arrays = [array[:0] for array in arrays]
        everything = np.concatenate([self.classes, classes])
        slots = list(range(held))  # what each slot holds, as an index into the held and the offered rows
        members: dict[int, list[int]] = {}
        for slot, kind in enumerate(self.classes.tolist()):
            members.setdefault(kind, []).append(slot)
        draws = random.random((offered, 2))
        for index, kind in enumerate(classes.tolist()):
            self.seen[kind] = self.seen.get(kind, 0) + 1
            chosen_slot = self._slot(kind, members, len(slots), *draws[index])
            if chosen_slot == len(slots):
                slots.append(held + index)
            elif chosen_slot is not None:
                slots[chosen_slot] = held + index
        chosen = np.array(slots, np.int64)
        self.classes = everything[chosen]
        self.arrays = [np.concatenate([mine, theirs])[chosen] for mine, theirs in zip(self.arrays, arrays, strict=True)]

    def _slot(self, kind: int, members: dict[int, list[int]], rows: int, keep: float, which: float) -> int | None:
        """Choose the slot of a new row of a class; None to leave it out."""
        own = members.setdefault(kind, [])
        if rows < self.capacity:
            # In an enlarged reservoir, later rows must not have a higher probability than earlier ones.
            if kind in self.full and keep * (self.seen[kind] - 1) >= len(own):
                return None
            own.append(rows)
            return rows
        largest = max(map(len, members.values()))
        self.full |= {one for one, slots in members.items() if len(slots) == largest}
        if kind in self.full:
            if own and keep < len(own) / self.seen[kind]:
                return own[int(which * len(own))]
            return None
        others = members[min(one for one, slots in members.items() if len(slots) == largest)]
        place = int(which * len(others))
        others[place], others[-1] = others[-1], others[place]
        own.append(others.pop())
        return own[-1]

    def draw(self, rows: int, random: np.random.Generator) -> list[np.ndarray]:
        """Sample rows, with replacement if more are requested than there are."""
        chosen = random.choice(len(self), rows, replace=rows > len(self))
        return [array[chosen] for array in self.arrays]

    def to_bytes(self) -> bytes:
        """Serialize the rows and counts; nothing is pickled."""
        parts: dict[str, Any] = {
            "classes": self.classes,
            "seen": np.array(sorted(self.seen.items()), np.int64).reshape(-1, 2),
            "full": np.array(sorted(self.full), np.int64),
        }
        for index, array in enumerate(self.arrays):
            if array.dtype == object:
                parts[f"bytes{index}"], parts[f"lengths{index}"] = joined(array), lengths(array)
            else:
                parts[f"array{index}"] = array
        file = io.BytesIO()
        np.savez(file, **parts)
        return file.getvalue()

    @staticmethod
    def of_bytes(capacity: int, content: bytes) -> Sample:
        """Load what `to_bytes` made, for a smaller or larger capacity than before.

        For a smaller capacity, rows of the largest classes are dropped. A larger one fills with rows of the same
        probability as earlier ones.
        """
        with np.load(io.BytesIO(content)) as parts:
            arrays, index = [], 0
            while f"array{index}" in parts or f"bytes{index}" in parts:
                plain = f"array{index}" in parts
                arrays.append(
                    parts[f"array{index}"]
                    if plain
                    else split(memoryview(parts[f"bytes{index}"].tobytes()), parts[f"lengths{index}"])
                )
                index += 1
            classes = parts["classes"]
            chosen, cut = _fitting(classes, capacity)
            seen = {int(kind): int(count) for kind, count in parts["seen"]}
            full = set(map(int, parts["full"])) | cut
        return Sample(capacity, [array[chosen] for array in arrays], classes[chosen], seen, full)


def _fitting(classes: np.ndarray, capacity: int) -> tuple[np.ndarray, set[int]]:
    """Choose rows for a capacity, by leaving out some of the largest classes; return their indices and these classes.

    Args:
        classes: The class of each row, int64 (rows,).
        capacity: The maximum number of rows.
    """
    kinds, counts = np.unique(classes, return_counts=True)
    level = bisect.bisect_right(range(capacity + 1), capacity, key=lambda most: int(np.minimum(counts, most).sum())) - 1
    kept = np.minimum(counts, level)
    kept[np.flatnonzero(counts > level)[: capacity - int(kept.sum())]] += 1
    random = np.random.default_rng(0)
    chosen = [
        random.permutation(np.flatnonzero(classes == kind))[:count] for kind, count in zip(kinds, kept, strict=True)
    ]
    indices: np.ndarray = np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))
    return indices.astype(np.int64), set(kinds[kept < counts].tolist())
