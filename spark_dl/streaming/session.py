"""The session of a stream trainer while its query runs: the committed state, with the models and rows in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
from pyspark.sql.types import StructType

from spark_dl.errors import ModelError, StoreError, explain
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.io.store import Store
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.options import TrainingOptions
from spark_dl.redaction import warn
from spark_dl.score.heads import Classification
from spark_dl.streaming.drift import Adwin
from spark_dl.streaming.learner import Learner
from spark_dl.streaming.replay import ReplayBuffer, Sample
from spark_dl.streaming.rows import check_columns, check_fed, classes_of, fed_columns, prediction_errors
from spark_dl.streaming.state import StreamState, commit, read_file, read_state

__all__ = ["Session", "load_sample"]

_SHOWN = 3  # layers that differ


@dataclass
class Session:
    """State, models and rows of a stream trainer.

    Attributes:
        store: The directory of the state.
        spec: The specification of a fit on the stream's columns.
        state: The state as it is committed next.
        learner: The model that learns.
        content: The champion's `.keras` bytes; None without a champion.
        champion: The champion; None without one.
        sample: The replay buffer's rows; None without one.
        drift: The drift detector; None without one.
        changed: The contents of files to commit, by role.
    """

    store: Store
    spec: FitSpec
    state: StreamState
    learner: Learner
    champion: Learner | None
    sample: Sample | None
    drift: Adwin | None
    changed: dict[str, bytes]

    @staticmethod
    def open(
        estimator: KerasEstimator,
        store: Store,
        columns: StructType,
        buffer: ReplayBuffer | None,
        drift: Adwin | None,
    ) -> Session:
        """Load the committed state, or begin a new one.

        Args:
            estimator: The estimator.
            store: The directory of the state.
            columns: The schema of the stream.
            buffer: The settings of the replay buffer, or None.
            drift: The settings of the drift detector, or None.

        Raises:
            DataError: The columns aren't those of the state, or can't be fed to the model.
            ModelError: The state's model isn't the estimator's, or the estimator's can't be trained.
            StoreError: The state can't be read.
        """
        store.make()
        state = read_state(store)
        check_columns(columns, state.columns, store.shown)
        spec = build_fit_spec(estimator, columns, estimator._options())
        fed = fed_columns(spec.conversion)
        check_fed(fed, state.fed, "buffer" in state.files, store.shown)
        state.columns, state.fed = spec.columns.jsonValue(), fed
        kept, champion, rows = (read_file(store, state, role) for role in ("model", "champion", "buffer"))
        content = spec.content if kept is None else _continued(spec, kept, state, store)
        state.classes = _classes(spec)
        return Session(
            store,
            spec,
            state,
            _learner(spec, content),
            _learner(spec, champion) if champion else None,
            None if buffer is None else load_sample(buffer.rows, rows, store),
            None if drift is None else drift.restored(state.drift),
            {},
        )

    def replace_learner(self, content: bytes) -> None:
        """Continue with another model: that of a fit on ranks."""
        if not self.learner.take(content):
            self.learner = _learner(self.spec, content)

    def set_champion(self, content: bytes, version: str, unpublished: int) -> None:
        """Use a model as the champion, and start a new comparison."""
        self.champion = _learner(self.spec, content)
        self.changed["champion"] = content
        self.state.version, self.state.unpublished, self.state.contest = version, unpublished, []

    def detect(self, arrays: Sequence[np.ndarray]) -> bool:
        """Add prediction errors to the drift detector; return whether it finds that they have grown.

        The rows of the replay buffer, which precede the drift, are dropped then. Decreasing errors are no drift: the
        model learns.
        """
        if self.drift is None:
            return False
        head, conversion = self.spec.head, self.spec.conversion
        errors = prediction_errors(head, conversion, self.learner.predict(arrays, head), arrays)
        if errors is None:
            return False
        if not isinstance(head, Classification):
            self.state.scale = self.state.scale or float(errors.mean()) or 1.0
            errors = errors / (errors + self.state.scale)
        before = self.drift.mean
        found = self.drift.update(errors.tolist()) and self.drift.mean > before
        if found and self.sample is not None:
            self.sample = Sample(self.sample.capacity)
        return found

    def replayed(self, arrays: Sequence[np.ndarray], ratio: float, seed: Sequence[int]) -> list[np.ndarray]:
        """Sample rows from the buffer to train on together with a batch, then offer the batch's rows to it.

        Returns:
            The drawn rows of each tensor, none if the buffer is empty.
        """
        if self.sample is None:
            return [array[:0] for array in arrays]
        random = np.random.default_rng([*seed, 1])
        wanted = round(ratio * len(arrays[0])) if len(self.sample) else 0
        drawn = self.sample.draw(wanted, random) if wanted else [array[:0] for array in arrays]
        self.sample.add(list(arrays), classes_of(self.spec.head, self.spec.conversion, arrays), random)
        return drawn

    def commit(self) -> bytes:
        """Commit the state with the model as it is; return the model's bytes."""
        content = self.learner.content()
        self.changed["model"] = content
        if self.sample is not None:
            self.changed["buffer"] = self.sample.to_bytes()
        self.state.drift = self.drift.state() if self.drift is not None else None
        commit(self.store, self.state, self.changed)
        self.changed = {}
        return content


