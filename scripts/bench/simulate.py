"""Whole trainings on 64 to 4,096 ranks, simulated: `python scripts/bench/simulate.py`, seconds.

A training converts its rows, starts its ranks, and takes synchronous steps. A step lasts as long as its slowest rank,
whose time is drawn from measured step times, and then one join of all gradients (`project.py`). At each checkpoint all
ranks wait. Ranks fail at a constant rate; the training then starts again from its last checkpoint, as `fit` does, and
a start may fail as well. The first table compares the model with what `scaling.py` printed. `--measure` and
`--measure-cpu` measure the constants below again.
"""

import argparse
import itertools
import math
import statistics
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from project import CONSTANTS as JOIN_CONSTANTS
from project import by_gloo, by_link

RANKS, RUNS = (64, 512, 4096), 40
# Hours between failures of one rank: of GPUs in a large cluster (419 unexpected interruptions of 16,384 in 54 days,
# arXiv:2407.21783), and of machines that may be taken away (assumed).
HOURS, MINUTES = (50_000, 500), (1, 5, 15, 60)
# Step times as parts of their median, at these quantiles: `--measure`, a plain Keras process, CNN of train.py.
QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9997, 1.0)
STEP_TIMES = (0.812, 0.884, 0.934, 0.965, 1.0, 1.042, 1.099, 1.156, 1.439, 4.649, 7.909, 41.457)
STEP_MS, _SUMS = 5.9, 20_000
CONSTANTS = (
    ("convert-mb", 94.0, "MB/s a core that a conversion writes: 737,718 rows of 256 bytes on two cores; convert.py"),
    ("read-mb", 803.0, "MB/s that a rank reads: 3,138,507 rows of 256 bytes; read.py"),
    ("start-s", 0.8, "seconds to start the ranks, whose executors have imported TensorFlow; fit.py"),
    ("start-rank-ms", 1.0, "ms more for each rank, on the driver; assumed"),
    ("first-step-s", 0.4, "seconds to load the model and to trace the first step; timeline.py"),
    ("replace-s", 60.0, "seconds until lost executors are replaced; assumed"),
    ("write-mb", 200.0, "MB/s at which rank 0 writes a checkpoint to a shared store; assumed"),
    ("checkpoint-s", 0.03, "seconds of a checkpoint beside its bytes; timeline.py"),
    ("terabytes", 1.0, "TB of rows"),
    ("rows", 1e9, "rows"),
    ("epochs", 40.0, "passes over the rows"),
    ("batch", 1024.0, "rows per rank and step"),
    ("step-ms", 200.0, "ms of a step of one rank without its join, the median; assumed"),
    ("parameters", 25.6e6, "parameters of the model, in float32; Adam has two more of each"),
    ("gbit", 25.0, "Gbit/s of each rank's link"),
    ("cores", 4.0, "cores of each rank, which convert"),
)
# CPU time of a step of one rank: fixed ms, and ms a row, of two points each. For the dense network 1,024 and 4,096 rows
# of one rank in `scaling.py`, 1.23 and 3.16 ms; for the CNN 512 rows of the same, 32.2 ms, and 64 rows by
# `--measure-cpu cnn 64`, 5.3 ms on an idle machine (6.4 to 6.9 on one that other programs share).
STEP_CPU = {"cnn": (1.4, 0.0602), "dense": (0.58, 0.00063)}
# What `scaling.py` printed for docs/scaling.md: network, kind, ranks, rows per rank, ms a step.
MEASURED = (
    ("cnn", "weak", 2, 512, 34.1),
    ("cnn", "weak", 4, 512, 72.4),
    ("cnn", "weak", 8, 512, 154.4),
    ("cnn", "strong", 2, 256, 18.0),
    ("cnn", "strong", 4, 128, 22.1),
    ("cnn", "strong", 8, 64, 29.1),
    ("dense", "weak", 2, 1024, 1.9),
    ("dense", "weak", 4, 1024, 4.7),
    ("dense", "weak", 8, 1024, 11.5),
    ("dense", "strong", 2, 2048, 2.8),
    ("dense", "strong", 4, 1024, 4.7),
    ("dense", "strong", 8, 512, 10.2),
)


@dataclass(frozen=True)
class Outcome:
    """One simulated training.

    Attributes:
        seconds: From the first step to the end of the last, with checkpoints, lost work and restarts.
        restarts: How often it started again.
    """

    seconds: float
    restarts: int


