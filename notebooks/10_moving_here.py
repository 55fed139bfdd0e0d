# %% [markdown]
# # Moving here
#
# From Horovod's `KerasEstimator`, from Databricks' `HorovodRunner` and from `TorchDistributor` with Keras: what
# changes, line by line, on one data set. Each section shows the code that you have and runs what it becomes.
#
# The rows are 1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn.

# %%
ROWS = 1_797  # all of them
WORKERS = 2

# %%
import os
import sys

import spark_dl

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's workers run this kernel's Python
spark_dl.quiet_start()

import keras
import numpy as np
from keras import layers
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from spark_dl import HorovodLauncher, KerasClassifier

spark = (
    SparkSession.builder.master(f"local[{WORKERS}]")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.python.daemon.module", "spark_dl.spark.python_daemon")
    .config("spark.sql.shuffle.partitions", WORKERS)
    .getOrCreate()
)
digits = load_digits()
rows = spark.createDataFrame(
    [(image.tolist(), int(label)) for image, label in zip(digits.data[:ROWS] / 16, digits.target, strict=False)],
    "features array<float>, label int",
).cache()
train_df, test_df = rows.randomSplit([0.75, 0.25], seed=7)


# %% [markdown]
# All three train this model, so that the results can be compared.


# %%
def network() -> keras.Model:
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [keras.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(10, activation="softmax")]
    )


# %% [markdown]
# ## From Horovod's KerasEstimator
#
# ```python
# import horovod.spark.keras as hvd
# from horovod.spark.common.backend import SparkBackend
# from horovod.spark.common.store import Store
#
# store = Store.create("/dbfs/tmp/digits")                     # 1
# estimator = hvd.KerasEstimator(
#     backend=SparkBackend(num_proc=2),                        # 2
#     store=store,
#     model=network(),
#     optimizer=keras.optimizers.Adam(0.002),
#     loss="sparse_categorical_crossentropy",
#     metrics=["accuracy"],
#     feature_cols=["features"],                               # 3
#     label_cols=["label"],
#     validation=0.1,                                          # 4
#     batch_size=32,
#     epochs=8,
#     verbose=1,
# )
# model = estimator.fit(train_df)
# scored = model.transform(test_df)                            # 5
# ```
#
# 1. The store becomes `cacheDir`, and is not needed where driver and executors are on one machine.
# 2. The backend becomes `numWorkers`.
# 3. Options have Spark ML's own names: `featuresCol` and `labelCol`, and `inputCols` for several inputs.
# 4. `validation` becomes `validationFraction`, or `validationCol`.
# 5. The columns are `prediction` and `probability`, ready for evaluators, where Horovod writes `label__output`.

# %%
estimator = KerasClassifier(
    model=network(),
    optimizer=keras.optimizers.Adam(0.002),
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
    featuresCol="features",
    labelCol="label",
    validationFraction=0.1,
    batchSize=32,
    epochs=8,
    numWorkers=WORKERS,
)
model = estimator.fit(train_df)
scored = model.transform(test_df)
by_estimator = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored)
print(f"accuracy: {by_estimator:.3f}")

# %% [markdown]
# ## From HorovodRunner
#
# ```python
# from sparkdl import HorovodRunner
#
# def train(rate, features, labels):
#     import horovod.tensorflow.keras as hvd
#     hvd.init()
#     ...
#     model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(rate)), ...)
#     model.fit(..., callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)])
#
# HorovodRunner(np=2).run(train, rate=0.002, features=x, labels=y)
# ```
#
# The function stays as it is in most parts. Horovod's optimizer wrapper doesn't know Keras 3, so that the gradients
# are averaged in a loop of your own; `run` takes positional arguments and returns the values of all ranks, not of the
# first alone.

# %%
order = np.random.default_rng(7).permutation(len(digits.target))  # the last digits are of other writers
x, y = np.float32(digits.data / 16)[order], digits.target[order]
fitting, testing = slice(0, 1300), slice(1300, 1797)


def train(rate: float, features: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    import horovod.tensorflow as hvd
    import tensorflow as tf

    model, optimizer = network(), keras.optimizers.Adam(rate)
    loss_of = keras.losses.SparseCategoricalCrossentropy()
    mine = slice(hvd.rank(), None, hvd.size())
    data = tf.data.Dataset.from_tensor_slices((features[mine], labels[mine])).shuffle(2000, seed=7)
    hvd.broadcast_variables([variable.value for variable in model.variables], root_rank=0)

    @tf.function(autograph=False)  # there is nothing to convert, and a cell has no source file
    def step(inputs: tf.Tensor, wanted: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = loss_of(wanted, model(inputs, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(hvd.grouped_allreduce(gradients), model.trainable_variables, strict=True))

    optimizer.build(model.trainable_variables)
    for inputs, wanted in data.batch(32, drop_remainder=True).repeat(8):
        step(inputs, wanted)
    return model.get_weights()


weights = HorovodLauncher(numWorkers=WORKERS).run(train, 0.002, x[fitting], y[fitting])
trained = network()
trained.set_weights(weights[0])
by_launcher = float((trained.predict(x[testing], verbose=0).argmax(1) == y[testing]).mean())
print(f"accuracy: {by_launcher:.3f}")

# %% [markdown]
# ## From TorchDistributor with Keras
#
# ```python
# from pyspark.ml.torch.distributor import TorchDistributor
#
# def train(rate, features, labels):
#     import os
#     os.environ["KERAS_BACKEND"] = "torch"
#     import torch.distributed as dist
#     dist.init_process_group("gloo")
#     rank, size = dist.get_rank(), dist.get_world_size()
#     ...
#
# TorchDistributor(num_processes=2, local_mode=False, use_gpu=False).run(train, 0.002, x, y)
# ```
#
# Where the function only trains and scores a model on rows of a DataFrame, the estimator above takes its place, with
# checkpoints and restarts. Where it does more, the launcher starts it: `dist.get_rank()` becomes `hvd.rank()`,
# `init_process_group` goes, and every rank's value comes back.


# %%
def place() -> tuple[int, int]:
    import horovod.tensorflow as hvd

    return hvd.rank(), hvd.size()


places = HorovodLauncher(numWorkers=WORKERS).run(place)
print(places)

# %% [markdown]
# Both ways read more than 90 % of the unseen digits.

# %%
assert by_estimator > 0.9
assert by_launcher > 0.9
assert places == [(0, WORKERS), (1, WORKERS)]
