"""Replacement of directories: the new one is written beside the old one, then swapped in.

On a local file system, both are exchanged in one system call, so that a failure leaves the old directory or the new
one, never a mixture. HDFS, and systems without that call, rename twice. Where a rename is impossible (object stores
have no directories, a mount can't be renamed), the new files are copied, and the new directory beside the target stays
until all of them are there.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from pyarrow import fs as arrow_fs

from spark_dl.errors import StoreError, explain
from spark_dl.io import paths
from spark_dl.io.store import Store
from spark_dl.redaction import warn

__all__ = ["check_replaceable", "replacing", "take_place", "written_beside"]

_SUCCESS = "_SUCCESS"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def check_replaceable(target: Store) -> None:
    """Check that a target may be replaced by a directory.

    Args:
        target: The directory to replace, which may not exist yet.

    Raises:
        StoreError: The target is a file, a whole bucket, or a directory that contains the working directory or the
            home directory, as the root does.
    """
    filesystem, path = target.open()
    if target.is_local:
        path = os.path.realpath(path)
    if paths.holds_the_process(target.url):
        fix = "Give a directory of its own."
        expected = "a directory that holds neither the working directory nor the home directory"
        raise StoreError(explain("The output can't be replaced.", expected=expected, received=target.url, fix=fix))
    if not target.is_local and not target.url.partition("?")[0].partition("://")[2].partition("/")[2]:
        raise StoreError(
            explain(
                "The output is a whole bucket.",
                expected="a path in it",
                received=target.url,
                fix="Add a path below the bucket to the URL.",
            )
        )
    if filesystem.get_file_info(path).type not in (arrow_fs.FileType.NotFound, arrow_fs.FileType.Directory):
        raise StoreError(
            explain("The output is a file.", expected="a directory", received=target.url, fix="Give another path.")
        )


@contextmanager
def written_beside(target: Store) -> Iterator[Store]:
    """Choose a new hidden name beside the target, on the same file system.

    If the `with` ends with an error, the directory of this name is removed, and so are new, empty parent directories.

    Args:
        target: The directory to replace later.
    """
    url = paths.LOCAL + os.path.realpath(target.path) if target.is_local else target.url
    path, mark, query = (url, "", "") if target.is_local else url.partition("?")
    parent, _, name = path.rpartition("/")
    # Readers of the parent directory skip names that begin with a dot.
    aside = replace(target, url=f"{parent}/.{name}-{uuid.uuid4().hex[:12]}" + mark + query)
    above = Path(parent.removeprefix(paths.LOCAL) or "/")
    missing = [place for place in (above, *above.parents) if target.is_local and not place.exists()]
    try:
        yield aside
    except BaseException:
        aside.delete()
        for place in missing:
            with suppress(OSError):  # another process may have written into it
                place.rmdir()
        raise


@contextmanager
def replacing(target: Store, *, overwrite: bool = True) -> Iterator[Store]:
    """Make a directory that replaces the target when the `with` ends, or is removed if it ends with an error.

    Args:
        target: The directory to replace.
        overwrite: Whether the target may exist with content.

    Raises:
        StoreError: The directory can't be made, or can't replace the target.
    """
    with written_beside(target) as aside:
        aside.make()
        yield aside
    take_place(aside, target, overwrite=overwrite)


def take_place(aside: Store, target: Store, *, overwrite: bool = True) -> None:
    """Replace a target with a directory that was written beside it.

    Args:
        aside: The new directory, from `written_beside`.
        target: The directory to replace.
        overwrite: Whether the target may exist with content.

    Raises:
        StoreError: The target can't be replaced. After a failed copy, the message names the directory that is complete.
    """
    filesystem, path = target.open()
    _, new = aside.open()
    try:
        if target.is_local:
            path = os.path.realpath(path)
        if not overwrite and target.names():
            raise FileExistsError("it has come to exist meanwhile")
        if target.is_local and not overwrite:
            filesystem.move(new, path)  # fails if the target has content by now
            return
        if target.is_local or filesystem.type_name == "hdfs":
            with suppress(OSError):  # a mount can't be renamed, but its content can be replaced by the copy below
                _rename(filesystem, new, path)
                return
    except (OSError, pa.ArrowException) as error:
        aside.delete()
        text = f"{type(error).__name__}: {error}"
        raise StoreError(
            explain(
                f"{target.url} can't be written.",
                expected="a directory that this process can write",
                received=text,
                fix="Check its permissions and the free space.",
            )
        ) from error
    try:
        _copy(aside, target)
    except BaseException as error:
        text = f"{aside.url} holds the new directory whole; {target.url} may not."
        if not isinstance(error, Exception):
            error.add_note(text)
            raise
        received = f"{type(error).__name__}: {error}"
        raise StoreError(
            explain(
                f"{target.url} can't be replaced.",
                expected="an earlier output that can be renamed and removed",
                received=received,
                fix=text,
            )
        ) from error
    aside.delete()


def _rename(filesystem: arrow_fs.FileSystem, new: str, path: str) -> None:
    """Rename a directory to the path of another one, which is removed."""
    local = isinstance(filesystem, arrow_fs.LocalFileSystem)
    if filesystem.get_file_info(path).type == arrow_fs.FileType.NotFound:
        filesystem.move(new, path)
        return
    if local and os.path.isdir(path):
        shutil.copymode(path, new)
    old = new
    if not (local and _exchange(new, path)):
        old = f"{new}-old"
        filesystem.move(path, old)
        try:
            filesystem.move(new, path)
        except BaseException:
            filesystem.move(old, path)
            raise
    try:
        if filesystem.get_file_info(old).type == arrow_fs.FileType.Directory:
            filesystem.delete_dir(old)
        else:
            filesystem.delete_file(old)
    except OSError as error:
        warn(f"{path} has been replaced. Its previous content is in {old}: {error}")


def _exchange(one: str, other: str) -> bool:
    """Exchange two directories atomically; False if the system or the file system can't."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    paths_of = os.fsencode(one), os.fsencode(other)
    return bool(renameat2(_AT_FDCWD, paths_of[0], _AT_FDCWD, paths_of[1], _RENAME_EXCHANGE) == 0)


def _copy(aside: Store, target: Store) -> None:
    """Replace a directory's content by copying; `_SUCCESS` is removed first and written last."""
    target.make()
    target.remove(_SUCCESS)
    filesystem, path = target.open()
    _, new = aside.open()
    filesystem.delete_dir_contents(path)
    files = filesystem.get_file_info(arrow_fs.FileSelector(new, recursive=True))
    for info in sorted(files, key=lambda info: (info.base_name == _SUCCESS, info.path)):
        place = path + info.path.removeprefix(new)
        if info.type == arrow_fs.FileType.Directory:
            filesystem.create_dir(place, recursive=True)
            continue
        with suppress(OSError, pa.ArrowException):  # some file systems have no empty directories
            filesystem.create_dir(place.rpartition("/")[0], recursive=True)
        _copy_file(filesystem, info.path, place)


def _copy_file(filesystem: arrow_fs.FileSystem, one: str, other: str) -> None:
    try:
        filesystem.copy_file(one, other)
    except (NotImplementedError, pa.ArrowNotImplementedError):  # as on HDFS
        with filesystem.open_input_stream(one) as read, filesystem.open_output_stream(other) as write:
            while part := read.read(16 << 20):
                write.write(part)
