"""Scoring around rows that can't be scored, under scoreNullPolicy="null" or "drop"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spark_dl.data.columns import decode_tensor
from spark_dl.data.specs import FeatureSpec

__all__ = ["Scored", "known_rows"]


@dataclass(frozen=True)
class Scored:
    """The outputs of a batch of rows.

    Attributes:
        columns: The values of the head's fields, by field.
        unscorable: Boolean, shape (rows,): rows that couldn't be scored, whose values mean nothing; None for none.
    """

    columns: Mapping[str, np.ndarray]
    unscorable: np.ndarray | None = None

    def known(self) -> dict[str, np.ndarray]:
        """Return the values of the rows that were scored."""
        if self.unscorable is None:
            return dict(self.columns)
        return {field: values[~self.unscorable] for field, values in self.columns.items()}


def known_rows(
    predict: Callable[..., list[np.ndarray]],
    features: Sequence[FeatureSpec],
    inputs: Sequence[np.ndarray],
    unscorable: np.ndarray,
) -> list[np.ndarray]:
    """Compute the model's outputs for the rows that can be scored.

    Args:
        predict: The model, as a function from its inputs to its outputs.
        features: The specification of each input.
        inputs: An array for each input.
        unscorable: Boolean, shape (rows,): the rows to leave out. If the model fails, rows with bytes that fail to be
            decoded are marked, too.

    Returns:
        An array for each output, with zeros in the rows that were left out.
    """
    try:
        found = predict(*(one[~unscorable] for one in inputs))
    except Exception:
        undecodable = _undecodable(features, inputs, ~unscorable)
        if not undecodable.any():
            raise
        unscorable |= undecodable
        found = predict(*(one[~unscorable] for one in inputs))
    outputs = []
    for part in found:
        whole = np.zeros((len(unscorable), *part.shape[1:]), part.dtype)
        whole[~unscorable] = part
        outputs.append(whole)
    return outputs


def _undecodable(features: Sequence[FeatureSpec], inputs: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Mark those of some rows whose bytes fail to be decoded alone."""
    marked = np.zeros(len(rows), bool)
    for spec, contents in zip(features, inputs, strict=True):
        for row in np.flatnonzero(rows) if spec.coding else ():
            try:
                decode_tensor(contents[row : row + 1], spec.coding, spec.shape, spec.dtype)
            except Exception:
                marked[row] = True
    return marked
