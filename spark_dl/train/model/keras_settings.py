"""Keras's process-wide settings, carried from the driver to ranks and to scoring.

Layers depend on them when they are created (dtype policy, floatx), operations when a graph is traced (epsilon, image
data format, flash attention).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras

__all__ = ["apply_settings", "current_settings"]


def current_settings() -> dict[str, Any]:
    """Return the settings of this process, as JSON."""
    return {
        "floatx": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "image_data_format": keras.config.image_data_format(),
        "flash_attention": keras.config.is_flash_attention_enabled(),
        "dtype_policy": keras.dtype_policies.serialize(keras.config.dtype_policy()),
    }


@contextlib.contextmanager
def apply_settings(settings: Mapping[str, Any]) -> Iterator[None]:
    """Apply settings within the block and restore those of the process afterwards.

    Args:
        settings: Settings from `current_settings`, all or some; missing ones are unchanged.
    """
    before = current_settings()
    wanted = {**before, **settings}
    _replace(before, wanted)
    try:
        yield
    finally:
        _replace(wanted, before)


def _replace(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    # Other threads read most settings, too, so unchanged ones aren't set.
    for name, value in wanted.items():
        if value != before[name]:
            _set(name, value)


def _set(name: str, value: Any) -> None:
    if name == "floatx":
        keras.config.set_floatx(value)
    elif name == "epsilon":
        keras.config.set_epsilon(value)
    elif name == "image_data_format":
        keras.config.set_image_data_format(value)
    elif name == "dtype_policy":
        keras.config.set_dtype_policy(keras.dtype_policies.deserialize(value))
    elif name == "flash_attention" and value is False:
        keras.config.disable_flash_attention()
    elif name == "flash_attention":
        keras.config.enable_flash_attention()
