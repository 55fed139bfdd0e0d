"""Paths and URLs in every spelling that users, Spark and Hadoop have for them, brought to one."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from spark_dl.errors import StoreError, explain

__all__ = [
    "LOCAL",
    "holds",
    "holds_the_process",
    "is_name",
    "joined",
    "normalized",
    "opened_as",
    "overlap",
    "spark_path",
    "spark_pattern",
]

# How the URL of a local path begins; what follows is the path as it is, with its blanks and percent signs.
LOCAL = "file://"
# One letter is a Windows drive and no scheme; a scheme has no slash before its colon.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_WINDOWS = re.compile(r"[A-Za-z]:|\\\\")
# Hadoop's names for what others open under another one.
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfss": "abfs"}
# What pyarrow opens itself. Whether fsspec knows another scheme, it is asked.
_ARROW_SCHEMES = ("hdfs", "viewfs", "s3", "gs")
# Their URLs begin with a bucket or container; Hadoop's others may leave the host out.
_OBJECT_STORES = ("s3", "gs", "abfs")
# Where Databricks mounts dbfs:/, and what it opens by plain paths.
_DBFS, _VOLUMES = "/dbfs", "/Volumes"
_GOOD = "a local path or a URL such as file:/x, hdfs://host/x or s3://bucket/x"


def normalized(path: str | os.PathLike[str]) -> str:
    """Bring a path or URL to the one spelling that means the same in every process.

    `file:/x`, `file:///x` and `x` become `file:///absolute/path`; `hdfs:/x` becomes `hdfs:///x`. Other schemes keep the
    name that Spark knows. `dbfs:/x` becomes its mount.

    Args:
        path: A local path or a URL.

    Raises:
        StoreError: The path is empty, relative within a URL, of Windows or another host, or of an unknown scheme.
    """
    text = _checked(path)
    found = _SCHEME.fullmatch(text)
    if not found:
        return LOCAL + _absolute(text)
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file":
        return LOCAL + _file_path(rest, text)
    if scheme == "dbfs":
        return LOCAL + _mounted(rest, text)
    _check_scheme(scheme, text)
    if not rest.startswith("/"):
        raise _bad("A URL has a relative path.", text, f"Write {scheme}://host/path.")
    rest, mark, query = rest.partition("?")
    host, _, below = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    if not host and opened_as(scheme) in _OBJECT_STORES:
        raise _bad("A URL names no bucket.", text, f"Write {scheme}://bucket/path.")
    if any(part in (".", "..") for part in below.split("/")):
        below = posixpath.normpath(f"/{below}")
    below = below.strip("/")
    return f"{scheme}://{host}" + (f"/{below}" if below or not host else "") + mark + query


def spark_path(path: str | os.PathLike[str]) -> str:
    """Give the path as Spark is given it, where Spark alone opens it: Spark knows more schemes, and its own default.

    Raises:
        StoreError: The path is empty, of Windows or of another host.
    """
    text = _checked(path)
    found = _SCHEME.fullmatch(text)
    if found and found[1].lower() == "file":
        return LOCAL + _file_path(found[2], text)
    return _expanded(text) if not found else text


def spark_pattern(path: str) -> str:
    """Give the path for Spark's readers, which take some characters for a pattern.

    Local paths below /Volumes are plain ones, as Databricks opens them.
    """
    plain = path.removeprefix(LOCAL) if path.startswith(f"{LOCAL}{_VOLUMES}/") else path
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", plain)


def opened_as(scheme: str) -> str:
    """The scheme's name in pyarrow and fsspec."""
    return _ALIASES.get(scheme, scheme)


def is_name(name: object) -> bool:
    """Whether it names something within a directory: it is no path and no URL."""
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)


def overlap(one: str, other: str) -> bool:
    """Whether two directories, as `normalized` URLs, are the same, or one lies in the other."""
    return holds(one, other) or holds(other, one)


def holds(directory: str, path: str) -> bool:
    """Whether a directory is a path or holds it, both as `normalized` URLs.

    Local ones are compared as the system resolves them, through links and mounts.
    """
    if directory.startswith(LOCAL) and path.startswith(LOCAL):
        return _within(_real(directory), _real(path))
    one, other = _compared(directory), _compared(path)
    # Without a host it is the default one, which only Hadoop's own configuration names.
    hosts = {one[1], other[1]} - {""}
    return one[0] == other[0] and len(hosts) < 2 and _below(one[2], other[2])


