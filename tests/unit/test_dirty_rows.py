"""Images that can't be decoded, under nullPolicy in conversions and under scoreNullPolicy in scoring."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import cloudpickle
import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyspark.sql import types as T
from rows import sent

from spark_dl.data.batches import keras_batch
from spark_dl.data.column import Column
from spark_dl.data.columns import decode_tensor
from spark_dl.data.convert import convert_batches
from spark_dl.data.image_files import can_be_decoded, plain_image, prepare_images
from spark_dl.data.null_policy import NullPolicy
from spark_dl.data.schema import ColumnRules, feature_spec
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.errors import DataError
from spark_dl.io.store import Store
from spark_dl.score.heads import Regression, TensorOutput
from spark_dl.score.saved_specs import spec_from_dict, spec_to_dict
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.score.serving import Served, Serving
from spark_dl.train.model.serialization import to_bytes

LABEL = LabelSpec(Column("y", "number", "int32", 1), (), "int32", None)
SCHEMA = T.StructType().add("image", "binary").add("n", "long")


def a_file(kind: str = "PNG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 30, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, kind)
        return file.getvalue()


GOOD = a_file()
# A null, no image, and a file without its end.
ROWS = [GOOD, None, b"no image", GOOD[: len(GOOD) // 2], GOOD]


def a_spec(policy: Any = "error", validate: bool = True, channels: int = 3) -> FeatureSpec:
    rules = ColumnRules(validate=validate, nulls=NullPolicy.of(policy))
    return feature_spec(SCHEMA, ["image"], "featuresCol", (4, 4, channels), "float32", rules, "image")


def converted(*specs: FeatureSpec, **others: Any) -> tuple[dict[Any, int], Any]:
    """The row errors, and the batch, of ROWS."""
    conversion = ConversionSpec(Store("memory://"), specs, (LABEL,))
    content = {"image": pa.array(ROWS), "y": pa.array(np.arange(len(ROWS)), pa.int32()), **others}
    errors, batches = convert_batches(conversion, [sent(pa.RecordBatch.from_pydict(content), conversion.columns)])
    found = [keras_batch(conversion.tensors, batch) for batch in batches]
    return dict(errors.counts), found[0] if found else None


def test_dirty_images_are_counted() -> None:
    formats = "JPEG, PNG, GIF, BMP, WebP"
    expected = {("null", "image", ""): 1, ("image", "image", formats): 1}
    assert converted(a_spec()) == ({**expected, ("image", "image", "files that are whole"): 1}, None)
    assert converted(a_spec(validate=False)) == (expected, None)


def test_dirty_images_are_dropped_with_their_rows() -> None:
    errors, (features, labels) = converted(a_spec("drop"))
    assert not errors
    assert features["image"].shape == (2, 4, 4, 3)
    assert labels.numpy().tolist() == [0, 4]
    # In a dropped row nothing else is an error, whatever the order of the inputs.
    number = feature_spec(SCHEMA, ["n"], "featuresCol", (1,), "float32", key="n")
    numbers = pa.array([1, 2, 2**24 + 1, 2**24 + 1, 5])
    for specs in ((number, a_spec({"image": "drop"})), (a_spec({"image": "drop"}), number)):
        errors, (features, labels) = converted(*specs, n=numbers)
        assert (errors, labels.numpy().tolist()) == ({}, [0, 4])
        assert features["n"].numpy().tolist() == [[1.0], [5.0]]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_dirty_images_are_filled_with_a_grey(channels: int) -> None:
    spec = a_spec({"image": {"fill": 200}}, channels=channels)
    errors, (features, labels) = converted(spec)
    assert (errors, labels.numpy().tolist()) == ({}, [0, 1, 2, 3, 4])
    found = features["image"].numpy()
    assert (found[1:4, ..., : min(channels, 3)] == 200).all()
    np.testing.assert_array_equal(found[0], found[4])
    model = ScoringModel.of(b"", b"", [spec], Regression(), 8)
    (scored,) = model.inputs({spec.columns[0]: pa.array([None, b"no image"], pa.binary())})
    made = decode_tensor(scored, "image", spec.shape, spec.dtype).numpy()
    assert (made[..., : min(channels, 3)] == 200).all()


def test_an_image_is_filled_with_a_grey_only() -> None:
    for fill in ("black", 256, 0.5):
        with pytest.raises(DataError, match="nullPolicy can't fill the column 'image'"):
            a_spec({"image": {"fill": fill}})


def test_a_saved_specification_does_not_validate() -> None:
    assert spec_from_dict(spec_to_dict(a_spec())) == a_spec(validate=False)


@settings(max_examples=150)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP"]), st.integers(0, 1 << 30), st.booleans())
def test_what_passes_the_check_tensorflow_decodes(kind: str, seed: int, cut: bool) -> None:
    random, content = np.random.default_rng(seed), bytearray(a_file(kind, seed % 3))
    if cut:
        del content[random.integers(8, len(content)) :]
    else:
        for place in random.integers(8, len(content), 1 + seed % 3):
            content[place] ^= int(random.integers(1, 256))
    given = np.empty(1, object)
    given[0] = bytes(content)
    prepared, undecodable = prepare_images(given, 3)
    if not undecodable and can_be_decoded(prepared[0]):
        assert decode_tensor(prepared, "image", (4, 4, 3), "float32").shape == (1, 4, 4, 3)


def test_whole_files_pass_the_check() -> None:
    assert all(can_be_decoded(a_file(kind)) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"))
    assert can_be_decoded(plain_image(7))
    assert not any(can_be_decoded(a_file(kind)[:200]) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"))


# --- scoring


@pytest.fixture(scope="module")
def content() -> bytes:
    given = {"image": keras.Input((4, 4, 3), name="image"), "n": keras.Input((1,), name="n")}
    pooled = keras.layers.GlobalAveragePooling2D()(given["image"])
    return to_bytes(keras.Model(given, keras.layers.Concatenate()([pooled, given["n"]])))


def a_model(content: bytes, nulls: str, batch_size: int = 8) -> ScoringModel:
    specs = [a_spec(validate=False), feature_spec(SCHEMA, ["n"], "featuresCol", (1,), "float32", key="n")]
    return ScoringModel.of(content, cloudpickle.dumps({}), specs, TensorOutput(4), batch_size, nulls)


FRAME = [pd.Series([*ROWS, GOOD]), pd.Series([0, 1, 2, 3, 4, None], dtype=float)]
MARKED = [False, True, True, True, False, True]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_rows_with_nulls_and_broken_images_are_scored_around(content: bytes, batch_size: int) -> None:
    found = a_model(content, "null", batch_size).score_pandas(FRAME)
    assert found.unscorable is not None
    assert found.unscorable.tolist() == MARKED
    alone = a_model(content, "error").score_pandas([pd.Series([GOOD, GOOD]), pd.Series([0, 4])])
    np.testing.assert_allclose(found.known()["prediction"], alone.columns["prediction"], rtol=1e-6)
    assert alone.unscorable is None


def test_wrong_rows_of_other_kinds_stay_errors(content: bytes) -> None:
    with pytest.raises(DataError, match=r"'image' can't be scored.*no nulls"):
        a_model(content, "error").score_pandas(FRAME)
    with pytest.raises(DataError, match=r"'n' can't be scored.*float32 can hold exactly.*16777217"):
        a_model(content, "null").score_pandas([pd.Series([GOOD, None]), pd.Series([2**24 + 1, 1])])
    # pandas makes floats of integers beside a null.
    with pytest.raises(DataError, match=r"'n' can't be scored.*float32 can hold exactly.*16777217"):
        a_model(content, "null").score_pandas([pd.Series([GOOD, None]), pd.Series([2**24 + 1, None])])
    with pytest.raises(DataError, match=r"'n' can't be scored.*below 2\^53 beside nulls"):
        a_model(content, "null").score_pandas([pd.Series([GOOD, None]), pd.Series([2**53 + 1, None])])


def test_all_rows_may_be_dirty(content: bytes) -> None:
    found = a_model(content, "null").score_pandas([pd.Series([None, b"x"]), pd.Series([1, 2])])
    assert found.columns["prediction"].shape == (2, 4)
    assert found.known()["prediction"].shape == (0, 4)


@pytest.mark.parametrize("nulls", ["null", "drop"])
def test_a_served_model_keeps_the_policy(content: bytes, nulls: str) -> None:
    model = a_model(content, nulls)
    serving = Serving(model.features, model.head, {"prediction": "p"}, 8, nulls)
    assert Serving.of_json(serving.to_json()) == serving
    assert "nulls" not in replace(serving, nulls="error").to_json()
    frame = pd.DataFrame({"image": [*ROWS, GOOD], "n": [0, 1, 2, 3, 4, None]}, index=list("abcdef"))
    found = Served(serving, content).predict(frame)
    assert list(found.index) == (list("abcdef") if nulls == "null" else ["a", "e"])
    assert found.index[found.p.notna()].tolist() == ["a", "e"]
