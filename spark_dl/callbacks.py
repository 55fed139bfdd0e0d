"""Keras callbacks for the option `callbacks`; they work in plain Keras, too."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import all_layers
from spark_dl.errors import ModelError, OptionError, explain, hint

__all__ = ["MagnitudePruning"]


class MagnitudePruning(keras.callbacks.Callback):
    """Callback that sets the smallest weights of each matrix to zero, more of them from epoch to epoch.

    The share of zeros rises by the cubic schedule of Zhu and Gupta, "To prune, or not to prune" (arXiv:1710.01878):
    quickly at first, while there are many weights to spare. At the beginning of each epoch, the weights of the smallest
    magnitude are chosen; they are set to zero then and after each step. Since all ranks have equal weights, they choose
    the same. The saved model has the zeros, which compression makes use of; its layers and its speed are as before.

    Biases, scales and other vectors aren't pruned. Weights of an earlier epoch, which restoreBestWeights may choose,
    have fewer zeros: with it, set end=0 for the whole sparsity from the first epoch on.

    Example:

        >>> import keras
        >>> import numpy as np
        >>> from spark_dl.callbacks import MagnitudePruning
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> pruning = MagnitudePruning(0.75, end=1)
        >>> history = model.fit(np.ones((8, 8)), np.ones(8), epochs=3, callbacks=[pruning], verbose=0)
        >>> int(np.count_nonzero(model.layers[0].kernel))
        2

    Args:
        sparsity: The share of zeros in the end, above 0 and below 1.
        begin: The epoch, counted from 0, before which nothing is pruned.
        end: The epoch that has the whole sparsity for the first time; not set, the middle of the training, so that the
            other half is for recovery.
        layers: The names of the layers to prune; not set, all.

    Raises:
        OptionError: A value can't be used.
    """

    def __init__(
        self, sparsity: float = 0.8, begin: int = 0, end: int | None = None, layers: Iterable[str] | None = None
    ) -> None:
        super().__init__()
        if not (isinstance(sparsity, (int, float)) and 0 < sparsity < 1):
            raise _unusable("sparsity", "a number above 0 and below 1", sparsity)
        epochs = [begin] if end is None else [begin, end]
        if not all(isinstance(epoch, int) for epoch in epochs) or not 0 <= begin <= epochs[-1]:
            raise _unusable("begin and end", "integers, 0 <= begin <= end", f"{begin!r}, {end!r}")
        if isinstance(layers, str):
            raise _unusable("layers", "a list of names", layers)
        self.sparsity, self.begin, self.end = float(sparsity), begin, end
        self.layers = None if layers is None else tuple(layers)
        self._masked: list[tuple[Any, Any]] = []

    def sparsity_at(self, epoch: int, epochs: int) -> float:
        """Return the share of zeros in an epoch.

        Args:
            epoch: The epoch, counted from 0.
            epochs: How many epochs the training has.
        """
        end = max(self.begin, epochs // 2 - 1) if self.end is None else self.end
        if epoch < self.begin:
            return 0.0
        done = min(1.0, (epoch - self.begin + 1) / (end - self.begin + 1))
        return self.sparsity * (1 - (1 - done) ** 3)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Choose the weights of the smallest magnitude, and set them to zero."""
        share = self.sparsity_at(epoch, self.params["epochs"])
        self._masked = [(weight, _mask(weight, share)) for weight in self._weights()] if share else []
        self._apply()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Set the chosen weights to zero again, which the optimizer has moved."""
        self._apply()

    def on_train_end(self, logs: Any = None) -> None:
        """Set the chosen weights to zero in the moving averages, which Keras has made the weights if there are any."""
        if getattr(self.model.optimizer, "use_ema", False):
            self._apply()

    def _apply(self) -> None:
        for weight, mask in self._masked:
            weight.assign(keras.ops.where(mask, weight, keras.ops.zeros_like(weight)))  # without -0.0

    def _weights(self) -> list[Any]:
        """Return the matrices of the layers to prune, each once."""
        layers = all_layers(self.model)
        known = {layer.name for layer in layers}
        for name in self.layers or ():
            if name not in known:
                raise ModelError(
                    explain(
                        f"The model has no layer {name!r} to prune.",
                        expected="names of the model's layers",
                        received=name,
                        fix=hint(name, known),
                    )
                )
        chosen = [layer for layer in layers if self.layers is None or layer.name in self.layers]
        found = {id(weight): weight for layer in chosen for weight in layer.trainable_weights if len(weight.shape) > 1}
        return list(found.values())


def _mask(weight: Any, share: float) -> Any:
    """Return False for the given share of smallest magnitudes, of equal ones the first, and True for the others."""
    sizes = np.abs(np.asarray(weight, np.float64)).ravel()
    mask = np.ones(sizes.size, bool)
    mask[np.argsort(sizes, kind="stable")[: math.floor(share * sizes.size)]] = False
    return keras.ops.convert_to_tensor(mask.reshape(weight.shape))


def _unusable(name: str, expected: str, received: object) -> OptionError:
    return OptionError(
        explain(
            f"{name} of MagnitudePruning can't be used.", expected=expected, received=received, fix="Set other values."
        )
    )
