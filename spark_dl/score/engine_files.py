"""Conversion of Keras models to the files of other engines, on the driver, by Keras's own export.

A file is tried before any Spark job: it is opened, and its numbers on synthetic rows are compared with Keras's. If a
model can't be converted, its layers are tried one by one, so that the error can name the layer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import all_layers
from spark_dl._compat.tensorflow import builtin_operations, litert_settings
from spark_dl.errors import ModelError, OptionError, explain, hint
from spark_dl.score.engines import Loadable, extension, input_name, needed, opened
from spark_dl.train.model.keras_settings import apply_settings
from spark_dl.train.model.serialization import from_bytes, settings_of

__all__ = ["convert_model", "export_model"]

# The largest difference to Keras's numbers, relative to the largest of them: what float32 and another order of sums do.
_TOLERANCE = 1e-4
# The synthetic batches, each with its number of rows (an engine must take any), its least and its greatest number. The
# last one has zeros, by whose norm or sum a layer may divide.
_BATCHES = ((2, 0, 1), (3, 0, 1), (4, -1, 1), (2, 0, 0))
# How LiteRT's converter names an operation that it can't convert.
_TF_OPERATION = re.compile(r"\btf\.([A-Z]\w+)")
_LOCATION = re.compile(r"^<unknown>:0: error: loc\(.*\): ")
_NOISY = ("absl", "tensorflow", "tf2onnx")


def convert_model(source: Loadable, engine: str) -> bytes:
    """Convert a model to the file of an engine, whose inputs and outputs have the model's order.

    Args:
        source: The Keras model.
        engine: The name of the engine, "onnx" or "litert".

    Returns:
        The file's bytes.

    Raises:
        OptionError: The packages for the conversion aren't installed.
        ModelError: The engine can't compute the model, or computes other numbers.
    """
    texts = [name for name, (_, dtype) in source.inputs.items() if dtype == "string"]
    if texts:
        raise _refused(engine, f"its input {texts[0]!r} takes texts", "an input of numbers")
    with _loaded(source) as model:
        try:
            whole = _positional(model, list(source.inputs.items()))
            content = _file(whole, engine)
            predict = opened(engine, content, [dtype for _, dtype in source.inputs.values()], 0)
            differing = _difference(whole, predict, list(source.inputs.values()))
        except OptionError:
            raise
        except Exception as error:
            raise _with_layer(model, engine, error) from error
    if differing > _TOLERANCE:
        difference = f"its outputs differ from Keras's by {differing:.1e} of the largest"
        raise _refused(engine, difference, f"at most {_TOLERANCE:.0e}, for float32")
    return content


def export_model(source: Loadable, path: Path, form: str, options: Mapping[str, Any]) -> None:
    """Write a model to a file or directory for other programs, with the names of its inputs as Keras has them.

    Args:
        source: The Keras model.
        path: The new file, or the new directory of a SavedModel.
        form: The format, "onnx", "litert" or "saved_model".
        options: Further arguments of `keras.Model.export`.

    Raises:
        OptionError: There is no such argument, or the packages for the conversion aren't installed.
        ModelError: The model can't be converted.
    """
    _check_arguments(form, options)
    with _loaded(source) as model:
        try:
            _call_once(model, source.inputs)
            if form == "saved_model":
                model.export(str(path), format="tf_saved_model", verbose=False, **options)
                return
            _write(model, str(path), form, options)
            if form == "onnx":  # the converter writes operations, too, that ONNX doesn't have
                opened(form, path.read_bytes(), [dtype for _, dtype in source.inputs.values()], 0)
        except Exception as error:
            path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)
            if isinstance(error, OptionError):
                raise
            raise _with_layer(model, form, error) from error


def _check_arguments(form: str, options: Mapping[str, Any]) -> None:
    """Check that a format has the arguments: for ONNX and SavedModels, Keras ignores those that it doesn't know."""
    known = {"input_signature"}
    if form == "onnx":
        known.add("opset_version")
    if form == "litert":
        known.update(litert_settings())
    for name in options:
        if name not in known:
            raise OptionError(
                explain(
                    f"The format {form!r} has no argument {name!r}.",
                    expected="arguments of keras.Model.export for this format",
                    received=f"{name}={options[name]!r}",
                    fix=hint(name, known),
                )
            )


@contextlib.contextmanager
def _loaded(source: Loadable) -> Iterator[Any]:
    """Load a model, for as long as the `with` lasts with the process's settings that it was made with."""
    with apply_settings(settings_of(source.content)), keras.saving.custom_object_scope(source.objects):
        yield from_bytes(source.content, source.objects, compiled=False)


