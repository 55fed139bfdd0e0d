"""What a model is fed where a column holds bytes: texts, or encoded images. The same in training and in scoring."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["fed", "image_formats", "no_images"]

# How each format begins, and into how many channels TensorFlow decodes it.
_FORMATS = {
    "JPEG": (b"\xff\xd8\xff", (1, 3)),
    "PNG": (b"\x89PNG\r\n\x1a\n", (1, 3, 4)),
    "GIF": (b"GIF8", (3,)),
    "BMP": (b"BM", (3, 4)),
}


def image_formats(channels: int) -> list[str]:
    """The formats that can be decoded to so many channels."""
    return [name for name, (_, known) in _FORMATS.items() if channels in known]


def no_images(contents: Iterable[bytes], channels: int) -> int:
    """How many values don't begin as an image that can be decoded to so many channels."""
    begins = tuple(begin for begin, known in _FORMATS.values() if channels in known)
    return sum(not content.startswith(begins) for content in contents)


def fed(contents: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """The model's input, in a graph.

    Args:
        contents: string tensor, shape (rows,): texts; or images as JPEG, PNG, GIF (its first frame) or BMP.
        shape: of one row; for images (height, width, channels), with 1, 3 or 4 channels. An image of another size is
            resized: bilinear, antialiased.
        dtype: "string" for texts. An image's numbers run from 0 to 255, whatever the dtype.

    Returns:
        tensor of shape (rows, *shape).
    """
    import tensorflow as tf

    if dtype == "string":
        return tf.reshape(contents, (-1, *shape))
    size, whole = shape[:2], tf.as_dtype(dtype).is_integer

    def image(content: Any) -> Any:
        pixels = tf.io.decode_image(content, channels=shape[2], expand_animations=False)
        pixels = tf.cond(
            tf.reduce_all(tf.equal(tf.shape(pixels)[:2], size)),
            lambda: tf.cast(pixels, tf.float32),
            lambda: tf.image.resize(pixels, size, antialias=True),
        )
        return tf.ensure_shape(tf.saturate_cast(tf.round(pixels) if whole else pixels, dtype), shape)

    return tf.map_fn(image, contents, fn_output_signature=tf.TensorSpec(shape, dtype))
