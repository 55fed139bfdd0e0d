"""Directories by URL, which the driver and the ranks read and write without Spark.

A path without a scheme is a local path. URLs are opened as `filesystems.py` says. Files are
written atomically: under a temporary name, then renamed. Methods that take a name refuse paths, so that a name read
from a file can't lead out of the directory.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field, replace

import pyarrow as pa
from pyarrow import fs as arrow_fs

from spark_dl.errors import StoreError, explain
from spark_dl.io import paths
from spark_dl.io.filesystems import opened
from spark_dl.io.storage_options import StorageOptions
from spark_dl.redaction import is_redacted, redact, redact_error

__all__ = ["Store"]

# What file systems raise; fsspec's read-only ones raise NotImplementedError without a text.
_FAILURES = (OSError, pa.ArrowException, ImportError, ValueError, NotImplementedError)


@dataclass(frozen=True)
class Store:
    """Directory, by its URL. It is picklable, since each use opens it.

    Args:
        url: The URL, from `paths.normalized`.
        options: The options of the URL's file system. They stay in memory and in messages between processes.
    """

    url: str
    options: StorageOptions = field(default=StorageOptions(), repr=False)

    def __repr__(self) -> str:
        return f"Store({self.shown!r})"

    @property
    def shown(self) -> str:
        """The URL without credentials, for messages and saved metadata."""
        return redact(self.url)

    @staticmethod
    def at(path: str | os.PathLike[str], options: StorageOptions | None = None) -> Store:
        """Make the store of a path or URL, normalized so that it means the same in every process.

        Args:
            path: The path or URL.
            options: The options of the URL's file system, which local paths don't need.

        Raises:
            StoreError: The path can't be used (see `paths.normalized`), or its credentials were left out when it was
                saved.
        """
        if isinstance(path, str) and is_redacted(path):
            raise StoreError(
                explain(
                    "The directory's URL lacks its credentials: they are left out of what is saved.",
                    expected="the URL with which it can be opened",
                    received=path,
                    fix="Set it again (setCacheDir, setCheckpointDir), or give the credentials by the environment.",
                )
            )
        return Store(paths.normalized(path), options or StorageOptions())

    def child(self, name: str) -> Store:
        """Make the store of a subdirectory.

        Args:
            name: The name of the subdirectory.

        Raises:
            StoreError: The name is a path.
        """
        return replace(self, url=paths.joined(self.url, self._checked(name)))

    @property
    def is_local(self) -> bool:
        """Whether the URL is a path in the local file system."""
        return self.url.startswith(paths.LOCAL)

    @property
    def path(self) -> str:
        """The directory's path within its file system."""
        return self._open()[1]

    def make(self) -> None:
        """Create the directory and its parents."""
        with self._errors("create the directory"):
            filesystem, path = self._open()
            filesystem.create_dir(path, recursive=True)

    def write(self, name: str, content: bytes) -> None:
        """Write a file under a temporary name, then rename it over an existing file of this name.

        Args:
            name: The name of the file.
            content: The content.
        """
        with self._errors(f"write {name}"):
            filesystem, path = self._open()
            aside = f"{path}/.{self._checked(name)}.{uuid.uuid4().hex}"
            try:
                with filesystem.open_output_stream(aside) as stream:
                    stream.write(content)
                filesystem.move(aside, f"{path}/{name}")
            except BaseException:
                if filesystem.get_file_info(aside).type == arrow_fs.FileType.File:
                    filesystem.delete_file(aside)
                raise

    def read(self, name: str) -> bytes:
        """Read the content of a file."""
        with self._errors(f"read {name}"):
            filesystem, path = self._open()
            with filesystem.open_input_stream(f"{path}/{self._checked(name)}") as stream:
                return bytes(stream.read())

    def names(self) -> list[str]:
        """List the names of the files and subdirectories, sorted; empty if the directory doesn't exist."""
        with self._errors("list the directory"):
            filesystem, path = self._open()
            selector = arrow_fs.FileSelector(path, allow_not_found=True)
            return sorted(info.base_name for info in filesystem.get_file_info(selector))

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with self._errors(f"remove {name}"):
            filesystem, path = self._open()
            if filesystem.get_file_info(f"{path}/{self._checked(name)}").type == arrow_fs.FileType.File:
                filesystem.delete_file(f"{path}/{name}")

    def delete(self) -> None:
        """Remove the directory and its content, if it exists."""
        with self._errors("remove the directory"):
            filesystem, path = self._open()
            if filesystem.get_file_info(path).type == arrow_fs.FileType.Directory:
                filesystem.delete_dir(path)

    def open(self) -> tuple[arrow_fs.FileSystem, str]:
        """Return the pyarrow file system and the path in it, for bulk reading and writing."""
        with self._errors("open"):
            return self._open()

    def _open(self) -> tuple[arrow_fs.FileSystem, str]:
        return opened(self.url, self.options)

    def _checked(self, name: str) -> str:
        if not paths.is_name(name):
            raise StoreError(
                explain(
                    "A name leads out of its directory.",
                    expected="the name of a file or directory, without / and \\, and neither . nor ..",
                    received=f"{name!r} in {self.url}",
                    fix="Remove the file that names it: it is damaged, or not of spark_dl.",
                )
            )
        return name

    def _errors(self, action: str) -> _Errors:
        return _Errors(self, action)


@dataclass
class _Errors:
    """Context manager that turns errors of a file system into a StoreError with the directory's URL.

    Attributes:
        store: The directory.
        action: The attempted action, for the message.
    """

    store: Store
    action: str

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        redact_error(error, self.store.options.secrets)
        if isinstance(error, _FAILURES) and not isinstance(error, StoreError):
            raise StoreError(
                explain(
                    f"Can't {self.action} in {self.store.url}.",
                    expected="a directory that this process can read and write",
                    received=f"{type(error).__name__}: {error}".removesuffix(": "),
                    fix="Check the path, its permissions (of a URL, storageOptions or the credentials of each host) "
                    "and the free space, or give another directory.",
                )
            ) from error
