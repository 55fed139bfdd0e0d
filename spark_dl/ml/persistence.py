"""Saving and loading of estimators and models: Spark ML metadata and the Keras model's bytes, by Spark's writers.

    <path>/metadata   JSON: class, uid, params, and under "sparkDL" the format, the model's shapes, its digest
    <path>/model      Parquet: the `.keras` bytes in numbered chunks

Nothing is pickled, and loading executes no saved code. Later releases load directories of this format.

The content is serialized in memory first, so that an object that can't be saved is refused before any file is written.
It is then written to a new directory next to the path. On a file system that is local to this process, the new
directory replaces the path in one step. On file systems that only Spark can access, an existing path is removed and
written again, while the directory next to it holds a whole copy: until the write ends, the path is incomplete.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyspark
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import SparkSession

from spark_dl._compat.spark import is_connect
from spark_dl._compat.spark_ml import remove_directory
from spark_dl.errors import SavedModelError, SparkDLError, explain
from spark_dl.installed import version_of
from spark_dl.io.paths import spark_path, spark_pattern
from spark_dl.io.store import Store
from spark_dl.io.swap import check_replaceable, take_place, written_beside
from spark_dl.ml.class_names import class_name, current_name
from spark_dl.ml.spark_files import first_line, has_files, resolved
from spark_dl.redaction import redact

__all__ = ["FORMAT", "Reader", "Saved", "Writer", "described", "revived"]

FORMAT = 2
# Far below the limit of 2 GB for a Parquet page or a Spark row. A few chunks at a time pass the driver's JVM, whose
# default heap is 1 GB.
_CHUNK_BYTES = 8 << 20
_CHUNKS_AT_ONCE = 8


class Saved(MLWritable, MLReadable[Any]):
    """Base of estimators and models that can be saved and loaded.

    Subclasses have `_to_saved() -> (facts, content or None, params)`, and its inverse, the class method
    `_from_saved(facts, content)`; the reader sets the params.
    """

    def write(self) -> Writer:
        """Return a writer: `write().overwrite().save(path)` for any path that Spark can write."""
        return Writer(self)

    @classmethod
    def read(cls) -> Reader:
        """Return a reader of directories that `write` has saved."""
        return Reader(cls)


@dataclass(frozen=True)
class _Content:
    """The saved content of an instance: metadata, the Keras model's bytes if there is a model, and the params."""

    saved: dict[str, Any]
    model: bytes | None
    params: dict[str, Any]


