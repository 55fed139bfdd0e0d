"""Names in Keras configs, without the numbers that Keras counts per process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["renumbered"]


def renumbered(config: str) -> str:
    """Renumber the names of layers and other objects in a config, as JSON.

    Args:
        config: The config as JSON.
    """
    parsed = json.loads(config)
    numbered: dict[str, str] = {}
    for name in _object_names(parsed):
        numbered.setdefault(name, f"{re.sub(r'_[0-9]+$', '', name)}#{len(numbered)}")
    return json.dumps(_renamed(parsed, numbered))


def _object_names(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            yield config["name"]
        for value in config.values():
            yield from _object_names(value)
    elif isinstance(config, list):
        for part in config:
            yield from _object_names(part)


def _renamed(config: Any, names: Mapping[str, str]) -> Any:
    if isinstance(config, dict):
        kept = (item for item in config.items() if item[0] != "shared_object_id")
        return {names.get(key, key): _renamed(value, names) for key, value in kept}
    if isinstance(config, list):
        return [_renamed(part, names) for part in config]
    return names.get(config, config) if isinstance(config, str) else config
