"""Frames of videos, which PyAV makes here and decodes again."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from videos import grey_video

from spark_dl.data import video
from spark_dl.data.video import Sampling, frames
from spark_dl.errors import DataError, OptionError
from spark_dl.media import _decode_batches, read_frames

VIDEO = grey_video(10, rate=5)


def test_frames_are_pictures_with_their_numbers_and_times() -> None:
    found = list(frames(VIDEO, Sampling()))
    assert [frame.number for frame in found] == list(range(10))
    np.testing.assert_allclose([frame.seconds for frame in found], np.arange(10) / 5, atol=1e-3)
    for index, frame in enumerate(found):
        assert (frame.pixels.shape, frame.pixels.dtype) == ((16, 32, 3), np.uint8)
        np.testing.assert_allclose(frame.pixels[..., 0], 20 * index, atol=4)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(every=4), [0, 4, 8]),
        (Sampling(every=3, most=2), [0, 3]),
        (Sampling(fps=2.5), [0, 2, 4, 6, 8]),
        (Sampling(fps=2), [0, 3, 5, 8]),
        (Sampling(fps=100), list(range(10))),
        (Sampling(fps=0.1), [0]),
    ],
)
def test_sampled_frames(sampling: Sampling, expected: list[int]) -> None:
    assert [frame.number for frame in frames(VIDEO, sampling)] == expected


@given(st.lists(st.floats(0.001, 0.3), min_size=1, max_size=40), st.floats(0.5, 30))
def test_each_interval_has_its_first_frame(gaps: list[float], fps: float) -> None:
    """Also where frames come irregularly, or where there are none for a while."""
    times = np.cumsum(gaps) - gaps[0]
    decoded = [type("Frame", (), {"time": float(time)}) for time in times]
    found = [index for index, *_ in video._sampled(decoded, Sampling(fps=fps))]
    slots = np.floor((times + video._CLOSE) * fps)
    assert found == [index for index in range(len(times)) if index == 0 or slots[index] > slots[index - 1]]


def test_colours_sizes_and_turned_videos() -> None:
    corner = np.zeros((16, 32, 3), np.uint8)
    corner[:8, :16] = (255, 0, 0)  # red, green, blue
    content = grey_video(1, rate=1, picture=corner)
    (frame,) = frames(content, Sampling())
    np.testing.assert_allclose(frame.pixels[4, 8], (0, 0, 255), atol=12)  # blue first
    # As a telephone marks what was filmed upright: to be shown turned by a quarter, clockwise.
    place = content.index(b"tkhd") + 4 + 40
    turned = (
        content[:place]
        + struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 16 << 16, 0, 1 << 30)
        + content[place + 36 :]
    )
    for size, shape in ((None, (32, 16, 3)), ((24, 12), (24, 12, 3))):
        (frame,) = frames(turned, Sampling(size=size))
        assert frame.pixels.shape == shape
        assert frame.pixels[: shape[0] // 2, shape[1] // 2 :, 2].mean() > 200
        assert frame.pixels[shape[0] // 2 :].mean() < 20


@pytest.mark.parametrize("content", [b"", b"hello" * 50, VIDEO[:200]], ids=["empty", "text", "cut"])
def test_what_is_no_video(content: bytes) -> None:
    with pytest.raises(ValueError, match="Invalid data found"):
        list(frames(content, Sampling()))


def test_damaged_videos_under_each_policy() -> None:
    rows = pa.table({"content": [None, b"hello", VIDEO], "path": ["a", "b", "c"], "label": [0, 1, 2]}).to_batches()

    def decoded(invalid: str) -> list[dict]:
        found = _decode_batches(iter(rows), Sampling(every=5), invalid, path_column=0)
        return pa.Table.from_batches(found).select(["path", "label", "frame"]).to_pylist()

    whole = [{"path": "c", "label": 2, "frame": index} for index in (0, 5)]
    assert decoded("drop") == whole
    assert decoded("null") == [{"path": p, "label": i, "frame": None} for i, p in enumerate("ab")] + whole
    with pytest.raises(DataError, match=r"A video can't be decoded.*it is null, in a"):
        decoded("error")


def test_frames_are_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spark_dl.media._BATCH_BYTES", 3 * 16 * 32 * 3)
    batches = pa.table({"content": [VIDEO]}).to_batches()
    sizes = [len(part) for part in _decode_batches(iter(batches), Sampling(), "error", path_column=None)]
    assert sizes == [3, 3, 3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every can't be used"),
        ({"maxFrames": 1.5}, "maxFrames can't be used"),
        ({"fps": -1}, "fps can't be used"),
        ({"fps": 2, "every": 2}, "one of every and fps"),
        ({"size": (224,)}, "height and width"),
        ({"invalid": "skip"}, "'error' or 'drop' or 'null'"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_frames(None, **options)
