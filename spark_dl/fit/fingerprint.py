"""The fingerprint of a fit, by named parts: a fit resumes from checkpoints only if all parts are equal."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import io
import itertools
import json
import types
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.fit.code_digest import code_digest, digest_of_text, is_own
from spark_dl.options import EstimatorOptions, all_options
from spark_dl.train.model.archive import config_text
from spark_dl.train.model.config_names import renumbered

if TYPE_CHECKING:
    import keras

__all__ = ["fingerprint", "layout", "rows_digest"]

# Instructions after which a loaded object has served for its attributes; COPY begins `self.x += 1`.
_OF_ATTRIBUTES = ("LOAD_ATTR", "STORE_ATTR", "DELETE_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "COPY")
# Names by which a callback's code can reach the model.
_REACHES_MODEL = {"model", "_model", "set_model", "__dict__", "vars", "getattr", "setattr", "eval", "exec"}


def fingerprint(
    content: bytes,
    dataset: ConvertedDataset,
    options: EstimatorOptions,
    custom_objects: Mapping[str, Any] | None = None,
    model: keras.Model | None = None,
) -> dict[str, str]:
    """Compute the fingerprint of a fit.

    Args:
        content: The compiled model's `.keras` bytes. Layers, optimizer, loss and metrics are in the fingerprint.
            Trainable weights aren't, since a model that is built again has other initial weights; those of a warm
            start are.
        dataset: The converted dataset. Dtypes, shapes, the number of training and validation rows, and their values
            are in the fingerprint; the order of the rows isn't.
        options: The estimator's options. Options that it doesn't have count as None.
        custom_objects: The user's functions and classes, by name.
        model: The Keras model of `content`.

    Returns:
        The digest of each part, by a description of the part for messages.
    """
    parts = {
        "model": digest_of_text(renumbered(config_text(content))),
        "code of the model, its losses or metrics": code_digest(
            [dict(custom_objects or {}), *_own_objects([options.loss, options.metrics])]
        ),
        "flags of layers, variables or the optimizer": digest_of_text(_flags(content)),
        "state of layers that aren't trained": _fixed_state(content, model),
        # As before tensors had a target.
        "data schema": digest_of_text(repr(dataset.tensors).replace(", target=None", "")),
        "training rows": _rows(dataset, validation=False),
        "validation rows": _rows(dataset, validation=True),
    }
    if options.warm_start is not None and model is not None:
        grown = options.model is not None or options.model_fn is not None
        # New classes begin with random weights, which differ between processes.
        held = options.warm_start.keras().weights if grown else [*model.variables, *model.optimizer.variables]
        parts["weights of the warm start"] = code_digest(_values(held))
    callbacks = [callback for callback in options.callbacks or [] if _may_change_training(callback)] or None
    values = replace(options, callbacks=callbacks).by_name()
    for option in all_options():
        if option.on_resume == "same":
            parts[option.name] = code_digest(values.get(option.name))
    return parts


def layout(dataset: ConvertedDataset) -> str:
    """Return a digest of the order of the rows by block; a step of an epoch has the same rows only if it is equal."""
    return digest_of_text(repr([(block.rows, block.validation, block.checksum) for block in dataset.blocks]))


def rows_digest(dataset: ConvertedDataset) -> str:
    """Return a digest of the values of all rows, however they are ordered and divided into training and validation."""
    checksum = sum(block.checksum for block in dataset.blocks) % (1 << 63)
    return digest_of_text(repr((sum(block.rows for block in dataset.blocks), checksum)))


def _rows(dataset: ConvertedDataset, validation: bool) -> str:
    checksum = sum(block.checksum for block in dataset.part(validation)) % (1 << 63)
    return digest_of_text(repr((dataset.rows(validation), checksum)))


def _flags(content: bytes) -> str:
    """Return the settings of layers, variables and optimizers that aren't in their configs, as JSON."""
    from spark_dl.train.model.archive import read_record

    record = read_record(content) or {"layers": [], "optimizers": None}
    layers = [
        [noted["class"], noted["trainable"], [[v["trainable"], v["regularizer"], v["constraint"]] for v in variables]]
        for noted in record["layers"]
        for variables in [noted["variables"]]
    ]
    # Keras joins the names that are excluded from weight decay in the order of a set, which differs by process.
    optimizers = [
        [noted["class"], noted["excluded"], sorted((noted["pattern"] or "").split("|"))]
        for noted in record["optimizers"] or []
    ]
    return json.dumps([layers, optimizers])


