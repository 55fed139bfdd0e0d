"""Messages between the processes of a launch.

The driver and the tasks exchange those in FROM_TASKS, and each DriverMessage, as JSON lines (`channel`). Processes of
one user on one host, a task with its rank and its fork server, exchange pickles (`frames`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spark_dl.launch.failure import Failure
from spark_dl.world import World

__all__ = [
    "FROM_TASKS",
    "Address",
    "Arrived",
    "Done",
    "DriverMessage",
    "Exited",
    "Failed",
    "Forked",
    "Heartbeat",
    "Idle",
    "JobEnded",
    "Membership",
    "NoMoreReplies",
    "NotForked",
    "Peers",
    "RankRequest",
    "RankTask",
    "Ready",
    "Reply",
    "Report",
    "Started",
    "TaskMessage",
]


@dataclass(frozen=True)
class Address:
    """Address of a channel or of a rendezvous store.

    Attributes:
        host: The host, as its clients reach it.
        port: The port at which it listens.
        token: The token that clients must know.
    """

    host: str
    port: int
    token: str


# --- from a task to the driver ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrived:
    """A task has its slot.

    Attributes:
        rank: The rank of the task.
        host: The host on which it runs.
    """

    rank: int
    host: str


@dataclass(frozen=True)
class Ready:
    """A rank's process has imported TensorFlow.

    Attributes:
        rank: The rank.
        gpus: The names of its GPUs.
        rendezvous: The address of the rendezvous store; None from all ranks but rank 0, which has it.
    """

    rank: int
    gpus: tuple[str, ...]
    rendezvous: Address | None


@dataclass(frozen=True)
class Started:
    """A rank has started Horovod.

    Attributes:
        rank: The rank.
    """

    rank: int


@dataclass(frozen=True)
class Heartbeat:
    """Progress of a rank, sent each second.

    Attributes:
        rank: The rank.
        count: The number of heartbeats that its function has counted.
        where: What its function is doing, in a few words.
        stack: The stack of its main thread, if the count is that of the message before; else empty.
    """

    rank: int
    count: int
    where: str
    stack: str


@dataclass(frozen=True)
class Report:
    """Report of the function that a rank runs.

    Attributes:
        content: The report: a JSON-compatible dict.
    """

    content: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """A rank has failed.

    Attributes:
        failure: The failure; without the pickled exception on its way to the driver.
    """

    failure: Failure


TaskMessage = Arrived | Ready | Started | Heartbeat | Report | Failed
FROM_TASKS: tuple[type[TaskMessage], ...] = (Arrived, Ready, Started, Heartbeat, Report, Failed)


@dataclass(frozen=True)
class JobEnded:
    """The Spark job has ended; put into the driver's queue by the thread that collects it."""


# --- from the driver to all tasks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peers:
    """All ranks are ready.

    Attributes:
        rendezvous: The address of the rendezvous store.
        gpus: The names of each rank's GPUs.
    """

    rendezvous: Address
    gpus: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Reply:
    """Answer to a report, for the functions of all ranks.

    Attributes:
        content: The answer: a JSON-compatible dict.
    """

    content: dict[str, Any]


DriverMessage = Peers | Reply


# --- between a task and its rank's process, besides Reply, Started, Heartbeat, Report and Failed ----------------------


@dataclass(frozen=True)
class RankTask:
    """The task of a rank's process, sent by its Spark task.

    Attributes:
        world: The rank's World.
        environment: Horovod's environment variables.
        payload: The cloudpickled function, which is called with a `Rank`.
        log_level: The level of the logger `spark_dl`, as on the driver.
    """

    world: World
    environment: dict[str, str]
    payload: bytes
    log_level: int


@dataclass(frozen=True)
class NoMoreReplies:
    """The driver's replies no longer arrive."""


@dataclass(frozen=True)
class Idle:
    """The process waits for its `RankTask`."""


@dataclass(frozen=True)
class Done:
    """The function has returned.

    Attributes:
        value: The cloudpickled value.
    """

    value: bytes


# --- between a task and the fork server ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Membership:
    """A rank's membership of a pool.

    Attributes:
        driver: The address of the pool, whose token no other pool has.
        idle_timeout: The seconds for which the process waits for its next task.
    """

    driver: Address
    idle_timeout: float


@dataclass(frozen=True)
class RankRequest:
    """A task's request for a rank's process.

    Attributes:
        environment: All environment variables of the process.
        path: Its sys.path.
        directory: Its working directory.
        settings: The variables among them that settle its cores and GPUs, which a process can't change.
        pool: The pool of which the process is; None for a process that ends with its task.
    """

    environment: dict[str, str]
    path: list[str]
    directory: str
    settings: dict[str, str] = field(default_factory=dict)
    pool: Membership | None = None

    def is_alike(self, other: RankRequest) -> bool:
        """Return whether the process of this request can serve another one, too."""
        return (self.settings, self.pool) == (other.settings, other.pool)


@dataclass(frozen=True)
class Forked:
    """The process runs.

    Attributes:
        pid: The process id.
    """

    pid: int


@dataclass(frozen=True)
class NotForked:
    """There will be no process.

    Attributes:
        reason: The reason, as a traceback.
    """

    reason: str


@dataclass(frozen=True)
class Exited:
    """The process has ended.

    Attributes:
        code: The exit code; -n if signal n ended it.
    """

    code: int
