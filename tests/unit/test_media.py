"""Texts and encoded images: from columns to blocks to what the model is fed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
from pyspark.sql import types as T
from rows import pack, scored_input

from spark_dl.data import block_writer, convert
from spark_dl.data.batches import tensorflow_batches
from spark_dl.data.cache import CACHES, Cache
from spark_dl.data.column import Column
from spark_dl.data.columns import decode_tensor
from spark_dl.data.convert import ConversionSpec
from spark_dl.data.media import image_bytes, is_spark_image, pixels
from spark_dl.data.ragged import joined, lengths, split
from spark_dl.data.readers import READERS, reader
from spark_dl.data.row_errors import describe
from spark_dl.data.schema import ColumnRules, feature_spec, label_spec
from spark_dl.data.shards import Segment, shards
from spark_dl.data.specs import FeatureSpec, LabelSpec
from spark_dl.errors import DataError
from spark_dl.io.store import Store

TEXT = FeatureSpec((Column("x", "text", "object", 0),), (1,), "string")
IMAGE = FeatureSpec((Column("x", "image", "object", 0),), (4, 6, 3), "uint8")
RAW = FeatureSpec((Column("x", "binary", "uint8", 6),), (2, 3), "float32")
LABEL = LabelSpec(Column("y", "number", "int32", 1), (), "int32", None)
TEXTS = [b"", b"one", "zwölf".encode(), b"a" * 300, b"\x00\xff", b"one"]
SCHEMA = T.StructType().add("text", "string").add("binary", "binary").add("number", "integer")


def image(seed: int, shape: tuple[int, ...] = (4, 6, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def packed(directory: Path, spec: FeatureSpec, values: pa.Array, **others: Any) -> Any:
    conversion = ConversionSpec(Store.at(str(directory)), (spec,), (LABEL,), **others)
    conversion.store.make()
    batch = pa.RecordBatch.from_pydict({"x": values, "y": pa.array(range(len(values)), pa.int32())})
    return pack(conversion, batch.slice(0, 2), batch.slice(2))


def arrays(dataset: Any, name: str = "petastorm") -> list[np.ndarray]:
    made = reader(name)(dataset, [Segment(block, 0, block.rows) for block in dataset.blocks])
    return [np.concatenate(parts) for parts in zip(*made, strict=True)]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
def test_bytes_of_any_length_come_back_as_they_were(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    dataset, faults = packed(tmp_path, TEXT, pa.array(TEXTS, kind))
    assert not faults
    values, labels = arrays(dataset, name)
    assert (values.tolist(), labels.tolist()) == (TEXTS, list(range(len(TEXTS))))
    assert dataset.bytes == sum(map(len, TEXTS)) + 4 * len(TEXTS)


def test_blocks_of_bytes_are_cut_by_their_size_and_into_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_writer, "BLOCK_BYTES", 500)
    texts = [b"%d" % i * (i % 40) for i in range(200)]
    dataset, _ = packed(tmp_path, TEXT, pa.array(texts))
    assert len(dataset.blocks) > 5
    assert arrays(dataset)[0].tolist() == texts
    starts = np.cumsum([0, *(block.rows for block in dataset.blocks)])
    for index, block in enumerate(dataset.blocks):
        ((values, _),) = reader("petastorm")(dataset, [Segment(block, 1, block.rows - 1)])
        assert values.tolist() == texts[starts[index] + 1 : starts[index + 1] - 1]


def test_the_checksum_knows_the_bytes_and_not_their_order(tmp_path: Path) -> None:
    def checksum(name: str, texts: list[bytes]) -> int:
        conversion = ConversionSpec(Store.at(str(tmp_path / name)), (TEXT,), (LABEL,))
        conversion.store.make()
        batch = pa.RecordBatch.from_pydict({"x": pa.array(texts), "y": pa.array([0] * len(texts), pa.int32())})
        (result,) = convert._convert_partition(conversion, [batch])
        return sum(row["checksum"] for row in result.to_pylist())

    assert checksum("a", TEXTS) == checksum("b", TEXTS[::-1])
    assert checksum("c", [*TEXTS[:-1], b"two"]) != checksum("d", TEXTS)


@pytest.mark.parametrize("drop", [False, True])
def test_rows_without_a_value_are_counted_or_dropped(tmp_path: Path, drop: bool) -> None:
    spec = replace(TEXT, columns=(replace(TEXT.columns[0], drop=drop),))
    dataset, faults = packed(tmp_path, spec, pa.array([b"a", None, b"c"]))
    if drop:
        assert arrays(dataset)[0].tolist() == [b"a", b"c"]
    else:
        assert faults == {("null", "x", ""): 1}


def test_what_is_no_image_is_counted_and_told(tmp_path: Path) -> None:
    good = tf.io.encode_png(image(0)).numpy()
    _, faults = packed(tmp_path, IMAGE, pa.array([good, b"GIF", b"\x89PN"]))
    assert faults == {("image", "x", "JPEG, PNG, GIF, BMP, WebP"): 2}
    told = describe([{"kind": "image", "name": "x", "detail": "JPEG, PNG", "rows": 2}], [], [])
    assert "column 'x': 2 rows without an image that can be decoded (JPEG, PNG)" in told
    assert "binaryFormat='raw'" in told
    with pytest.raises(DataError, match=r"column 'x' can't be scored.*JPEG.*1 rows that are none"):
        scored_input(IMAGE, pd.Series([good, b"?"]))


@pytest.mark.parametrize("encode", [tf.io.encode_png, tf.io.encode_jpeg], ids=["png", "jpeg"])
def test_images_reach_the_model_as_tensorflow_decodes_them(tmp_path: Path, encode: Any) -> None:
    contents = [encode(image(seed)).numpy() for seed in range(5)]
    dataset, _ = packed(tmp_path, IMAGE, pa.array(contents))
    (shard,) = shards(dataset.blocks, 1, 3, None)
    batches = list(tensorflow_batches(dataset, [shard], reader("petastorm"), seed=None, one_pass=True))
    got = np.concatenate([features.numpy() for features, _ in batches])
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, [tf.io.decode_image(content).numpy() for content in contents])


def test_shuffled_texts_keep_their_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_writer, "BLOCK_BYTES", 200)
    texts = [b"text %d" % index for index in range(100)]
    dataset, _ = packed(tmp_path, TEXT, pa.array(texts))
    (shard,) = shards(dataset.blocks, 1, 8, 5)
    batches = tensorflow_batches(dataset, [shard], reader("petastorm"), seed=5, one_pass=True, pool_bytes=300)
    pairs = [pair for x, y in batches for pair in zip(x.numpy()[:, 0].tolist(), y.numpy().tolist(), strict=True)]
    assert sorted(pairs, key=lambda pair: pair[1]) == list(zip(texts, range(100), strict=True))
    assert pairs != sorted(pairs, key=lambda pair: pair[1])


def test_images_of_other_sizes_and_channels_are_made_to_fit() -> None:
    large = image(1, (8, 12, 1))
    contents = tf.constant([tf.io.encode_png(large).numpy(), tf.io.encode_png(image(2)).numpy()])
    got = tf.function(lambda c: pixels(c, (4, 6, 3), "float32"))(contents).numpy()
    assert (got.shape, got.dtype) == ((2, 4, 6, 3), np.float32)
    expected = tf.image.resize(np.repeat(large, 3, axis=2), (4, 6), antialias=True)
    np.testing.assert_allclose(got[0], expected, atol=1e-3)
    np.testing.assert_array_equal(got[1], image(2))
    whole = pixels(contents, (4, 6, 3), "uint8").numpy()
    np.testing.assert_array_equal(whole, np.round(got))


def test_the_fields_of_an_image_struct_are_told_by_how_they_begin_and_by_their_size() -> None:
    whole = image_bytes(2, 3, 1, bytes(6))
    assert is_spark_image(whole)
    assert not any(map(is_spark_image, [b"?" + whole[1:], whole[:-1], whole[:8]]))


def test_neighbours_of_very_different_size_make_blocks_of_one_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_writer, "BLOCK_BYTES", 1000)
    texts = [b"a" * 400] * 10 + [b"b"] * 300 + [b"c" * 5000]
    dataset, _ = packed(tmp_path, TEXT, pa.array(texts))
    assert [block.rows for block in dataset.blocks][:5] == [2, 2, 2, 2, 2 + (1000 - 2 * 404) // 5]
    assert arrays(dataset)[0].tolist() == texts
    assert dataset.blocks[-1].rows == 1


def test_texts_take_the_shape_of_the_models_input() -> None:
    contents = tf.constant(TEXTS)
    assert decode_tensor(contents, "text", (), "string").numpy().tolist() == TEXTS
    assert decode_tensor(contents, "text", (1,), "string").shape == (len(TEXTS), 1)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(6)], ids=str)
def test_raw_bytes_are_numbers(tmp_path: Path, kind: pa.DataType) -> None:
    pixels = [bytes(range(6)), bytes(range(250, 256))]
    dataset, _ = packed(tmp_path / "good", RAW, pa.array([pixels[1], *pixels, pixels[0]], kind).slice(1, 2))
    features, _ = arrays(dataset)
    assert features.dtype == np.uint8
    assert features.reshape(2, 6).tolist() == [list(row) for row in pixels]
    np.testing.assert_array_equal(
        scored_input(RAW, pd.Series(pixels)),
        features.astype(np.float32),
    )
    _, faults = packed(tmp_path / "bad", RAW, pa.array([pixels[0], b"12", None, b""]))
    assert faults == {("length", "x", "2"): 1, ("length", "x", "0"): 1, ("null", "x", ""): 1}


@pytest.mark.parametrize("where", CACHES)
def test_kept_bytes_are_the_same_bytes(tmp_path: Path, where: str) -> None:
    dataset, _ = packed(tmp_path / "data", TEXT, pa.array(TEXTS))
    cache = Cache(where, dataset.bytes, 1)
    cache.turn_on()
    segments = [Segment(block, 0, block.rows) for block in dataset.blocks]
    read = cache.reading(reader("petastorm"))
    first = list(read(dataset, segments))
    dataset.store.delete()
    again = list(read(dataset, segments))
    for one, other in zip(first, again, strict=True):
        assert [part.tolist() for part in one] == [part.tolist() for part in other]


def test_nothing_is_joined_and_split() -> None:
    empty = np.empty(0, object)
    assert split(joined(empty).data, lengths(empty)).tolist() == []


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "binary", "kind"),
    [
        ("text", (1,), "string", "image", "text"),
        ("binary", (), "string", "image", "text"),
        ("binary", (4, 6, 3), "float32", "image", "image"),
        ("binary", (4, 6, 3), "float32", "raw", "binary"),
        ("binary", (7,), "int32", "raw", "binary"),
    ],
)
def test_a_column_of_bytes_is_what_the_model_and_the_option_say(
    name: str, shape: tuple[int, ...], dtype: str, binary: str, kind: str
) -> None:
    spec = feature_spec(SCHEMA, [name], "featuresCol", shape, dtype, ColumnRules(binary))
    assert spec.columns[0].kind == kind
    assert (spec.shape, spec.dtype) == (shape, dtype)


@pytest.mark.parametrize(
    ("names", "shape", "dtype", "told"),
    [
        (["text"], (3,), "float32", "'text'.*can't be fed"),
        (["number"], (1,), "string", r"'number'.*can't be fed.*a string, for the model's input of strings"),
        (["text", "binary"], (2,), "string", "one column"),
        (["text"], (2,), "string", r"shape \(batch, 2\)"),
        (["binary"], (784,), "float32", r"model input that is an image.*binaryFormat='raw'"),
        (["binary"], (28, 28, 2), "float32", "1, 3 or 4 channels"),
        (["binary"], (28, 28, 3), "int8", "that takes 255"),
        (["binary", "number"], (4, 6, 3), "float32", "Images take one column"),
    ],
)
def test_bytes_that_do_not_fit_the_model_are_refused(
    names: list[str], shape: tuple[int, ...], dtype: str, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        feature_spec(SCHEMA, names, "inputCols", shape, dtype)


@pytest.mark.parametrize("name", ["text", "binary"])
def test_bytes_are_no_labels(name: str) -> None:
    with pytest.raises(DataError, match=f"{name!r}, which labelCol names"):
        label_spec(SCHEMA, name, (1,), None)
