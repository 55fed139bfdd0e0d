"""A function of one's own on Horovod ranks, logged if the session says so."""

from __future__ import annotations

import functools
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from typing import Any

from pyspark.sql import SparkSession

from spark_dl.launch import slots
from spark_dl.launch.horovod_build import horovod_fault, unfit_horovod
from spark_dl.launch.launcher import run_ranks
from spark_dl.launch.pickling import pickle_for_ranks
from spark_dl.launch.rank import without_rank
from spark_dl.launch.settings import LaunchSettings
from spark_dl.options import ClusterOptions, LaunchOptions
from spark_dl.redaction import warn
from spark_dl.spark.session import is_connect, master_of, running_session, use_driver_python
from spark_dl.track import Record, Tracker, tracker
from spark_dl.train.fit_reports import reporting_fits

__all__ = ["HorovodLauncher", "autolog"]

# A setting of the Spark session: the tracker's name. A cluster's defaults may have it, too.
_AUTOLOG = "spark.sparkDL.autolog"
_MODULES = ("spark_dl.train.fit_reports",)


def autolog(disable: bool = False) -> None:
    """Log each `HorovodLauncher.run` of this Spark session to MLflow from now on, as estimators log their fits.

    A run, or your active one, gets the number of workers, and of each `keras.Model.fit` on rank 0 the metrics of each
    epoch as it ends; those of a second fit in one call as `fit2.loss`. The driver writes it.

    Args:
        disable: log no more.
    """
    conf = running_session().conf
    if disable:
        conf.unset(_AUTOLOG)
    else:
        conf.set(_AUTOLOG, "mlflow")


class HorovodLauncher:
    """Runs a function of your own on Horovod ranks, one in each task of a Spark barrier stage.

    Horovod is initialised when the function is called; `hvd.init()` in it does no harm. Each rank is a fresh
    process with the GPUs and threads that Spark gave its task.

    Args:
        numWorkers: number of ranks; each takes one slot.
        cpusPerWorker: cores of a rank's task; None for spark.task.cpus.
        gpusPerWorker: GPUs of a rank's task; None for spark.task.resource.gpu.amount.
        threadsPerWorker: computing threads of a rank; 0 for as many as its task has cores.
        networkInterface: name or CIDR of the network between the ranks; None for the one that leads to rank 0.
        allowPlaintext: run although Spark is told to encrypt, and the ranks speak plain TCP.
        slotTimeout: seconds to wait until all ranks have a slot.

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

    def __init__(
        self,
        numWorkers: int,
        *,
        cpusPerWorker: int | None = LaunchOptions.cpus_per_worker,
        gpusPerWorker: int | None = LaunchOptions.gpus_per_worker,
        threadsPerWorker: int = LaunchOptions.threads_per_worker,
        networkInterface: str | None = LaunchOptions.network_interface,
        allowPlaintext: bool = LaunchOptions.allow_plaintext,
        slotTimeout: float = LaunchOptions.slot_timeout,
    ) -> None:
        options = ClusterOptions(
            num_workers=numWorkers,
            cpus_per_worker=cpusPerWorker,
            gpus_per_worker=gpusPerWorker,
            threads_per_worker=threadsPerWorker,
            network_interface=networkInterface,
            allow_plaintext=allowPlaintext,
            slot_timeout=slotTimeout,
        ).checked()
        self.numWorkers = options.num_workers
        self.settings = LaunchSettings.of(options)

    def run(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Call `fn(*args)` on every rank.

        After `spark_dl.autolog()` the call has a run at the tracker, with what rank 0's Keras fits tell of each epoch.

        Returns:
            what each rank returned, in rank order.

        Raises:
            OptionError: the function or an argument can't be pickled.
            ClusterError: the ranks can't be started.
            RankError: a rank raised; its exception is the `__cause__`.
            TrackingError: the call is to be logged, and the server can't be used.
        """
        spark = running_session()
        pickle_for_ranks("The function", fn)
        pickle_for_ranks("The arguments", args)
        use_driver_python(spark)
        fault = "" if is_connect(spark) else horovod_fault()  # a client of Spark Connect runs no rank
        if fault:
            raise unfit_horovod("driver", fault)
        slots.check_cluster(spark, self.numWorkers, self.settings)
        tracking = spark.conf.get(_AUTOLOG, None)
        if tracking is None:
            return run_ranks(spark, functools.partial(without_rank, fn, args), self.numWorkers, self.settings, _warn)
        told = tracker(tracking, experiment_name=None, run_name=None, registered_model_name=None)
        with Record(told, *self._facts(spark, fn)) as record:
            record.open()
            for note in told.notes:
                warn(note, 2)
            function = functools.partial(reporting_fits, fn, args)
            log = functools.partial(_log, told)
            values = run_ranks(spark, function, self.numWorkers, self.settings, log, _MODULES)
        if told.unlogged:
            warn(f"Not logged: {told.unlogged}", 2)
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
            "spark_dl.spark_dl": importlib.metadata.version("spark_dl"),
        }
        return {name: value for name, value in params.items() if value is not None}, tags


def _warn(content: Mapping[str, Any]) -> None:
    """Show the user a warning of the launch; a function of one's own reports nothing else."""
    if content.get("kind") == "warning":
        warn(content["text"], 2)


def _log(told: Tracker, content: Mapping[str, Any]) -> None:
    """Log what rank 0 reports, and warnings of the launch."""
    if content.get("kind") == "warning":
        told.event(content["text"])
        _warn(content)
        return
    prefix = f"fit{content['fit']}." if content["fit"] > 1 else ""
    told.log_metrics(content["epoch"], {prefix + name: value for name, value in content["logs"].items()}, time.time())
