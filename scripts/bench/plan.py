"""What grows with files and ranks before the first step: `python scripts/bench/plan.py`, about three minutes.

Time and peak memory of what every rank plans: its shards, out of all files, and the place of each rank. Then the plan's
pickle, which goes to each rank; what the driver does for each file; and a rank's first block, since Petastorm looks at
the files of a reader before it reads one. Times are the best of several; memory is the peak of Python's own, by
tracemalloc, in a call that isn't timed.
"""

import functools
import math
import pickle
import sys
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cloudpickle
import pyarrow as pa
import pyarrow.parquet as pq
from local import local_session

from spark_dl.data.convert import _RESULT_SCHEMA
from spark_dl.data.dataset import BLOCK_ID, BLOCK_ROWS, FEATURES, Block, ConvertedDataset, Tensor
from spark_dl.data.readers.petastorm import read
from spark_dl.data.shards import canonical_count, canonical_shards, shards
from spark_dl.io.store import Store
from spark_dl.options import TrainingOptions
from spark_dl.spark.job import SparkJob
from spark_dl.train.plan import TrainPlan
from spark_dl.world import worlds

FILES, RANKS, CLASSES, ROWS, TURNS = (100, 1_000, 10_000), (8, 64, 512), 10, 8192, 3
# 1 TB in blocks of 7 MB.
LARGE = 150_000


