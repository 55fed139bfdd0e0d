"""Videos as rows of frames, in Spark."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from spark_dl.data.column import quoted
from spark_dl.data.video import Frame, Sampling, frames
from spark_dl.errors import DataError, OptionError, explain, hint
from spark_dl.spark.python_worker import purge_zipimport_cache

__all__ = ["read_frames"]

_INVALID = ("error", "drop", "null")
# Spark's image struct, and the mode of OpenCV for three channels of uint8.
_NUMBERS = ("height", "width", "nChannels", "mode")
_IMAGE_TYPE = pa.struct({"origin": pa.string(), **dict.fromkeys(_NUMBERS, pa.int32()), "data": pa.binary()})
_BGR = 16
# Bytes of frames that are sent to Spark at once.
_BATCH_BYTES = 16 << 20


def read_frames(
    videos: DataFrame,
    *,
    contentCol: str = "content",
    every: int = 1,
    fps: float | None = None,
    size: Sequence[int] | None = None,
    maxFrames: int | None = None,
    invalid: str = "error",
) -> DataFrame:
    """Decode videos to frames, one a row, in Spark's tasks; the extra `video` installs the decoder.

    Args:
        videos: A DataFrame with the bytes of a video in each row, such as
            `spark.read.format("binaryFile").load("videos/*.mp4")`.
        contentCol: The binary column with the videos, in any format that FFmpeg reads.
        every: Takes every so many frames one, beginning with the first.
        fps: Takes so many frames a second, in place of `every`: the first one of each interval.
        size: Height and width in pixels to which frames are resized. By default they keep the video's.
        maxFrames: The most frames of a video. By default there is no limit.
        invalid: What to do about a null, a file that isn't a video, or one that is damaged where the decoder can't go
            on: "error", "drop" (the frames before the damage are kept), or "null" for a row without an image after
            them.

    Returns:
        The columns of `videos` without contentCol, and
        - frame: int, the frame's number in its video, from 0,
        - seconds: double, its time in the video,
        - image: Spark's image struct, of three channels of uint8, which estimators take as a feature column.

        With invalid="null", all three are null in the row of the damage.

    Raises:
        OptionError: An option can't be used, or PyAV isn't installed.
        DataError: There is no such column, it isn't binary, or there are columns of the new names already; in a task,
            a video can't be decoded.
    """
    sampling = _sampling(every, fps, size, maxFrames)
    if invalid not in _INVALID:
        raise _unusable("invalid", invalid, " or ".join(map(repr, _INVALID)))
    _check_decoder()
    _check_columns(videos, contentCol)
    others = [name for name in videos.columns if name != contentCol]
    image = T.StructType()
    for name in (field.name for field in _IMAGE_TYPE):
        image = image.add(name, "integer" if name in _NUMBERS else "binary" if name == "data" else "string")
    added = T.StructType().add("frame", "integer").add("seconds", "double").add("image", image)
    names = [f"c{place}" for place in range(len(others))]  # mapInArrow takes a dot in a name for a struct's field
    kept = [T.StructField(name, videos.schema[old].dataType) for name, old in zip(names, others, strict=True)]
    given = videos.select(
        videos[quoted(contentCol)].alias("content"),
        *(videos[quoted(old)].alias(name) for name, old in zip(names, others, strict=True)),
    )
    place = others.index("path") if "path" in others else None
    decode = functools.partial(_decode_batches, sampling=sampling, invalid=invalid, path_column=place)
    return given.mapInArrow(decode, T.StructType([*kept, *added.fields])).toDF(*others, *added.names)


def _sampling(every: Any, fps: Any, size: Any, most: Any) -> Sampling:
    """Check the options of the frames."""
    for name, value in (("every", every), ("maxFrames", 1 if most is None else most)):
        if not _is_count(value):
            raise _unusable(name, value, "a whole number of at least 1")
    if fps is not None:
        if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < float("inf"):
            raise _unusable("fps", fps, "a number above 0")
        if every != 1:
            raise _unusable("every", f"{every} beside fps={fps}", "one of every and fps")
    if size is not None and (isinstance(size, str) or len(size) != 2 or not all(map(_is_count, size))):
        raise _unusable("size", size, "height and width in pixels, such as (224, 224)")
    return Sampling(every, fps, None if size is None else (int(size[0]), int(size[1])), most)


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 1)


def _unusable(name: str, value: Any, expected: str) -> OptionError:
    return OptionError(
        explain(
            f"{name} can't be used.",
            expected=expected,
            received=f"{name}={value}" if isinstance(value, str) else f"{name}={value!r}",
            fix="Look at the help of read_frames.",
        )
    )


def _check_decoder() -> None:
    if importlib.util.find_spec("av") is None:
        raise OptionError(
            explain(
                "PyAV, which decodes videos, isn't installed here.",
                expected="the package av on the driver and the executors",
                received="none",
                fix="Install it with `pip install spark_dl[video]`.",
            )
        )


def _check_columns(videos: DataFrame, content: str) -> None:
    columns = videos.columns
    if content not in columns:
        raise DataError(
            explain(
                f"The DataFrame has no column {content!r}.",
                expected="the binary column with the videos",
                received=f"columns {', '.join(columns)}",
                fix=hint(content, columns),
            )
        )
    if not isinstance(videos.schema[content].dataType, T.BinaryType):
        raise DataError(
            explain(
                f"Column {content!r} isn't binary.",
                expected="the bytes of a video in each row",
                received=videos.schema[content].dataType.simpleString(),
                fix="Read the files with spark.read.format('binaryFile').",
            )
        )
    if taken := [name for name in columns if name.lower() in ("frame", "seconds", "image") and name != content]:
        raise DataError(
            explain(
                f"The DataFrame already has a column {taken[0]!r}.",
                expected="no columns frame, seconds and image, which are added",
                received=f"columns {', '.join(columns)}",
                fix="Drop or rename the column.",
            )
        )


def _decode_batches(
    batches: Iterator[pa.RecordBatch], sampling: Sampling, invalid: str, path_column: int | None
) -> Iterator[pa.RecordBatch]:
    """Decode the first column of Arrow batches; the other columns are repeated for each frame."""
    purge_zipimport_cache()
    for batch in batches:
        paths = [None] * len(batch) if path_column is None else batch.column(path_column + 1).to_pylist()
        rows: list[int] = []
        found: list[Frame | None] = []
        size = 0
        for row in range(len(batch)):
            for frame in _frames(batch.column(0)[row].as_py(), paths[row], sampling, invalid):
                rows.append(row)
                found.append(frame)
                size += 0 if frame is None else frame.pixels.nbytes
                if size >= _BATCH_BYTES:
                    yield _rows(batch, paths, rows, found)
                    rows, found, size = [], [], 0
        if rows:
            yield _rows(batch, paths, rows, found)


def _frames(content: bytes | None, path: Any, sampling: Sampling, invalid: str) -> Iterator[Frame | None]:
    """Decode a video; None stands for what can't be decoded."""
    try:
        if content is None:
            raise ValueError("it is null")
        yield from frames(content, sampling)
    except ValueError as error:
        if invalid == "error":
            raise DataError(
                explain(
                    "A video can't be decoded.",
                    expected="a file that FFmpeg reads",
                    received=f"{error}" + (f", in {path}" if path else ""),
                    fix="Set invalid='drop' to leave such videos out, or invalid='null' to get a row without an image.",
                )
            ) from error
        if invalid == "null":
            yield None


def _rows(batch: pa.RecordBatch, paths: list[Any], rows: list[int], found: list[Frame | None]) -> pa.RecordBatch:
    """Build the rows of frames."""
    images = [
        None
        if frame is None
        else {
            "origin": paths[row] or "",
            "height": frame.pixels.shape[0],
            "width": frame.pixels.shape[1],
            "nChannels": 3,
            "mode": _BGR,
            "data": frame.pixels.tobytes(),
        }
        for row, frame in zip(rows, found, strict=True)
    ]
    arrays = [
        *(column.take(pa.array(rows)) for column in batch.columns[1:]),
        pa.array([None if frame is None else frame.number for frame in found], pa.int32()),
        pa.array([None if frame is None else frame.seconds for frame in found], pa.float64()),
        pa.array(images, _IMAGE_TYPE),
    ]
    return pa.RecordBatch.from_arrays(arrays, [*batch.schema.names[1:], "frame", "seconds", "image"])
