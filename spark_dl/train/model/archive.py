"""Access to `.keras` archives: the package's own record beside Keras's files, and a check for hostile content.

Archives may come from untrusted sources, so they are checked before Keras opens them.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import h5py
import numpy as np

__all__ = [
    "add_record",
    "config_text",
    "read_record",
    "record_structure",
    "refuse_hostile",
    "split_record",
    "structure",
]

# Archive member of this package; Keras ignores it.
_RECORD, _JSON = "spark_dl.h5", "record"
# Archive members of Keras: the config, and the date on which it saved the model.
_CONFIG, _METADATA = "config.json", "metadata.json"

# Keras doesn't compress, so the content is about as large as the archive; other writers may compress.
_LARGE_BYTES, _TIMES = 256 << 20, 20


def _opened(content: bytes | str) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(content) if isinstance(content, bytes) else content)


def config_text(content: bytes | str) -> str:
    """Read the config of a Keras model, as JSON text, from its `.keras` bytes or their file's path."""
    with _opened(content) as archive:
        return archive.read(_CONFIG).decode()


def structure(content: bytes) -> str:
    """Return all of a Keras model's `.keras` bytes but the values of variables: config, assets, and the record."""
    with _opened(content) as archive:
        members = sorted((member.filename, member.CRC) for member in archive.infolist())
        config = json.loads(archive.read(_CONFIG))
    assets = [member for member in members if not member[0].endswith(".h5") and member[0] not in (_CONFIG, _METADATA)]
    _number_shared(config, {})
    _drop_rates((config.get("compile_config") or {}).get("optimizer"))
    return json.dumps([config, assets, record_structure(read_record(content))], sort_keys=True)


def record_structure(record: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a record without the states of seeds, which are values of variables: whether they were chosen remains."""
    if record is None:
        return None
    layers = [{**layer, "seeds": [state is not None for state in layer["seeds"]]} for layer in record["layers"]]
    return {**record, "layers": layers}


def _number_shared(config: Any, numbers: dict[int, int]) -> None:
    """Number the objects that parts of a config share: Keras writes their addresses in memory."""
    for name, value in config.items() if isinstance(config, dict) else enumerate(config):
        if name == "shared_object_id":
            config[name] = numbers.setdefault(value, len(numbers))
        elif isinstance(value, (dict, list)):
            _number_shared(value, numbers)


def _drop_rates(config: Any) -> None:
    """Remove learning rates that are the value of a variable, from an optimizer's config and those that it wraps."""
    for name, value in list(config.items()) if isinstance(config, dict) else ():
        if name == "learning_rate" and isinstance(value, float):
            del config[name]
        elif name != "learning_rate":  # the numbers of a schedule are constants of the graph
            _drop_rates(value)


def add_record(path: str, record: Mapping[str, Any], values: Mapping[int, np.ndarray]) -> None:
    """Append a record to an archive, as its last member.

    Args:
        path: The path of the archive.
        record: The record, as JSON.
        values: The arrays of the record, by number.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file[_JSON] = np.frombuffer(json.dumps(record).encode(), np.uint8)
        for number, value in values.items():
            file[str(number)] = value
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_RECORD, content.getvalue())


def split_record(path: str) -> tuple[dict[str, Any], dict[int, np.ndarray]] | None:
    """Remove the record from an archive and return it; None if there is none.

    If an archive has members that aren't Keras's own, Keras would unpack all of it into files, weights included.

    Raises:
        ValueError: The record can't be read.
    """
    with zipfile.ZipFile(path, "a") as archive:
        if _RECORD not in archive.namelist():
            return None
        with h5py.File(io.BytesIO(archive.read(_RECORD)), "r") as file:
            record = _json(file)
            values = {int(name): np.asarray(value) for name, value in file.items() if name != _JSON}
        last = archive.infolist()[-1]
        if last.filename == _RECORD:
            archive.filelist.remove(last)
            del archive.NameToInfo[_RECORD]
            archive.start_dir = last.header_offset
            archive.comment = archive.comment  # makes zipfile rewrite the central directory
    return record, values


def read_record(content: bytes | str) -> dict[str, Any] | None:
    """Return the record without its arrays of an archive, as bytes or a path; None if there is none."""
    with _opened(content) as archive:
        if _RECORD not in archive.namelist():
            return None
        with h5py.File(io.BytesIO(archive.read(_RECORD)), "r") as file:
            return _json(file)


def _json(file: h5py.File) -> dict[str, Any]:
    if not isinstance(file.get(_JSON, getlink=True), h5py.HardLink):
        raise ValueError("a record that lies elsewhere")
    found: dict[str, Any] = json.loads(np.asarray(file[_JSON]).tobytes())
    return found


def refuse_hostile(content: bytes | str) -> None:
    """Raise an error for an archive that would exhaust memory or disk, or that refers to other files.

    Args:
        content: The archive as bytes, or its path.

    Raises:
        ValueError: The bytes aren't an archive, or a member's path leaves the archive's directory, members unpack to
            far more than the archive's size, or weights lie in other files.
    """
    size = len(content) if isinstance(content, bytes) else os.path.getsize(content)
    most = max(_LARGE_BYTES, _TIMES * size)
    try:
        archive = _opened(content)
    except zipfile.BadZipFile as error:
        raise ValueError(f"no archive: {error}") from error
    with archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > most:
            raise ValueError(f"{size} bytes that unpack to {unpacked}")
        for member in members:
            for path in (PurePosixPath(member.filename), PureWindowsPath(member.filename)):
                if path.is_absolute() or path.drive or ".." in path.parts:
                    raise ValueError(f"a member outside of the archive's directory: {member.filename!r}")
            if member.filename.endswith(".h5"):
                # Read as a whole: HDF5 seeks, and an archive member can only be read from its beginning.
                with h5py.File(io.BytesIO(archive.read(member)), "r") as weights:
                    _refuse_weights(weights, most)


def _refuse_weights(weights: h5py.File, most: int) -> None:
    found = 0
    seen = set()

    def visit(group: Any) -> None:
        nonlocal found
        place = h5py.h5o.get_info(group.id).addr
        if place in seen:  # groups may be cyclic
            return
        seen.add(place)
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"weights that are a link: {group.name}/{name}")
            item = group[name]
            if isinstance(item, h5py.Group):
                visit(item)
                continue
            if item.external or item.is_virtual:
                raise ValueError(f"weights that lie in another file: {item.name}")
            found += item.nbytes
            if found > most:
                raise ValueError(f"weights that unpack to {found} bytes and more")

    visit(weights)
