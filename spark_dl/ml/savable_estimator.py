"""An unfitted estimator, saved and loaded: its params, its Keras objects by Keras's own configs, its model's bytes."""

from __future__ import annotations

import base64
import warnings
from typing import Any

from spark_dl.errors import ModelError, SavedModelError, explain
from spark_dl.fit.initial_model import display_name, initial_model
from spark_dl.ml.params import EstimatorParams
from spark_dl.ml.persistence import Saved
from spark_dl.ml.savable_objects import savable_config, savable_model
from spark_dl.options import ModelOptions, declared

__all__ = ["OBJECTS", "SavableEstimator"]

# Options whose values are Keras objects: not JSON, and logged by their names.
OBJECTS = tuple(
    declared(name).name
    for name in (
        *("model", "modelFn", "warmStart", "optimizer", "loss", "metrics", "callbacks", "transformFn", "augment"),
        "validationData",
    )
)
# Of metadata, which are one line of JSON.
_LARGEST_LAYERS = 16 << 20


class SavableEstimator(EstimatorParams, Saved):
    """Saves its model and its params; callbacks can't be saved."""

    def _to_saved(self) -> tuple[dict[str, Any], bytes | None, dict[str, Any]]:
        """What `Writer` writes: facts, the model's bytes, and the params that are JSON."""
        options = self._options()
        if options.callbacks:
            raise SavedModelError(
                explain(
                    "An estimator with callbacks can't be saved.",
                    expected="no callbacks: they are code, and nothing is pickled",
                    received=display_name(options.callbacks),
                    fix="Save it without them (setCallbacks([])), and set them again after loading.",
                )
            )
        if options.validation_data is not None:
            raise SavedModelError(
                explain(
                    "An estimator with validationData can't be saved.",
                    expected="none: it is a DataFrame of this session",
                    received="validationData",
                    fix="Save it without (setValidationData(None)), and set it again after loading.",
                )
            )
        given = _serialized(options)
        facts: dict[str, Any] = {
            "objects": {name: savable_config(name, value) for name, value in given.items() if value is not None}
        }
        facts["exclusions"] = _exclusions_to_json(options.optimizer)
        facts["transformFn"] = _layers_to_text(options.transform_fn)
        model = initial_model(options)
        # Functions are code: the model that this one builds is what is saved.
        left_out = (*OBJECTS, "modelParams")
        params = {p.name: value for p, value in self._paramMap.items() if p.name not in left_out}
        return facts, None if model is None else savable_model("model", model), params

    def _unsavable(self) -> dict[str, str]:
        """The params whose values can't be saved, since only this process knows what they are; with what they are."""
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
        """The estimator from what `_to_saved` gave; its params are set by `Reader`."""
        import keras

        from spark_dl.train.model import serialization as model_bytes

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
    """The values that Keras serializes into metadata, by the names of their params."""
    return {
        "optimizer": options.optimizer,
        "loss": options.loss,
        "metrics": options.metrics,
        "augment": options.augment,
    }


def _exclusions_to_json(optimizer: Any) -> list[str | None]:
    """What the optimizer excludes from weight decay, by names; Keras's config leaves it out."""
    from spark_dl.train.model.optimizer_state import excluded_names, excludes_variables

    if excludes_variables(optimizer):
        raise SavedModelError(
            explain(
                "An estimator whose optimizer excludes variables from weight decay can't be saved.",
                expected="exclude_from_weight_decay(var_names=[...])",
                received="exclude_from_weight_decay(var_list=[...])",
            )
        )
    return excluded_names(optimizer)


def _layers_to_text(layers: Any) -> Any:
    """Keras layers with what they have learned of data: each as a `.keras` archive, in base 64."""
    import keras

    if isinstance(layers, dict):
        return {name: _layers_to_text(layer) for name, layer in layers.items()}
    if layers is None:
        return None
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
    """The inverse of `_layers_to_text`."""
    from spark_dl.train.model.serialization import from_bytes

    if isinstance(text, dict):
        return {name: _layers_from_text(one) for name, one in text.items()}
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise SavedModelError(f"transformFn of the saved estimator is damaged: {error}") from error
    saved = from_bytes(content)
    if len(saved.layers) != 1:
        raise SavedModelError(
            f"transformFn of the saved estimator is damaged: it has {len(saved.layers)} layers, not 1."
        )
    return saved.layers[0]
