"""A Keras model that is tested and trained in this process, batch after batch, without being built again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cloudpickle
import numpy as np

from spark_dl.data.batches import keras_batch
from spark_dl.data.dataset import Tensor
from spark_dl.log_values import plain_logs, plain_value
from spark_dl.options import TrainingOptions
from spark_dl.score.heads import Head

__all__ = ["Learner"]

# Rows of a batch in testing.
_TEST_ROWS = 1024


class Learner:
    """Compiled Keras model that takes the steps that a fit by one worker takes.

    Args:
        content: The model's `.keras` bytes, with the optimizer's state.
        custom_objects: The cloudpickled dict of custom objects.
        augment: The cloudpickled augmentation layers; empty for none.
        tensors: The tensors of features, labels and the optional weight.
        options: The options of the training loop.
    """

    def __init__(
        self,
        content: bytes,
        custom_objects: bytes,
        augment: bytes,
        tensors: Sequence[Tensor],
        options: TrainingOptions,
    ) -> None:
        import tensorflow as tf

        from spark_dl._compat.keras import is_seed
        from spark_dl.train.augment import augment_features
        from spark_dl.train.model.keras_settings import apply_settings
        from spark_dl.train.model.parts import leaves, seed_states
        from spark_dl.train.model.serialization import from_bytes, settings_of
        from spark_dl.train.step import compile_gradients

        self._settings: Callable[[], contextlib.AbstractContextManager[None]] = functools.partial(
            apply_settings, settings_of(content)
        )
        self._objects = cloudpickle.loads(custom_objects)
        self._tensors, self._options = tuple(tensors), options
        self._model = model = from_bytes(content, self._objects)
        model.jit_compile = False
        with self._settings():
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            if options.jit_compile:
                compile_gradients(model)
            layers = cloudpickle.loads(augment) if augment else []
            if augment:
                augment_features(model, layers, 0)
        drawn = [variable for layer in leaves(layers) for variable in layer.variables if is_seed(variable)]
        self._seeds = [*seed_states(model), *drawn]

        def graph(step: Any) -> Any:
            return step if model.run_eagerly else tf.function(step, reduce_retracing=True, autograph=False)

        self._train_step, self._test_step = graph(model.train_step), graph(model.test_step)
        self._call = graph(lambda features: model(features, training=False))
        self._general: set[int] = set()

    def test(self, arrays: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return the loss and the metrics on rows, as `keras.Model.evaluate` does."""
        self._model.reset_metrics()
        with self._settings():
            for part in _parts(arrays, _TEST_ROWS):
                self._step(self._test_step, self._batch(part))
        return self._metrics()

    def predict(self, arrays: Sequence[np.ndarray], head: Head) -> dict[str, np.ndarray]:
        """Return the head's fields on rows."""
        import tensorflow as tf

        found = []
        with self._settings():
            for part in _parts(arrays, _TEST_ROWS):
                batch = self._batch(part)
                outputs = self._step(self._call, batch[0] if isinstance(batch, tuple) else batch)
                found.append(head.columns([np.asarray(output) for output in tf.nest.flatten(outputs)]))
        return {name: np.concatenate([columns[name] for columns in found]) for name in found[0]}

    def train(self, arrays: Sequence[np.ndarray], seed: Sequence[int]) -> dict[str, Any]:
        """Train on rows for the epochs of the options, and return the metrics of the last one.

        Args:
            arrays: The rows of each tensor.
            seed: The seed of the shuffles and of dropout: the same rows and seed give the same weights.
        """
        options, model = self._options, self._model
        random = np.random.default_rng(list(seed))
        for variable in self._seeds:
            variable.assign(random.integers(0, 2**32, variable.shape).astype(str(variable.dtype)))
        with self._settings():
            for _ in range(options.epochs):
                model.reset_metrics()
                rows = list(arrays)
                if options.shuffle:
                    order = random.permutation(len(arrays[0]))
                    rows = [array[order] for array in arrays]
                for part in _parts(rows, options.global_batch_size or options.batch_size):
                    self._step(self._train_step, self._batch(part))
            model.optimizer.finalize_variable_values(model.trainable_variables)
        return self._metrics()

    def take(self, content: bytes) -> bool:
        """Load another training's result into the graphs that this model already has; return whether it could.

        Args:
            content: The `.keras` bytes of the model after further training.

        Returns:
            False, with nothing changed, if more than the values of variables differs.
        """
        from spark_dl.train.model.serialization import from_bytes
        from spark_dl.train.model.values import take_values

        other = from_bytes(content, self._objects)
        with self._settings():
            return _config(self._model) == _config(other) and take_values(self._model, other)

    def content(self) -> bytes:
        """Return the model as `.keras` bytes, with the optimizer's state."""
        import keras

        from spark_dl.train.model.serialization import to_bytes

        with self._settings(), keras.saving.custom_object_scope(self._objects):
            return to_bytes(self._model)

    def larger_is_better(self, metric: str) -> bool | None:
        """Return whether larger values of a metric are better; None if its direction is unknown."""
        from spark_dl.train.metrics.best import mode_of

        return {"max": True, "min": False}.get(mode_of(self._model, metric))

    def not_finite(self) -> str:
        """Return the path of the first variable with NaN or infinite values; "" if there is none."""
        from spark_dl.train.callbacks.finite import first_not_finite

        return first_not_finite(self._model)

    def _step(self, step: Any, batch: Any) -> Any:
        """Call a step, whose graph is traced for any number of rows: not again for the last rows of a batch."""
        import tensorflow as tf

        if hasattr(step, "get_concrete_function") and id(step) not in self._general:
            self._general.add(id(step))
            step.get_concrete_function(
                tf.nest.map_structure(lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), batch)
            )
        return step(batch)

    def _batch(self, part: Sequence[np.ndarray]) -> Any:
        return keras_batch(self._tensors, part)

    def _metrics(self) -> dict[str, Any]:
        logs = plain_logs(self._model.get_metrics_result())
        return {name: plain_value(value) for name, value in logs.items()}


def _config(model: Any) -> Any:
    """Return the config of a model and its optimizer, without a learning rate that is a variable's value."""
    from spark_dl.train.model.identity import config_of

    config = config_of(model)
    optimizer = config["compile_config"]["optimizer"]["config"]
    if isinstance(optimizer.get("learning_rate"), float):
        del optimizer["learning_rate"]
    return config


def _parts(arrays: Sequence[np.ndarray], rows: int) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(arrays[0]), rows):
        yield [array[start : start + rows] for array in arrays]
