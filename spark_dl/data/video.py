"""Decoding of videos to frames, with PyAV (FFmpeg), which the extra `video` installs."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Frame", "Sampling", "frames"]

# Seconds by which a frame may be before an interval: times in files are rounded.
_CLOSE = 1e-3


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: Its number in the video, from 0.
        seconds: Its time in the video, from the beginning of the first frame; None if the file doesn't say.
        pixels: Uint8 of shape (height, width, 3), blue first, as displayed: turned as the file says.
    """

    number: int
    seconds: float | None
    pixels: np.ndarray


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are taken, and their size.

    Attributes:
        every: Every so many frames one, the first one among them.
        fps: Frames a second, in place of `every`: of each interval the first frame. None for all.
        size: Height and width in pixels, to which frames are resized; None for the video's own.
        most: The number of frames after which a video ends; None for no limit.
    """

    every: int = 1
    fps: float | None = None
    size: tuple[int, int] | None = None
    most: int | None = None


def frames(content: bytes, sampling: Sampling) -> Iterator[Frame]:
    """Decode the sampled frames of a video, one by one.

    Args:
        content: The file's bytes, in any format that FFmpeg reads.
        sampling: Which frames, and their size.

    Raises:
        ValueError: The bytes are no video, or are damaged where the decoder can't go on; frames before have been given.
    """
    import av

    try:
        with av.open(io.BytesIO(content), "r") as container:
            if not container.streams.video:
                raise ValueError("no video among its streams")
            decoded = container.decode(container.streams.video[0])
            for index, seconds, frame in itertools.islice(_sampled(decoded, sampling), sampling.most):
                yield Frame(index, seconds, _pixels(frame, sampling.size))
    except av.FFmpegError as error:  # of many classes, some of which are no ValueError
        raise ValueError(f"{type(error).__name__}: {error.strerror}") from error


def _sampled(decoded: Iterable[Any], sampling: Sampling) -> Iterator[tuple[int, float | None, Any]]:
    """Yield the sampled ones of a video's frames, with their numbers and times."""
    first, due = None, 0.0
    for index, frame in enumerate(decoded):
        first = frame.time if first is None else first
        seconds = None if frame.time is None or first is None else frame.time - first
        if sampling.fps is None:
            if index % sampling.every == 0:
                yield index, seconds, frame
        elif seconds is None:
            raise ValueError("no times of its frames, which fps needs")
        elif seconds >= due - _CLOSE:
            yield index, seconds, frame
            due = (math.floor((seconds + _CLOSE) * sampling.fps) + 1) / sampling.fps


def _pixels(frame: Any, size: tuple[int, int] | None) -> np.ndarray:
    """Return a frame's pixels as they are displayed."""
    turns = round(frame.rotation / 90) % 4
    if size is not None:
        height, width = size if turns % 2 == 0 else size[::-1]
        frame = frame.reformat(width=width, height=height, format="bgr24")
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="bgr24"), turns))