def _learner(spec: FitSpec, content: bytes) -> Learner:
    options = spec.options.part(TrainingOptions)
    return Learner(content, spec.custom_objects, spec.augment, spec.conversion.tensors, options)


def load_sample(capacity: int, content: bytes | None, store: Store) -> Sample:
    """Load the rows of the replay buffer.

    Args:
        capacity: The maximum number of rows.
        content: The buffer's file; None for an empty buffer.
        store: The directory of the state.

    Raises:
        StoreError: The file is damaged.
    """
    if content is None:
        return Sample(capacity)
    try:
        return Sample.of_bytes(capacity, content)
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise StoreError(
            explain(
                f"The replay buffer in {store.shown} can't be read.",
                expected="the file that state.json names as its buffer, as this release writes it",
                received=f"{len(content)} bytes; {type(error).__name__}: {error}",
                fix="Restore the directory, or give another stateDir.",
            )
        ) from error


def _classes(spec: FitSpec) -> int:
    return spec.head.classes if isinstance(spec.head, Classification) else 0


def _continued(spec: FitSpec, content: bytes, state: StreamState, store: Store) -> bytes:
    """Return the state's model, whose training continues, grown if the estimator's has more classes.

    Raises:
        ModelError: The estimator's model is another one.
    """
    import keras

    from spark_dl.train.model.grown import grown_model
    from spark_dl.train.model.layer_configs import differing_layers
    from spark_dl.train.model.serialization import from_bytes, to_bytes

    objects = cloudpickle.loads(spec.custom_objects)
    kept = from_bytes(content, objects)
    shapes = [[tuple(weight.shape) for weight in model.weights] for model in (spec.model, kept)]
    if shapes[0] == shapes[1]:
        if others := differing_layers(from_bytes(spec.content, objects), kept):
            more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            warn(
                f"The training in {store.shown} continues with its own model, from which the estimator's differs: "
                f"{'; '.join(others[:_SHOWN])}{more}. Set another stateDir to start from the estimator's model."
            )
        return content
    if _classes(spec) <= state.classes:
        raise ModelError(
            explain(
                f"The model isn't the one whose training {store.shown} holds.",
                expected=f"weights of the shapes {shapes[1]}",
                received=shapes[0],
                fix="Continue with the same model or one with more classes, or start again with another stateDir.",
            )
        )
    grown: Any = grown_model(spec.model, kept, copied=True)
    with keras.saving.custom_object_scope(objects):
        return to_bytes(grown)
