"""Decoding of byte values (texts, images, sparse Vectors) in the TensorFlow graph, shared by training and scoring.

To add a coding, write a function that decodes it in a graph and add its line to CODINGS.
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
    """Decode byte values to a model input, in a graph.

    Args:
        contents: A string tensor of shape (rows,).
        coding: The coding of the bytes, a name of CODINGS.
        shape: The shape of one row of the input.
        dtype: The input's dtype; "string" for texts.

    Returns:
        A tensor of shape (rows, *shape).
    """
    return CODINGS[coding](contents, shape, dtype)
