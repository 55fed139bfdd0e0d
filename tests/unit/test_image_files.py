"""Image files of every kind that is about: the model is fed the pixels that Pillow decodes, or they are refused."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
from PIL import Image
from rows import pack, scored_input, sent

from spark_dl.data import block_writer
from spark_dl.data.column import Column
from spark_dl.data.convert import convert_batches
from spark_dl.data.image_files import alike_jpegs, prepare_images
from spark_dl.data.media import pixels
from spark_dl.data.ragged import ByteRows
from spark_dl.data.readers import reader
from spark_dl.data.shards import Segment
from spark_dl.data.specs import ConversionSpec, FeatureSpec, LabelSpec
from spark_dl.errors import DataError
from spark_dl.io.store import Store

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 9, 7
RGB = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
RGBA = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
GRAY = RGB[..., 0].copy()
# JPEG and lossy WebP keep smooth pictures; decoders round chroma in their own ways.
SMOOTH = Image.fromarray(RGB[:3, :3].copy()).resize((16, 12), Image.Resampling.BILINEAR)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def saved(picture: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **options)
    return file.getvalue()


def png(bits: int, color: int, raw: bytes, interlaced: bool = False) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color, 0, 0, interlaced)
    begin = b"\x89PNG\r\n\x1a\n"
    return begin + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def png_rows(array: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in array)


def interlaced() -> bytes:
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    return b"".join(png_rows(RGB[y::dy, x::dx]) for x, y, dx, dy in passes if RGB[y::dy, x::dx].size)


def bmp(height: int, bits: int, rows: np.ndarray, compression: int = 0, before: bytes = b"", colors: int = 0) -> bytes:
    content = b"".join(row.tobytes() + b"\0" * (-len(row.tobytes()) % 4) for row in rows)
    head = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(content), 2835, 2835, colors, 0)
    start = 14 + len(head) + len(before)
    return b"BM" + struct.pack("<IHHI", start + len(content), 0, 0, start) + head + before + content


def run_lengths() -> bytes:
    rows = b"".join(bytes([WIDTH, row % 4, 0, 0]) for row in range(HEIGHT)) + b"\0\1"
    return bmp(HEIGHT, 8, np.frombuffer(rows, np.uint8)[None], 1, PALETTE, 16)


def old_header() -> bytes:
    content = b"".join(row.tobytes() + b"\0" * (-len(row.tobytes()) % 4) for row in RGB)
    return b"BM" + struct.pack("<IHHIIHHHH", 26 + len(content), 0, 0, 26, 12, WIDTH, HEIGHT, 1, 24) + content


PALETTE = b"".join(bytes([index * 15, 255 - index * 15, index * 7, 0]) for index in range(16))
PICTURES = {colors: Image.fromarray(RGB).quantize(colors) for colors in (2, 16, 64)}
WORDS = RANDOM.integers(0, 1 << 16, (HEIGHT, WIDTH, 4), np.uint16)
NIBBLES = RANDOM.integers(0, 256, (HEIGHT, 4), np.uint8)
EXIF = Image.Exif()
EXIF[0x112] = 6  # turned by a quarter: neither decoder turns it back

# name -> the file, and by how much pixels may differ from Pillow's
FILES: dict[str, tuple[bytes, int]] = {
    "png": (saved(RGB, "PNG"), 1),
    "png, gray": (saved(GRAY, "PNG"), 0),
    "png, alpha": (saved(RGBA, "PNG"), 1),
    "png, gray and alpha": (saved(Image.fromarray(RGBA[..., :2].copy(), "LA"), "PNG"), 0),
    "png, 1 bit": (saved(Image.fromarray(GRAY).convert("1"), "PNG"), 0),
    "png, 2 bits": (png(2, 0, png_rows(NIBBLES[:, :2])), 0),
    "png, 4 bits": (png(4, 0, png_rows(NIBBLES)), 0),
    "png, palette": (saved(PICTURES[64], "PNG"), 1),
    "png, palette of 4 bits": (saved(PICTURES[16], "PNG"), 1),
    "png, palette with alpha": (saved(PICTURES[16], "PNG", transparency=bytes([0, 128, *[255] * 14])), 1),
    "png, one transparent color": (saved(RGB, "PNG", transparency=tuple(int(v) for v in RGB[0, 0])), 1),
    "png, 16 bits a color": (png(16, 2, png_rows(WORDS[..., :3].astype(">u2"))), 1),
    "png, 16 bits with alpha": (png(16, 6, png_rows(WORDS.astype(">u2"))), 1),
    "png, interlaced": (png(8, 2, interlaced(), interlaced=True), 1),
    "jpeg": (saved(SMOOTH, "JPEG", quality=90), 6),
    "jpeg, gray": (saved(SMOOTH.convert("L"), "JPEG"), 2),
    "jpeg, progressive": (saved(SMOOTH, "JPEG", progressive=True), 6),
    "jpeg, turned by EXIF": (saved(SMOOTH, "JPEG", exif=EXIF), 6),
    "jpeg, CMYK": (saved(SMOOTH.convert("CMYK"), "JPEG"), 0),
    "gif": (saved(PICTURES[64], "GIF"), 0),
    "gif, transparent": (saved(PICTURES[16], "GIF", transparency=2), 0),
    "gif, animated": (saved(PICTURES[16], "GIF", save_all=True, append_images=[PICTURES[16].rotate(180)]), 0),
    "gif, gray": (saved(GRAY, "GIF"), 0),
    "bmp": (saved(RGB, "BMP"), 1),
    "bmp, top down": (bmp(-HEIGHT, 24, RGB), 0),
    "bmp, header of OS/2": (old_header(), 0),
    "bmp, gray": (saved(GRAY, "BMP"), 0),
    "bmp, palette": (saved(PICTURES[64], "BMP"), 0),
    "bmp, palette of 1 bit": (saved(PICTURES[2], "BMP"), 0),
    "bmp, palette of 4 bits": (bmp(HEIGHT, 4, NIBBLES, before=PALETTE, colors=16), 0),
    "bmp, palette, top down": (bmp(-HEIGHT, 8, GRAY % 16, before=PALETTE, colors=16), 0),
    "bmp, run lengths": (run_lengths(), 0),
    "bmp, 16 bits": (bmp(HEIGHT, 16, WORDS[..., 0]), 0),
    "bmp, 16 bits, masks": (bmp(HEIGHT, 16, WORDS[..., 0], 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F)), 0),
    "bmp, 32 bits": (bmp(HEIGHT, 32, RGBA), 0),
    "bmp, 32 bits, top down": (bmp(-HEIGHT, 32, RGBA), 0),
    "webp, lossless": (saved(RGB, "WEBP", lossless=True), 0),
    "webp, lossy": (saved(SMOOTH, "WEBP", quality=80), 0),
    "webp, alpha": (saved(RGBA, "WEBP", lossless=True, exact=True), 0),
    "webp, lossy with alpha": (saved(SMOOTH.convert("RGBA").rotate(9), "WEBP", quality=80), 0),
    "webp, animated": (saved(RGB, "WEBP", save_all=True, append_images=[Image.fromarray(255 - RGB)], lossless=True), 0),
}


def objects(*contents: bytes) -> np.ndarray:
    array = np.empty(len(contents), object)
    array[:] = contents
    return array


@pytest.mark.parametrize("channels", MODES)
def test_every_file_is_decoded_as_pillow_does(channels: int) -> None:
    decode = {}
    for name, (content, tolerance) in FILES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = np.asarray(Image.open(io.BytesIO(content)).convert(MODES[channels]), np.int64)
        shape = (*expected.shape[:2], channels)
        prepared, faults = prepare_images(objects(content), channels)
        assert faults == {}, name
        if shape not in decode:
            decode[shape] = tf.function(lambda given, shape=shape: pixels(given, shape, "uint8"))
        got = decode[shape](tf.constant(prepared)).numpy()[0].astype(np.int64)
        assert np.abs(got - expected.reshape(shape)).max() <= tolerance, name


def test_common_files_are_left_as_they_are() -> None:
    names = ["png", "png, gray", "png, alpha", "jpeg", "jpeg, gray", "webp, lossy", "webp, lossless", "bmp, top down"]
    given = objects(*(FILES[name][0] for name in names))
    prepared, _ = prepare_images(given, 3)
    assert [after is before for after, before in zip(prepared, given, strict=True)] == [True] * len(names)
    assert prepare_images(objects(FILES["webp, alpha"][0]), 4)[0][0] is FILES["webp, alpha"][0]


DAMAGED = [b"", b"BM", b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WAVEfmt ", b"no image"]


@pytest.mark.parametrize("channels", MODES)
def test_what_can_not_be_decoded_is_counted_by_what_it_is(channels: int) -> None:
    _, faults = prepare_images(objects(*DAMAGED, FILES["bmp, palette"][0][:60]), channels)
    assert sum(faults.values()) == len(DAMAGED) + 1
    assert faults["JPEG, PNG, GIF, BMP, WebP"] == 2
    assert sum(rows for reason, rows in faults.items() if reason.startswith("BMP that Pillow can't read")) == 2


IMAGE = FeatureSpec((Column("x", "image", "object", 0),), (HEIGHT, WIDTH, 3), "float32")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_jpeg_is_judged_by_itself_after_others_that_begin_alike(channels: int) -> None:
    color, gray = saved(SMOOTH, "JPEG"), saved(SMOOTH.convert("L"), "JPEG")
    frame = color.index(b"\xff\xc0")
    contents = [color, color[: frame + 9], gray, color, gray[:frame], saved(SMOOTH.convert("CMYK"), "JPEG"), gray]
    # Files of two or four components that begin as those of three, which no decoder reads.
    contents += [color[: frame + 9] + bytes([count]) + color[frame + 10 :] for count in (2, 3, 4)] + [color]
    rows = np.array([*contents, None], object)[:-1]
    alone = [prepare_images(rows[row : row + 1], channels) for row in range(len(rows))]
    together, faults = prepare_images(rows, channels)
    assert together.tolist() == [prepared[0] for prepared, _ in alone]
    assert faults == sum((Counter(one) for _, one in alone), Counter())
    assert faults


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpegs_are_alike_only_where_none_needs_a_change(channels: int) -> None:
    color, gray = saved(SMOOTH, "JPEG"), saved(SMOOTH.convert("L"), "JPEG")
    frame = color.index(b"\xff\xc0")
    contents = [color[: frame + 9], color[:frame], b"", gray, color[: frame + 9] + bytes([4]) + color[frame + 10 :]]
    contents += [color[: frame - 1] + b"\0" + color[frame:], saved(SMOOTH, "JPEG", quality=5), saved(SMOOTH, "PNG")]
    contents = [color, *contents, color, None]
    rows = ByteRows(pa.array([b"", *contents[:-1], b""], pa.large_binary())[1:])
    keep = np.array([content is not None for content in contents])
    alike = alike_jpegs(rows, channels, keep)
    assert np.flatnonzero(alike).tolist() == ([] if channels == 4 else [0, len(contents) - 2])
    assert not alike_jpegs(rows, channels, ~keep).any()
    assert not alike_jpegs(rows, channels, np.zeros_like(keep)).any()


def test_jpegs_of_one_encoder_are_written_and_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [Image.fromarray(np.roll(RGB[:3, :3], turn)).resize((16, 12)) for turn in range(27)]
    alike = [saved(picture, "JPEG") for picture in pictures]
    monkeypatch.setattr(block_writer, "BLOCK_BYTES", 4 * len(alike[0]))
    label = LabelSpec(Column("y", "number", "int32", 1), (), "int32", None)
    image = replace(IMAGE, columns=(replace(IMAGE.columns[0], drop=True),))
    conversion = ConversionSpec(Store.at(str(tmp_path)), (image,), (label,))
    # Nulls and images of another kind between them, in batches that blocks cut.
    given = [*alike[:5], None, *alike[5:12], FILES["gif"][0], *alike[12:], FILES["png"][0]]
    column = pa.table({"x": pa.array(given, pa.binary()), "y": pa.array(range(len(given)), pa.int32())})
    dataset, faults = pack(conversion, *column.to_batches(max_chunksize=7))
    assert not faults
    assert len(dataset.blocks) > 4
    read = [
        arrays for block in dataset.blocks for arrays in reader("petastorm")(dataset, [Segment(block, 0, block.rows)])
    ]
    found = {int(y): x for xs, ys in read for x, y in zip(xs, ys, strict=True)}
    expected = {row: prepare_images(objects(one), 3)[0][0] for row, one in enumerate(given) if one is not None}
    assert found == expected


def test_a_16_bit_gray_png_is_refused_by_its_name_in_training_and_in_scoring(tmp_path: Path) -> None:
    deep = png(16, 0, png_rows(WORDS[..., 0].astype(">u2")))
    label = LabelSpec(Column("y", "number", "int32", 1), (), "int32", None)
    conversion = ConversionSpec(Store.at(str(tmp_path)), (IMAGE,), (label,))
    batch = pa.RecordBatch.from_pydict({"x": [deep, FILES["png"][0]], "y": pa.array([0, 0], pa.int32())})
    _, faults = pack(conversion, batch)
    ((kind, name, detail),) = faults
    assert (kind, name, faults[kind, name, detail]) == ("image", "x", 1)
    assert detail.startswith("16-bit grayscale PNG")
    with pytest.raises(DataError, match=r"'x' can't be scored.*16-bit grayscale PNG"):
        scored_input(IMAGE, pd.Series([deep]))


def test_training_and_scoring_see_the_same_file(tmp_path: Path) -> None:
    label = LabelSpec(Column("y", "number", "int32", 1), (), "int32", None)
    conversion = ConversionSpec(Store.at(str(tmp_path)), (IMAGE,), (label,))
    given = [FILES["bmp, palette"][0], FILES["webp, lossless"][0], FILES["gif, transparent"][0]]
    batch = pa.RecordBatch.from_pydict({"x": given, "y": pa.array([0, 0, 0], pa.int32())})
    _, arrays = convert_batches(conversion, [sent(batch, conversion.columns)])
    assert next(arrays)[0].tolist() == scored_input(IMAGE, pd.Series(given)).tolist()
