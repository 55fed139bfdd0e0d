"""What all estimators share: `fit` as a list of named steps."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle
from pyspark.ml.base import Estimator
from pyspark.sql import DataFrame, SparkSession

from spark_dl import diagnosis, options
from spark_dl.data import schema
from spark_dl.data.convert import Packing
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.estimators.checks import check_options, scaled_rate
from spark_dl.estimators.model import KerasModel, TrainingSummary
from spark_dl.estimators.params import with_options
from spark_dl.estimators.saving import OBJECTS, SavableEstimator, named
from spark_dl.estimators.steps import convert_rows, recorded, try_to_log
from spark_dl.estimators.training import train_on_ranks
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slots import check_cluster
from spark_dl.score.heads import Head, Regression, TensorOutput
from spark_dl.store import Store
from spark_dl.track import tracker
from spark_dl.train.learning_rate import LearningRate
from spark_dl.train.plan import INITIAL_MODEL, PROFILE, TrainPlan, TrainResult
from spark_dl.workspace import Workspace

if TYPE_CHECKING:
    from spark_dl.train.model_bytes import LossFacts, ModelShape

__all__ = ["KerasEstimator"]

# Where TensorBoard looks for a trace.
_PROFILE_ARTIFACT = f"profile/plugins/profile/fit/{PROFILE}"


@dataclass(frozen=True)
class _Job:
    """A checked fit, before any Spark job.

    Attributes:
        content: the compiled model's bytes.
        custom_objects: cloudpickled dict of what Keras needs by name to load it.
        shape: of the model.
        head: what the output will mean.
        packing: how rows become blocks; its store is set later.
        learning_rate: of the warm-up; None where there is none.
    """

    content: bytes
    custom_objects: bytes
    shape: ModelShape
    head: Head
    packing: Packing
    learning_rate: LearningRate | None


@with_options(
    options.MODEL,
    options.OPTIMIZER,
    options.LOSS,
    options.METRICS,
    options.CALLBACKS,
    options.FEATURES_COL,
    options.INPUT_COLS,
    options.BINARY_FORMAT,
    options.LABEL_COL,
    options.WEIGHT_COL,
    options.PREDICTION_COL,
    options.VALIDATION_COL,
    options.VALIDATION_FRACTION,
    options.NULL_POLICY,
    options.NUM_WORKERS,
    options.BATCH_SIZE,
    options.GLOBAL_BATCH_SIZE,
    options.GRADIENT_ACCUMULATION,
    options.LEARNING_RATE_SCALING,
    options.WARMUP_EPOCHS,
    options.COMPRESSION,
    options.EPOCHS,
    options.SHUFFLE,
    options.SEED,
    options.RESTORE_BEST_WEIGHTS,
    options.MONITOR,
    options.MONITOR_MODE,
    options.CPUS_PER_WORKER,
    options.GPUS_PER_WORKER,
    options.THREADS_PER_WORKER,
    options.NETWORK_INTERFACE,
    options.ALLOW_PLAINTEXT,
    options.SLOT_TIMEOUT,
    options.CACHE_DIR,
    options.CACHE_DATA,
    options.CHECKPOINT_DIR,
    options.KEEP_CHECKPOINTS,
    options.CHECKPOINT_STEPS,
    options.MAX_RESTARTS,
    options.MIN_WORKERS,
    options.COLLECTIVE_TIMEOUT,
    options.STALL_TIMEOUT,
    options.TRACKING,
    options.EXPERIMENT_NAME,
    options.RUN_NAME,
    options.PROFILE,
    options.VERBOSE,
    options.SCORE_BATCH_SIZE,
)
class KerasEstimator(SavableEstimator, Estimator["KerasModel"]):
    """Trains a Keras model on a DataFrame, on Horovod ranks in Spark's executors.

    The general form: any model with one input and one output, any loss. The fitted `KerasModel` writes the
    model's output to `predictionCol`: a double where the model has one output unit, else an array of floats.

    Example:

        estimator = KerasEstimator(model=model, optimizer="adam", loss="mse", labelCol="y", numWorkers=2)
        scored = estimator.fit(train).transform(test)
    """

    model_class: ClassVar[type[KerasModel]] = KerasModel

    def _fit(self, dataset: DataFrame) -> KerasModel:
        values = self._values()
        spark = dataset.sparkSession
        job = self._check(dataset, values)
        settings = LaunchSettings.of_options(values)
        check_cluster(spark, values["numWorkers"], settings)
        record = tracker(values["tracking"], experiment_name=values["experimentName"], run_name=values["runName"])
        facts = self._facts(spark, values)
        with Workspace(values["cacheDir"], _master(spark)) as workspace, recorded(record, *facts):
            kept = Store.at(values["checkpointDir"]) if values["checkpointDir"] else workspace.child("checkpoints")
            kept.make()
            diagnosis.quick(spark, values["numWorkers"], [workspace, kept], settings)
            converted = convert_rows(dataset, job.packing, workspace, values)
            workspace.write(INITIAL_MODEL, job.content)
            validated = converted.rows(validation=True) > 0
            plan = TrainPlan.of_options(
                {**values, "monitor": values["monitor"] or ("val_loss" if validated else "loss")},
                dataset=converted,
                workspace=workspace,
                checkpoints=kept,
                custom_objects=job.custom_objects,
                callbacks=cloudpickle.dumps(values["callbacks"] or []),
                class_weights=self._class_weights(converted, values),
                learning_rate=job.learning_rate,
                reader="petastorm",
            )
            result = train_on_ranks(spark, plan, settings, values, record)
            content = workspace.read(result.model_file)
            fitted = self._fitted(content, job, result)
            try_to_log(functools.partial(record.model, fitted.keras, result.history))
            if values["profile"]:
                try_to_log(lambda: record.file(_PROFILE_ARTIFACT, workspace.read(PROFILE)))
        return fitted

    def _check(self, frame: DataFrame, values: Mapping[str, Any]) -> _Job:
        """Everything that can be known without a Spark job."""
        from spark_dl.train import model_bytes

        shape = model_bytes.shape_of(values["model"])
        loss = values["loss"] if values["loss"] is not None else self._default_loss(shape, values["model"])
        compiled = model_bytes.compiled_copy(values["model"], values["optimizer"], loss, values["metrics"])
        facts = model_bytes.loss_facts(compiled.loss)
        check_options(values, facts)
        rate = scaled_rate(compiled, values)
        head = self._head(shape, facts)
        names, param = self._feature_columns()
        features = schema.feature_spec(
            frame.schema, names, param, shape.input_shape, shape.input_dtype, values["binaryFormat"]
        )
        classes = self._classes(shape, facts)
        label = schema.label_spec(frame.schema, values["labelCol"], shape.output_shape, classes)
        weight, validation = values["weightCol"], values["validationCol"]
        packing = Packing(
            store=Store(""),
            features=features,
            label=label,
            weight=schema.weight_column(frame.schema, weight) if weight else None,
            validation_col=schema.boolean_column(frame.schema, validation) if validation else None,
            validation_fraction=values["validationFraction"],
            seed=values["seed"],
            drop_missing=values["nullPolicy"] == "drop",
        )
        custom = cloudpickle.dumps(model_bytes.custom_objects(compiled, values["loss"], values["metrics"]))
        return _Job(model_bytes.to_bytes(compiled), custom, shape, head, packing, rate)

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        """The loss for a model that has none; None where only the user can say."""
        return None

    def _head(self, shape: ModelShape, loss: LossFacts) -> Head:
        """What the model's output means."""
        width = functools.reduce(lambda a, b: a * b, shape.output_shape, 1)
        return Regression() if width == 1 else TensorOutput(width)

    def _classes(self, shape: ModelShape, loss: LossFacts) -> int | None:
        """The number of classes where labels are class indices."""
        sparse = loss.name == "sparse_categorical_crossentropy" and len(shape.output_shape) == 1
        return shape.output_shape[-1] if sparse else None

    def _class_weights(self, converted: ConvertedDataset, values: Mapping[str, Any]) -> tuple[float, ...]:
        """The weight of each class in training; empty where they all weigh 1."""
        return ()

    def _facts(self, spark: SparkSession, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """What the tracker is told at the beginning: params, and tags."""
        params = {name: value for name, value in values.items() if name not in OBJECTS and value is not None}
        for name in OBJECTS:
            if values[name] is not None and name != "model":
                params[name] = named(values[name])
        tags = {
            "spark_dl.uid": self.uid,
            "spark_dl.estimator": type(self).__name__,
            "spark_dl.spark": spark.version,
            "spark_dl.master": _master(spark),
            "spark_dl.model": str(values["model"].name),
        }
        return params, tags

    def _fitted(self, content: bytes, job: _Job, result: TrainResult) -> KerasModel:
        summary = TrainingSummary(
            history=result.history,
            rows=result.rows,
            validation_rows=result.validation_rows,
            seconds=result.seconds,
            best_epoch=result.best_epoch,
        )
        model = self.model_class()._with_content(content, job.custom_objects, job.shape, job.head, summary)
        model._resetUid(self.uid)
        return self._copyValues(model)


def _master(spark: SparkSession) -> str:
    return spark.conf.get("spark.master", "") or ""
