"""Rows become blocks and come back: packed as in a Spark task, read by every reader there is."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import pack

from spark_dl.data import block_writer
from spark_dl.data.block_writer import checksum
from spark_dl.data.column import Column
from spark_dl.data.convert import ConversionSpec
from spark_dl.data.dataset import Block, ConvertedDataset
from spark_dl.data.readers import READERS, reader
from spark_dl.data.row_errors import describe
from spark_dl.data.shards import Segment, shards
from spark_dl.data.specs import FeatureSpec, LabelSpec
from spark_dl.errors import OptionError
from spark_dl.io.store import Store

NAN = float("nan")
VECTOR = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)
LABEL = LabelSpec(Column("y", "number", "int32", 1), (), "int32", 10)


def dense(*values: float) -> dict[str, Any]:
    return {"type": 1, "size": None, "indices": None, "values": list(values)}


def sparse(size: int, entries: dict[int, float]) -> dict[str, Any]:
    return {"type": 0, "size": size, "indices": list(entries), "values": list(entries.values())}


def a_packing(
    directory: Path, columns: Sequence[Column], dtype: str = "float32", label: LabelSpec = LABEL, **others: Any
) -> ConversionSpec:
    width = sum(column.width for column in columns)
    return ConversionSpec(Store.at(str(directory)), (FeatureSpec(tuple(columns), (width,), dtype),), (label,), **others)


def a_batch(**columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def rows_of(dataset: ConvertedDataset, segments: Sequence[Segment] | None = None) -> list[np.ndarray]:
    """All rows, or those of some segments, by Petastorm."""
    everything = [Segment(block, 0, block.rows) for block in dataset.blocks]
    made = list(reader("petastorm")(dataset, everything if segments is None else segments))
    return [np.concatenate(parts) for parts in zip(*made, strict=True)]


# --- the round trip ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "values", "model_dtype", "stored", "expected"),
    [
        (Column("x", "number", "float64", 1), pa.array([0.5, -2.0]), "float32", "float32", [[0.5], [-2.0]]),
        (Column("x", "number", "int8", 1), pa.array([-128, 127], pa.int8()), "float32", "int8", [[-128], [127]]),
        (Column("x", "number", "int16", 1), pa.array([-300, 300], pa.int16()), "float32", "int16", [[-300], [300]]),
        (Column("x", "number", "int64", 1), pa.array([1, 2]), "float32", "float32", [[1], [2]]),
        (Column("x", "boolean", "bool", 1), pa.array([True, False]), "float32", "int8", [[1], [0]]),
        (Column("x", "number", "int64", 1), pa.array([5, 7]), "int32", "int32", [[5], [7]]),
        (
            Column("x", "array", "float32", 3),
            pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.float32())),
            "float32",
            "float32",
            [[1, 2, 3], [4, 5, 6]],
        ),
        (
            Column("x", "array", "int8", 2),
            pa.array([[1, -1], [0, 5]], pa.list_(pa.int8())),
            "float32",
            "int8",
            [[1, -1], [0, 5]],
        ),
        (
            Column("x", "array", "bool", 2),
            pa.array([[True, False], [True, True]]),
            "float32",
            "int8",
            [[1, 0], [1, 1]],
        ),
        (Column("x", "array", "float64", 2), pa.array([[0.5, 1], [2, 3]]), "float64", "float64", [[0.5, 1], [2, 3]]),
        (
            Column("x", "vector", "float64", 3),
            pa.array([dense(1, 2, 3), sparse(3, {2: 5.5}), sparse(3, {})], VECTOR),
            "float32",
            "float32",
            [[1, 2, 3], [0, 0, 5.5], [0, 0, 0]],
        ),
    ],
    ids=lambda value: f"{value.kind}-{value.dtype}" if isinstance(value, Column) else None,
)
def test_every_kind_of_column_comes_back_as_it_was(
    tmp_path: Path, column: Column, values: pa.Array, model_dtype: str, stored: str, expected: list[list[float]]
) -> None:
    labels = list(range(len(expected)))
    conversion = a_packing(tmp_path, [column], model_dtype)
    dataset, faults = pack(conversion, a_batch(x=values, y=pa.array(labels, pa.int32())))
    assert not faults
    features, label = rows_of(dataset)
    assert (features.dtype.name, label.dtype.name) == (stored, "int32")
    assert features.tolist() == expected
    assert label.tolist() == labels


def test_several_columns_are_joined_in_order_into_the_models_shape(tmp_path: Path) -> None:
    columns = (Column("b", "number", "int32", 1), Column("v", "array", "float64", 2), Column("a", "boolean", "bool", 1))
    features = FeatureSpec(columns, (2, 2), "float32")
    weight = Column("w", "number", "float64", 1)
    conversion = ConversionSpec(Store.at(str(tmp_path)), (features,), (LABEL,), weight)
    batch = a_batch(
        a=pa.array([True, False]),
        b=pa.array([7, 8], pa.int32()),
        v=pa.array([[1.0, 2.0], [3.0, 4.0]]),
        w=pa.array([0.5, 0.0]),
        y=pa.array([1, 2], pa.int32()),
    )
    dataset, faults = pack(conversion, batch)
    assert not faults
    x, y, w = rows_of(dataset)
    assert x.tolist() == [[[7, 1], [2, 1]], [[8, 3], [4, 0]]]
    assert (y.tolist(), w.tolist(), w.dtype.name) == ([1, 2], [0.5, 0], "float32")


def test_one_column_may_be_feature_label_and_weight(tmp_path: Path) -> None:
    column = Column("y", "number", "int32", 1)
    conversion = a_packing(tmp_path, [column], weight=column)
    assert conversion.columns == [column]
    dataset, _ = pack(conversion, a_batch(y=pa.array([3, 4], pa.int32())))
    assert [array.ravel().tolist() for array in rows_of(dataset)] == [[3, 4]] * 3


@pytest.mark.parametrize("kind", ["vector", "array"])
def test_one_column_as_feature_and_label_of_another_width_is_a_fault(tmp_path: Path, kind: str) -> None:
    feature, label = (Column("v", kind, "float64", width) for width in (2, 3))
    conversion = ConversionSpec(
        store=Store.at(str(tmp_path)),
        features=(FeatureSpec((feature,), (2,), "float32"),),
        labels=(LabelSpec(label, (3,), "float32", None),),
    )
    values = pa.array([[1.0, 2.0]], pa.list_(pa.float64()))
    if kind == "vector":
        parts = [pa.array([1], pa.int8()), pa.nulls(1, pa.int32()), pa.nulls(1, pa.list_(pa.int32())), values]
        values = pa.StructArray.from_arrays(parts, names=["type", "size", "indices", "values"])
    _, faults = pack(conversion, a_batch(v=values))
    assert faults == {("length", "v", "2"): 1}


@pytest.mark.parametrize(
    ("column", "values", "shape", "dtype", "expected"),
    [
        (Column("y", "number", "float64", 1), pa.array([0.5, -1.0]), (), "float32", [0.5, -1]),
        (Column("y", "number", "int64", 1), pa.array([1 << 40, -3]), (), "int64", [1 << 40, -3]),
        (Column("y", "boolean", "bool", 1), pa.array([True, False]), (), "int8", [1, 0]),
        (Column("y", "array", "float64", 2), pa.array([[1.0, 0], [0, 1]]), (2,), "float32", [[1, 0], [0, 1]]),
        (
            Column("y", "vector", "float64", 2),
            pa.array([dense(1, 0), sparse(2, {1: 1})], VECTOR),
            (2,),
            "float32",
            None,
        ),
    ],
    ids=lambda value: f"{value.kind}-{value.dtype}" if isinstance(value, Column) else None,
)
def test_labels_that_are_no_classes_come_back_too(
    tmp_path: Path, column: Column, values: pa.Array, shape: tuple[int, ...], dtype: str, expected: Any
) -> None:
    conversion = a_packing(tmp_path, [Column("x", "number", "int8", 1)], label=LabelSpec(column, shape, dtype, None))
    dataset, faults = pack(conversion, a_batch(x=pa.array([1, 2], pa.int8()), y=values))
    assert not faults
    label = rows_of(dataset)[1]
    assert label.dtype.name == dtype
    assert label.tolist() == (expected or [[1, 0], [0, 1]])


# --- blocks and segments -------------------------------------------------------------------------------------


def many(directory: Path, count: int, batch: int, **others: Any) -> ConvertedDataset:
    """`count` rows that are numbered, from batches of so many."""
    label = LabelSpec(Column("x", "number", "int32", 1), (), "int32", None)
    conversion = a_packing(directory, [Column("x", "number", "int32", 1)], "int32", label, **others)
    numbers = pa.array(range(count), pa.int32())
    dataset, faults = pack(conversion, *pa.table({"x": numbers}).to_batches(max_chunksize=batch))
    assert not faults
    return dataset


@pytest.mark.parametrize("batch", [1, 3, 10, 64])
def test_blocks_are_full_but_the_last_and_keep_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(block_writer, "BLOCK_BYTES", 80)  # ten rows of two int32
    dataset = many(tmp_path, 34, batch)
    assert [block.rows for block in dataset.blocks] == [10, 10, 10, 4]
    assert dataset.bytes == 34 * 8
    assert rows_of(dataset)[0].ravel().tolist() == list(range(34))


def test_batches_without_rows_make_no_blocks(tmp_path: Path) -> None:
    conversion = a_packing(tmp_path, [Column("x", "number", "int8", 1)])
    two = a_batch(x=pa.array([1, 2], pa.int8()), y=pa.array([0, 1], pa.int32()))
    none = two.slice(0, 0)
    assert pack(conversion, none)[0].blocks == ()
    assert [block.rows for block in pack(conversion, none, two, none)[0].blocks] == [2]


@pytest.mark.stack
@pytest.mark.parametrize("name", READERS)
def test_segments_are_cut_out_of_their_blocks_in_the_order_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(block_writer, "BLOCK_BYTES", 80)
    dataset = many(tmp_path, 34, 7)
    first, second, third, fourth = dataset.blocks
    segments = [Segment(fourth, 1, 3), Segment(first, 0, 10), Segment(third, 9, 10), Segment(second, 2, 5)]
    got = [arrays[0].ravel().tolist() for arrays in reader(name)(dataset, segments)]
    assert got == [[31, 32], list(range(10)), [29], [12, 13, 14]]


def test_all_ranks_together_read_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_writer, "BLOCK_BYTES", 80)
    dataset = many(tmp_path, 57, 9)
    dealt = shards(dataset.part(validation=False), 3, 4, seed=2)
    read = np.concatenate([rows_of(dataset, shard.segments)[1] for shard in dealt])
    assert sorted(read.tolist()) == list(range(57))


@pytest.mark.stack
@pytest.mark.parametrize("name", READERS)
def test_no_segments_read_nothing(tmp_path: Path, name: str) -> None:
    assert list(reader(name)(many(tmp_path, 3, 3), [])) == []


@pytest.mark.parametrize(
    "name",
    ["with blank", "50%25", "50%", "umläut", "a*b", "[a]", "a;b", "a+b&c", "key=value"],
)
def test_the_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    dataset = many(directory, 5, 5)
    assert rows_of(dataset)[1].tolist() == [0, 1, 2, 3, 4]


def test_a_block_is_one_row_without_statistics(tmp_path: Path) -> None:
    dataset = many(tmp_path, 1000, 100)
    (block,) = dataset.blocks
    file = pq.ParquetFile(tmp_path / block.name)
    assert file.metadata.num_rows == file.metadata.num_row_groups == 1
    assert not file.metadata.row_group(0).column(2).is_stats_set


def test_no_rows_are_no_blocks(tmp_path: Path) -> None:
    dataset = many(tmp_path, 0, 1)
    assert dataset.blocks == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.stack
@pytest.mark.parametrize("name", READERS)
def test_reading_a_block_that_is_gone_is_an_error_and_no_end(tmp_path: Path, name: str) -> None:
    dataset = many(tmp_path, 5, 5)
    lost = Block(7, "train-000000000007-lost.parquet", 5, False)
    with pytest.raises(Exception, match="lost"):
        list(reader(name)(dataset, [Segment(lost, 0, 5)]))


@pytest.mark.stack
@pytest.mark.parametrize("name", READERS)
def test_every_reader_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    dataset = many(tmp_path, 20, 6)
    (block,) = dataset.blocks
    ((features, label),) = reader(name)(dataset, [Segment(block, 4, 9)])
    assert (features.tolist(), label.tolist()) == ([[4], [5], [6], [7], [8]], [4, 5, 6, 7, 8])
    assert (features.dtype, label.dtype) == (np.dtype("int32"), np.dtype("int32"))


@pytest.mark.stack
@pytest.mark.parametrize("name", READERS)
def test_a_block_may_be_read_in_several_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(block_writer, "BLOCK_BYTES", 400)
    dataset = many(tmp_path, 250, 50)
    assert len(dataset.blocks) > 4
    random = np.random.default_rng(0)
    # Threads may bring the same block twice before another one.
    chosen = [Segment(dataset.blocks[i], int(i), int(i) + 3) for i in random.integers(0, len(dataset.blocks), 200)]
    read = [label.tolist() for _, label in reader(name)(dataset, chosen)]
    starts = dict(zip(dataset.blocks, np.cumsum([0, *(block.rows for block in dataset.blocks)]), strict=False))
    assert read == [list(range(starts[s.block] + s.start, starts[s.block] + s.stop)) for s in chosen]


WITHOUT_PETASTORM = """
import logging, sys
sys.modules["petastorm"] = None  # as where it isn't installed
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
from spark_dl.data.readers import arrow, check_reader, reader
from spark_dl.errors import OptionError
assert reader("auto") is reader("auto") is arrow.read
check_reader("auto")
try:
    check_reader("petastorm")
