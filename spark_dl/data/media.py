"""What a model is fed where a column holds bytes: texts, or encoded images. The same in training and in scoring."""

from __future__ import annotations

from typing import Any

__all__ = ["IMAGE_FORMATS", "fed"]

# What TensorFlow decodes, by how each begins.
IMAGE_FORMATS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF8", "BMP": b"BM"}


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
    size = shape[:2]

    def image(content: Any) -> Any:
        pixels = tf.io.decode_image(content, channels=shape[2], expand_animations=False)
        pixels = tf.cond(
            tf.reduce_all(tf.equal(tf.shape(pixels)[:2], size)),
            lambda: tf.cast(pixels, tf.float32),
            lambda: tf.image.resize(pixels, size, antialias=True),
        )
        return tf.ensure_shape(pixels, shape)

    images = tf.map_fn(image, contents, fn_output_signature=tf.TensorSpec(shape, tf.float32))
    return tf.saturate_cast(tf.round(images) if tf.as_dtype(dtype).is_integer else images, dtype)
