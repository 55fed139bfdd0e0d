"""Scoring from Parquet to Parquet: Spark tasks read and write files with Arrow, and the JVM only schedules them.

Each task writes into a temporary directory and returns the list of its files; only listed files become the result.
"""

from __future__ import annotations

import functools
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as arrow_fs
import pyarrow.parquet as pq
from pyspark.errors import PySparkException
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from spark_dl._compat.spark import arrow_type, spark_schema
from spark_dl.data.columns import kind_of
from spark_dl.errors import StoreError, explain
from spark_dl.io.paths import LOCAL, holds, overlap, spark_pattern
from spark_dl.io.storage_options import StorageOptions
from spark_dl.io.store import Store
from spark_dl.io.swap import check_replaceable, replacing
from spark_dl.redaction import redact_error, redacted_errors
from spark_dl.score.heads import Field
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.spark.job import SparkJob
from spark_dl.spark.python_worker import purge_zipimport_cache

__all__ = ["Source", "score_parquet"]

# The metadata key of Parquet files under which Spark stores its schema, including Vector types.
_SPARK_SCHEMA = b"org.apache.spark.sql.parquet.row.metadata"
# Fewer files than this are split by row groups, so that all cores have work.
_FEW_FILES = 64
_READ_ROWS = 1 << 16
_GROUP_BYTES = 128 << 20
_RESULT = "name string, rows long"
_VECTOR = pa.struct(
    [
        pa.field("type", pa.int8(), nullable=False),
        ("size", pa.int32()),
        ("indices", pa.list_(pa.field("element", pa.int32(), nullable=False))),
        ("values", pa.list_(pa.field("element", pa.float64(), nullable=False))),
    ]
)


@dataclass(frozen=True)
class Source:
    """Parquet files to score.

    Attributes:
        store: The directory of the files.
        fragments: The files, or their row groups if there are few files.
        arrow: The Arrow schema of the columns, including partition columns.
        schema: The Spark schema of the same columns.
    """

    store: Store
    fragments: list[ds.Fragment]
    arrow: pa.Schema
    schema: T.StructType

    @staticmethod
    def at(spark: SparkSession, url: str, options: StorageOptions) -> Source:
        """Open the Parquet files in a directory.

        Args:
            spark: The session, which reads the schema; with options, which Spark doesn't have, pyarrow does.
            url: The directory or its URL.
            options: The options of the URL's file system.

        Raises:
            StoreError: The directory has no Parquet files, or they can't be read.
        """
        store = Store.at(url, options)
        filesystem, path = store.open()
        # Spark writes timestamps as int96, which Arrow reads as nanoseconds by default, with a narrow range.
        kind = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(coerce_int96_timestamp_unit="us"))
        try:
            if store.is_local or not len(options):
                schema = spark.read.parquet(spark_pattern(store.url)).schema
            else:
                schema = _schema(ds.dataset(path, filesystem=filesystem, format=kind, partitioning="hive").schema)
            files = ds.dataset(path, filesystem=filesystem, format=kind)
            # Partition columns exist only in directory names; they get the types that Spark infers.
            names = [name for name in schema.names if name not in files.schema.names]
            parts = pa.schema([(name, arrow_type(schema[name].dataType)) for name in names])
            dataset = ds.dataset(
                path, filesystem=filesystem, format=kind, partitioning=ds.partitioning(parts, flavor="hive")
            )
            fragments = list(dataset.get_fragments())
            if len(fragments) < _FEW_FILES:
                split = [part for fragment in fragments for part in fragment.split_by_row_group()]
                fragments = split or fragments
        except (OSError, pa.ArrowException, PySparkException) as error:
            redact_error(error, options.secrets)
            raise StoreError(
                explain(
                    "The Parquet files can't be read.",
                    expected="a directory of Parquet files with one schema",
                    received=f"{url}: {type(error).__name__}: {error}",
                    fix="Check the path and the files: Spark's own check is spark.read.parquet(path).count().",
                )
            ) from error
        arrow = pa.schema([dataset.schema.field(name) for name in schema.names])
        return Source(store, fragments, arrow, schema)


@dataclass(frozen=True)
class _Scoring:
    """Specification of a scoring job, which the driver sends to every Spark task.

    Attributes:
        model: The scoring model.
        fields: The head's field by output column, as (name in the head, field).
        source: The Parquet files to score.
        target: The directory for the scored files.
        metadata: The Spark schema of the result as JSON, for the files' metadata.
    """

    model: ScoringModel
    fields: Mapping[str, tuple[str, Field]]
    source: Source
    target: Store
    metadata: bytes


