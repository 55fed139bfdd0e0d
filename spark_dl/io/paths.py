"""Normalization of paths and URLs, which users, Spark and Hadoop spell in different ways."""

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
    "missing_package",
    "normalized",
    "opened_as",
    "overlap",
    "spark_path",
    "spark_pattern",
]

# The prefix of a local path's URL; the path follows unescaped, with its blanks and percent signs.
LOCAL = "file://"
# A single letter is a Windows drive, not a scheme; a scheme has no slash before its colon.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_WINDOWS = re.compile(r"[A-Za-z]:|\\\\")
# Hadoop's scheme -> scheme in pyarrow and fsspec.
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfss": "abfs"}
# Schemes that pyarrow opens itself. All others are looked up in fsspec.
_ARROW_SCHEMES = ("hdfs", "viewfs", "s3", "gs")
# Schemes whose URLs must name a bucket or container; Hadoop's others may leave the host out.
_OBJECT_STORES = ("s3", "gs", "abfs")
# Databricks' mount of dbfs:/, and its directory that is opened by plain paths.
_DBFS, _VOLUMES = "/dbfs", "/Volumes"
# Hadoop's older schemes of Azure -> those that pyarrow and adlfs know.
_OLD_AZURE = {"wasb": "abfs", "wasbs": "abfss"}
_GOOD = "a local path or a URL such as file:/x, hdfs://host/x or s3://bucket/x"


def normalized(path: str | os.PathLike[str]) -> str:
    """Normalize a path or URL to the one spelling that means the same in every process.

    `file:/x`, `file:///x` and `x` become `file:///absolute/path`; `hdfs:/x` becomes `hdfs:///x`. Other schemes keep the
    name that Spark knows. `dbfs:/x` becomes the local path of its mount.

    Args:
        path: A local path or a URL.

    Raises:
        StoreError: The path is empty, is relative within a URL, is a Windows path, names another host or no bucket,
            or has an unknown scheme.
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
    if any(part in ("", ".", "..") for part in below.split("/")):  # object stores refuse names without a character
        below = posixpath.normpath(f"/{below}")
    below = below.strip("/")
    return f"{scheme}://{host}" + (f"/{below}" if below or not host else "") + mark + query


def spark_path(path: str | os.PathLike[str]) -> str:
    """Convert a path that only Spark opens, which knows more schemes and has its own default file system.

    Args:
        path: A path or URL.

    Raises:
        StoreError: The path is empty, is a Windows path, or names another host.
    """
    text = _checked(path)
    found = _SCHEME.fullmatch(text)
    if found and found[1].lower() == "file":
        return LOCAL + _file_path(found[2], text)
    return _expanded(text) if not found else text


def spark_pattern(path: str) -> str:
    """Escape a path for Spark's readers, which take some characters for a glob pattern.

    Local URLs below /Volumes become plain paths, as Databricks requires.

    Args:
        path: A path or URL.
    """
    plain = path.removeprefix(LOCAL) if path.startswith(f"{LOCAL}{_VOLUMES}/") else path
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", plain)


def opened_as(scheme: str) -> str:
    """Return the name that a scheme has in pyarrow and fsspec."""
    return _ALIASES.get(scheme, scheme)


def missing_package(url: str) -> str:
    """Return the package that fsspec needs for a URL and that isn't installed; "" if nothing is missing.

    Args:
        url: The URL, from `normalized`.
    """
    if url.startswith(LOCAL):
        return ""
    from fsspec.registry import get_filesystem_class, known_implementations

    scheme = opened_as(url.partition(":")[0])
    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        known = known_implementations[scheme]
        package: str = known["class"].partition(".")[0]
        if package != "fsspec":
            return package
        # A class of fsspec itself: its text names the package in quotes, and the import the module.
        named = re.search(r'"([\w.\-]+)"', known.get("err", ""))
        return named[1] if named else getattr(error.__cause__, "name", None) or known.get("err", package)
    return ""


def is_name(name: object) -> bool:
    """Return whether an object is the name of a file or directory, not a path or URL."""
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)


def overlap(one: str, other: str) -> bool:
    """Return whether two directories, as `normalized` URLs, are the same or one is within the other."""
    return holds(one, other) or holds(other, one)


def holds(directory: str, path: str) -> bool:
    """Return whether a path is a directory or within it, both as `normalized` URLs.

    Local paths are compared after links and mounts are resolved.

    Args:
        directory: The directory's URL.
        path: The path's URL.
    """
    if directory.startswith(LOCAL) and path.startswith(LOCAL):
        return _within(_real(directory), _real(path))
    one, other = _compared(directory), _compared(path)
    # A missing host means the default one, which only Hadoop's configuration names, so it may be any.
    hosts = {one[1], other[1]} - {""}
    return one[0] == other[0] and len(hosts) < 2 and _below(one[2], other[2])


def holds_the_process(url: str) -> bool:
    """Return whether a local directory is or contains the working directory or the user's home directory."""
    own = [Path(os.path.expanduser("~"))]
    with contextlib.suppress(OSError):  # the working directory may be gone
        own.append(Path.cwd())
    return url.startswith(LOCAL) and any(_within(_real(url), str(path.resolve())) for path in own)


