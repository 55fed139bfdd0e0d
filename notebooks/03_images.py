# %% [markdown]
# # Images: reading digits, finding faces
#
# A convolutional network reads handwritten digits, and the same code learns to recognize faces. In this notebook pixels
# become a tensor without a copy of your own, augmentation happens on the workers, and the mistakes are looked at,
# because a number alone never says what to do next.
#
# The images are 1,797 digits of 8 x 8 pixels that ship with scikit-learn, and 200 details of photographs in the package
# scikit-image, of which only the file is used: `pip install --no-deps scikit-image`.

# %%
ROWS = 1_797  # all of them
WORKERS = 2

# %%
import os
import sys
from importlib.metadata import distribution

import spark_dl

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's workers run this kernel's Python
spark_dl.quiet_start()

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from spark_dl import KerasClassifier

spark = (
    SparkSession.builder.master(f"local[{WORKERS}]")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.python.daemon.module", "spark_dl.spark.python_daemon")
    .config("spark.sql.shuffle.partitions", WORKERS)
    .getOrCreate()
)

# %% [markdown]
# Each image is one array column. Encoded files (JPEG, PNG) would be one binary column: the estimator decodes those on
# the workers, so that they travel small.

# %%
digits = load_digits()
rows = spark.createDataFrame(
    [(image.ravel().tolist(), int(label)) for image, label in zip(digits.images[:ROWS], digits.target, strict=False)],
    "pixels array<float>, label int",
).cache()
train, test = rows.randomSplit([0.75, 0.25], seed=5)
figure, axes = plt.subplots(1, 10, figsize=(9, 1.2))
for axis, image, label in zip(axes, digits.images, digits.target, strict=False):
    axis.imshow(image, cmap="gray_r")
    axis.set(title=label, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# The model's input says (8, 8, 1), and 64 numbers fill it row by row: nothing has to be reshaped before. Scaling is a
# layer, so that whoever scores raw pixels later can't forget it.

# %%
keras.utils.set_random_seed(5)
network = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Rescaling(1 / 16),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ],
    name="digits",
)

# %% [markdown]
# With so few images the network would learn them by heart. `augment` shifts and turns each one anew in every epoch,
# in training only: the fitted model scores images as they are.

# %%
classifier = KerasClassifier(
    model=network,
    featuresCol="pixels",
    augment=keras.Sequential(
        [layers.RandomTranslation(0.1, 0.1, fill_mode="constant"), layers.RandomRotation(0.03, fill_mode="constant")]
    ),
    optimizer=keras.optimizers.Adam(0.003),
    numWorkers=WORKERS,
    batchSize=32,
    epochs=12,
    validationFraction=0.1,
    stratified=True,
    restoreBestWeights=True,
    monitor="val_accuracy",
)
model = classifier.fit(train)

# %% [markdown]
# Augmented images are harder than real ones, so that the curve of the validation rows may well be the better one.

# %%
model.plotHistory()

# %% [markdown]
# More than 96 % of the unseen digits are read correctly.

# %%
scored = model.transform(test).cache()
accuracy = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored)
print(f"accuracy: {accuracy:.3f}")
assert accuracy > 0.96

# %% [markdown]
# A confusion matrix shows whether mistakes are spread or have a pattern, such as one pair of digits. Spark counts it,
# so that this works for any number of rows.

# %%
counts = scored.groupBy("label", "prediction").count().toPandas()
matrix = np.zeros((10, 10), int)
matrix[counts["label"], counts["prediction"].astype(int)] = counts["count"]
plt.figure(figsize=(4, 4))
plt.imshow(np.log1p(matrix), cmap="Blues")
for (actual, predicted), count in np.ndenumerate(matrix):
    if count:
        plt.text(predicted, actual, count, ha="center", va="center", color="white" if count > 10 else "black")
plt.xticks(range(10))
plt.yticks(range(10))
plt.xlabel("predicted")
plt.ylabel("actual")
plt.show()

# %% [markdown]
# The ones that it got wrong: some of them you would not be sure of either.

# %%
wrong = scored.where("label != prediction").select("pixels", "label", "prediction").limit(8).collect()
figure, axes = plt.subplots(1, 8, figsize=(9, 1.5))
for axis in axes:
    axis.axis("off")
for axis, row in zip(axes, wrong, strict=False):
    axis.imshow(np.reshape(row["pixels"], (8, 8)), cmap="gray_r")
    axis.set_title(f"{row['label']}, read as {row['prediction']:.0f}", fontsize=8)
plt.show()

# %% [markdown]
# ## Faces
#
# Nothing above is about digits except the shape and the number of classes. `lfw_subset` has 100 faces, then 100 other
# details of photographs, all of 25 x 25 pixels. A copy of the classifier trains another network with the same
# augmentation: in smaller batches and to the last epoch, since 14 validation rows can't tell which epoch is the best.

# %%
photographs = np.load(distribution("scikit-image").locate_file("skimage/data/lfw_subset.npy"))
details = spark.createDataFrame(
    [(image.ravel().tolist(), int(number < 100)) for number, image in enumerate(photographs)],
    "pixels array<float>, label int",
).cache()
known, unseen = details.randomSplit([0.7, 0.3], seed=2)
faces = keras.Sequential(
    [
        keras.Input((25, 25, 1)),
        layers.Conv2D(16, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(2, activation="softmax"),
    ],
    name="faces",
)
for_few_rows = {classifier.batchSize: 8, classifier.epochs: 20, classifier.restoreBestWeights: False}
found = classifier.copy({classifier.model: faces, **for_few_rows}).fit(known).transform(unseen).cache()
recognized = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(found)
print(f"accuracy on {found.count()} unseen details: {recognized:.3f}")
assert recognized > 0.9

# %% [markdown]
# The details that look most like a face to the network, and those that look least like one.

# %%
ranked = sorted(found.select("pixels", "probability").collect(), key=lambda row: -row["probability"][1])
figure, axes = plt.subplots(1, 10, figsize=(9, 1.3))
for axis, row in zip(axes, [*ranked[:5], *ranked[-5:]], strict=True):
    axis.imshow(np.reshape(row["pixels"], (25, 25)), cmap="gray")
    axis.set_title(f"{row['probability'][1]:.2f}", fontsize=8)
    axis.axis("off")
plt.show()
