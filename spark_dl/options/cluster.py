"""Options of the workers: their number, resources, timeouts and restarts, and the shared directories."""

from __future__ import annotations

from dataclasses import dataclass

from spark_dl.options import checks
from spark_dl.options.fields import Options, option
from spark_dl.options.storage import FileSystemOptions

__all__ = ["ClusterOptions", "LaunchOptions"]


@dataclass(frozen=True, kw_only=True)
class LaunchOptions(Options):
    """Options of launching: the resources and the network of workers, and the driver's timeouts."""

    cpus_per_worker: int | None = option(
        "CPU cores of a worker's task; not set, spark.task.cpus.",
        checks.integer(1),
        None,
        on_resume="any",
    )
    gpus_per_worker: int | None = option(
        "GPUs of a worker's task; not set, spark.task.resource.gpu.amount.",
        checks.integer(0),
        None,
        on_resume="any",
    )
    threads_per_worker: int = option(
        "Compute threads of a worker; 0 for as many as its task has cores.",
        checks.integer(0),
        0,
        on_resume="any",
    )
    network_interface: str | None = option(
        "The network between the workers: the name of an interface, or a CIDR such as 10.0.0.0/8; not set, the one "
        "that leads to rank 0.",
        checks.interface,
        None,
        on_resume="any",
    )
    allow_plaintext: bool = option(
        "Train although Spark is configured to encrypt: workers use plain TCP, on a network that you trust.",
        checks.boolean,
        False,
        on_resume="any",
    )
    slot_timeout: float = option(
        "Seconds to wait until all workers have a slot.",
        checks.number(0),
        60.0,
        on_resume="any",
    )
    start_timeout: float = option(
        "Seconds for workers to start TensorFlow and connect, once Spark has started their tasks.",
        checks.number(0),
        180.0,
        on_resume="any",
    )
    collective_timeout: int = option(
        "Seconds after which a worker that doesn't respond to the others counts as lost.",
        checks.integer(1),
        30,
        on_resume="any",
    )
    stall_timeout: float = option(
        "Seconds without a step after which training fails; the error names the stalled worker.",
        checks.number(1),
        600.0,
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(FileSystemOptions, LaunchOptions):
    """Options of the cluster: the number of workers, restarts, launching, and the shared directories."""

    num_workers: int = option(
        "Number of Horovod ranks; each takes one slot.",
        checks.integer(1),
        1,
        on_resume="any",
    )
    min_workers: int | None = option(
        "The smallest number of workers with which training continues after others were lost; not set, numWorkers.",
        checks.integer(1),
        None,
        on_resume="any",
    )
    max_restarts: int = option(
        "How often training is restarted, from its last checkpoint, after workers were lost.",
        checks.integer(0),
        3,
        on_resume="any",
    )
    cache_dir: str | None = option(
        "A directory or URL that driver and executors share, for the converted rows of a running fit; not set, a "
        "temporary directory if they are on one machine.",
        checks.directory,
        None,
        on_resume="any",
    )
    checkpoint_dir: str | None = option(
        "A directory or URL that driver and executors share, for checkpoints. An interrupted fit is resumed from "
        "there when the same fit is called again: with the same model, code, rows and options.",
        checks.directory,
        None,
        on_resume="any",
    )
