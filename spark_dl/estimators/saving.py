"""An unfitted estimator, saved and loaded: its params, its Keras objects by Keras's own configs, its model's bytes."""

from __future__ import annotations

from typing import Any

from spark_dl.errors import SavedModelError, explain
from spark_dl.estimators.io import Saved
from spark_dl.estimators.params import OptionParams

__all__ = ["OBJECTS", "SavableEstimator", "named"]

# Options whose values are Keras objects: not JSON, and logged by their names.
OBJECTS = ("model", "optimizer", "loss", "metrics", "callbacks")


def named(value: Any) -> str:
    """A Keras object, or several, by name."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(named, value))
    return value if isinstance(value, str) else getattr(value, "name", None) or type(value).__name__


class SavableEstimator(OptionParams, Saved):
    """Saves its model and its params; callbacks can't be saved."""

    def _to_saved(self) -> tuple[dict[str, Any], bytes | None, dict[str, Any]]:
        """What `Writer` writes: facts, the model's bytes, and the params that are JSON."""
        import keras

        from spark_dl.train import model_bytes

        if self.getOrDefault("callbacks"):
            raise SavedModelError(
                explain(
                    "An estimator with callbacks can't be saved.",
                    expected="no callbacks: they are code, and nothing is pickled",
                    received=named(self.getOrDefault("callbacks")),
                    fix="Save it without them (setCallbacks([])), and set them again after loading.",
                )
            )
        given = {name: self.getOrDefault(name) for name in ("optimizer", "loss", "metrics")}
        facts = {name: keras.saving.serialize_keras_object(v) for name, v in given.items() if v is not None}
        model = self.getOrDefault("model")
        params = {p.name: value for p, value in self._paramMap.items() if p.name not in OBJECTS}
        return {"objects": facts}, None if model is None else model_bytes.to_bytes(model), params

    @classmethod
    def _from_saved(cls, facts: dict[str, Any], content: bytes | None) -> Any:
        """The estimator from what `_to_saved` gave; its params are set by `Reader`."""
        import keras

        from spark_dl.train import model_bytes

        objects = {
            name: keras.saving.deserialize_keras_object(value, safe_mode=True)
            for name, value in facts.get("objects", {}).items()
        }
        if content is not None:
            objects["model"] = model_bytes.from_bytes(content)
        return cls(**objects)