def holds_the_process(url: str) -> bool:
    """Whether a local directory is or holds the working directory, or the user's home."""
    own = [Path(os.path.expanduser("~"))]
    with contextlib.suppress(OSError):  # the working directory may be gone
        own.append(Path.cwd())
    return url.startswith(LOCAL) and any(_within(_real(url), str(path.resolve())) for path in own)


def _checked(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise _bad("A path is empty." if not text.strip() else "A path can't be used.", repr(text))
    if _WINDOWS.match(text):
        raise _bad("A Windows path can't be used.", text, "Mount the directory, or write ./ before a local name.")
    return text


def _file_path(rest: str, text: str) -> str:
    """The path of what follows `file:`."""
    if rest.startswith("//"):
        host, slash, below = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise _bad("A file: URL names another host.", text, f"Write file:///{host}/{below} for a local path.")
        rest = slash + below
    if not rest:
        raise _bad("A file: URL has no path.", text, "Write file:///absolute/path, or the path alone.")
    if _WINDOWS.match(rest.lstrip("/")):
        raise _bad("A Windows path can't be used.", text, "Mount the directory.")
    return _absolute(rest)


def _mounted(rest: str, text: str) -> str:
    path = _absolute(f"/{rest.lstrip('/')}")
    if path.startswith(f"{_VOLUMES}/"):
        return path
    if not os.path.isdir(_DBFS):
        raise StoreError(
            explain(
                f"dbfs: paths are opened through the mount {_DBFS}, which this machine doesn't have.",
                expected=_GOOD,
                received=text,
                fix=f"Run on Databricks, where this is {_DBFS}{path}, or give another directory.",
            )
        )
    return f"{_DBFS}{path}"


def _expanded(text: str) -> str:
    """The local path with ~ replaced by the home directory."""
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        raise _bad("A path begins with a home directory that doesn't exist.", text, "Write ./ before a local name.")
    return expanded


def _absolute(text: str) -> str:
    try:
        return "/" + os.path.abspath(_expanded(text)).lstrip("/")
    except FileNotFoundError as error:
        raise _bad("A relative path can't be used: the working directory is gone.", text) from error


def _check_scheme(scheme: str, text: str) -> None:
    if opened_as(scheme) in (*_ARROW_SCHEMES, *_OBJECT_STORES):
        return
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise _bad(
            f"The scheme {scheme!r} is unknown to pyarrow and fsspec.",
            text,
            "Write ./ before a local name with a colon.",
        ) from error
    except ImportError:
        return  # known, and said again with the missing package where it is opened


def _bad(what: str, received: str, fix: str = "") -> StoreError:
    return StoreError(explain(what, expected=_GOOD, received=received, fix=fix))


def _real(url: str) -> str:
    return os.path.realpath(url.removeprefix(LOCAL))


def _within(directory: str, path: str) -> bool:
    """Whether a real path is a directory or lies in it; a directory that is mounted twice has two paths."""
    if _below(directory, path):
        return True
    try:
        there = os.stat(directory)
    except OSError:
        return False
    return any((at.st_dev, at.st_ino) == (there.st_dev, there.st_ino) for at in _ancestors(path))


def _ancestors(path: str) -> Iterator[os.stat_result]:
    """What exists of a path and of the directories above it."""
    for place in (Path(path), *Path(path).parents):
        try:
            yield place.stat()
        except OSError:
            continue


def _compared(url: str) -> tuple[str, str, str]:
    """Scheme, host and path without what doesn't tell directories apart."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    host, _, path = rest.partition("/")
    if not scheme.startswith("abfs"):  # whose container comes first
        host = host.rpartition("@")[2]
    return opened_as(scheme), host.lower(), posixpath.normpath(f"/{path.strip('/')}")


def _below(directory: str, path: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def joined(url: str, name: str) -> str:
    """Give the URL of what a directory holds under a name; a query stays behind the path."""
    if url.startswith(LOCAL):
        return f"{LOCAL}{url.removeprefix(LOCAL).rstrip('/')}/{name}"
    path, mark, query = url.partition("?")
    directory = path.rstrip("/")
    return directory + ("//" if directory.endswith(":") else "") + f"/{name}" + mark + query
