"""Columns of images and texts, through a whole fit and every way of scoring."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from pyspark.sql import DataFrame, SparkSession
from videos import grey_video

from spark_dl import KerasClassifier, KerasClassifierModel, KerasModel
from spark_dl.data.columns import kind_of
from spark_dl.data.media import is_spark_image, pixels
from spark_dl.data.schema import feature_spec
from spark_dl.errors import DataError
from spark_dl.media import read_frames

QUIET = {"tracking": None, "verbose": 0, "batchSize": 16}
WORDS = ["good nice fine", "bad ugly awful", "nice good", "awful bad bad"]


STRUCT = "struct<origin: string, height: int, width: int, nChannels: int, mode: int, data: binary>"


def bright_or_dark(spark: SparkSession, kind: str) -> DataFrame:
    """Encoded images ("image"), their numbers ("raw"), or Spark's structs ("struct")."""
    random, rows, encoded = np.random.default_rng(0), [], kind == "image"
    for index in range(120):
        size = (12, 10) if index % 3 or not encoded else (20, 30)
        picture = random.integers(0, 100, (*size, 1), np.uint8)
        picture[: size[0] // 2] += np.uint8(120 * (index % 2))
        encode = tf.io.encode_png if index % 4 < 2 else tf.io.encode_jpeg
        content = bytearray(encode(picture).numpy() if encoded else picture.tobytes())
        rows.append((index, ("", *size, 1, 0, content) if kind == "struct" else content, index % 2))
    return spark.createDataFrame(rows, f"id int, content {STRUCT if kind == 'struct' else 'binary'}, label int")


def a_network() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((12, 10, 1)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2, "softmax")]
    )


def accuracy(scored: DataFrame) -> float:
    return float(np.mean([row.label == row.prediction for row in scored.collect()]))


@pytest.mark.parametrize(
    "kind",
    [pytest.param("image", marks=pytest.mark.stack), "raw", pytest.param("struct", marks=pytest.mark.stack)],
)
def test_a_binary_column_of_images_or_numbers(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    frame = bright_or_dark(spark, kind)
    estimator = KerasClassifier(
        model=a_network(),
        featuresCol="content",
        binaryFormat="raw" if kind == "raw" else "image",
        optimizer=keras.optimizers.Adam(0.02),
        epochs=8,
        validationFraction=0.2,
        **QUIET,
    )
    fitted = estimator.fit(frame)
    scored = fitted.transform(frame)
    assert accuracy(scored) > 0.95
    # The same as plain Keras, on what plain TensorFlow decodes; images of the model's own size alone.
    rows = [row for row in scored.collect() if kind != "image" or row.id % 3]
    decode = tf.io.decode_image if kind == "image" else lambda c: np.frombuffer(c, np.uint8).reshape(12, 10, 1)
    contents = [bytes(row.content.data if kind == "struct" else row.content) for row in rows]
    inputs = np.stack([np.asarray(decode(content)) for content in contents]).astype("float32")
    np.testing.assert_allclose(
        [row.probability.toArray() for row in rows], fitted.keras().predict(inputs, verbose=0), atol=1e-6
    )
    frame.write.parquet(f"{tmp_path}/in")
    assert fitted.scoreParquet(f"{tmp_path}/in", f"{tmp_path}/out") == 120
    by_id = {row.id: row.probability for row in spark.read.parquet(f"{tmp_path}/out").collect()}
    for row in rows:
        np.testing.assert_allclose(by_id[row.id].toArray(), row.probability.toArray(), atol=1e-6)


@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.stack), 4])
def test_what_sparks_image_source_reads_is_what_tensorflow_decodes(
    spark: SparkSession, tmp_path: Path, channels: int
) -> None:
    drawn = np.random.default_rng(1).integers(0, 256, (5, 4, channels), np.uint8)
    (tmp_path / "image.png").write_bytes(tf.io.encode_png(drawn).numpy())
    frame = spark.read.format("image").load(str(tmp_path))
    for wanted in (1, 3, 4):
        spec = feature_spec(frame.schema, ["image"], "featuresCol", (5, 4, wanted), "float32")
        content = bytes(frame.select(kind_of(spec.columns[0]).select(spec.columns[0])).first()[0])
        assert is_spark_image(content)
        assert not is_spark_image(content[:-1])
        png = tf.io.encode_png(drawn).numpy()
        expected, got = (pixels(tf.constant([one]), (5, 4, wanted), "float32").numpy() for one in (png, content))
        # Two ways to make gray of colours round otherwise.
        np.testing.assert_allclose(got, expected, atol=1.0 if wanted == 1 < channels else 0)


