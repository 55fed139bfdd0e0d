"""What several tests share: rows as Arrow batches, real blocks on disk, a reader from memory, ranks in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from spark_dl.data import convert
from spark_dl.data import projection as transport
from spark_dl.data.column import Column
from spark_dl.data.columns import kind_of
from spark_dl.data.dataset import Block, ConvertedDataset, Tensor
from spark_dl.data.shards import Segment
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.io.store import Store
from spark_dl.score.heads import Regression
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.train.plan import TrainPlan
from spark_dl.world import World, worlds

ID = Tensor("features", (), "int64", "int64")


def blocks_of(sizes: Sequence[int]) -> list[Block]:
    """Blocks of these many rows."""
    return [Block(index, f"block-{index}", rows, False) for index, rows in enumerate(sizes)]


def numbered(sizes: Sequence[int]) -> tuple[ConvertedDataset, Callable[..., Iterator[list[np.ndarray]]]]:
    """A dataset whose rows are 0, 1, 2, ... over all blocks, and a reader that has them in memory."""
    blocks = blocks_of(sizes)
    starts = np.cumsum([0, *sizes])

    def read(dataset: ConvertedDataset, segments: Sequence[Segment]) -> Iterator[list[np.ndarray]]:
        for segment in segments:
            first = starts[segment.block.block_id]
            yield [np.arange(first + segment.start, first + segment.stop)]

    return ConvertedDataset(Store("memory://"), (ID,), tuple(blocks), 8 * sum(sizes)), read


def sent(batch: pa.RecordBatch, columns: Sequence[Column]) -> pa.RecordBatch:
    """What Spark gives for a batch of whole columns, as `arrow_projection` asks for it."""
    arrays = []
    for group in transport._groups(columns):
        parts = [batch.column(column.name) for column in group]
        if kind_of(group[0]).sent_columns > 1:
            arrays += vector_fields(parts[0]).values()
        elif len(group) > 1:
            rows = list(zip(*(part.to_pylist() for part in parts), strict=True))
            arrays.append(pa.array(rows, pa.list_(parts[0].type)))
        else:
            arrays += parts
    return pa.RecordBatch.from_arrays(arrays, names=[f"c{i}" for i in range(len(arrays))])


def vector_fields(vectors: pa.Array) -> dict[str, pa.Array]:
    """The fields of Spark's Vectors, with empty indices where a Vector has none."""
    fields = {name: pc.struct_field(vectors, name) for name in ("type", "size", "indices", "values")}
    indices = pa.array([found or [] for found in fields["indices"].to_pylist()], pa.list_(pa.int32()))
    return {**fields, "indices": indices}


def scored_input(spec: FeatureSpec, *series: Any) -> np.ndarray:
    """The model's input that scoring makes of the columns in pandas."""
    arrays = {c: kind_of(c).from_pandas(values, c) for c, values in zip(spec.columns, series, strict=True)}
    (rows,) = ScoringModel.of(b"", b"", [spec], Regression(), 1).inputs(arrays)
    return rows


def pack(
    conversion: ConversionSpec, *batches: pa.RecordBatch
) -> tuple[ConvertedDataset, dict[tuple[str, str, str], int]]:
    """Write batches as one task does: the dataset, and the faults by kind, column and detail."""
    (result,) = convert._convert_partition(conversion, [sent(batch, conversion.columns) for batch in batches])
    rows = result.to_pylist()
    blocks = [row for row in rows if row["kind"] == "block"]
    dataset = ConvertedDataset(
        conversion.store,
        conversion.tensors,
        tuple(Block(r["block_id"], r["name"], r["rows"], r["validation"]) for r in blocks),
        sum(row["bytes"] for row in blocks),
    )
    return dataset, {(r["kind"], r["name"], r["detail"]): r["rows"] for r in rows if r["kind"] != "block"}


def changed(plan: TrainPlan, **values: Any) -> TrainPlan:
    """The plan with other values: of its fields, or of its options."""
    own = {field.name for field in fields(TrainPlan)}
    options = {name: value for name, value in values.items() if name not in own}
    others = {name: value for name, value in values.items() if name in own}
    return replace(plan, options=replace(plan.options, **options), **others)


def packed_arrays(
    directory: Path, features: np.ndarray, labels: np.ndarray, validation: np.ndarray | None = None, rows: int = 64
) -> ConvertedDataset:
    """Real blocks of float32 features and int32 labels, from Arrow batches of so many rows."""
    width = features.shape[1]
    columns = {
        "x": pa.array(list(features.astype(np.float32)), pa.list_(pa.float32())),
        "y": pa.array(labels, pa.int32()),
        "v": pa.array(np.zeros(len(labels), bool) if validation is None else validation),
    }
    conversion = ConversionSpec(
        store=Store.at(str(directory)),
        features=(FeatureSpec((Column("x", "array", "float32", width),), (width,), "float32"),),
        labels=(LabelSpec(Column("y", "number", "int32", 1), (), "int32", int(labels.max()) + 1),),
        validation_col=Column("v", "boolean", "bool", 1),
    )
    conversion.store.make()
    dataset, faults = pack(conversion, *pa.table(columns).to_batches(max_chunksize=rows))
    assert not faults
    return dataset


class Together:
    """Collectives over ranks that are threads of this process, by the rules of `spark_dl.collectives`."""

    def __init__(self, world: World, meeting: threading.Barrier, given: list[Any]) -> None:
        self.world = world
        self._meeting = meeting
        self._given = given

    def _exchange(self, value: Any, name: str) -> list[Any]:
        self._given[self.world.rank] = (name, value)
        self._meeting.wait(60)
        everyones = list(self._given)
        self._meeting.wait(60)
        assert {given for given, _ in everyones} == {name}, "ranks meet in the same collective"
        return [value for _, value in everyones]

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        """The elementwise sum over all ranks."""
        return np.sum(self._exchange(np.array(array), name), axis=0)

    def broadcast(self, array: np.ndarray, name: str) -> np.ndarray:
        """Rank 0's array."""
        return self._exchange(np.array(array), name)[0]

    def sum_tensors(self, tensors: list[Any], name: str) -> list[Any]:
        """The elementwise sums, inside or outside a tf.function."""

        def add(*values: np.ndarray) -> list[np.ndarray]:
            return [np.sum(parts, axis=0) for parts in zip(*self._exchange(values, name), strict=True)]

        if tf.executing_eagerly():
            return [tf.constant(total) for total in add(*[tensor.numpy() for tensor in tensors])]
        sums = tf.numpy_function(add, tensors, [tensor.dtype for tensor in tensors])
        return [tf.ensure_shape(total, tensor.shape) for total, tensor in zip(sums, tensors, strict=True)]

    def gather_tensor(self, tensor: Any, name: str) -> Any:
        """The tensors joined, outside a tf.function."""
        return tf.concat(self._exchange(tensor, name), axis=0)


def on_ranks(size: int, function: Callable[[Together], Any]) -> list[Any]:
    """What a function returns on each of several ranks."""
    meeting, given = threading.Barrier(size), [None] * size
    errors: list[BaseException] = []

    def run(world: World) -> Any:
        try:
            return function(Together(world, meeting, given))
        except BaseException as error:
            # Before the others learn of it: what they raise then, TensorFlow wraps in errors of its own.
            errors.append(error)
            meeting.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, world) for world in worlds(["host"] * size)]
        wait(futures)
        if errors:
            raise errors[0]
        return [future.result() for future in futures]
