# %% [markdown]
# # Explain, shrink and federate
#
# A network that reads handwritten digits. In this notebook you see which pixels speak for a prediction, set four of
# five weights to zero, teach a small network what the large one knows, and train one model on the digits of two
# offices that don't put theirs together.
#
# The rows are 1,797 digits of 8 x 8 pixels that 43 people wrote (`load_digits` of scikit-learn).

# %%
WORKERS = 2
SPARSITY = 0.8
ROUNDS = 6

# %%
import gzip
import os
import sys

import spark_dl

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's workers run this kernel's Python
spark_dl.quiet_start()

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.datasets import load_digits

from spark_dl import KerasClassifier, KerasEstimator, federated
from spark_dl.callbacks import MagnitudePruning
from spark_dl.explain import IntegratedGradients

spark = (
    SparkSession.builder.master(f"local[{WORKERS}]")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.python.daemon.module", "spark_dl.spark.python_daemon")
    .config("spark.sql.shuffle.partitions", WORKERS)
    .getOrCreate()
)

# %% [markdown]
# A fifth of the digits is kept for the evaluation.

# %%
table = load_digits()
images = (table.data / 16).astype("float32").tolist()
digits = spark.createDataFrame(
    list(zip(images, table.target.tolist(), strict=True)), "features array<float>, label long"
)
train, test = (part.cache() for part in digits.randomSplit([0.8, 0.2], seed=1))
evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
print(f"{train.count():,} digits to train on, {test.count():,} to test")

# %% [markdown]
# ## Four of five weights
#
# `MagnitudePruning` sets the smallest weights to zero while the network is trained, more of them from epoch to epoch,
# and the rest makes up for it. The zeros stay in the saved model, which compresses well.


# %%
def network(width: int) -> keras.Model:
    hidden = [layers.Dense(width, "relu"), layers.Dense(width, "relu")]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, "softmax")])


options = {"optimizer": keras.optimizers.Adam(0.003), "batchSize": 32, "tracking": None, "verbose": 0}
keras.utils.set_random_seed(1)
classifier = KerasClassifier(model=network(128), epochs=20, callbacks=[MagnitudePruning(SPARSITY)], **options)
pruned = classifier.fit(train)
accuracy = evaluator.evaluate(pruned.transform(test))
kernels = np.concatenate([weight.ravel() for weight in pruned.keras().get_weights() if weight.ndim == 2])
share = len(gzip.compress(kernels.tobytes())) / kernels.nbytes
print(f"accuracy {accuracy:.3f} with {np.mean(kernels == 0):.0%} zeros; compressed to {share:.0%} of the bytes")
assert accuracy > 0.93
assert abs(np.mean(kernels == 0) - SPARSITY) < 0.01

# %% [markdown]
# ## Which pixels speak for a prediction
#
# `IntegratedGradients` adds a column with a number for each pixel: what it adds to the probability of the predicted
# digit, against an image without ink. The numbers sum to the difference between the two probabilities, which is
# checked. Red speaks for the digit, blue against it.

# %%
explained = IntegratedGradients(pruned, steps=64).transform(pruned.transform(test)).limit(6).collect()
without_ink = pruned.keras()(np.zeros((1, 64), "float32")).numpy()[0]
figure, axes = plt.subplots(1, len(explained), figsize=(9, 1.8))
for row, panel in zip(explained, axes, strict=True):
    found = np.array(row.attributions).reshape(8, 8)
    bound = np.abs(found).max()
    panel.imshow(np.array(row.features).reshape(8, 8), cmap="gray_r")
    panel.imshow(found, cmap="bwr", vmin=-bound, vmax=bound, alpha=0.6)
    panel.set_title(f"{row.prediction:.0f}")
    panel.axis("off")
    digit = int(row.prediction)
    assert abs(found.sum() - (row.probability[digit] - without_ink[digit])) < 0.02
plt.close(figure)
figure

# %% [markdown]
# ## What the large network knows
#
# Distillation: a network of a twentieth of the weights is trained on the probabilities of the large one in place of
# labels. They say more than a label does (a 7 that is nearly a 1), and unlabelled rows would serve as well. It takes
# two lines: a column by `transform`, and an estimator whose label it is.

# %%
taught = pruned.transform(train).select("features", F.col("probability").alias("soft"))
student = KerasEstimator(model=network(16), loss="kl_divergence", labelCol="soft", epochs=40, **options).fit(taught)
scored = student.transform(test).withColumn(
    "prediction", F.expr("double(array_position(prediction, array_max(prediction)) - 1)")
)
small = evaluator.evaluate(scored)
sizes = [fitted.keras().count_params() for fitted in (pruned, student)]
print(f"{sizes[0]:,} weights: {accuracy:.3f}; {sizes[1]:,} weights: {small:.3f}")
assert sizes[1] < sizes[0] / 15
assert small > 0.85

# %% [markdown]
# ## Two offices
#
# The north has digits below 5, the south the others. Either could learn five digits at most. With
# `federated.fit`, each office's rows are read by a rank of its own, and the ranks exchange
# models: their mean, after each round, reads all ten.

# %%
offices = train.withColumn("office", F.when(F.col("label") < 5, "north").otherwise("south"))
joined = federated.fit(
    KerasClassifier(model=network(64), **options), offices, siloCol="office", rounds=ROUNDS, localEpochs=1
)
together = evaluator.evaluate(joined.transform(test))
alone = test.where("label < 5").count() / test.count()
history = joined.summary.history
print(f"federated: {together:.3f}; an office alone: {alone:.3f} at most")
north, south = (history[f"loss[silo={office}]"][-1] for office in ("north", "south"))
print(f"loss of the last round: {north:.2f} in the north, {south:.2f} in the south")
assert together > alone + 0.1
spark.stop()