def slowest(generator: np.random.Generator, medians: int, ranks: int, steps: int) -> np.ndarray:
    """Draw the time of the slowest rank of each step, as a part of the median.

    A step that is as long as several measured ones is their sum. The highest of `ranks` draws is the quantile
    u^(1/ranks) of one.

    Args:
        generator: Random numbers.
        medians: The step's length in medians of the measured step.
        ranks: The number of ranks.
        steps: The number of steps.
    """
    sums = np.interp(generator.random((_SUMS, medians)), QUANTILES, STEP_TIMES).sum(axis=1)
    sums *= medians / np.median(sums)
    return np.quantile(sums, generator.random(steps) ** (1 / ranks)) / medians


def train(generator: np.random.Generator, segments: np.ndarray, rate: float, restart: float) -> Outcome:
    """Simulate a training as its segments, each with the checkpoint at its end.

    Args:
        generator: Random numbers.
        segments: The seconds of each segment without failures.
        rate: Failures a second of all ranks together.
        restart: Seconds from a failure to the first step of the segment that is repeated.
    """
    if not rate:
        return Outcome(float(segments.sum()), 0)
    failed = generator.random(len(segments)) >= np.exp(-rate * segments)
    seconds = float(segments[~failed].sum() + _until_failure(generator, segments[failed], rate).sum())
    again = restart + segments[failed]
    # A repeated segment that succeeds takes `again`; the failures before it are geometric.
    failures = generator.geometric(np.exp(-rate * again)) - 1
    seconds += float(again.sum() + _until_failure(generator, np.repeat(again, failures), rate).sum())
    return Outcome(seconds, int(failed.sum() + failures.sum()))


def _until_failure(generator: np.random.Generator, spans: np.ndarray, rate: float) -> np.ndarray:
    """Draw when a failure comes that comes within each span."""
    return -np.log1p(-generator.random(len(spans)) * -np.expm1(-rate * spans)) / rate


def expected(segment: float, rate: float, restart: float) -> float:
    """Mean seconds of a segment with its repetitions: Daly's complete model."""
    return math.exp(rate * restart) * math.expm1(rate * segment) / rate if rate else segment


def young(checkpoint: float, rate: float) -> float:
    """Seconds of work between checkpoints that lose the least, to first order (Young 1974)."""
    return math.sqrt(2 * checkpoint / rate)


def daly(checkpoint: float, rate: float) -> float:
    """The same to higher order (Daly 2006)."""
    part = checkpoint * rate / 2
    return 1 / rate if part >= 1 else young(checkpoint, rate) * (1 + math.sqrt(part) / 3 + part / 9) - checkpoint


def segments_of(step_seconds: np.ndarray, between: int, checkpoint: float) -> np.ndarray:
    """Seconds of each segment of `between` steps with its checkpoint."""
    return np.add.reduceat(step_seconds, np.arange(0, len(step_seconds), between)) + checkpoint


def joined(known: Namespace, ranks: int, link_alone: bool) -> float:
    """Seconds of a join."""
    size = 4 * known.parameters
    return (by_link(ranks, size, known.gbit) if link_alone else by_gloo(known, ranks, size, known.gbit, False)) / 1000


def start(known: Namespace, ranks: int) -> float:
    return float(known.start_s + ranks * known.start_rank_ms / 1000 + known.first_step_s)


def checkpoint_seconds(known: Namespace) -> float:
    return float(known.checkpoint_s + 12 * known.parameters / 1e6 / known.write_mb)


def step_seconds(generator: np.random.Generator, known: Namespace, ranks: int, join: float) -> np.ndarray:
    """Seconds of each step of the training without failures: of its slowest rank, or of its reader, and the join."""
    steps = math.ceil(known.rows / known.batch / ranks) * int(known.epochs)
    read = known.batch * known.terabytes * 1e6 / known.rows / known.read_mb
    own = known.step_ms / 1000 * slowest(generator, max(1, round(known.step_ms / STEP_MS)), ranks, steps)
    return np.maximum(own, read) + join


def here() -> None:
    """The model for ranks that share two cores, against the measurement."""
    print("| network | ranks on 2 cores | rows per rank | measured step, ms | simulated step, ms | difference |")
    print("|" + "---|" * 6)
    turn = {name: value for name, value, _ in JOIN_CONSTANTS}["busy-turn-ms"]
    for name, kind, ranks, rows, measured in MEASURED:
        fixed, by_row = STEP_CPU[name]
        found = (fixed + by_row * rows) * ranks / 2 + 2 * (ranks - 1) * turn
        off = f"{100 * (found / measured - 1):+.0f} %"
        print(f"| {name}, {kind} | {ranks} | {rows} | {measured} | {found:.1f} | {off} |")


