"""Options of the file systems that driver, executors and ranks open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spark_dl.options import checks
from spark_dl.options.fields import Options, option

__all__ = ["FileSystemOptions"]


@dataclass(frozen=True, kw_only=True)
class FileSystemOptions(Options):
    """Options of the file systems of URLs; a fitted model has them as well."""

    storage_options: dict[str, Any] | None = option(
        "Options of the file system of cacheDir, checkpointDir and scoreParquet where these are URLs, by name: the "
        "keyword arguments of pyarrow.fs's class (for s3 access_key, secret_key, session_token, region, "
        "endpoint_override and scheme, among others), or else of fsspec's. They are never saved, logged or shown, and "
        "must be set again after loading. Not set, the driver's environment variable SPARK_DL_STORAGE_OPTIONS (JSON), "
        "or the machines' own credentials.",
        checks.storage_options,
        None,
        on_resume="any",
        secret=True,
    )