class Writer(MLWriter):
    """Writer of an estimator or model.

    Args:
        instance: The `Saved` instance.
    """

    def __init__(self, instance: Any) -> None:
        super().__init__()
        self._instance = instance

    def save(self, path: str) -> None:
        """Save to a directory. After `overwrite()`, an existing one is replaced, but not before the new one is written.

        Args:
            path: A path or URL that Spark can write.

        Raises:
            SavedModelError: The instance can't be saved, or the path exists or can't be written.
            StoreError: The path can't be used or replaced.
        """
        path = spark_path(path)
        content = self._content()
        url = resolved(self.sparkSession, path)
        local = Store.at(url) if url.startswith("file:") else None
        here = local if not is_connect(self.sparkSession) else None  # Spark Connect's server may run on another host
        exists = has_files(self.sparkSession, path) or (here is not None and _is_taken(Path(here.path)))
        if exists and not self.shouldOverwrite:
            raise SavedModelError(
                explain(
                    f"{path} already exists.",
                    expected="a new path",
                    received="one with files in it",
                    fix="Choose another path, or replace it: .write().overwrite().save(path).",
                )
            )
        try:
            if here is not None and self.shouldOverwrite:
                check_replaceable(here)
            if local is None or not self._save_local(local, content):
                self._save_by_spark(path, content, exists)
        except SparkDLError:
            raise
        except Exception as error:
            raise SavedModelError(
                explain(
                    f"{path} can't be written.",
                    expected="a path that Spark can write",
                    received=first_line(error),
                    fix="Check the path, its permissions and the free space.",
                )
            ) from error

    def saveImpl(self, path: str) -> None:
        """Write to a new directory."""
        self._write(path, self._content())

    def _content(self) -> _Content:
        content = _Content(*_facts(self._instance))
        for name, value in {**content.params, "metadata": content.saved}.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise SavedModelError(
                    explain(
                        f"{type(self._instance).__name__} can't be saved: {name} isn't JSON.",
                        expected="values of strings, numbers, lists and dicts",
                        received=f"{type(error).__name__}: {error}",
                        fix=f"Unset {name} before, and set it again after loading.",
                    )
                ) from error
        return content

    def _save_local(self, target: Store, content: _Content) -> bool:
        """Write next to the target and swap; return False if this process can't see the files that Spark writes."""
        with written_beside(target) as aside:
            try:
                self._write(aside.url, content)
            except BaseException:
                self._remove_unseen(aside)
                raise
            seen = Path(aside.path).is_dir()
            if seen and not list(Path(aside.path, "metadata").glob("part-*")):
                raise SavedModelError(
                    explain(
                        f"{target.url} can't be written.",
                        expected="a directory that the driver and the executors share",
                        received="one that each machine has for itself",
                        fix="Give a path or URL on a shared file system.",
                    )
                )
        if seen:
            take_place(aside, target, overwrite=self.shouldOverwrite)
        else:
            self._remove_unseen(aside)
        return seen

    def _save_by_spark(self, path: str, content: _Content, exists: bool) -> None:
        """Write the directory; an existing one is replaced after a whole copy is written next to it."""
        head, _, name = path.rstrip("/").rpartition("/")
        if head.endswith(":/"):
            raise SavedModelError(
                explain(
                    f"{path} can't be replaced.",
                    expected="a path in a bucket",
                    received="all of it",
                    fix="Add a path below the bucket to the URL.",
                )
            )
        aside = f"{head}{'/' if head else ''}.{name}-{uuid.uuid4().hex[:12]}"
        first = aside if exists else path
        try:
            self._write(first, content)
        except BaseException:
            remove_directory(self.sparkSession, first)
            raise
        if exists:
            try:
                remove_directory(self.sparkSession, path)
                self._write(path, content)
            except BaseException as error:
                error.add_note(f"{aside} holds what was to be saved, whole; {path} may not.")
                if not isinstance(error, Exception):
                    raise
                raise SavedModelError(
                    explain(
                        f"{path} can't be replaced.",
                        expected="a directory that can be renamed and removed",
                        received=first_line(error),
                        fix=f"{aside} holds what was to be saved, whole: load it from there.",
                    )
                ) from error
            remove_directory(self.sparkSession, aside)

    def _remove_unseen(self, aside: Store) -> None:
        """Remove what Spark has written if this process can't see it, as a Spark Connect client on another host."""
        if not Path(aside.path).exists():
            with contextlib.suppress(Exception):  # must not hide the first error
                remove_directory(self.sparkSession, aside.url)

    def _write(self, path: str, content: _Content) -> None:
        spark = self.sparkSession
        if content.model is not None:
            chunks = _chunks(content.model)
            while some := list(itertools.islice(chunks, _CHUNKS_AT_ONCE)):
                frame = spark.createDataFrame(some, "chunk int, content binary").coalesce(1)
                # The first chunks fail on an existing directory, so that none is appended to.
                frame.write.mode("append" if some[0][0] else "error").parquet(f"{path}/model")
        extra = {"class": class_name(type(self._instance)), "sparkDL": content.saved}
        DefaultParamsWriter.saveMetadata(self._instance, path, spark, extraMetadata=extra, paramMap=content.params)


class Reader(MLReader[Any]):
    """Reader of an estimator or model.

    Args:
        cls: The class to load, a subclass of `Saved`.
    """

    def __init__(self, cls: Any) -> None:
        super().__init__()
        self._cls = cls

    def load(self, path: str) -> Any:
        """Load an instance from a directory.

        Args:
            path: A path or URL that Spark can read.

        Raises:
            SavedModelError: The directory is missing, damaged, of another class, or of a newer release.
        """
        spark, path = self.sparkSession, spark_path(path)
        metadata = self._metadata(spark, path)
        facts = metadata["sparkDL"]
        try:
            content = _content(spark, path, facts) if "sha256" in facts else None
        except KeyError as error:
            raise _damaged(path, "whole metadata", f"{type(error).__name__}: {error}") from error
        return _instance(self._cls, metadata, content, path)

    def _metadata(self, spark: SparkSession, path: str) -> dict[str, Any]:
        name = class_name(self._cls)
        try:
            metadata: dict[str, Any] = DefaultParamsReader.loadMetadata(spark_pattern(path), spark)
        except Exception as error:
            unknown = re.search(r"ClassNotFoundException|No FileSystem for scheme", str(error))
            fix = "Check the URL, and that Spark has the file system's jar." if unknown else "Save it again."
            raise _damaged(path, f"a directory saved by {name}", first_line(error), fix) from error
        _check(metadata, name, path)
        return metadata


