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
        "Cores of a worker's task; not set, spark.task.cpus.",
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
        "Computing threads of a worker; 0 for as many as its task has cores.",
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
        "Train although Spark is set to encrypt: workers speak plain TCP, on a network that you trust.",
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
        "Seconds that workers have, once Spark has started their tasks, to start TensorFlow and connect.",
        checks.number(0),
        180.0,
        on_resume="any",
    )
    collective_timeout: int = option(
        "Seconds after which a worker that does not answer the others counts as lost.",
        checks.integer(1),
        30,
        on_resume="any",
    )
    stall_timeout: float = option(
        "Seconds without a step after which training is given up, naming the worker that stands.",
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
        "With how few workers training goes on after others were lost; not set, with no fewer.",
        checks.integer(1),
        None,
        on_resume="any",
    )
    max_restarts: int = option(
        "How often training is started again, from its last checkpoint, after workers were lost.",
        checks.integer(0),
        3,
        on_resume="any",
    )
    cache_dir: str | None = option(
        "A directory or URL that driver and executors share, for the converted data of a running fit; a temporary "
        "directory where they are on one machine.",
        checks.directory,
        None,
        on_resume="any",
    )
    checkpoint_dir: str | None = option(
        "A directory or URL that driver and executors share, where checkpoints are kept. A fit that was not finished "
        "goes on from there when the same fit is called again: with the same model, code, rows and options.",
        checks.directory,
        None,
        on_resume="any",
    )
