# %% [markdown]
# # Transfer learning: much seen, few labels
#
# A network that has seen many images of one kind helps with few images of another. In this notebook a network learns
# the digits 0 to 6 and is then asked for 7, 8 and 9, of which there are a dozen labelled images each: first as a
# featurizer in front of Spark ML's LogisticRegression, then fine-tuned.
#
# The images are digits of 8 x 8 pixels that ship with scikit-learn. The pretrained network is made here, since it
# takes seconds; a network of `keras.applications` with its weights takes its place for real photographs.

# %%
LABELLED = 36  # images of 7, 8 and 9 with a label
WORKERS = 2

# %%
import keras
import matplotlib.pyplot as plt
from keras import layers
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
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
# The digits 0 to 6 play the large public data set, 7 to 9 your own small one.

# %%
digits = load_digits()
rows = spark.createDataFrame(
    [(image.tolist(), int(label)) for image, label in zip(digits.data / 16, digits.target, strict=True)],
    "pixels array<float>, digit int",
)
seen = rows.where("digit < 7").withColumnRenamed("digit", "label").cache()
own = rows.where("digit >= 7").withColumn("label", F.col("digit") - 7).orderBy(F.xxhash64("pixels")).cache()
labelled = own.limit(LABELLED).cache()
test = own.exceptAll(labelled).cache()
evaluator = MulticlassClassificationEvaluator(metricName="accuracy")


# %% [markdown]
# The layer before the classes is named: what it computes is of use beyond these classes.


# %%
def body() -> list[layers.Layer]:
    return [
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(32, activation="relu", name="embedding"),
    ]


keras.utils.set_random_seed(11)
network = keras.Sequential([keras.Input((8, 8, 1)), *body(), layers.Dense(7, activation="softmax")], name="seen")
pretrained = KerasClassifier(
    model=network,
    featuresCol="pixels",
    optimizer=keras.optimizers.Adam(0.003),
    numWorkers=WORKERS,
    batchSize=32,
    epochs=6,
    verbose=0,
).fit(seen)
print(f"accuracy after the last epoch: {pretrained.summary.history['accuracy'][-1]:.3f}")

# %% [markdown]
# ## As a featurizer
#
# `outputLayer` makes the fitted model write that layer's output, and as a Vector it is a feature column for any stage
# of Spark ML. No network is trained: with a dozen images for each class, a linear model is what the labels allow.

# %%
featurizer = pretrained.copy().setOutputLayer("embedding").setOutputFormat("vector").setPredictionCol("features")
regression = LogisticRegression(predictionCol="answer", probabilityCol="p", rawPredictionCol="raw", regParam=0.01)
by_features = Pipeline(stages=[featurizer, regression]).fit(labelled).transform(test)
featurized = evaluator.setPredictionCol("answer").evaluate(by_features)

pixels = labelled.withColumn("features", array_to_vector("pixels"))
by_pixels = regression.fit(pixels).transform(test.withColumn("features", array_to_vector("pixels")))
plain = evaluator.evaluate(by_pixels)
print(f"logistic regression on pixels {plain:.3f}, on what the network sees {featurized:.3f}")

# %% [markdown]
# ## Fine-tuned
#
# A new head on the pretrained layers, and a small learning rate so that the few images don't undo what the many have
# taught. The first convolution is frozen: edges are edges in any digit.

# %%
base = pretrained.keras()
tuned = keras.Sequential([keras.Input((8, 8, 1)), *base.layers[:-1], layers.Dense(3, activation="softmax")], name="own")
tuned.layers[0].trainable = False
fine = KerasClassifier(
    model=tuned,
    featuresCol="pixels",
    predictionCol="answer",
    optimizer=keras.optimizers.Adam(0.001),
    augment=layers.RandomTranslation(0.08, 0.08, fill_mode="constant"),
    numWorkers=WORKERS,
    batchSize=6,
    epochs=20,
    verbose=0,
).fit(labelled)
fine_tuned = evaluator.evaluate(fine.transform(test))
print(f"fine-tuned {fine_tuned:.3f}")

# %% [markdown]
# Both ways read more than 85 % of the new digits from three dozen labels.

# %%
plt.figure(figsize=(6, 2))
plt.barh(["on pixels", "featurizer", "fine-tuned"], [plain, featurized, fine_tuned])
plt.xlabel("accuracy")
plt.xlim(0.5, 1)
plt.show()
assert featurized > 0.85
assert fine_tuned > 0.85
