"""Engines that compute a model's outputs in scoring without TensorFlow: ONNX Runtime and LiteRT.

An engine reads a file that `engine_files` has converted on the driver, whose inputs and outputs are in the model's
order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spark_dl.data.specs import FeatureSpec
from spark_dl.errors import OptionError, explain

__all__ = ["KERAS", "Loadable", "check_columns", "extension", "input_name", "needed", "opened", "requirements"]

KERAS = "keras"
# The file name extension by engine.
_EXTENSIONS = {KERAS: "keras", "onnx": "onnx", "litert": "tflite"}
# The distributions that a process that scores needs, by engine.
_REQUIRED = {KERAS: ("keras", "tensorflow"), "onnx": ("onnxruntime",), "litert": ("ai-edge-litert",)}


@dataclass(frozen=True)
class Loadable:
    """A Keras model to convert.

    Attributes:
        content: The `.keras` bytes.
        objects: The custom objects by name.
        inputs: The shape of a row and the dtype of each input by its name, in the model's order.
    """

    content: bytes
    objects: Mapping[str, Any]
    inputs: Mapping[str, tuple[tuple[int, ...], str]]


def input_name(index: int) -> str:
    """Return the name of an input in an engine's file."""
    return f"input_{index}"


def extension(engine: str) -> str:
    """Return the file name extension of an engine's files, without a dot."""
    return _EXTENSIONS[engine]


def requirements(engine: str) -> tuple[str, ...]:
    """Return the distributions that scoring by an engine imports besides NumPy and pandas."""
    return _REQUIRED[engine]


def check_columns(engine: str, features: Sequence[FeatureSpec]) -> None:
    """Check that an engine takes columns: all numbers, since TensorFlow decodes what is stored as bytes.

    Args:
        engine: The value of scoreEngine.
        features: The specification of each input.

    Raises:
        OptionError: A column's rows are images, texts, sparse Vectors or arrays of open length.
    """
    coded = [column for spec in features if spec.coding for column in spec.columns]
    if engine != KERAS and coded:
        raise OptionError(
            explain(
                f"scoreEngine={engine!r} can't read the column {coded[0].name!r}.",
                expected="columns of numbers, dense Vectors or arrays of one length",
                received=f"{coded[0].kind}, which TensorFlow decodes",
                fix="Set scoreEngine='keras', or decode the column to an array of numbers before.",
            )
        )


def needed(engine: str, error: ImportError) -> OptionError:
    """Build the error for an engine whose packages aren't installed in this process.

    Args:
        engine: The name of the engine, which is that of its extra.
        error: The failed import.
    """
    return OptionError(
        explain(
            f"scoreEngine={engine!r} can't be used: a package is missing.",
            expected=f"the extra `{engine}`, on the driver and the executors",
            received=str(error),
            fix=f'pip install "spark_dl[{engine}]"',
        )
    )


def opened(engine: str, content: bytes, dtypes: Sequence[str], threads: int) -> Callable[..., list[np.ndarray]]:
    """Open an engine's file as a function from the model's inputs to its outputs; several threads may call it.

    Args:
        engine: The name of the engine.
        content: The file's bytes.
        dtypes: The dtype of each input.
        threads: How many threads compute one batch; 0 for as many as the engine takes by itself.

    Raises:
        OptionError: The engine isn't installed.
    """
    try:
        run = _onnx(content, threads) if engine == "onnx" else _litert(content, threads)
    except ImportError as error:
        raise needed(engine, error) from error

    def predict(*inputs: np.ndarray) -> list[np.ndarray]:
        given = (np.ascontiguousarray(part, dtype) for part, dtype in zip(inputs, dtypes, strict=True))
        return run({input_name(index): part for index, part in enumerate(given)})

    return predict


def _onnx(content: bytes, threads: int) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    used = {one.name for one in session.get_inputs()}  # an input that no output depends on isn't in the file

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = session.run(None, {name: part for name, part in inputs.items() if name in used})
        return found

    return run


def _litert(content: bytes, threads: int) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_content=content, num_threads=threads or None)
    signature = interpreter.get_signature_runner()  # by names: the interpreter itself has another order
    names = set(signature.get_input_details())
    outputs = len(signature.get_output_details())
    lock = threading.Lock()

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        with lock:  # the interpreter has one set of tensors
            found = signature(**{name: part for name, part in inputs.items() if name in names})
        return [found[f"output_{index}"] for index in range(outputs)]

    return run
