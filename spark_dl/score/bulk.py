"""Scoring from Parquet to Parquet: Spark's tasks read and write by Arrow, and the JVM only schedules them.

Each task returns the list of the files it wrote, aside; only those on the list become the result.
"""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as arrow_fs
import pyarrow.parquet as pq
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import SparkSession
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from spark_dl.data.arrow import Extracted, extract, extract_vectors
from spark_dl.data.schema import Column
from spark_dl.errors import StoreError, explain
from spark_dl.score.heads import Field
from spark_dl.score.predict import ScoringModel, joined, loaded, unfit
from spark_dl.spark_job import SparkJob
from spark_dl.store import Store

__all__ = ["Source", "score_parquet"]

# Spark keeps its own schema, Vectors among it, in a Parquet file's metadata.
_SPARK_SCHEMA = b"org.apache.spark.sql.parquet.row.metadata"
# Up to here, files are split by row groups, so that all cores have something to do.
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
        fragments: the files, or their row groups.
        arrow: schema of their columns, partition columns included.
        schema: the same as Spark knows it.
    """

    fragments: list[ds.Fragment]
    arrow: pa.Schema
    schema: T.StructType

    @staticmethod
    def at(url: str) -> Source:
        """The Parquet files in a directory.

        Raises:
            StoreError: there are none, or they can't be read.
        """
        filesystem, path = Store.at(url).open()
        try:
            dataset = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning="hive")
            fragments = list(dataset.get_fragments())
            if len(fragments) < _FEW_FILES:
                fragments = [part for fragment in fragments for part in fragment.split_by_row_group()]
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                explain("The Parquet files can't be read.", received=f"{url}: {type(error).__name__}: {error}")
            ) from error
        if not len(dataset.schema):
            raise StoreError(explain("There are no Parquet files.", expected="a directory of them", received=url))
        known = (dataset.schema.metadata or {}).get(_SPARK_SCHEMA)
        schema = from_arrow_schema(dataset.schema.remove_metadata())
        if known:
            declared = {field.name: field for field in T.StructType.fromJson(json.loads(known))}
            schema = T.StructType([declared.get(field.name, field) for field in schema])
        return Source(fragments, dataset.schema.remove_metadata(), schema)


@dataclass(frozen=True)
class _Scoring:
    """What every task is told.

    Attributes:
        model: what to score with.
        fields: name of the output column -> the head's field, and its name in the head.
        source: what to read.
        target: where the files go.
        metadata: Spark's schema of the result, for the files' metadata.
    """

    model: ScoringModel
    fields: Mapping[str, tuple[str, Field]]
    source: Source
    target: Store
    metadata: bytes


def score_parquet(
    spark: SparkSession, source: Source, target: str, model: ScoringModel, outputs: Mapping[str, str], overwrite: bool
) -> int:
    """Write the source's rows with the model's output columns added; gives their number.

    Args:
        spark: runs the tasks, one for each fragment.
        source: what to score.
        target: directory or URL of the result, made now.
        model: what to score with.
        outputs: field of the head -> name of the new column.
        overwrite: whether the target may exist; it is replaced when all is scored.

    Raises:
        StoreError: the target exists, or can't be written.
        DataError: rows that can't be scored.
    """
    store = Store.at(target)
    filesystem, path = store.open()
    exists = filesystem.get_file_info(path).type != arrow_fs.FileType.NotFound
    if exists and not overwrite:
        raise StoreError(
            explain(
                "The output directory exists.",
                expected="a new directory, or overwrite=True",
                received=target,
            )
        )
    fields = {outputs[name]: (name, field) for name, field in model.head.fields().items() if name in outputs}
    added = [T.StructField(column, _spark_type(field), True) for column, (_, field) in fields.items()]
    schema = T.StructType([*source.schema.fields, *added])
    aside = Store.at(f"{target.rstrip('/')}-{uuid.uuid4().hex[:12]}")
    aside.make()
    try:
        scoring = _Scoring(model, fields, source, aside, schema.json().encode())
        numbers = spark.range(0, len(source.fragments), 1, max(1, len(source.fragments)))
        with SparkJob(numbers.mapInArrow(functools.partial(_score_fragments, scoring), _RESULT)) as job:
            written = job.rows()
        for name in set(aside.names()) - {row["name"] for row in written}:
            aside.remove(name)  # of a task that failed or ran twice
        aside.write("_SUCCESS", b"")
        if exists:
            store.delete()
        filesystem.move(aside.open()[1], path)
    except BaseException:
        aside.delete()
        raise
    return sum(row["rows"] for row in written)


def _spark_type(field: Field) -> T.DataType:
    if field.kind == "vector":
        return VectorUDT()
    return T.DoubleType() if field.kind == "double" else T.ArrayType(T.FloatType(), True)


def _score_fragments(scoring: _Scoring, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for index in batch.column(0).to_pylist():
            name = f"part-{index:05d}-{uuid.uuid4().hex}.snappy.parquet"
            rows = _score_fragment(scoring, scoring.source.fragments[index], name)
            yield pa.RecordBatch.from_pydict({"name": [name], "rows": [rows]})


def _score_fragment(scoring: _Scoring, fragment: ds.Fragment, name: str) -> int:
    """Write one fragment's rows; gives their number."""
    filesystem, path = scoring.target.open()
    waiting: list[pa.RecordBatch] = []
    rows = 0
    writer = None
    try:
        for batch in fragment.to_batches(schema=scoring.source.arrow, batch_size=_READ_ROWS):
            if not batch.num_rows:
                continue
            scored = _scored(scoring, batch)
            if writer is None:
                schema = scored.schema.with_metadata({_SPARK_SCHEMA: scoring.metadata})
                # Numbers rarely repeat; to try costs as much as to write them.
                text = [part.name for part in schema if pa.types.is_string(part.type)]
                writer = pq.ParquetWriter(
                    f"{path}/{name}", schema, filesystem=filesystem, compression="snappy", use_dictionary=text
                )
            waiting.append(scored)
            rows += batch.num_rows
            if sum(part.nbytes for part in waiting) >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(waiting).replace_schema_metadata(writer.schema.metadata))
                waiting = []
        if writer is not None and waiting:
            writer.write_table(pa.Table.from_batches(waiting).replace_schema_metadata(writer.schema.metadata))
    finally:
        if writer is not None:
            writer.close()
    return rows


