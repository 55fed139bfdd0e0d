"""Saving and loading of unfitted estimators: params, Keras objects by their configs, the model's bytes."""

from __future__ import annotations

import base64
import json
import warnings
from typing import Any

from spark_dl.errors import ModelError, SavedModelError, explain
from spark_dl.fit.initial_model import display_name, initial_model
from spark_dl.ml.html import as_text, estimator_html
from spark_dl.ml.params import EstimatorParams
from spark_dl.ml.persistence import Saved
from spark_dl.ml.savable_objects import savable_config, savable_model
from spark_dl.options import ModelOptions, declared

__all__ = ["OBJECTS", "SavableEstimator"]

# Options whose values aren't JSON: Keras objects, functions, and a DataFrame. They are logged by their names.
OBJECTS = tuple(
    declared(name).name
    for name in (
        *("model", "modelFn", "warmStart", "optimizer", "loss", "metrics", "callbacks", "transformFn", "augment"),
        "onEpoch",
        "validationData",
    )
)
# Options that can't be saved: what they are, and how an estimator without them is made.
_UNSAVABLE = {
    "callbacks": ("they are code, and nothing is pickled", "setCallbacks([])"),
    "onEpoch": ("it is code, and nothing is pickled", "setOnEpoch(None)"),
    "validationData": ("it is a DataFrame of this session", "setValidationData(None)"),
}
# The largest layers to embed in the metadata, which are one line of JSON.
_LARGEST_LAYERS = 16 << 20


class SavableEstimator(EstimatorParams, Saved):
    """Base of estimators that save their model and params; callbacks, onEpoch and validationData can't be saved."""

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return estimator_html(self)

    def _to_saved(self) -> tuple[dict[str, Any], bytes | None, dict[str, Any]]:
        """Return what `Writer` saves: metadata, the model's `.keras` bytes, and the params that are JSON."""
        options = self._options()
        for name, (reason, without) in _UNSAVABLE.items():
            value = self.getOrDefault(name)
            if value is None or (isinstance(value, list) and not value):
                continue
            raise SavedModelError(
                explain(
                    f"An estimator with {name} can't be saved.",
                    expected=f"no {name}: {reason}",
                    received=name if name == "validationData" else display_name(value),
                    fix=f"Save it without ({without}), and set it again after loading.",
                )
            )
        given = _serialized(options)
        facts: dict[str, Any] = {
            "objects": {name: savable_config(name, value) for name, value in given.items() if value is not None}
        }
        facts["exclusions"] = _exclusions_to_json(options.optimizer)
        facts["transformFn"] = _layers_to_text(options.transform_fn)
        model = initial_model(options)
        # modelFn is code, so that the model it builds is saved instead.
        left_out = (*OBJECTS, "modelParams", *(one.name for one in self.options if one.secret))
        params = {p.name: self.getOrDefault(p) for p in self.params if self.isSet(p) and p.name not in left_out}
        return facts, None if model is None else savable_model("model", model), params

    def _unsavable(self) -> dict[str, str]:
        """Return the params whose objects only this process can refer to, with names of the objects to show."""
        options = self._options()
        found = {}
        for name, value in {**_serialized(options), "model": options.model}.items():
            try:
                if value is not None:
                    savable_config(name, value)
            except (SavedModelError, ModelError):
                found[name] = display_name(value)
        try:
            _layers_to_text(options.transform_fn)
        except (SavedModelError, ModelError):
            found["transformFn"] = display_name(options.transform_fn)
        return found

    @classmethod
    def _from_saved(cls, facts: dict[str, Any], content: bytes | None) -> Any:
        """Make an estimator from the metadata and bytes of `_to_saved`; `Reader` sets its params."""
        import keras

        from spark_dl.train.model import serialization as model_bytes

        model_bytes.import_own_layers(json.dumps(facts.get("objects", {})))
        objects = {
            name: keras.saving.deserialize_keras_object(value, safe_mode=True)
            for name, value in facts.get("objects", {}).items()
        }
        if facts.get("exclusions"):
            from spark_dl.train.model.optimizer_state import restore_exclusions

            restore_exclusions(objects["optimizer"], facts["exclusions"])
        if content is not None:
            objects["model"] = model_bytes.from_bytes(content)
        if facts.get("transformFn") is not None:
            objects["transformFn"] = _layers_from_text(facts["transformFn"])
        return cls(**objects)


def _serialized(options: ModelOptions) -> dict[str, Any]:
    """Return the values that Keras serializes for the metadata, by their params."""
    return {
        "optimizer": options.optimizer,
        "loss": options.loss,
        "metrics": options.metrics,
        "augment": options.augment,
    }


def _exclusions_to_json(optimizer: Any) -> list[str | None]:
    """Return the names that the optimizer excludes from weight decay, which Keras's config lacks."""
    from spark_dl.train.model.optimizer_state import excluded_names, excludes_variables

    if excludes_variables(optimizer):
        raise SavedModelError(
            explain(
                "An estimator whose optimizer excludes variables from weight decay can't be saved.",
                expected="exclude_from_weight_decay(var_names=[...])",
                received="exclude_from_weight_decay(var_list=[...])",
                fix="Exclude by names, or set the optimizer after loading.",
            )
        )
    return excluded_names(optimizer)


def _layers_to_text(layers: Any) -> Any:
    """Encode Keras layers with their adapted state, such as vocabularies, as base64 of `.keras` archives.

    A function is a list with Keras's config of it.
    """
    import keras

    if isinstance(layers, dict):
        return {name: _layers_to_text(layer) for name, layer in layers.items()}
    if layers is None:
        return None
    if not isinstance(layers, keras.layers.Layer):
        return [savable_config("transformFn", layers)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are saving a model that has not yet been built")
        content = savable_model("transformFn", keras.Sequential([layers]))
    if len(content) > _LARGEST_LAYERS:
        raise SavedModelError(
            explain(
                "The layers of transformFn are too large to be saved with the estimator.",
                expected=f"at most {_LARGEST_LAYERS:,} bytes",
                received=f"{len(content):,} bytes",
                fix="Make them a part of the model.",
            )
        )
    return base64.b64encode(content).decode()


def _layers_from_text(text: Any) -> Any:
    """Decode Keras layers; the inverse of `_layers_to_text`."""
    from spark_dl.train.model.serialization import from_bytes

    if isinstance(text, dict):
        return {name: _layers_from_text(one) for name, one in text.items()}
    if isinstance(text, list):
        import keras

        return keras.saving.deserialize_keras_object(text[0], safe_mode=True)
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _damaged(str(error)) from error
    saved = from_bytes(content)
    if len(saved.layers) != 1:
        raise _damaged(f"{len(saved.layers)} layers")
    return saved.layers[0]


def _damaged(received: str) -> SavedModelError:
    return SavedModelError(
        explain(
            "transformFn of the saved estimator is damaged.",
            expected="one Keras layer, as save wrote it",
            received=received,
            fix="Save the estimator again, or load another copy.",
        )
    )
