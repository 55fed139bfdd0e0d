"""What a model is fed where the values of a column are bytes: a coding is a function of the graph and its line here.

It is the same in training and in scoring.
"""

from __future__ import annotations

from typing import Any

from spark_dl.data.media import pixels
from spark_dl.data.sparse import dense

__all__ = ["CODINGS", "decode"]


def _texts(contents: Any, shape: tuple[int, ...], dtype: str) -> Any:
    import tensorflow as tf

    return tf.reshape(contents, (-1, *shape))


CODINGS = {"text": _texts, "image": pixels, "sparse": dense}


def decode(contents: Any, coding: str, shape: tuple[int, ...], dtype: str) -> Any:
    """The model's input, in a graph.

    Args:
        contents: string tensor, shape (rows,).
        coding: what the bytes are, a name of CODINGS.
        shape: of one row of the input.
        dtype: of the input; "string" for texts.

    Returns:
        tensor of shape (rows, *shape).
    """
    return CODINGS[coding](contents, shape, dtype)
