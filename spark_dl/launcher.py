"""Custom functions on Horovod ranks: the launcher, and its MLflow autologging."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from pyspark.sql import SparkSession

from spark_dl._compat.spark import is_connect
from spark_dl.installed import version_of
from spark_dl.launch import slots
from spark_dl.launch.horovod_build import horovod_fault, unfit_horovod
from spark_dl.launch.launcher import run_ranks
from spark_dl.launch.pickling import pickle_for_ranks
from spark_dl.launch.rank import without_rank
from spark_dl.launch.settings import LaunchSettings, ProcessSettings
from spark_dl.options import ClusterOptions, LaunchOptions
from spark_dl.redaction import warn
from spark_dl.spark.session import master_of, running_session, use_driver_python
from spark_dl.track import Record, Tracker
from spark_dl.track import tracker as make_tracker
from spark_dl.train.fit_reports import FitReport, reporting_fits
from spark_dl.wire import decode

__all__ = ["HorovodLauncher", "autolog"]

# The Spark setting with the tracker's name, set for a session or in the cluster's defaults.
_AUTOLOG = "spark.sparkDL.autolog"
_MODULES = ("spark_dl.train.fit_reports",)


def autolog(disable: bool = False) -> None:
    """Enable MLflow logging of each `HorovodLauncher.run` in the current Spark session.

    The driver logs to the active MLflow run, or to a new one: the number of workers, and the metrics of each epoch of
    each `keras.Model.fit` on rank 0. Metrics of a second fit in one call are named like `fit2.loss`.

    Args:
        disable: Whether to disable the logging.
    """
    conf = running_session().conf
    if disable:
        conf.unset(_AUTOLOG)
    else:
        conf.set(_AUTOLOG, "mlflow")


class HorovodLauncher:
    """Launcher of custom functions on Horovod ranks, one rank per task of a Spark barrier stage.

    Horovod is initialised before the function is called; calling `hvd.init()` again is harmless. Each rank is a new
    process with the GPUs and threads that Spark assigns to its task.

    Args:
        numWorkers: The number of ranks; each takes one slot.
        cpusPerWorker: The number of cores of a rank's task; None for spark.task.cpus.
        gpusPerWorker: The number of GPUs of a rank's task; None for spark.task.resource.gpu.amount.
        threadsPerWorker: The number of compute threads of a rank; 0 for the number of its task's cores.
        networkInterface: The interface name or CIDR of the network between the ranks; None for the interface that
            routes to rank 0.
        allowPlaintext: Whether to run although Spark encrypts its traffic: the ranks communicate by plain TCP.
        slotTimeout: The time to wait until all ranks have a slot, in seconds.
        startTimeout: The time for ranks to start and to connect, once Spark has started their tasks, in seconds.

    Raises:
        OptionError: An argument is invalid.

    Example:

        >>> from pyspark.sql import SparkSession
        >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
        >>> def train(rate):
        ...     import horovod.tensorflow as hvd
        ...     return hvd.rank(), hvd.size(), rate
        >>> HorovodLauncher(2).run(train, 0.1)
        [(0, 2, 0.1), (1, 2, 0.1)]
        >>> spark.stop()
    """

    def __init__(  # noqa: PLR0913
        self,
        numWorkers: int,
        *,
        cpusPerWorker: int | None = LaunchOptions.cpus_per_worker,
        gpusPerWorker: int | None = LaunchOptions.gpus_per_worker,
        threadsPerWorker: int = LaunchOptions.threads_per_worker,
        networkInterface: str | None = LaunchOptions.network_interface,
        allowPlaintext: bool = LaunchOptions.allow_plaintext,
        slotTimeout: float = LaunchOptions.slot_timeout,
        startTimeout: float = LaunchOptions.start_timeout,
    ) -> None:
        options = ClusterOptions(
            num_workers=numWorkers,
            cpus_per_worker=cpusPerWorker,
            gpus_per_worker=gpusPerWorker,
            threads_per_worker=threadsPerWorker,
            network_interface=networkInterface,
            allow_plaintext=allowPlaintext,
            slot_timeout=slotTimeout,
            start_timeout=startTimeout,
        ).checked()
        self.numWorkers = options.num_workers
        self.settings = LaunchSettings.of(options)

    def run(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Call `fn(*args)` on every rank, and log the call to MLflow after `spark_dl.autolog()`.

        Args:
            fn: The function. It is pickled with cloudpickle.
            args: The positional arguments of the function.

        Returns:
            The return values of the ranks, in rank order.

        Raises:
            OptionError: The function or an argument can't be pickled.
            ClusterError: The ranks can't be started.
            RankError: The function raised an exception on a rank, which is the `__cause__`, or a rank's process died.
            TrackingError: Logging is enabled, and the tracking server can't be used.
        """
        spark = running_session()
        pickle_for_ranks("The function", fn)
        pickle_for_ranks("The arguments", args)
        use_driver_python(spark)
        fault = "" if is_connect(spark) else horovod_fault()  # a Spark Connect client needs no Horovod
        if fault:
            raise unfit_horovod("driver", fault)
        slots.check_cluster(spark, self.numWorkers, self.settings)
        tracking = spark.conf.get(_AUTOLOG, None)
        if tracking is None:
            function = functools.partial(without_rank, fn, args)
            return run_ranks(spark, function, self.numWorkers, self.settings, on_warning=_warn)
        tracker = make_tracker(tracking, experiment_name=None, run_name=None, registered_model_name=None)
        with Record(tracker, *self._facts(spark, fn)) as record:
            record.open()
            for note in tracker.notes:
                warn(note)
            function = functools.partial(reporting_fits, fn, args)
            on_report = functools.partial(_log_epoch, tracker)
            on_warning = functools.partial(_log_warning, tracker)
            values = run_ranks(
                spark, function, self.numWorkers, self.settings, on_report, on_warning, ProcessSettings(_MODULES)
            )
        if tracker.unlogged:
            warn(f"Not logged: {tracker.unlogged}")
        return values

    def _facts(self, spark: SparkSession, fn: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, str]]:
        settings = self.settings
        params = {
            "numWorkers": self.numWorkers,
            "cpusPerWorker": settings.cpus_per_worker,
            "gpusPerWorker": settings.gpus_per_worker,
            "threadsPerWorker": settings.threads_per_worker,
        }
        tags = {
            "spark_dl.function": getattr(fn, "__qualname__", type(fn).__name__),
            "spark_dl.spark": spark.version,
            "spark_dl.master": master_of(spark),
            "spark_dl.spark_dl": version_of("spark_dl"),
        }
        return {name: value for name, value in params.items() if value is not None}, tags


def _warn(text: str) -> None:
    """Show a warning of the launch to the user."""
    warn(text)


def _log_warning(tracker: Tracker, text: str) -> None:
    tracker.event(text)
    _warn(text)


def _log_epoch(tracker: Tracker, content: Mapping[str, Any]) -> None:
    """Log the metrics of an epoch that rank 0 reports."""
    report = decode(content, (FitReport,))
    prefix = f"fit{report.fit}." if report.fit > 1 else ""
    tracker.log_metrics(report.epoch, {prefix + name: value for name, value in report.logs.items()}, time.time())
