"""Small videos for tests."""

from __future__ import annotations

import io

import av
import numpy as np

__all__ = ["grey_video"]


def grey_video(count: int, rate: int, picture: np.ndarray | None = None) -> bytes:
    """An MP4 file of frames of 16 x 32 pixels: a picture, red first, or the greys 0, 20, 40, ..."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate, width=32, height=16, pix_fmt="yuv420p", bit_rate=1_000_000)
        for index in range(count):
            pixels = np.full((16, 32, 3), 20 * index, np.uint8) if picture is None else picture
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()