def _own_objects(things: Any) -> Iterator[Any]:
    """Yield functions, and objects of the user's classes, from nested lists and dicts."""
    if isinstance(things, Mapping):
        things = list(things.values())
    if isinstance(things, (list, tuple)):
        for thing in things:
            yield from _own_objects(thing)
    elif (
        inspect.isroutine(things)
        or isinstance(things, functools.partial)
        or (things is not None and is_own(type(things)))
    ):
        yield things


def _fixed_state(content: bytes, model: keras.Model | None) -> str:
    """Return a digest of the non-trainable weights, and of what layers have adapted to, such as vocabularies."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assets = {name: archive.read(name) for name in archive.namelist() if name.startswith("assets/")}
    learned = sorted(hashlib.sha256(asset).hexdigest() for asset in assets.values())
    fixed = _values(model.non_trainable_variables) if model is not None else []
    return code_digest([learned, fixed])


def _values(variables: Iterable[Any]) -> list[np.ndarray]:
    """Return the values of variables, without random seeds."""
    from spark_dl._compat.keras import is_seed  # late import: loads Keras

    return [np.asarray(variable) for variable in variables if not is_seed(variable)]


def _may_change_training(callback: Any) -> bool:
    """Return whether a callback may change the training.

    It can't if it is one of Keras's callbacks that only write, or if its code never reaches the model.
    """
    import keras

    writers = (
        keras.callbacks.ModelCheckpoint,
        keras.callbacks.BackupAndRestore,
        keras.callbacks.CSVLogger,
        keras.callbacks.History,
        keras.callbacks.ProgbarLogger,
        keras.callbacks.RemoteMonitor,
        keras.callbacks.TensorBoard,
    )
    kind = type(callback)
    if not is_own(kind) and kind is not keras.callbacks.LambdaCallback:
        return not isinstance(callback, writers)
    own = [value for base in kind.__mro__ if is_own(base) for value in vars(base).values()]
    foreign = [base for base in kind.__mro__ if not is_own(base) and base not in (object, keras.callbacks.Callback)]
    # A subclass of EarlyStopping, for example, stops training whatever its own code does.
    if any(not issubclass(base, writers) for base in foreign if base is not keras.callbacks.LambdaCallback):
        return True
    held = [value for value in vars(callback).values() if callable(value)]
    return any(_reaches_model(thing, is_method=True) for thing in own) or any(map(_reaches_model, held))


def _reaches_model(thing: Any, is_method: bool = False) -> bool:
    """Return whether a callable's code can reach the model: by a name, or, of a method, by passing on the callback."""
    thing = getattr(thing, "__func__", thing)
    if isinstance(thing, property):
        return any(_reaches_model(part, is_method) for part in (thing.fget, thing.fset) if part)
    if not callable(thing):
        return False
    code = getattr(thing, "__code__", None)
    if code is None:  # no Python code
        return True
    return any(_REACHES_MODEL & _names(part) for part in _codes(code)) or (is_method and _passes_on_self(code))


def _passes_on_self(code: types.CodeType) -> bool:
    """Return whether a method uses its first argument for more than the attributes."""
    own = code.co_varnames[:1]
    for part in _codes(code):
        for instruction, after in itertools.pairwise(dis.get_instructions(part)):
            loads = instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and instruction.argval in own
            if loads and after.opname not in _OF_ATTRIBUTES:
                return True
    return False


def _names(code: types.CodeType) -> set[str]:
    texts = {constant for constant in code.co_consts if isinstance(constant, str)}
    used = {str(i.argval) for i in dis.get_instructions(code) if i.opname.startswith(("LOAD_", "STORE_", "DELETE_"))}
    return used | (texts & {"model", "_model"})


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
