"""What a fitted model holds, apart from its params, and how it is saved."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any, Self

import cloudpickle
from pyspark.sql.types import StructType

from spark_dl.errors import SavedModelError, explain
from spark_dl.fit.columns import InputFacts, OutputFacts
from spark_dl.launch.pickling import pickle_for_ranks
from spark_dl.ml.params import FittedParams
from spark_dl.ml.persistence import Saved
from spark_dl.ml.savable_objects import savable
from spark_dl.ml.summary import TrainingSummary
from spark_dl.score.heads import Head, head_from_dict
from spark_dl.train.model.archive import config_text

__all__ = ["FittedContent"]


class FittedContent(FittedParams, Saved):
    """Base of fitted models: the Keras model as bytes, its inputs and outputs, and their meaning.

    Attributes:
        summary: The training summary.
    """

    def _init_state(self) -> None:
        self.summary = TrainingSummary()
        self._content = b""
        self._custom_objects = b""
        self._inputs: tuple[InputFacts, ...] = ()
        self._outputs: tuple[OutputFacts, ...] = ()
        self._columns: StructType | None = None
        self._head: Head | None = None

    def _with_content(
        self,
        content: bytes,
        custom_objects: bytes,
        inputs: tuple[InputFacts, ...],
        outputs: tuple[OutputFacts, ...],
        head: Head,
        columns: StructType | None,
        summary: TrainingSummary,
    ) -> Self:
        """Set the content of a new instance.

        Args:
            content: The `.keras` bytes.
            custom_objects: The cloudpickled dict of custom objects that Keras needs by name; it is never saved.
            inputs: The Keras model's inputs.
            outputs: The Keras model's outputs.
            head: The meaning of the output.
            columns: The Spark types of the feature columns in the fit; None if they aren't known.
            summary: The training summary.
        """
        self._content = content
        self._custom_objects = custom_objects
        self._inputs, self._outputs = inputs, outputs
        self._head = head
        self._columns = columns
        self.summary = summary
        return self

    def _named_objects(self) -> dict[str, Any]:
        """Return the custom objects that Keras may need by name: the fit's, and registered ones in the config."""
        keras = sys.modules.get("keras")  # without an import of Keras, nothing is registered
        registered = keras.saving.get_custom_objects() if keras else {}
        config = config_text(self._fitted_content()) if registered else ""
        taken = cloudpickle.loads(self._custom_objects) if self._custom_objects else {}
        return {**{name: thing for name, thing in registered.items() if name in config}, **taken}

    def _carried_objects(self) -> bytes:
        """Pickle `_named_objects` for other processes."""
        objects = self._named_objects()
        if not objects:
            return bytes(cloudpickle.dumps(objects))
        from spark_dl.train.model.carrying import keras_reducer

        return pickle_for_ranks("A custom object of the model", objects, reduce=keras_reducer()).content

    def _fitted_content(self) -> bytes:
        if not self._content:
            raise SavedModelError(
                explain(
                    f"This {type(self).__name__} holds no model.",
                    expected="a model made by fit or load",
                    received=f"{type(self).__name__}()",
                    fix="Call fit of an estimator, or load of this class.",
                )
            )
        return self._content

    def _fitted_head(self) -> Head:
        self._fitted_content()
        head = self._head
        if head is None:
            raise SavedModelError(
                explain(
                    "The saved model doesn't say what its output means.",
                    expected="outputs in its metadata",
                    received="none",
                    fix="Save it again with the version that made it.",
                )
            )
        return head

    def _to_saved(self) -> tuple[dict[str, Any], bytes | None, dict[str, Any]]:
        """Return what `Writer` saves: metadata, the model's `.keras` bytes, and the params."""
        facts = {
            "inputs": [asdict(one) for one in self._inputs],
            "outputs": [asdict(one) for one in self._outputs],
            "head": self._fitted_head().as_dict(),
            "columns": self._columns.jsonValue() if self._columns else None,
            "summary": asdict(self.summary),
        }
        content = savable(self._fitted_content(), self._named_objects())
        hidden = [option.name for option in self.options if option.secret]
        saved = [param for param in self.params if self.isSet(param) and param.name not in hidden]
        return facts, content, {param.name: self.getOrDefault(param) for param in saved}

    @classmethod
    def _from_saved(cls, facts: dict[str, Any], content: bytes | None) -> Self:
        """Make a model from the metadata and bytes of `_to_saved`; `Reader` sets its params."""
        if content is None:
            raise SavedModelError(
                explain(
                    "The saved model's metadata name no model.",
                    expected="its digest (sha256)",
                    received="no digest",
                    fix="Save the model again: this copy is incomplete.",
                )
            )
        model = cls()
        try:
            model._inputs = tuple(map(InputFacts.of, facts["inputs"]))
            model._outputs = tuple(map(OutputFacts.of, facts["outputs"]))
            model._head = head_from_dict(facts["head"])
            model._columns = StructType.fromJson(facts["columns"]) if facts.get("columns") else None
            model.summary = TrainingSummary(**facts["summary"])
        except (KeyError, TypeError) as error:
            raise SavedModelError(
                explain(
                    "The saved model's metadata are damaged.",
                    expected="metadata as save wrote them",
                    received=f"{type(error).__name__}: {error}",
                    fix="Save the model again, or load another copy.",
                )
            ) from error
        model._content = content
        return model
