"""The CRF: equal to brute force over all sequences, whatever the mask; trained, saved and loaded as any layer."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_dl.errors import ModelError, OptionError
from spark_dl.layers import CRF, CRFLoss
from spark_dl.layers.crf import Chain, log_likelihoods, posteriors, viterbi
from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes

RANDOM = np.random.default_rng(5)


def chain(batch: int, steps: int, tags: int, mask: Any = None, seed: int = 0) -> Chain:
    random = np.random.default_rng(seed)
    shapes = ((batch, steps, tags), (tags, tags), (tags,), (tags,))
    numbers = [random.normal(scale=2, size=shape).astype(np.float32) for shape in shapes]
    present = np.ones((batch, steps), bool) if mask is None else np.asarray(mask)
    return Chain(*map(keras.ops.convert_to_tensor, numbers), keras.ops.convert_to_tensor(present))


def score(one: Chain, row: int, path: tuple[int, ...], places: list[int]) -> float:
    """The score of a path over the places that count, in float64."""
    scores, transitions, start, end = (np.asarray(part, np.float64) for part in one[:4])
    total = sum(scores[row, place, tag] for place, tag in zip(places, path, strict=True))
    total += sum(transitions[a, b] for a, b in itertools.pairwise(path))
    return float(total + start[path[0]] + end[path[-1]])


def brute_force(one: Chain, row: int) -> tuple[list[int], dict[tuple[int, ...], float]]:
    """The places that count, and the probability of each sequence of tags at them."""
    places = [int(place) for place in np.flatnonzero(np.asarray(one.mask)[row])]
    tags = range(one.scores.shape[-1])
    found = {path: score(one, row, path, places) for path in itertools.product(tags, repeat=len(places)) if path}
    total = np.logaddexp.reduce(list(found.values())) if found else 0.0
    return places, {path: float(np.exp(value - total)) for path, value in found.items()}


@st.composite
def masks(draw: Any) -> Any:
    batch, steps = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    return draw(st.lists(st.lists(st.booleans(), min_size=steps, max_size=steps), min_size=batch, max_size=batch))


@settings(max_examples=12, deadline=None)
@given(mask=masks(), tags=st.integers(1, 3), seed=st.integers(0, 1000))
def test_it_equals_brute_force(mask: Any, tags: int, seed: int) -> None:
    one = chain(len(mask), len(mask[0]), tags, mask, seed)
    labels = np.random.default_rng(seed).integers(0, tags, np.shape(mask))
    likelihoods, found, chances = np.asarray(log_likelihoods(one, labels)), np.asarray(viterbi(one)), posteriors(one)
    for row in range(len(mask)):
        places, paths = brute_force(one, row)
        if not places:
            assert likelihoods[row] == 0
            assert not found[row].any()
            continue
        told = tuple(labels[row, places].tolist())
        np.testing.assert_allclose(likelihoods[row], np.log(paths[told]), rtol=1e-3, atol=1e-4)
        best = tuple(found[row, places].tolist())
        assert paths[best] >= max(paths.values()) * (1 - 1e-4)
        for index, place in enumerate(places):
            for tag in range(tags):
                expected = sum(chance for path, chance in paths.items() if path[index] == tag)
                np.testing.assert_allclose(float(chances[row, place, tag]), expected, atol=1e-4)
        left_out = [place for place in range(len(mask[0])) if place not in places]
        assert not found[row, left_out].any()
        assert (np.asarray(chances)[row, left_out, 0] == 1).all()


def test_labels_that_are_none_are_left_out_as_by_the_mask() -> None:
    mask = [[True, True, False, True], [True, False, False, False]]
    labels = np.array([[0, 2, -1, 1], [1, -1, -1, -1]])
    one, masked = chain(2, 4, 3), chain(2, 4, 3, mask)
    expected = log_likelihoods(masked, np.maximum(labels, 0))
    np.testing.assert_allclose(log_likelihoods(one, labels), expected, rtol=1e-6)
    hot = np.where(labels[:, :, None] >= 0, np.eye(3)[np.maximum(labels, 0)], 0.0).astype(np.float32)
    np.testing.assert_allclose(log_likelihoods(one, keras.ops.convert_to_tensor(hot)), expected, rtol=1e-6)


def tagger(output: str = "viterbi", steps: int | None = 6) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((steps,), dtype="int32"),
            keras.layers.Embedding(9, 8, mask_zero=True),
            keras.layers.Dense(3),
            CRF(output),
        ]
    )


def rows(count: int = 32, steps: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Words and tags: a tag depends on the tag before, not on the word alone; sequences have 1 to `steps` words."""
    random = np.random.default_rng(2)
    words = random.integers(1, 9, (count, steps))
    tags = np.cumsum(words % 2, axis=1) % 3
    for row, length in enumerate(random.integers(1, steps + 1, count)):
        words[row, length:], tags[row, length:] = 0, -1
    return words, tags


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"jit_compile": True}])
def test_it_trains_in_plain_keras_and_the_transitions_learn(options: dict[str, Any]) -> None:
    model, (words, tags) = tagger(), rows()
    model.compile(keras.optimizers.Adam(0.05), CRFLoss(), **{"jit_compile": False, **options})
    losses = model.fit(words, tags, epochs=3, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all(np.abs(np.asarray(weights)).max() > 0 for weights in model.layers[-1].trainable_weights)
    first = tagger()
    first.compile("sgd", CRFLoss())
    mask = keras.ops.convert_to_tensor(words > 0)
    scores = first.layers[1](first.layers[0](keras.ops.convert_to_tensor(words)))
    layer = first.layers[-1]
    one = Chain(scores, layer.transitions.value, layer.start.value, layer.end.value, mask)
    expected = -float(np.mean(np.asarray(log_likelihoods(one, tags))))
    assert first.evaluate(words, tags, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_joined_batches_is_the_mean_of_theirs_by_sequences() -> None:
    model, (words, tags) = tagger(), rows()
    model.compile("sgd", CRFLoss())
    short, long = np.argsort((words > 0).sum(axis=1))[:20], np.argsort((words > 0).sum(axis=1))[20:]
    parts = [model.evaluate(words[part], tags[part], batch_size=64, verbose=0) for part in (short, long)]
    whole = model.evaluate(words, tags, batch_size=64, verbose=0)
    assert whole == pytest.approx((20 * parts[0] + 12 * parts[1]) / 32, rel=1e-5)


def test_lengths_may_stay_open() -> None:
    model = tagger(steps=None)
    for steps in (3, 7):
        words = RANDOM.integers(1, 9, (2, steps))
        found = model.predict(words, verbose=0)
        assert found.shape == (2, steps, 3)
        np.testing.assert_array_equal(found.sum(axis=-1), 1)


# Two processes that import TensorFlow once: neither loads the model with what the other has imported.
LOADED = """
import os, sys
from pathlib import Path
import keras
import numpy as np
from spark_dl.train.model.serialization import from_bytes

folder = Path(sys.argv[1])
assert "spark_dl.layers" not in sys.modules
if not os.fork():
    assert type(from_bytes((folder / "bytes").read_bytes()).loss).__name__ == "CRFLoss"
    os._exit(0)
assert os.wait()[1] == 0
assert "spark_dl.layers" not in sys.modules
import spark_dl.layers
model = keras.saving.load_model(folder / "tagger.keras")
np.save(folder / "found.npy", model.predict(np.load(folder / "words.npy"), verbose=0))
assert type(model.loss).__name__ == "CRFLoss"
"""


def test_a_saved_model_is_loaded_in_another_process(tmp_path: Path) -> None:
    model, (words, tags) = tagger("posterior"), rows()
    model.compile(keras.optimizers.Adam(0.05), CRFLoss())
    model.fit(words, tags, verbose=0)
    copy = from_bytes(to_bytes(model), custom_objects(model))
    np.testing.assert_allclose(copy.predict(words, verbose=0), model.predict(words, verbose=0), atol=1e-6)
    model.save(tmp_path / "tagger.keras")
    np.save(tmp_path / "words.npy", words)
    (tmp_path / "bytes").write_bytes(to_bytes(model))
    subprocess.run([sys.executable, "-c", LOADED, str(tmp_path)], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), model.predict(words, verbose=0), atol=1e-6)


def test_what_it_cannot_take_is_refused_in_one_line() -> None:
    with pytest.raises(OptionError, match=r"CRF can't have this output.*'best'"):
        CRF("best")
    with pytest.raises(ModelError, match="takes a score for each tag at each position"):
        CRF()(np.ones((2, 3), np.float32))
    for layers in ([], [CRF(), keras.layers.Softmax()]):
        model = keras.Sequential([keras.Input((4, 3)), keras.layers.Dense(3), *layers])
        model.compile("sgd", CRFLoss())
        with pytest.raises(ModelError, match="CRFLoss takes the output of a CRF layer"):
            model.evaluate(np.ones((2, 4, 3)), np.zeros((2, 4)), verbose=0)