def score_parquet(
    spark: SparkSession, source: Source, target: str, model: ScoringModel, outputs: Mapping[str, str], overwrite: bool
) -> int:
    """Write the source's rows to Parquet with the model's output columns added.

    Args:
        spark: The session that runs the tasks, one for each fragment.
        source: The Parquet files to score.
        target: The directory or URL of the result, which is created.
        model: The scoring model.
        outputs: The name of the new column by field of the head.
        overwrite: Whether the target may exist; it is replaced after all rows are scored.

    Returns:
        The number of rows.

    Raises:
        StoreError: The target exists, can't be written or replaced, or contains the input or lies in it.
        DataError: Rows can't be scored.
    """
    store = Store.at(target, source.store.options)
    _check_target(source, store, overwrite)
    fields = {outputs[name]: (name, field) for name, field in model.head.fields().items() if name in outputs}
    added = [T.StructField(column, _spark_type(field), True) for column, (_, field) in fields.items()]
    schema = T.StructType([*source.schema.fields, *added])
    with replacing(store, overwrite=overwrite) as aside:
        scoring = _Scoring(model.ship(spark), fields, source, aside, schema.json().encode())
        numbers = spark.range(0, len(source.fragments), 1, max(1, len(source.fragments)))
        with SparkJob(numbers.mapInArrow(functools.partial(_score_fragments, scoring), _RESULT)) as job:
            written = job.rows()
        for name in set(aside.names()) - {row["name"] for row in written}:
            aside.remove(name)  # left by a task that Spark ran again
        aside.write("_SUCCESS", b"")
    return sum(row["rows"] for row in written)


def _check_target(source: Source, target: Store, overwrite: bool) -> None:
    """Check that the target is new or may be replaced, and that neither it nor the input contains the other.

    Raises:
        StoreError: The target fails one of these checks.
    """
    filesystem, path = target.open()
    if filesystem.get_file_info(path).type != arrow_fs.FileType.NotFound and not overwrite:
        expected = "a new directory, or overwrite=True"
        raise StoreError(
            explain(
                "The output directory exists.",
                expected=expected,
                received=target.url,
                fix="Choose another path, or set overwrite=True.",
            )
        )
    read = source.store
    files = [os.path.realpath(fragment.path) for fragment in source.fragments if read.is_local]  # some may be links
    linked = {LOCAL + os.path.dirname(file) for file in files}
    if overlap(read.url, target.url) or any(holds(target.url, place) for place in linked):
        raise StoreError(
            explain(
                "The input lies in the output directory, or the output in the input.",
                expected="directories apart from each other",
                received=f"{read.url}, {target.url}",
                fix="Give another output directory.",
            )
        )
    check_replaceable(target)


def _schema(arrow: pa.Schema) -> T.StructType:
    """Return the schema that Spark has written into the files, with the partition columns; else Arrow's in Spark."""
    text = (arrow.metadata or {}).get(_SPARK_SCHEMA)
    found = spark_schema(arrow)
    written = T.StructType.fromJson(json.loads(text)) if text else found
    return T.StructType([written[name] if name in written.names else found[name] for name in arrow.names])


def _spark_type(field: Field) -> T.DataType:
    if field.kind == "vector":
        return VectorUDT()
    kind: T.DataType = T.DoubleType() if field.kind == "double" else T.ArrayType(T.FloatType(), True)
    for _ in field.shape[1:]:
        kind = T.ArrayType(kind, True)
    return kind