def whole(known: Namespace) -> None:
    """Trainings without failures."""
    columns = "allreduce by | allreduce, ms | slowest rank | hours | efficiency"
    print(f"\n| ranks | steps | convert, min | start, s | {columns} |")
    print("|" + "---|" * 9)
    for ranks, link_alone in itertools.product(RANKS, (False, True)):
        generator, join = np.random.default_rng(1), joined(known, ranks, link_alone)
        seconds = step_seconds(generator, known, ranks, join)
        convert = known.terabytes * 1e6 / known.convert_mb / known.cores / ranks
        total = convert + start(known, ranks) + float(seconds.sum()) + known.epochs * checkpoint_seconds(known)
        work = len(seconds) * known.step_ms / 1000
        stragglers = (float(seconds.mean()) - join) / known.step_ms * 1000
        print(
            f"| {ranks:,} | {len(seconds):,} | {convert / 60:.1f} | {start(known, ranks):.1f} "
            f"| {'link only' if link_alone else 'Gloo'} | {1000 * join:,.0f} | x {stragglers:.2f} "
            f"| {total / 3600:.2f} | {100 * work / total:.0f} % |"
        )


def intervals(known: Namespace) -> None:
    """Trainings with failures, by checkpoint interval, by the link alone."""
    cost = checkpoint_seconds(known)
    columns = "hours | 95th percentile | efficiency | restarts | Young's interval | Daly's interval"
    print(f"\n| ranks | hours between failures of a rank | checkpoint every | {columns} |\n|{'---|' * 9}")
    for ranks in RANKS:
        join = joined(known, ranks, True)
        runs = [step_seconds(np.random.default_rng(run), known, ranks, join) for run in range(RUNS)]
        work, restart = len(runs[0]) * known.step_ms / 1000, known.replace_s + start(known, ranks)
        for hours, minutes in itertools.product(HOURS, MINUTES):
            rate, between = ranks / hours / 3600, max(1, round(60 * minutes / float(runs[0].mean())))
            outcomes = [
                train(np.random.default_rng(run), segments_of(seconds, between, cost), rate, restart)
                for run, seconds in enumerate(runs)
            ]
            taken = [one.seconds / 3600 for one in outcomes]
            mean = statistics.fmean(taken)
            print(
                f"| {ranks:,} | {hours:,} | {minutes} min | {mean:.2f} | {np.quantile(taken, 0.95):.2f} "
                f"| {100 * work / 3600 / mean:.0f} % | {statistics.fmean(one.restarts for one in outcomes):.1f} "
                f"| {young(cost, rate) / 60:.1f} min | {daly(cost, rate) / 60:.1f} min |"
            )


def measure(steps: int) -> None:
    """Print the quantiles of the times of steps, in this process with one thread."""
    import keras
    import tensorflow as tf
    from train import network

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    ends: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            ends.append(time.perf_counter())

    rows = 128 * (steps + 200)
    features = np.random.default_rng(0).random((rows, 784), np.float32)
    network("cnn").fit(features, features[:, 0], batch_size=128, epochs=1, verbose=0, callbacks=[Clock()])
    taken = np.diff(ends[200:])
    print(f"median {1000 * np.median(taken):.1f} ms of {len(taken):,} steps")
    print("STEP_TIMES =", tuple(np.round(np.quantile(taken, QUANTILES) / np.median(taken), 3).tolist()))


def measure_cpu(name: str, batches: Sequence[int]) -> None:
    """Print the CPU time of a step of one rank, with all threads of its process."""
    import cloudpickle
    import scaling
    from local import local_session
    from pyspark.sql import functions as F

    cloudpickle.register_pickle_by_value(scaling)  # its callback, since ranks can't import it
    spark = local_session()
    columns = F.array(*(F.rand(i).cast("float") for i in range(scaling.CASES[name][0])))
    frame = spark.range(0, 16_384, 1, 8).select(columns.alias("features"))
    frame = frame.withColumn("label", F.col("features")[0]).cache()
    for batch in batches:
        found = scaling.run(frame, name, 1, batch, 16_384)
        print(f"{name}, {batch} rows: {1000 * batch / found.rows_per_cpu_second:.2f} CPU ms a step", flush=True)
    spark.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="Trainings on many ranks, simulated by the constants of the docs.")
    parser.add_argument("--measure", type=int, metavar="STEPS", help="measure the times of so many steps instead")
    parser.add_argument("--measure-cpu", nargs="+", metavar=("NETWORK", "ROWS"), help="measure the CPU time of a step")
    for name, value, what in (*CONSTANTS, *JOIN_CONSTANTS):
        parser.add_argument(f"--{name}", type=float, default=value, help=f"{what} (default {value:g})")
    known = parser.parse_args()
    if known.measure:
        measure(known.measure)
        return
    if known.measure_cpu:
        measure_cpu(known.measure_cpu[0], list(map(int, known.measure_cpu[1:])))
        return
    here()
    whole(known)
    intervals(known)


if __name__ == "__main__":
    main()
