"""What lies in a `.keras` archive: a record of ours beside Keras's files, and nothing that is hostile.

The archive may come from anywhere, so that it is looked through before Keras opens it.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import h5py
import numpy as np

__all__ = ["add_record", "config_text", "read_record", "refuse_hostile", "split_record"]

# The member that is ours; Keras passes over it.
_RECORD, _JSON = "spark_dl.h5", "record"

# Keras stores members and weights as they are, so that they are about as large as the archive; others may compress.
_LARGE_BYTES, _TIMES = 256 << 20, 20


def config_text(content: bytes) -> str:
    """Read the config of a Keras model, as JSON, from its `.keras` bytes."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read("config.json").decode()


def add_record(path: str, record: Mapping[str, Any], values: Mapping[int, np.ndarray]) -> None:
    """Write a record into the archive at a path, as its last member.

    Args:
        path: the archive.
        record: JSON.
        values: arrays that belong to it, by a number.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file[_JSON] = np.frombuffer(json.dumps(record).encode(), np.uint8)
        for number, value in values.items():
            file[str(number)] = value
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_RECORD, content.getvalue())


def split_record(path: str) -> tuple[dict[str, Any], dict[int, np.ndarray]] | None:
    """Take the record out of the archive at a path; None where there is none.

    Keras would write all of an archive that has members of others into files, its weights among them.

    Raises:
        ValueError: the record can't be read.
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
            archive.comment = archive.comment  # has the directory written anew
    return record, values


def read_record(content: bytes) -> dict[str, Any] | None:
    """The record of an archive without its arrays; None where there is none."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if _RECORD not in archive.namelist():
            return None
        with h5py.File(io.BytesIO(archive.read(_RECORD)), "r") as file:
            return _json(file)


def _json(file: h5py.File) -> dict[str, Any]:
    if not isinstance(file.get(_JSON, getlink=True), h5py.HardLink):
        raise ValueError("a record that lies elsewhere")
    found: dict[str, Any] = json.loads(np.asarray(file[_JSON]).tobytes())
    return found


def refuse_hostile(content: bytes) -> None:
    """Refuse an archive that would fill the memory or the disk, or reach for other files.

    Args:
        content: the archive.

    Raises:
        ValueError: it is no archive, or a member leaves its directory, unpacks to far more than the archive is long, or
            holds weights that lie in other files.
    """
    most = max(_LARGE_BYTES, _TIMES * len(content))
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise ValueError(f"no archive: {error}") from error
    with archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > most:
            raise ValueError(f"{len(content)} bytes that unpack to {unpacked}")
        for member in members:
            for path in (PurePosixPath(member.filename), PureWindowsPath(member.filename)):
                if path.is_absolute() or path.drive or ".." in path.parts:
                    raise ValueError(f"a member outside of the archive's directory: {member.filename!r}")
            if member.filename.endswith(".h5"):
                # Not as a stream: HDF5 seeks, and an archive's member can only be read from its beginning.
                with h5py.File(io.BytesIO(archive.read(member)), "r") as weights:
                    _refuse_weights(weights, most)


def _refuse_weights(weights: h5py.File, most: int) -> None:
    found = 0
    seen = set()

    def visit(group: Any) -> None:
        nonlocal found
        place = h5py.h5o.get_info(group.id).addr
        if place in seen:  # groups may hold each other
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