def _is_taken(path: Path) -> bool:
    """Return whether a local path is a file or has any entries, including those that Spark ignores."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def described(instance: Saved) -> tuple[dict[str, Any], bytes | None]:
    """Return the metadata that `Writer` would write, and the Keras model's `.keras` bytes; None without a model."""
    saved, content, params = _facts(instance)
    cls = type(instance)
    metadata = {
        "class": class_name(cls),
        "timestamp": int(time.time() * 1000),
        "sparkVersion": pyspark.__version__,
        "uid": instance.uid,  # type: ignore[attr-defined]
        "paramMap": params,
        "defaultParamMap": {},  # the release that loads it sets its own defaults
        "sparkDL": saved,
    }
    return metadata, content


def revived(cls: Any, metadata: dict[str, Any], content: bytes | None, where: str) -> Any:
    """Make an instance from metadata and bytes; the inverse of `described`.

    Args:
        cls: The class to load, a subclass of `Saved`.
        metadata: The metadata.
        content: The Keras model's `.keras` bytes; None without a model.
        where: The location, for error messages.

    Raises:
        SavedModelError: The metadata or the bytes are damaged, of another class, or of a newer release.
    """
    _check(metadata, class_name(cls), where)
    digest = metadata["sparkDL"].get("sha256")
    if content is not None and hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(where, "the model with the digest in the metadata", f"{len(content)} other bytes")
    return _instance(cls, metadata, content, where)


def _facts(instance: Any) -> tuple[dict[str, Any], bytes | None, dict[str, Any]]:
    """Return the metadata under "sparkDL", the Keras model's bytes, and the params without credentials in URLs."""
    facts, content, params = instance._to_saved()
    params = {name: redact(value) if isinstance(value, str) else value for name, value in params.items()}
    saved = {"format": FORMAT, "version": version_of("spark_dl"), **facts}
    if content is not None:
        saved["bytes"] = len(content)
        saved["chunks"] = math.ceil(len(content) / _CHUNK_BYTES)
        saved["sha256"] = hashlib.sha256(content).hexdigest()
    return saved, content, params


def _instance(cls: Any, metadata: dict[str, Any], content: bytes | None, where: str) -> Any:
    try:
        instance = cls._from_saved(metadata["sparkDL"], content)
        instance._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(instance, metadata)
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(where, "whole metadata", f"{type(error).__name__}: {error}") from error
    return instance


def _check(metadata: dict[str, Any], name: str, where: str) -> None:
    """Check the class and the format of metadata; migrate older formats in place."""
    found = current_name(metadata.get("class"))
    if found != name or not isinstance(metadata.get("sparkDL"), dict):
        raise _damaged(where, f"a saved {name}", f"a saved {found}")
    facts = metadata["sparkDL"]
    if facts.get("format") == 1 and "input_shape" in facts:
        # Models of format 1 had one input.
        facts["inputs"] = [{"name": "", "shape": facts.pop("input_shape"), "dtype": facts.pop("input_dtype")}]
        facts["outputs"] = []
    if not isinstance(facts.get("format"), int) or facts["format"] > FORMAT:
        raise _damaged(
            where,
            f"format {FORMAT} or older",
            f"format {facts.get('format')}, by spark_dl {facts.get('version')}",
            "Install that release of spark_dl.",
        )


def _chunks(content: bytes) -> Iterator[tuple[int, bytearray]]:
    for index, start in enumerate(range(0, len(content), _CHUNK_BYTES)):
        yield index, bytearray(content[start : start + _CHUNK_BYTES])


def _content(spark: SparkSession, path: str, facts: dict[str, Any]) -> bytes:
    try:
        frame = spark.read.schema("chunk int, content binary").parquet(f"{spark_pattern(path)}/model")
        chunks = {}
        for first in range(0, int(facts["chunks"]), _CHUNKS_AT_ONCE):
            some = frame.where(frame["chunk"].between(first, first + _CHUNKS_AT_ONCE - 1)).collect()
            chunks.update({row["chunk"]: bytes(row["content"]) for row in some})
    except Exception as error:
        raise _damaged(path, "the model's chunks as Parquet", first_line(error)) from error
    content = b"".join(chunks[index] for index in sorted(chunks))
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise _damaged(path, f"{facts['bytes']} bytes with the digest in the metadata", f"{len(content)} other bytes")
    return content


def _damaged(path: str, expected: str, received: str, fix: str = "Save it again.") -> SavedModelError:
    return SavedModelError(explain(f"{path} can't be loaded.", expected=expected, received=received, fix=fix))
