"""Directories by URL, which the driver and the ranks read and write without Spark.

A path without a scheme is a local path. URLs are opened by pyarrow (file, hdfs, s3, gs) or else by fsspec. Files are
written atomically: under a temporary name, then renamed. Methods that take a name refuse paths, so that a name read
from a file can't lead out of the directory.
"""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs as arrow_fs

from spark_dl.errors import StoreError, explain
from spark_dl.io import paths
from spark_dl.redaction import is_redacted, redact

__all__ = ["Store"]


@dataclass(frozen=True)
class Store:
    """Directory, by its URL. It is picklable, since each use opens it.

    Args:
        url: The URL, from `paths.normalized`.
    """

    url: str

    def __repr__(self) -> str:
        return f"Store({self.shown!r})"

    @property
    def shown(self) -> str:
        """The URL without credentials, for messages and saved metadata."""
        return redact(self.url)

    @staticmethod
    def at(path: str | os.PathLike[str]) -> Store:
        """Make the store of a path or URL, normalized so that it means the same in every process.

        Args:
            path: The path or URL.

        Raises:
            StoreError: The path can't be used (see `paths.normalized`), or its credentials were left out when it was
                saved.
        """
        if is_redacted(os.fspath(path)):
            raise StoreError(
                explain(
                    "The directory's URL lacks its credentials: they are left out of what is saved.",
                    expected="the URL with which it can be opened",
                    received=path,
                    fix="Set it again (setCacheDir, setCheckpointDir), or give the credentials by the environment.",
                )
            )
        return Store(paths.normalized(path))

    def child(self, name: str) -> Store:
        """Make the store of a subdirectory.

        Args:
            name: The name of the subdirectory.

        Raises:
            StoreError: The name is a path.
        """
        return Store(paths.joined(self.url, self._checked(name)))

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
        if self.is_local:  # unescaped, since blanks and percent signs are part of a local name
            return arrow_fs.LocalFileSystem(), self.url.removeprefix(paths.LOCAL)
        scheme, _, rest = self.url.partition("://")
        opened = paths.opened_as(scheme)
        if opened in ("hdfs", "viewfs"):
            return _hadoop(opened, rest)
        try:
            filesystem, path = arrow_fs.FileSystem.from_uri(f"{opened}://{rest}")
        except pa.ArrowInvalid:
            filesystem, path = self._with_fsspec(f"{opened}://{rest}")
        return filesystem, path.rstrip("/")

    def _with_fsspec(self, url: str) -> tuple[arrow_fs.FileSystem, str]:
        import fsspec

        if package := paths.missing_package(self.url):
            raise StoreError(
                explain(
                    f"The package {package} isn't installed here.",
                    expected=f"{package}, which opens such URLs, on the driver and all executors",
                    received=self.url,
                    fix=f"pip install {package}, or give a directory on another storage.",
                )
            )
        remote, path = fsspec.core.url_to_fs(url)
        return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(remote)), path

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
        return _Errors(self.url, action)


def _hadoop(scheme: str, rest: str) -> tuple[arrow_fs.FileSystem, str]:
    """Open a path of HDFS; without a host, that of Hadoop's configuration."""
    try:
        if rest.startswith("/"):
            return arrow_fs.HadoopFileSystem("default"), rest
        filesystem, path = arrow_fs.FileSystem.from_uri(f"{scheme}://{rest}")
    except OSError as error:
        if not re.search(r"libhdfs|libjvm", str(error)):
            raise
        raise StoreError(
            explain(
                "Hadoop's client library can't be loaded here.",
                expected="libhdfs and a Java, on the driver and all executors",
                received=str(error),
                fix="Set JAVA_HOME, HADOOP_HOME and CLASSPATH (`hadoop classpath --glob`) for the driver and by "
                "spark.executorEnv, or give a directory on another storage.",
            )
        ) from error
    return filesystem, path.rstrip("/")


@dataclass
class _Errors:
    """Context manager that turns errors of a file system into a StoreError with the directory's URL.

    Attributes:
        url: The directory's URL.
        action: The attempted action, for the message.
    """

    url: str
    action: str

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OSError, pa.ArrowException, ImportError, ValueError)) and not isinstance(
            error, StoreError
        ):
            raise StoreError(
                explain(
                    f"Can't {self.action} in {self.url}.",
                    expected="a directory that this process can read and write",
                    received=f"{type(error).__name__}: {error}",
                    fix="Check the path, its permissions (of a URL, the credentials of each host) and the free space, "
                    "or give another directory.",
                )
            ) from error