def _scored(scoring: _Scoring, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the output columns added."""
    model = scoring.model
    parts = [_matrix(batch.column(batch.schema.get_field_index(c.name)), c) for c in model.features.columns]
    inputs = joined(parts, model.features)
    predict = loaded(model)
    step = model.batch_size
    outputs = np.concatenate([predict(inputs[start : start + step]) for start in range(0, len(inputs), step)])
    columns = model.head.columns(outputs)
    added = [_arrow(columns[name], field) for name, field in scoring.fields.values()]
    kept = [_kept(array, scoring.source.schema[index].dataType) for index, array in enumerate(batch.columns)]
    return pa.RecordBatch.from_arrays([*kept, *added], names=[*batch.schema.names, *scoring.fields])


def _matrix(array: pa.Array, column: Column) -> np.ndarray:
    """A feature column's numbers, none of them missing: shape (rows, width)."""
    if column.kind == "vector":
        names = ("type", "size", "indices", "values")
        fields = dict(zip(names, array.flatten(), strict=True))
        extracted = extract_vectors(fields, column.width)
    else:
        extracted = extract(array, column)
    _check(extracted, column)
    return extracted.values


def _check(extracted: Extracted, column: Column) -> None:
    rows = len(extracted.missing)
    if extracted.lengths:
        raise unfit(column, f"{column.width} numbers a row", f"a row of {next(iter(extracted.lengths))}")
    if extracted.missing.any():
        raise unfit(
            column, "no nulls and no NaN", f"{int(extracted.missing.sum())} null or NaN in a batch of {rows} rows"
        )


def _arrow(values: np.ndarray, field: Field) -> pa.Array:
    if field.kind == "double":
        return pa.array(values)
    count, width = values.shape
    if field.kind == "array<float>":
        return pa.ListArray.from_arrays(_offsets(count, width), pa.array(values.reshape(-1)))
    numbers = pa.ListArray.from_arrays(_offsets(count, width), pa.array(values.reshape(-1)))
    parts = [
        pa.array(np.ones(count, np.int8)),
        pa.nulls(count, pa.int32()),
        pa.nulls(count, _VECTOR.field("indices").type),
        numbers.cast(_VECTOR.field("values").type),
    ]
    return pa.StructArray.from_arrays(parts, fields=list(_VECTOR))


def _offsets(rows: int, width: int) -> pa.Array:
    return pa.array(np.arange(0, rows * width + 1, width, dtype=np.int32))


def _kept(array: pa.Array, kind: T.DataType) -> pa.Array:
    """A column as Spark reads it again: its timestamps are of microseconds, and know whether they are of a place."""
    if pa.types.is_timestamp(array.type):
        return array.cast(pa.timestamp("us", "UTC" if isinstance(kind, T.TimestampType) else None))
    return array