def _score_fragments(scoring: _Scoring, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    purge_zipimport_cache()
    for batch in batches:
        for index in batch.column(0).to_pylist():
            name = f"part-{index:05d}-{uuid.uuid4().hex}.snappy.parquet"
            with redacted_errors(scoring.target.options.secrets):  # Spark writes errors of tasks to its event log
                rows = _score_fragment(scoring, scoring.source.fragments[index], name)
            yield pa.RecordBatch.from_pydict({"name": [name], "rows": [rows]})


def _score_fragment(scoring: _Scoring, fragment: ds.Fragment, name: str) -> int:
    """Score one fragment, write its file even if it has no rows, and return the number of rows."""
    filesystem, path = scoring.target.open()
    empty = pa.RecordBatch.from_arrays(
        [pa.array([], kind) for kind in scoring.source.arrow.types], scoring.source.arrow.names
    )
    schema = _scored(scoring, empty).schema.with_metadata({_SPARK_SCHEMA: scoring.metadata})
    # Only strings get a dictionary: numbers rarely repeat, and trying costs as much as writing them.
    text = [part.name for part in schema if pa.types.is_string(part.type)]
    waiting: list[pa.RecordBatch] = []
    rows = 0
    with pq.ParquetWriter(
        f"{path}/{name}", schema, filesystem=filesystem, compression="snappy", use_dictionary=text
    ) as writer:
        for batch in fragment.to_batches(schema=scoring.source.arrow, batch_size=_READ_ROWS):
            waiting.append(_scored(scoring, batch))
            rows += waiting[-1].num_rows
            if sum(part.nbytes for part in waiting) >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(waiting).replace_schema_metadata(schema.metadata))
                waiting = []
        writer.write_table(
            pa.Table.from_batches(waiting, schema.remove_metadata()).replace_schema_metadata(schema.metadata)
        )
    return rows


def _scored(scoring: _Scoring, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Add the output columns to a batch."""
    model = scoring.model
    arrays = {c: kind_of(c).from_parquet(batch.column(batch.schema.get_field_index(c.name)), c) for c in model.columns}
    found = model.score(arrays)
    nulls = found.unscorable if found.unscorable is not None and found.unscorable.any() else None
    added = [_arrow(found.columns[name], field, nulls) for name, field in scoring.fields.values()]
    kept = [_kept(array, scoring.source.schema[index].dataType) for index, array in enumerate(batch.columns)]
    scored = pa.RecordBatch.from_arrays([*kept, *added], names=[*batch.schema.names, *scoring.fields])
    return scored if nulls is None or model.nulls != "drop" else scored.filter(pa.array(~nulls))


def _arrow(values: np.ndarray, field: Field, nulls: np.ndarray | None = None) -> pa.Array:
    """Convert a field's values to Arrow, null in the rows that `nulls` marks."""
    if field.kind == "double":
        return pa.array(values, mask=nulls)
    count = len(values)
    numbers = _lists(values, field.shape or values.shape[1:], nulls)
    if field.kind == "array<float>":
        return numbers
    parts = [
        pa.array(np.ones(count, np.int8)),
        pa.nulls(count, pa.int32()),
        pa.nulls(count, _VECTOR.field("indices").type),
        numbers.cast(_VECTOR.field("values").type),
    ]
    return pa.StructArray.from_arrays(parts, fields=list(_VECTOR), mask=None if nulls is None else pa.array(nulls))


def _lists(values: np.ndarray, shape: Sequence[int], nulls: np.ndarray | None) -> pa.Array:
    """Convert values to lists, null and without values in the rows that `nulls` marks.

    Args:
        values: The values of shape (rows, width).
        shape: The shape of one row, for nested lists.
        nulls: Boolean, shape (rows,); None for no nulls.
    """
    lists = pa.array((values if nulls is None else values[~nulls]).reshape(-1))
    for size in reversed(shape[1:]):
        lists = pa.ListArray.from_arrays(_offsets(np.full(len(lists) // size, size)), lists)
    if nulls is None:
        return pa.ListArray.from_arrays(_offsets(np.full(len(values), shape[0])), lists)
    return pa.ListArray.from_arrays(_offsets(~nulls * shape[0]), lists, mask=pa.array(nulls))


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _kept(array: pa.Array, kind: T.DataType) -> pa.Array:
    """Cast a column of the source to the Arrow type from which Spark reads its original type."""
    wanted = _read_again(array.type, kind)
    return array if array.type == wanted else array.cast(wanted)


def _read_again(arrow: pa.DataType, kind: T.DataType) -> pa.DataType:
    """Return the Arrow type that Spark reads as its type `kind`: timestamps in UTC, or without a time zone for NTZ."""
    if pa.types.is_timestamp(arrow):
        return pa.timestamp("us", "UTC" if isinstance(kind, T.TimestampType) else None)
    if pa.types.is_list(arrow) and isinstance(kind, T.ArrayType):
        return pa.list_(arrow.value_field.with_type(_read_again(arrow.value_type, kind.elementType)))
    if pa.types.is_struct(arrow) and isinstance(kind, T.StructType):
        return pa.struct([part.with_type(_read_again(part.type, kind[part.name].dataType)) for part in arrow])
    return arrow