def _checked(path: str | os.PathLike[str]) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise _bad("This isn't a path.", f"{path!r} ({type(path).__name__})", "Write it as text or as a pathlib.Path.")
    text = os.fspath(path)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise _bad("A path is empty." if not text.strip() else "A path can't be used.", repr(text))
    if _WINDOWS.match(text):
        raise _bad("A Windows path can't be used.", text, "Mount the directory, or write ./ before a local name.")
    return text


def _file_path(rest: str, text: str) -> str:
    """Convert the part of a URL after `file:` to an absolute path."""
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
    mount, mounted = (_VOLUMES, path) if path.startswith(f"{_VOLUMES}/") else (_DBFS, f"{_DBFS}{path}")
    if not os.path.isdir(mount):
        raise StoreError(
            explain(
                f"dbfs: paths are opened through the mount {mount}, which this machine doesn't have.",
                expected=_GOOD,
                received=text,
                fix=f"Run on Databricks, where this is {mounted}, or give another directory.",
            )
        )
    return mounted


def _expanded(text: str) -> str:
    """Expand ~ at the beginning of a local path to the home directory."""
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
        fix = "Write ./ before a local name with a colon."
        if "://" in text:
            fix = "Give a directory on another storage: Spark alone knows this one."
        if scheme in _OLD_AZURE:
            fix = f"Write {_OLD_AZURE[scheme]}://container@account.dfs.core.windows.net/path."
        raise _bad(f"The scheme {scheme!r} is unknown to pyarrow and fsspec.", text, fix) from error
    except ImportError:
        return  # fsspec knows the scheme; opening it will name the missing package


def _bad(what: str, received: str, fix: str = "") -> StoreError:
    return StoreError(explain(what, expected=_GOOD, received=received, fix=fix))


def _real(url: str) -> str:
    return os.path.realpath(url.removeprefix(LOCAL))


def _within(directory: str, path: str) -> bool:
    """Return whether a real path is a directory or within it, also by inode: a mount may give it a second path."""
    if _below(directory, path):
        return True
    try:
        there = os.stat(directory)
    except OSError:
        return False
    return any((at.st_dev, at.st_ino) == (there.st_dev, there.st_ino) for at in _ancestors(path))


def _ancestors(path: str) -> Iterator[os.stat_result]:
    """Yield the stat results of a path and of its parents, as far as they exist."""
    for place in (Path(path), *Path(path).parents):
        try:
            yield place.stat()
        except OSError:
            continue


def _compared(url: str) -> tuple[str, str, str]:
    """Split a URL into scheme, host and path, without the parts that don't distinguish directories."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    host, _, path = rest.partition("/")
    if not scheme.startswith("abfs"):  # there, the container precedes the @
        host = host.rpartition("@")[2]
    return opened_as(scheme), host.lower(), posixpath.normpath(f"/{path.strip('/')}")


def _below(directory: str, path: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def joined(url: str, name: str) -> str:
    """Append a name to a directory's URL, before the query if there is one."""
    if url.startswith(LOCAL):
        return f"{LOCAL}{url.removeprefix(LOCAL).rstrip('/')}/{name}"
    path, mark, query = url.partition("?")
    directory = path.rstrip("/")
    return directory + ("//" if directory.endswith(":") else "") + f"/{name}" + mark + query
