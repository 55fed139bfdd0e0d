# %% [markdown]
# # Your own training loop
#
# Some training is no `fit`: a loss over pairs of models, a game, a research idea. `HorovodLauncher` runs any function
# on Horovod ranks inside the Spark application, and `autolog` brings what Keras measures on them to MLflow. A
# variational autoencoder serves as the example: its loss has two parts, and you write every step.
#
# The images are 1,797 digits of 8 x 8 pixels that ship with scikit-learn.

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
import matplotlib.pyplot as plt
import mlflow
import numpy as np
import tensorflow as tf
from keras import layers
from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from spark_dl import HorovodLauncher

spark = (
    SparkSession.builder.master(f"local[{WORKERS}]")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.python.daemon.module", "spark_dl.spark.python_daemon")
    .config("spark.sql.shuffle.partitions", WORKERS)
    .getOrCreate()
)
images = np.float32(load_digits().data[:ROWS] / 16)


# %% [markdown]
# Models are built in functions that both the driver and the ranks call: only weights travel back.


# %%
def encoder() -> keras.Model:
    keras.utils.set_random_seed(6)
    hidden = layers.Dense(64, activation="relu")(inputs := keras.Input((64,)))
    return keras.Model(inputs, [layers.Dense(2)(hidden), layers.Dense(2)(hidden)])


def decoder() -> keras.Model:
    keras.utils.set_random_seed(6)
    return keras.Sequential(
        [keras.Input((2,)), layers.Dense(64, activation="relu"), layers.Dense(64, activation="sigmoid")]
    )


# %% [markdown]
# This function runs on each rank. Horovod is initialised already; what is left to you is what makes the ranks one
# training: each takes its part of the rows, all start with the same weights, and gradients are averaged before they
# are applied.


# %%
def train(rows: np.ndarray, epochs: int) -> tuple[list[np.ndarray], list[float]]:
    import horovod.tensorflow as hvd

    encode, decode = encoder(), decoder()
    variables = [*encode.trainable_variables, *decode.trainable_variables]
    optimizer = keras.optimizers.Adam(0.005)
    optimizer.build(variables)
    hvd.broadcast_variables([variable.value for variable in variables], root_rank=0)
    tf.random.set_seed(hvd.rank())
    mine = rows[hvd.rank() :: hvd.size()]
    batches = tf.data.Dataset.from_tensor_slices(mine).shuffle(len(mine)).batch(32, drop_remainder=True)

    @tf.function(autograph=False)  # there is nothing to convert, and a cell has no source file
    def step(batch: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            mean, spread = encode(batch)
            code = mean + tf.exp(spread / 2) * tf.random.normal(tf.shape(mean))
            drawn = tf.reduce_sum(keras.losses.binary_crossentropy(batch[..., None], decode(code)[..., None]), axis=1)
            distance = -0.5 * tf.reduce_sum(1 + spread - mean**2 - tf.exp(spread), axis=1)
            loss = tf.reduce_mean(drawn + distance)
        gradients = hvd.grouped_allreduce(tape.gradient(loss, variables))
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    losses = []
    steps = len(rows) // hvd.size() // 32  # the same number on every rank: a rank alone would wait for the others
    for _ in range(epochs):
        total = sum(step(batch) for batch in batches.take(steps)) / steps
        losses.append(float(hvd.allreduce(total)))
    return decode.get_weights(), losses


# %% [markdown]
# `run` returns what each rank returned, in their order. After averaging all have the same weights: if they differ,
# something in the loop was left to one rank.

# %%
results = HorovodLauncher(numWorkers=WORKERS).run(train, images, 30)
(weights, losses), (others, _) = results
assert all(np.allclose(one, other) for one, other in zip(weights, others, strict=True))
plt.figure(figsize=(6, 2.5))
plt.plot(range(1, len(losses) + 1), losses)
plt.xlabel("epoch")
plt.ylabel("loss over all ranks")
plt.show()

# %% [markdown]
# The decoder draws digits that nobody has written: neighbours in the plane of the code are alike.

# %%
draw = decoder()
draw.set_weights(weights)
side = np.linspace(-2, 2, 8)
drawn = draw.predict(np.array([(x, y) for y in side for x in side]), verbose=0).reshape(8, 8, 8, 8)
plt.figure(figsize=(4, 4))
plt.imshow(drawn.transpose(0, 2, 1, 3).reshape(64, 64), cmap="gray_r")
plt.axis("off")
plt.show()


# %% [markdown]
# Where the function does call `keras.Model.fit`, `autolog` logs its epochs from rank 0: the function needs no MLflow,
# and the executors no credentials.


# %%
def reconstruct(rows: np.ndarray) -> None:
    import horovod.tensorflow as hvd

    model = keras.Sequential(
        [keras.Input((64,)), layers.Dense(8, activation="relu"), layers.Dense(64, activation="sigmoid")]
    )
    model.compile("adam", "mse")
    model.fit(rows[hvd.rank() :: hvd.size()], rows[hvd.rank() :: hvd.size()], epochs=3, verbose=0)


spark_dl.autolog()
HorovodLauncher(numWorkers=WORKERS).run(reconstruct, images)
run = mlflow.search_runs(order_by=["start_time DESC"]).iloc[0]
print(run[["status", "params.numWorkers", "metrics.loss", "tags.spark_dl.function"]])

# %% [markdown]
# The loss fell by more than a tenth, and the run has the epochs of the fit.

# %%
assert losses[-1] < 0.9 * losses[0]
assert run["status"] == "FINISHED"
assert run["metrics.loss"] < 0.2