except OptionError as error:
    print(str(error).splitlines()[0])
"""


@pytest.mark.stack
def test_without_petastorm_blocks_are_read_with_pyarrow_unless_it_is_set_by_name() -> None:
    ran = subprocess.run([sys.executable, "-c", WITHOUT_PETASTORM], capture_output=True, text=True, check=True)
    logged, refused = ran.stdout.splitlines()
    assert logged.startswith("Blocks are read with pyarrow: Petastorm can't be imported (")
    assert refused.startswith("Petastorm can't be imported here.")


@pytest.mark.stack
def test_with_petastorm_it_is_the_reader() -> None:
    assert reader("auto") is reader("petastorm")


def test_files_that_petastorm_hands_out_late_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_blocks = reader("petastorm")
    from petastorm.workers_pool.thread_pool import ThreadPool  # late import: needs the names that _compat supplies

    asked = ThreadPool.all_workers_done

    def answered_late(pool: Any) -> bool:
        done: bool = asked(pool)
        if done:
            time.sleep(0.1)  # its other thread hands out files meanwhile
        return done

    monkeypatch.setattr(ThreadPool, "all_workers_done", answered_late)
    monkeypatch.setattr(block_writer, "BLOCK_BYTES", 80)
    dataset = many(tmp_path, 250, 50)
    read = read_blocks(dataset, [Segment(block, 0, block.rows) for block in dataset.blocks])
    assert [number for _, label in read for number in label.tolist()] == list(range(250))


def test_an_unknown_reader_is_refused_with_the_near_name() -> None:
    with pytest.raises(OptionError, match=r"no reader 'petastrom'.*Did you mean 'petastorm'"):
        reader("petastrom")


# --- validation ----------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(st.integers(0, 3), st.sampled_from([0.0, 0.3, 0.9]), st.integers(1, 60))
def test_the_draw_for_validation_depends_on_the_seed_and_not_on_the_batches(
    tmp_path_factory: pytest.TempPathFactory, seed: int, fraction: float, batch: int
) -> None:
    def drawn(batch: int, seed: int) -> list[list[int]]:
        directory = tmp_path_factory.mktemp("draw")
        dataset = many(directory, 60, batch, seed=seed, validation_fraction=fraction)
        parts = [[Segment(b, 0, b.rows) for b in dataset.part(part)] for part in (False, True)]
        return [rows_of(dataset, part)[1].tolist() if part else [] for part in parts]

    training, held_out = drawn(batch, seed)
    assert sorted(training + held_out) == list(range(60))
    assert drawn(60, seed) == [training, held_out]
    assert bool(held_out) == (fraction > 0)
    if fraction:
        assert drawn(60, seed + 10) != [training, held_out]


def test_a_boolean_column_chooses_the_rows_for_validation(tmp_path: Path) -> None:
    conversion = a_packing(
        tmp_path, [Column("x", "number", "int8", 1)], validation_col=Column("held_out", "boolean", "bool", 1)
    )
    batches = [
        a_batch(x=pa.array([i, i + 1], pa.int8()), y=pa.array([i, i + 1], pa.int32()), held_out=pa.array(chosen))
        for i, chosen in ((0, [True, False]), (2, [False, False]), (4, [True, True]))
    ]
    dataset, faults = pack(conversion, *batches)
    assert not faults
    parts = [[Segment(b, 0, b.rows) for b in dataset.part(part)] for part in (False, True)]
    assert [rows_of(dataset, part)[1].tolist() for part in parts] == [[1, 2, 3], [0, 4, 5]]
    assert (dataset.rows(False), dataset.rows(True)) == (3, 3)


# --- faults --------------------------------------------------------------------------------------------------


def told(conversion: ConversionSpec, faults: dict[tuple[str, str, str], int]) -> str:
    """The message on the driver."""
    rows = [{"kind": k, "name": n, "detail": d, "rows": count} for (k, n, d), count in faults.items()]
    return describe(rows, conversion.columns, conversion.labels)  # type: ignore[arg-type]


X = Column("x", "number", "float64", 1)
ARRAY = Column("x", "array", "float64", 2)
WEIGHT = Column("w", "number", "float64", 1)


@pytest.mark.parametrize(
    ("column", "columns", "label", "faults", "message"),
    [
        (X, {"x": [1.0, None, None]}, LABEL, {("null", "x", ""): 2}, "column 'x': 2 rows with a null"),
        (X, {"x": [1.0, NAN, 3]}, LABEL, {("nan", "x", ""): 1}, "column 'x': 1 row with NaN"),
        (
            ARRAY,
            {"x": [[1.0, 2], [1.0], [1.0, 2, 3]]},
            LABEL,
            {("length", "x", "1"): 1, ("length", "x", "3"): 1},
            r"column 'x': 2 rows of lengths 1 to 3, most often 1 \(in 1\), the model's input has 2",
        ),
        (ARRAY, {"x": [[1.0, None], None, [NAN, 1]]}, LABEL, {("null", "x", ""): 2, ("nan", "x", ""): 1}, "2 rows"),
        (X, {"y": [0.0, 1.5, 2.25]}, LABEL, {("fraction", "y", "1.5"): 2}, "label 'y': 2 rows .* not whole.* 1.5"),
        (X, {"y": [0.0, 10.0, -1.0]}, LABEL, {("class", "y", "10"): 2}, "label 'y': 2 rows outside .* 10 classes"),
        (X, {"y": [0.0, None, NAN]}, LABEL, {("null", "y", ""): 1, ("nan", "y", ""): 1}, "column 'y'"),
        (X, {"w": [0.0, -1.0, -0.5]}, LABEL, {("negative", "w", ""): 2}, "weight 'w': 2 rows below 0"),
        (X, {"w": [0.0, NAN, None]}, LABEL, {("null", "w", ""): 1, ("nan", "w", ""): 1}, "column 'w'"),
    ],
)
def test_rows_that_can_not_be_fed_are_counted_by_column(
    tmp_path: Path,
    column: Column,
    columns: dict[str, Any],
    label: LabelSpec,
    faults: dict[tuple[str, str, str], int],
    message: str,
) -> None:
    good = {"x": [[1.0, 2]] * 3 if column is ARRAY else [1.0, 2, 3], "y": [0.0, 1, 2], "w": [1.0, 1, 1]}
    conversion = a_packing(tmp_path, [column], label=label, weight=WEIGHT)
    dataset, found = pack(conversion, a_batch(**{**good, **columns}))
    assert found == faults
    assert dataset.blocks == ()
    assert list(tmp_path.iterdir()) == []
    assert re.search(message, told(conversion, found))


def test_the_faults_of_all_batches_and_columns_are_told_together(tmp_path: Path) -> None:
    conversion = a_packing(tmp_path, [X], weight=WEIGHT)
    batches = [a_batch(x=[None, 1.0], y=[11.0, 0.5], w=[1.0, -1.0]), a_batch(x=[NAN, None], y=[0.0, 1.0], w=[1.0, 1])]
    _, faults = pack(conversion, *batches)
    message = told(conversion, faults)
    for part in (
        "column 'x': 2 rows with a null",
        "column 'x': 1 row with NaN",
        "label 'y': 1 row with a value that is not whole, such as 0.5",
        "weight 'w': 1 row below 0",
        "nullPolicy='drop'",
        "from 0 to 9",
    ):
        assert part in message


def dropping(conversion: ConversionSpec) -> ConversionSpec:
    """The same, where rows without a value in any column are left out."""

    def dropped(column: Column) -> Column:
        return replace(column, drop=True)

    features = (replace(spec, columns=tuple(map(dropped, spec.columns))) for spec in conversion.features)
    labels = (replace(spec, column=dropped(spec.column)) for spec in conversion.labels)
    weight = dropped(conversion.weight) if conversion.weight else None
    return replace(conversion, features=tuple(features), labels=tuple(labels), weight=weight)


def test_dropping_leaves_out_rows_with_null_or_nan_in_any_column(tmp_path: Path) -> None:
    conversion = dropping(a_packing(tmp_path, [ARRAY], weight=WEIGHT))
    x = [[1.0, 1], None, [1.0, None], [NAN, 1], [5.0, 5], [6.0, 6], [7.0, 7], [8.0, 8]]
    y = [0.0, 1, 2, 3, None, NAN, 6, 7]
    w = [1.0, 1, 1, 1, 1, 1, None, 0.5]
    dataset, faults = pack(conversion, a_batch(x=x, y=y, w=w))
    assert not faults
    features, label, weight = rows_of(dataset)
    assert features.tolist() == [[1, 1], [8, 8]]
    assert (label.tolist(), weight.tolist()) == ([0, 7], [1, 0.5])


def test_dropping_leaves_wrong_lengths_and_labels_faults(tmp_path: Path) -> None:
    conversion = dropping(a_packing(tmp_path, [ARRAY]))
    _, faults = pack(conversion, a_batch(x=[None, [1.0], [1.0, 2]], y=[1.0, 1, 12]))
    assert faults == {("length", "x", "1"): 1, ("class", "y", "12"): 1}


@pytest.mark.parametrize(("value", "bad"), [((1 << 31) - 1, False), (-(1 << 31), False), (1 << 31, True)])
def test_whole_numbers_beyond_the_models_dtype_are_a_fault(tmp_path: Path, value: int, bad: bool) -> None:
    conversion = a_packing(tmp_path, [Column("x", "number", "int64", 1)], "int32")
    _, faults = pack(conversion, a_batch(x=pa.array([0, value]), y=pa.array([0, 0], pa.int32())))
    assert faults == ({("range", "x", "int32"): 1} if bad else {})


def test_negative_numbers_for_an_unsigned_input_are_a_fault(tmp_path: Path) -> None:
    conversion = a_packing(tmp_path, [Column("x", "number", "int8", 1)], "uint8")
    _, faults = pack(conversion, a_batch(x=pa.array([0, -1], pa.int8()), y=pa.array([0, 0], pa.int32())))
    assert faults == {("range", "x", "uint8"): 1}


def test_fractions_beyond_the_models_dtype_are_a_fault(tmp_path: Path) -> None:
    conversion = a_packing(tmp_path, [X])
    _, faults = pack(conversion, a_batch(x=pa.array([0.0, 1e300]), y=pa.array([0, 0], pa.int32())))
    assert faults == {("range", "x", "float32"): 1}


def test_a_row_that_is_dropped_for_its_weight_may_have_any_label(tmp_path: Path) -> None:
    conversion = dropping(a_packing(tmp_path, [X], weight=WEIGHT))
    _, faults = pack(conversion, a_batch(x=[1.0, 2.0], y=[0.0, 99.0], w=[1.0, None]))
    assert not faults


def test_the_checksum_depends_on_the_numbers_and_not_on_their_order() -> None:
    array = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    other = array.copy()
    other[7, 2] += 1
    assert checksum([array]) == checksum([array[::-1]]) != checksum([other])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float32", "float64", "int64"])
def test_the_checksum_knows_which_numbers_are_in_one_row(dtype: str) -> None:
    features = np.arange(60).reshape(20, 3).astype(dtype)
    labels = (np.arange(20) % 2).astype(np.float32)
    sums = {
        checksum([features, labels]),
        checksum([features, 1 - labels]),  # as many of each
        checksum([features[:, ::-1], labels]),
        checksum([labels, features]),
    }
    assert len(sums) == 4
    order = np.random.default_rng(2).permutation(20)
    assert checksum([features[order], labels[order]]) in sums
    assert checksum([features[:0], labels[:0]]) == 0


def test_what_ranks_are_sent_leaves_out_what_only_the_driver_counts() -> None:
    blocks = tuple(Block(i, f"{i}.parquet", 10 + i, i == 2, checksum=7, class_rows=(i, 10)) for i in range(3))
    whole = ConvertedDataset(Store("file:///nowhere"), (), blocks, 33)
    sent = whole.for_reading()
    assert (sent.checksum, sent.class_rows(validation=False)) == (0, [])
    assert [shard.rows for shard in shards(sent.part(validation=False), 2, 4, 1)] == [10, 11]
    assert [(b.block_id, b.name, b.rows, b.validation) for b in sent.blocks] == [
        (b.block_id, b.name, b.rows, b.validation) for b in blocks
    ]
    assert whole.class_rows(validation=False) == [1, 20]
