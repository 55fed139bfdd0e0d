"""The demo's program. `train OUTPUT` trains and scores; `reload OUTPUT`, a process of its own, scores again."""

import importlib
import importlib.resources
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from jvm import short_lived
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

QUIET = Path(__file__).resolve().parent.parent / "conf" / "log4j2-quiet.properties"
PIXELS = [f"pixel{i}" for i in range(64)]
SEED = 7
LEAST_ACCURACY = 0.97
# Rows that are scored in other batches differ by float32's rounding.
ROUNDING = 1e-6


def spark_session(master: str) -> SparkSession:
    return (
        SparkSession.builder.appName("spark_dl demo")
        .master(master)
        .config("spark.driver.extraJavaOptions", f"{short_lived()} -Dlog4j2.configurationFile=file:{QUIET}")
        .config("spark.executor.extraJavaOptions", short_lived())
        .config("spark.sql.shuffle.partitions", "2")
        # For so few rows, compiling and re-planning a query takes longer than running it.
        .config("spark.sql.codegen.wholeStage", "false")
        .config("spark.sql.adaptive.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )


def digits(spark: SparkSession) -> tuple[DataFrame, DataFrame]:
    """Scikit-learn's handwritten digits (8 x 8 pixels, 0 to 16), cleaned and split by Spark."""
    source = importlib.resources.files("sklearn.datasets.data") / "digits.csv.gz"
    raw = spark.read.csv(str(source), schema=", ".join(f"{name} FLOAT" for name in PIXELS) + ", label INT")
    clean = raw.dropna().dropDuplicates().where(F.col("label").between(0, 9))
    # Kept, so that both sides of the split come from the same rows in the same order.
    clean = clean.withColumn("row", F.monotonically_increasing_id()).cache()
    print(f"    {clean.count():,} clean rows")
    train, test = clean.randomSplit([0.8, 0.2], seed=SEED)
    return train, test


def network() -> Any:
    """A small convolutional network."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(SEED)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 16),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        name="digits_cnn",
    )


def score(spark: SparkSession, pipeline: PipelineModel, output: Path) -> DataFrame:
    """The test rows with their predictions."""
    test = spark.read.parquet(f"{output}/test")
    return pipeline.transform(test).select("row", "label", "prediction", "probability")


def train(output: Path) -> None:
    print("==> Starting Spark with two executors")
    # Keras takes seconds to import, and Spark seconds to start: one beside the other.
    threading.Thread(target=importlib.import_module, args=["keras"]).start()
    spark = spark_session("local-cluster[2,1,2048]")
    training, test = digits(spark)

    import keras
    import mlflow

    from spark_dl import KerasClassifier

    mlflow.set_tracking_uri(f"sqlite:///{output}/mlflow.db")
    if mlflow.get_experiment_by_name("digits") is None:
        mlflow.create_experiment("digits", artifact_location=(output / "artifacts").as_uri())

    print("==> Training on 2 Horovod ranks")
    classifier = KerasClassifier(
        model=network(),
        optimizer=keras.optimizers.Adam(2e-3),
        metrics=["accuracy"],
        numWorkers=2,
        batchSize=16,
        epochs=12,
        validationFraction=0.1,
        restoreBestWeights=True,
        seed=SEED,
        experimentName="digits",
        runName="digits-cnn",
    )
    began = time.monotonic()
    fitted = Pipeline(stages=[VectorAssembler(inputCols=PIXELS, outputCol="features"), classifier]).fit(training)
    print(f"    fit took {time.monotonic() - began:.1f} s")

    # One file: so few rows aren't worth a second worker's import of TensorFlow.
    test.coalesce(1).write.mode("overwrite").parquet(f"{output}/test")
    scored = score(spark, fitted, output).cache()
    accuracy = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored)
    print(f"==> Accuracy on {scored.count()} test rows, by Spark's evaluator: {accuracy:.4f}")

    fitted.write().overwrite().save(f"{output}/pipeline")
    scored.write.mode("overwrite").parquet(f"{output}/scored")
    run = mlflow.search_runs(experiment_names=["digits"], max_results=1, output_format="list")[0]
    print(f"==> MLflow run {run.info.run_name} ({run.info.run_id}): {run.info.status}")
    spark.stop()
    if accuracy < LEAST_ACCURACY:
        sys.exit(f"demo: accuracy {accuracy:.4f} is below {LEAST_ACCURACY}")


def reload(output: Path) -> None:
    spark = spark_session("local[2]")
    again = {row.row: row for row in score(spark, PipelineModel.load(f"{output}/pipeline"), output).collect()}
    before = spark.read.parquet(f"{output}/scored").collect()
    spark.stop()
    same = sum(row.prediction == again[row.row].prediction for row in before)
    apart = max(abs(row.probability.toArray() - again[row.row].probability.toArray()).max() for row in before)
    print(f"    {same} of {len(before)} predictions are the same; probabilities within {apart:.1e}")
    if same < len(before) or len(again) > len(before) or apart > ROUNDING:
        sys.exit("demo: the reloaded pipeline predicts something else")


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    {"train": train, "reload": reload}[sys.argv[1]](target)
