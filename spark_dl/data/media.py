"""Decoding of images, from files or from Spark's image data source, shared by training and scoring."""

from __future__ import annotations

import struct
from typing import Any

__all__ = ["SPARK_IMAGE", "image_bytes", "is_spark_image", "pixels"]

# First bytes of a serialised Spark image struct. Height, width and channels follow as big-endian int32, then the
# pixels as uint8 in the order blue, green, red, alpha.
SPARK_IMAGE = b"\x93SPARK"
_HEADER = struct.Struct(">6s3i")


def image_bytes(height: int, width: int, channels: int, data: bytes) -> bytes:
    """Serialise the fields of Spark's image struct to bytes."""
    return _HEADER.pack(SPARK_IMAGE, height, width, channels) + data


def is_spark_image(content: bytes) -> bool:
    """Return whether the bytes are a valid serialised Spark image struct, with as many pixels as its header says."""
    if len(content) < _HEADER.size or not content.startswith(SPARK_IMAGE):
        return False
    _, height, width, channels = _HEADER.unpack_from(content)
    whole = len(content) - _HEADER.size == height * width * channels
    return whole and height > 0 and width > 0 and channels in (1, 3, 4)


def _spark_image(content: Any, channels: int) -> Any:
    """Decode a serialised Spark image struct, in a graph: uint8, shape (height, width, channels), red first."""
    import tensorflow as tf

    start = len(SPARK_IMAGE)
    header = tf.io.decode_raw(tf.strings.substr(content, start, _HEADER.size - start), tf.int32, little_endian=False)
    data = tf.io.decode_raw(tf.strings.substr(content, _HEADER.size, 2**31 - 1), tf.uint8)
    pixels = tf.reshape(data, header[:3])
    gray, has_alpha = tf.equal(header[2], 1), tf.equal(header[2], 4)
    colour = tf.cond(gray, lambda: tf.repeat(pixels, 3, axis=2), lambda: tf.reverse(pixels[..., :3], [2]))
    if channels == 1:
        return tf.cond(gray, lambda: pixels, lambda: tf.image.rgb_to_grayscale(colour))
    if channels == 3:
        return colour
    alpha = tf.cond(
        has_alpha, lambda: pixels[..., 3:4], lambda: tf.fill([header[0], header[1], 1], tf.constant(255, tf.uint8))
    )
    return tf.concat([colour, alpha], axis=2)


def pixels(contents: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Decode images to a model input, in a graph.

    Args:
        contents: A string tensor of shape (rows,): encoded files that `image_files.prepare_images` has prepared, or
            serialised Spark images.
        shape: The shape of one row, (height, width, channels) with 1, 3 or 4 channels. An image of another size is
            resized: bilinear, antialiased.
        dtype: The input's dtype. Pixel values are 0 to 255, whatever the dtype.

    Returns:
        A tensor of shape (rows, *shape).
    """
    import tensorflow as tf

    size, whole = shape[:2], tf.as_dtype(dtype).is_integer

    def image(content: Any) -> Any:
        decoded = tf.cond(
            tf.equal(tf.strings.substr(content, 0, len(SPARK_IMAGE)), SPARK_IMAGE),
            lambda: _spark_image(content, shape[2]),
            lambda: tf.io.decode_image(content, channels=shape[2], expand_animations=False),
        )
        decoded = tf.ensure_shape(decoded, (None, None, shape[2]))
        decoded = tf.cond(
            tf.reduce_all(tf.equal(tf.shape(decoded)[:2], size)),
            lambda: tf.cast(decoded, tf.float32),
            lambda: tf.image.resize(decoded, size, antialias=True),
        )
        return tf.ensure_shape(tf.saturate_cast(tf.round(decoded) if whole else decoded, dtype), shape)

    return tf.map_fn(image, contents, fn_output_signature=tf.TensorSpec(shape, dtype))
