"""Keras's process-wide settings: what the driver has set counts on ranks and in scoring, too.

Layers are made by them (dtype policy, floatx), and operations read them as a graph is traced (epsilon, image data
format, flash attention).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras

__all__ = ["apply_settings", "current_settings"]


def current_settings() -> dict[str, Any]:
    """The settings of this process, as JSON."""
    return {
        "floatx": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "image_data_format": keras.config.image_data_format(),
        "flash_attention": keras.config.is_flash_attention_enabled(),
        "dtype_policy": keras.dtype_policies.serialize(keras.config.dtype_policy()),
    }


@contextlib.contextmanager
def apply_settings(settings: Mapping[str, Any]) -> Iterator[None]:
    """Apply settings while the block runs, then put those of this process back.

    Args:
        settings: of `current_settings`, all or some of them; what isn't there stays as it is.
    """
    before = current_settings()
    wanted = {**before, **settings}
    _replace(before, wanted)
    try:
        yield
    finally:
        _replace(wanted, before)


def _replace(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    # Other threads read most of them, too: what is the same isn't touched.
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
