"""Check that labels stay right when features are augmented, before any Spark job."""

from __future__ import annotations

from typing import Any

from spark_dl.data.specs import ConversionSpec
from spark_dl.errors import OptionError, explain, shape_text

__all__ = ["check_augment"]

# Keras's layers after which the pixel at a place is another one.
_MOVING = (
    *("RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "RandomCrop", "RandomShear"),
    *("RandomPerspective", "RandomElasticTransform"),
)


def check_augment(augment: Any, conversion: ConversionSpec) -> None:
    """Check that labels stay right when features are augmented.

    Args:
        augment: The value of the option augment; None for none.
        conversion: How rows are converted, with the shapes of features and labels.

    Raises:
        OptionError: Layers blend the rows of a batch, and the labels can't be blended; or layers move pixels that have
            labels of their own.
    """
    if augment is None:
        return
    from spark_dl.train.augment import augment_parts, mixing_layers
    from spark_dl.train.model.parts import inner_layers, is_keras

    shapes = [spec.tensor().fed or spec.shape for spec in conversion.labels]
    if mixing := mixing_layers(augment):
        alone = not isinstance(augment, dict) and len(conversion.features) == 1
        parts = augment_parts(augment) if alone else []
        others = [one.name for one in parts if not hasattr(one, "transform_labels")]
        if not alone or others or [len(shape) for shape in shapes] != [1]:
            raise _not_mixed(mixing, [spec.name for spec in conversion.labels], shapes, others)
    moving = [layer for layer in inner_layers(augment) if is_keras(type(layer)) and type(layer).__name__ in _MOVING]
    for feature in conversion.features if moving else ():
        for spec, shape in zip(conversion.labels, shapes, strict=True):
            if len(feature.shape) == 3 and shape[:2] == feature.shape[:2]:
                raise _moved(moving[0], spec.name, shape)


def _not_mixed(mixing: list[Any], names: list[str], shapes: list[tuple[int, ...]], others: list[str]) -> OptionError:
    labels = ", ".join(f"{name} of shape {shape_text(shape)}" for name, shape in zip(names, shapes, strict=True))
    return OptionError(
        explain(
            f"augment blends the rows of a batch by {type(mixing[0]).__name__}, and their labels can't be blended.",
            expected="one input of images, and one label with a row of numbers, such as one-hot rows; and beside it "
            "Keras's layers for images alone",
            received=f"labels {labels or 'none'}" + (f"; layers {', '.join(others)}" if others else ""),
            fix="Set loss='categorical_crossentropy', for one-hot rows of class indices, or leave the layer out.",
        )
    )


def _moved(layer: Any, name: str, shape: tuple[int, ...]) -> OptionError:
    return OptionError(
        explain(
            f"augment moves the pixels of images by {type(layer).__name__}, and their labels in {name!r} would stay.",
            expected="labels of whole images, or layers that leave each pixel at its place",
            received=f"a label of shape {shape_text(shape)} for each image",
            fix="Call the layer in a train_step of the model: layer({'images': x, 'segmentation_masks': y}).",
        )
    )