def test_what_is_no_image_is_told_by_fit_and_by_transform(spark: SparkSession) -> None:
    frame = bright_or_dark(spark, "image")
    fitted = KerasClassifier(model=a_network(), featuresCol="content", **QUIET).fit(frame)
    broken = frame.selectExpr("id", "label", "if(id = 7, cast('no image' as binary), content) as content")
    with pytest.raises(DataError, match=r"'content': 1 row without an image that can be decoded"):
        KerasClassifier(model=a_network(), featuresCol="content", **QUIET).fit(broken)
    with pytest.raises(Exception, match=r"(?s)column 'content' can't be scored.*1 rows that are none"):
        fitted.transform(broken).collect()


def test_frames_of_videos_are_rows_with_an_image(spark: SparkSession) -> None:
    videos = [("a.mp4", grey_video(6, rate=3), 1), ("b.mp4", b"no video", 0), ("c.mp4", grey_video(2, rate=3), 2)]
    frame = spark.createDataFrame(videos, "path string, `the.video` binary, `a.kind` int").coalesce(1)
    scenes = read_frames(frame, contentCol="the.video", fps=1, size=(4, 8), invalid="null")
    seen = keras.Sequential([keras.Input((4, 8, 3)), layers.GlobalAveragePooling2D()])
    featurizer = KerasModel.fromKeras(seen, scenes, featuresCol="image", scoreNullPolicy="null")
    rows = featurizer.transform(scenes).collect()
    assert [(row.path, row["a.kind"], row.frame) for row in rows] == [
        *(("a.mp4", 1, 0), ("a.mp4", 1, 3), ("b.mp4", 0, None), ("c.mp4", 2, 0))
    ]
    assert (rows[0].image.height, rows[0].image.width, rows[0].image.origin) == (4, 8, "a.mp4")
    assert [row.prediction and round(row.prediction[0] / 20) for row in rows] == [0, 3, None, 0]
    with pytest.raises(Exception, match=r"A video can't be decoded\..*in b\.mp4"):
        read_frames(frame, contentCol="the.video").collect()
    for content, message in (("video", "no column 'video'"), ("path", "isn't binary")):
        with pytest.raises(DataError, match=message):
            read_frames(frame, contentCol=content)
    with pytest.raises(DataError, match="already has a column 'image'"):
        read_frames(frame.toDF("path", "content", "image"))


@pytest.mark.stack
def test_a_column_of_texts_into_a_model_that_vectorizes_them(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(text, index % 2) for _ in range(20) for index, text in enumerate(WORDS)]
    frame = spark.createDataFrame(rows, "text string, label int")
    vectorize = layers.TextVectorization(max_tokens=30, output_sequence_length=4)
    vectorize.adapt(WORDS)
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            vectorize,
            layers.Embedding(30, 4),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1, "sigmoid"),
        ]
    )
    estimator = KerasClassifier(
        model=model, featuresCol="text", optimizer=keras.optimizers.Adam(0.1), epochs=8, **QUIET
    )
    fitted = estimator.fit(frame)
    scored = fitted.transform(frame)
    assert accuracy(scored) == 1.0
    plain = fitted.keras().predict(tf.constant([[row.text] for row in scored.collect()]), verbose=0)
    probability = [row.probability[1] for row in scored.collect()]
    np.testing.assert_allclose(probability, plain[:, 0], atol=1e-6)
    # Spark also holds strings that aren't UTF-8, such as the lines of a file in Latin-1.
    latin = frame.selectExpr("concat(text, cast(X'20E9' AS string)) AS text", "label")
    contents = [bytes(row.text) for row in latin.selectExpr("cast(text AS binary) AS text").collect()]
    plain = fitted.keras().predict(tf.constant([[content] for content in contents]), verbose=0)
    probability_of_latin = [row.probability[1] for row in fitted.transform(latin).select("probability").collect()]
    np.testing.assert_allclose(probability_of_latin, plain[:, 0], atol=1e-6)
    estimator.copy({estimator.epochs: 1}).fit(latin)
    fitted.save(f"{tmp_path}/model")
    loaded = KerasClassifierModel.load(f"{tmp_path}/model")
    again = [row.probability[1] for row in loaded.transform(frame).collect()]
    np.testing.assert_allclose(again, probability, atol=1e-6)
