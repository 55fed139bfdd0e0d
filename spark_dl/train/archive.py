"""What of a `.keras` archive is refused before Keras opens it: the archive may come from anywhere."""

from __future__ import annotations

import io
import zipfile
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import h5py

__all__ = ["refuse_hostile"]

# Keras stores members and weights as they are, so that they are about as large as the archive; others may compress.
_LARGE_BYTES, _TIMES = 256 << 20, 20


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