def _call_once(model: Any, inputs: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Call a model on a row: Keras exports only models that have been called."""
    rows = {
        name: keras.ops.zeros((1, *(max(size, 1) for size in shape)), dtype)
        for name, (shape, dtype) in inputs.items()
        if dtype != "string"
    }
    if len(rows) == len(inputs):
        model(next(iter(rows.values())) if len(rows) == 1 else rows, training=False)


def _positional(model: Any, inputs: Sequence[tuple[str, tuple[tuple[int, ...], str]]]) -> Any:
    """Wrap a model as one that takes its inputs by position and returns a flat list of outputs."""
    given = [
        keras.Input(shape, dtype=dtype, name=input_name(index)) for index, (_, (shape, dtype)) in enumerate(inputs)
    ]
    named = {name: tensor for (name, _), tensor in zip(inputs, given, strict=True)}
    return keras.Model(given, keras.tree.flatten(model(named if len(given) > 1 else given[0], training=False)))


def _file(model: Any, engine: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, f"model.{extension(engine)}")
        model([np.zeros((1, *one.shape[1:]), one.dtype) for one in model.inputs], training=False)
        _write(model, path, engine, {})
        return Path(path).read_bytes()


def _write(model: Any, path: str, engine: str, keywords: Mapping[str, Any]) -> None:
    _inline_constants(model)
    if engine == "litert":  # Keras's default writes operations, too, that need TensorFlow beside LiteRT
        spec = keywords.get("target_spec", {})
        if isinstance(spec, dict):
            keywords = {**keywords, "target_spec": {"supported_ops": builtin_operations(), **spec}}
    try:
        if engine == "onnx":
            import onnx  # noqa: F401
            import tf2onnx  # noqa: F401
        with _quiet():
            model.export(path, format=engine, verbose=False, **keywords)
    except ImportError as error:
        raise needed(engine, error) from error


def _inline_constants(model: Any) -> None:
    """Turn layers' constant tensors, such as the mean of a Normalization, into arrays.

    A graph captures a tensor from outside as a further input, which the converter to ONNX doesn't fill; an array
    becomes part of the graph.
    """
    for layer in all_layers(model):
        for name, value in list(vars(layer).items()):
            if keras.ops.is_tensor(value):
                setattr(layer, name, keras.ops.convert_to_numpy(value))


def _difference(model: Any, predict: Any, inputs: Sequence[tuple[tuple[int, ...], str]]) -> float:
    """Return the largest difference between an engine and Keras on synthetic rows, relative to the largest number."""
    random = np.random.default_rng(0)
    largest = 0.0
    for rows, least, most in _BATCHES:
        given = [_made_up(random, (rows, *shape), dtype, least, most) for shape, dtype in inputs]
        try:
            wanted = [np.asarray(one, np.float64) for one in keras.tree.flatten(model(given, training=False))]
            found = predict(*given)
        except Exception:
            if least < 0:  # a row that fails is an error in scoring, too
                continue
            raise
        if [one.shape for one in wanted] != [one.shape for one in found]:
            return float("inf")
        for ours, theirs in zip(found, wanted, strict=True):
            scale = max(1.0, float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)))
            alike = np.isnan(theirs) | (ours == theirs)  # infinities, too
            apart = np.abs(ours.astype(np.float64)[~alike] - theirs[~alike])
            largest = max(largest, float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)) / scale)
    return largest


def _made_up(random: np.random.Generator, shape: tuple[int, ...], dtype: str, least: int, most: int) -> np.ndarray:
    """Make numbers of at most `most`; below 0, whole ones for floats as well, which may be indices of categories."""
    if np.dtype(dtype).kind in "ub":
        return random.integers(0, most + 1, shape).astype(dtype)
    whole = np.dtype(dtype).kind == "i" or least < 0  # perhaps an index of an embedding
    return (random.integers(least, most + 1, shape) if whole else most * random.random(shape)).astype(dtype)


def _with_layer(model: Any, engine: str, error: Exception) -> ModelError:
    """Build the error for a model that can't be converted, with the first layer that can't be converted alone."""
    layers, tried = all_layers(model), set[Any]()
    # A functional model has operations of keras.ops, too.
    for layer in dict.fromkeys([*layers, *(one for part in layers for one in getattr(part, "operations", ()))]):
        if isinstance(layer, (keras.Model, keras.layers.InputLayer)):
            continue
        kind = (type(layer), getattr(getattr(layer, "dtype_policy", None), "name", ""))
        if kind in tried:
            continue
        tried.add(kind)
        if (reason := _failure_alone(layer, engine)) is not None:
            return _refused(engine, f"its layer {layer.name!r} ({type(layer).__name__}) isn't known there: {reason}")
    return _refused(engine, f"{type(error).__name__}: {_first_line(error)}")


def _failure_alone(layer: Any, engine: str) -> str | None:
    """Return why a layer can't be converted alone; None if it can, or has no tensors of its own to be tried with."""
    with contextlib.suppress(Exception):
        alone = keras.Model(layer.input, layer.output)
        given = keras.tree.flatten(layer.input)
        if any(one.dtype == "string" for one in given):
            return "it takes texts"
        whole = keras.Model(
            inputs := [keras.Input(one.shape[1:], dtype=one.dtype, name=input_name(i)) for i, one in enumerate(given)],
            keras.tree.flatten(alone(keras.tree.pack_sequence_as(layer.input, inputs))),
        )
        try:
            opened(engine, _file(whole, engine), [one.dtype for one in given], 0)(
                *(np.zeros((1, *(size or 1 for size in one.shape[1:])), one.dtype) for one in given)
            )
        except Exception as error:
            return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    if missing := sorted(set(_TF_OPERATION.findall(str(error)))):
        return f"TensorFlow's operations that LiteRT doesn't have: {', '.join(missing)}"
    return _LOCATION.sub("", str(error).strip().split("\n")[0])[:200]


def _refused(engine: str, reason: str, expected: str = "layers that the engine knows") -> ModelError:
    return ModelError(
        explain(
            f"The model can't be converted to {engine}.",
            expected=expected,
            received=reason,
            fix="Replace the layer, take another format, or score with Keras (scoreEngine='keras').",
        )
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converters: their loggers report as errors what the exception says, and one tries names of NumPy."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
