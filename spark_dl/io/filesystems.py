"""Opening of URLs: by pyarrow where it has the file system (file, hdfs, s3, gs, and abfs where it is built in), else
by fsspec.

Options of a file system are keyword arguments of pyarrow's class, or else of fsspec's.
"""

from __future__ import annotations

import datetime
import re
from typing import Any
from urllib.parse import parse_qsl, quote

import pyarrow as pa
from pyarrow import fs as arrow_fs

from spark_dl.errors import StoreError, explain
from spark_dl.io import paths
from spark_dl.io.storage_options import StorageOptions
from spark_dl.redaction import redact_error

__all__ = ["opened"]

# The classes of pyarrow that take options, which its wheels don't have all, and the options that most need.
_ARROW_CLASSES = {
    "s3": ("S3FileSystem", "access_key, secret_key, region, endpoint_override"),
    "gs": ("GcsFileSystem", "access_token, credential_token_expiration"),
    "abfs": ("AzureFileSystem", "account_name, account_key, sas_token"),
}
_BOOLEANS = {"true": True, "false": False}


def opened(url: str, options: StorageOptions) -> tuple[arrow_fs.FileSystem, str]:
    """Open a URL.

    Args:
        url: The URL, from `paths.normalized`.
        options: The options of its file system; not used for local paths.

    Returns:
        The file system, and the path in it.

    Raises:
        StoreError: A package or library is missing, or the file system doesn't take the options.
        OSError, ValueError: The file system can't be opened.
    """
    if url.startswith(paths.LOCAL):  # unescaped, since blanks and percent signs are part of a local name
        return arrow_fs.LocalFileSystem(), url.removeprefix(paths.LOCAL)
    scheme, _, rest = url.partition("://")
    scheme = paths.opened_as(scheme)
    if scheme in ("hdfs", "viewfs"):
        return _hadoop(scheme, rest, options)
    if len(options):
        return _with_options(url, scheme, rest, options)
    try:
        filesystem, path = arrow_fs.FileSystem.from_uri(f"{scheme}://{_escaped(rest)}")
    except pa.ArrowInvalid:
        if hasattr(arrow_fs, _ARROW_CLASSES.get(scheme, ("",))[0]) and paths.missing_package(url):
            raise  # of pyarrow's own file system: a query that it doesn't know, for example
        filesystem, path = _with_fsspec(url, f"{scheme}://{rest}", options)
    return filesystem, path.rstrip("/")


def _escaped(rest: str) -> str:
    """Escape the path of a URL for pyarrow, which unescapes it: as in Hadoop, blanks and percent signs are its own."""
    place, mark, query = rest.partition("?")
    host, slash, below = place.partition("/")
    return host + slash + quote(below) + mark + query


def _with_options(url: str, scheme: str, rest: str, options: StorageOptions) -> tuple[arrow_fs.FileSystem, str]:
    name, usual = _ARROW_CLASSES.get(scheme, ("", ""))
    kind = getattr(arrow_fs, name, None)
    try:
        if kind is None:
            filesystem, path = _with_fsspec(url, f"{scheme}://{rest}", options)
            return filesystem, path.rstrip("/")
        place, _, query = rest.partition("?")
        host, slash, below = place.partition("/")
        container, at, account = host.rpartition("@")
        keywords: dict[str, Any] = {**dict(parse_qsl(query)), **options}
        # Any text would be true to pyarrow, "false" as well.
        keywords = {key: _BOOLEANS.get(str(value).lower(), value) for key, value in keywords.items()}
        if scheme == "abfs" and at:  # container@account.dfs.core.windows.net
            host = container
            keywords.setdefault("account_name", account.partition(".")[0])
        elif at:
            raise _refused(scheme, "no credentials in the URL", "credentials in the URL and storageOptions")
        if isinstance(until := keywords.get("credential_token_expiration"), str):
            keywords["credential_token_expiration"] = datetime.datetime.fromisoformat(until)
        return kind(**keywords), f"{host}{slash}{below}".rstrip("/")
    except (TypeError, ValueError) as error:
        redact_error(error, options.secrets)
        expected = f"keyword arguments of pyarrow.fs.{name}, such as {usual}" if kind else "keywords that fsspec takes"
        raise _refused(scheme, expected, f"{', '.join(options.keys())} ({error})") from error


def _refused(scheme: str, expected: str, received: str) -> StoreError:
    return StoreError(
        explain(
            f"The file system of {scheme}:// doesn't take these storageOptions.",
            expected=expected,
            received=received,
            fix="Correct the names and values; docs/guides/storage.md lists them.",
        )
    )


def _with_fsspec(url: str, opened_url: str, options: StorageOptions) -> tuple[arrow_fs.FileSystem, str]:
    import fsspec

    if package := paths.missing_package(url):
        raise StoreError(
            explain(
                f"The package {package} isn't installed here.",
                expected=f"{package}, which opens such URLs, on the driver and all executors",
                received=url,
                fix=f"pip install {package}, or give a directory on another storage.",
            )
        )
    remote, path = fsspec.core.url_to_fs(opened_url, **options)
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(remote)), path


def _hadoop(scheme: str, rest: str, options: StorageOptions) -> tuple[arrow_fs.FileSystem, str]:
    """Open a path of HDFS; without a host, that of Hadoop's configuration."""
    try:
        if rest.startswith("/"):
            return arrow_fs.HadoopFileSystem("default", **options), rest
        if len(options):
            host, _, path = rest.partition("/")
            host, _, port = host.partition(":")
            keywords = {"port": int(port or 0), **options}
            return arrow_fs.HadoopFileSystem(f"{scheme}://{host}", **keywords), f"/{path.rstrip('/')}"
        filesystem, path = arrow_fs.FileSystem.from_uri(f"{scheme}://{_escaped(rest)}")
    except TypeError as error:
        redact_error(error, options.secrets)
        names = f"{', '.join(options.keys())} ({error})"
        raise _refused(scheme, "keyword arguments of pyarrow.fs.HadoopFileSystem", names) from error
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
