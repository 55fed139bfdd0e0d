"""`fit`: federated averaging over the silos of a DataFrame, one rank for each."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pyspark.sql import DataFrame

from spark_dl.federated.checks import check_arguments, check_model, check_options, check_silo_column
from spark_dl.federated.silos import check_named, check_slots, convert_silos, find_silos
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slots import setting_of, slots_of
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.model import KerasModel
from spark_dl.redaction import redacted_errors
from spark_dl.spark.row_source import RowSource
from spark_dl.spark.session import master_of
from spark_dl.train.plan import FederatedRounds

__all__ = ["fit"]


@redacted_errors()
def fit(
    estimator: KerasEstimator,
    dataset: DataFrame,
    siloCol: str,
    *,
    rounds: int = 5,
    localEpochs: int = 1,
    proximal: float = 0.0,
    silos: Sequence[Any] | None = None,
) -> KerasModel:
    """Train an estimator's model by federated averaging: one rank per silo, and only that rank reads the silo's rows.

    In a round, each rank trains on its silo for some epochs independently of the others. Then the models are averaged,
    weighted by the silos' numbers of training rows, and the next round starts from the mean. The state of the optimizer
    and moving statistics are averaged, too.

    No secure aggregation: one Spark application is one trust domain. Spark tasks that convert the rows, and whoever
    runs the application, can read all silos, and all ranks receive the mean.

    Args:
        estimator: The estimator. numWorkers is the number of silos; batchSize is that of a rank.
        dataset: The DataFrame. Validation rows, if any, are marked or sampled in each silo.
        siloCol: The column whose values are the silos: strings, whole numbers, booleans or dates.
        rounds: The number of rounds; an epoch of the history is a round.
        localEpochs: The number of epochs of each rank in a round.
        proximal: The factor of the proximal term (FedProx), which keeps local weights near those of the round's start;
            0 for plain averaging (FedAvg).
        silos: The values that siloCol must have, all of them and no others; None for those that it has.

    Returns:
        The fitted model. `summary.history` has the metrics of each round over all silos, as `loss`, and of each silo,
        as `loss[silo=a]`: training metrics of the local steps, validation metrics of the averaged model.

    Raises:
        OptionError: An argument can't be used, or the estimator has an option that implies global batches, or another
            number of workers.
        ModelError: The model has a custom train step, or its optimizer scales the loss.
        DataError: siloCol is missing or has nulls or fewer than two values, silos differ from those named, or one has
            no training rows, or no validation rows where others have some.
        ClusterError: There are more silos than slots.
    """
    check_arguments(estimator, rounds, localEpochs, proximal, silos)
    check_options(estimator._options())
    check_silo_column(dataset.schema, siloCol)
    workers = estimator._options().num_workers if estimator.isSet(estimator.getParam("numWorkers")) else None
    trained = estimator.copy()
    trained.setParams(epochs=rounds, numWorkers=2)  # checked as for several ranks, before their number is known
    spec, _ = trained._checked(dataset)
    check_model(spec)
    spark = dataset.sparkSession
    found = find_silos(dataset, siloCol)
    check_named(found, silos, siloCol)
    check_slots(found, workers, slots_of(master_of(spark), setting_of(spark), LaunchSettings.of(spec.options)))
    trained.setParams(numWorkers=len(found))
    spec = replace(spec, options=replace(spec.options, num_workers=len(found)))
    trained._federated = FederatedRounds(tuple(silo.name for silo in found), localEpochs, float(proximal))
    convert = functools.partial(
        convert_silos, dataset, siloCol, found, lambda rows, store: trained._convert(rows, spec, store)
    )
    return trained._train(spark, spec, convert, functools.partial(RowSource.of, dataset))