def best(call: Callable[[], Any]) -> float:
    """Milliseconds of the fastest of several calls."""
    taken = []
    for _ in range(TURNS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return 1000 * min(taken)


def cpu(call: Callable[[], Any]) -> float:
    """Milliseconds of processor time of the fastest of several calls."""
    taken = []
    for _ in range(TURNS):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return 1000 * min(taken)


def peak(call: Callable[[], Any]) -> float:
    """Megabytes of Python's memory that a call takes at its height."""
    tracemalloc.start()
    call()
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return highest / 1e6


def name(index: int) -> str:
    return f"train-{index:012d}-{uuid.uuid4().hex[:12]}.parquet"


def dataset(files: int, store: Store, classes: int = CLASSES, rows: int = ROWS) -> ConvertedDataset:
    """As a conversion records it: full blocks, and labels that are class indices."""
    by_class = [tuple(index % 7 + 1000 for index in range(classes)) for _ in range(files)]
    blocks = tuple(
        Block(index, name(index), rows - index % 5, False, index << 40, by_class[index]) for index in range(files)
    )
    return ConvertedDataset(store, (Tensor(FEATURES, (256,), "float32", "float32"),), blocks, files << 23)


def plan_of(data: ConvertedDataset) -> TrainPlan:
    nothing = cloudpickle.dumps([])
    return TrainPlan(
        options=TrainingOptions(batch_size=256, seed=1),
        monitor="loss",
        dataset=data,
        workspace=data.store,
        checkpoints=data.store,
        custom_objects=nothing,
        callbacks=nothing,
        reader="petastorm",
    )


def ranks_plan() -> None:
    print(
        "| files | ranks | shards, ms | MB | microseconds per file and rank "
        "| canonical shards, ms | MB | rank placement, ms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for files in FILES:
        data = dataset(files, Store("file:///nowhere"))
        for ranks in RANKS:
            deal = functools.partial(shards, data.blocks, ranks, 256, 1)
            count = canonical_count(files, 256 * ranks)
            canonical = functools.partial(canonical_shards, data.blocks, min(ranks, count), 256 * ranks, 1)
            hosts = [f"host-{rank}" for rank in range(ranks)]
            taken = best(deal)
            print(
                f"| {files:,} | {ranks} | {taken:.1f} | {peak(deal):.1f} | {1000 * taken / (files + ranks):.1f} "
                f"| {best(canonical):.1f} | {peak(canonical):.1f} | {best(functools.partial(worlds, hosts)):.2f} |",
                flush=True,
            )


def pickles() -> None:
    print("\n| files | classes | plan, MB | to pickle, ms | to unpickle, ms |\n|---|---|---|---|---|")
    for files in FILES:
        for classes in (0, CLASSES, 1000):
            plan = plan_of(dataset(files, Store("file:///nowhere"), classes).for_reading())
            whole = cloudpickle.dumps(plan)
            loads = functools.partial(pickle.loads, whole)
            dumps = functools.partial(cloudpickle.dumps, plan)
            print(f"| {files:,} | {classes} | {len(whole) / 1e6:.2f} | {best(dumps):.1f} | {best(loads):.1f} |")


def driver() -> None:
    """The result rows of a conversion's tasks come to the driver, and become its record."""
    session = local_session()
    print(
        "\n| files | result rows to the driver, ms | to the record, ms | the directory removed, ms |\n|---|---|---|---|"
    )
    for files in (*FILES, LARGE):

        def rows(files: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                made = [
                    {"kind": "block", "name": f"train-{i:012d}-{0:012x}.parquet", "block_id": i, "rows": 1, "bytes": 8}
                    | {"validation": False, "checksum": i << 40, "class_rows": [1] * 10, "detail": None}
                    for i in range(files // batch.num_rows)
                ]
                types = [pa.string(), pa.string(), *[pa.int64()] * 3, pa.bool_(), pa.int64(), pa.list_(pa.int64())]
                names = ["kind", "name", "block_id", "rows", "bytes", "validation", "checksum", "class_rows", "detail"]
                schema = pa.schema(list(zip(names, [*types, pa.string()], strict=True)))
                yield pa.RecordBatch.from_pylist(made, schema=schema)

        def collect(files: int = files) -> list[Any]:
            with SparkJob(session.range(0, 1, 1, 1).mapInArrow(functools.partial(rows, files), _RESULT_SCHEMA)) as job:
                return job.rows()

        found = collect()

        def record(found: list[Any] = found) -> tuple[Block, ...]:
            ordered = sorted(found, key=lambda row: int(row["block_id"]))
            return tuple(
                Block(r["block_id"], r["name"], r["rows"], r["validation"], r["checksum"], tuple(r["class_rows"]))
                for r in ordered
            )

        store = Store.at(tempfile.mkdtemp())
        for index in range(files):
            with open(f"{store.path}/{index}", "wb"):
                pass
        began = time.perf_counter()
        store.delete()
        removed = 1000 * (time.perf_counter() - began)
        print(f"| {files:,} | {best(collect):.0f} | {best(record):.1f} | {removed:.0f} |", flush=True)
    session.stop()


def large() -> None:
    """The plan of 1 TB: what the driver holds, what each rank gets and makes of it."""
    tracemalloc.start()
    data = dataset(LARGE, Store("file:///nowhere"))
    held = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    plan = plan_of(data.for_reading())
    whole = cloudpickle.dumps(plan)
    dumps, loads = functools.partial(cloudpickle.dumps, plan), functools.partial(pickle.loads, whole)
    print(
        "\n| files | the record, MB | plan, MB | to pickle, CPU ms | peak MB | to unpickle, CPU ms | MB |"
        "\n|---|---|---|---|---|---|---|"
    )
    print(
        f"| {LARGE:,} | {held:.0f} | {len(whole) / 1e6:.1f} | {cpu(dumps):.0f} | {peak(dumps):.0f} "
        f"| {cpu(loads):.0f} | {peak(loads):.0f} |"
    )
    print("\n| files | ranks | shards of all ranks, CPU ms | MB | files of a rank | MB that it reads |")
    print("|---|---|---|---|---|---|")
    for ranks in (64, 512, 4096):
        deal = functools.partial(shards, data.blocks, ranks, 256, 1)
        of_rank = len(deal()[0].segments)
        read_mb = of_rank * 1e6 / LARGE
        print(
            f"| {LARGE:,} | {ranks:,} | {cpu(deal):.0f} | {peak(deal):.0f} | {of_rank:,} | {read_mb:,.0f} |",
            flush=True,
        )


def first_block() -> None:
    print("\n| files of one rank | first block after, ms | all blocks, ms | per file, ms |\n|---|---|---|---|")
    for files in (10, 100, 1000):
        with tempfile.TemporaryDirectory() as made:
            data = dataset(files, Store.at(made), rows=64)
            for block in data.blocks:
                columns = {
                    BLOCK_ID: pa.array([block.block_id]),
                    BLOCK_ROWS: pa.array([block.rows]),
                    FEATURES: pa.array([bytes(1024 * block.rows)]),
                }
                pq.write_table(pa.table(columns), f"{made}/{block.name}", compression="none", write_statistics=False)
            segments = shards(data.blocks, 1, 256, 1)[0].segments
            first, whole = math.inf, math.inf
            for _ in range(TURNS):
                began = time.perf_counter()
                arrays = read(data, segments)
                next(arrays)
                first = min(first, 1000 * (time.perf_counter() - began))
                for _ in arrays:
                    pass
                whole = min(whole, 1000 * (time.perf_counter() - began))
            print(f"| {files:,} | {first:.0f} | {whole:.0f} | {whole / files:.2f} |", flush=True)


if __name__ == "__main__":
    chosen = sys.argv[1:]
    for part in (ranks_plan, pickles, large, driver, first_block):
        if not chosen or part.__name__ in chosen:
            part()
