"""Conversion to PNG, by Pillow, of image files that TensorFlow decodes differently from Pillow or not at all.

All other files, which are nearly all, are decoded in the graph unchanged. A file's first bytes decide.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc

from spark_dl.data.media import is_spark_image
from spark_dl.data.ragged import ByteRows

__all__ = ["alike_jpegs", "can_be_decoded", "plain_image", "prepare_images"]

# Pillow's modes by number of channels.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# In a PNG header: the bytes of bit depth 16 and colour type gray, and the colour type of palettes.
_PNG_GRAY_16, _PNG_PALETTE = b"\x10\x00", 3
# In a JPEG: the number of components, counted from the frame header's marker.
_JPEG_COMPONENTS = 9


def _jpeg_is_direct(content: bytes, channels: int) -> bool:
    """Return whether TensorFlow can decode this JPEG: it adds no alpha, and reads one or three components."""
    frame = _jpeg_frame(content)
    return channels != 4 and frame > 0 and content[frame + _JPEG_COMPONENTS] in (1, 3)


def _jpeg_frame(content: bytes) -> int:
    """Return the place of the frame header's marker; 0 for a file without one."""
    place = 2
    while place + _JPEG_COMPONENTS < len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return place
        elif marker == 0xD9 or marker == 0xDA:
            return 0
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return 0


def _png_is_direct(content: bytes, channels: int) -> bool:
    """Return whether TensorFlow decodes this PNG as Pillow does: its alpha is wrong below 8 bits and with palettes."""
    if len(content) < 33:
        return False
    bits, color = content[24:26]
    return channels != 4 or (bits >= 8 and color != _PNG_PALETTE)


def _gif_is_direct(content: bytes, channels: int) -> bool:
    """Return False, as TensorFlow decodes a first frame's transparent pixels as black."""
    return False


def _bmp_is_direct(content: bytes, channels: int) -> bool:
    """Return whether this BMP has a 40-byte header and 24 bits per pixel, uncompressed, and 3 channels are requested.

    TensorFlow supports no palette, compression or other header, and Pillow ignores the last 8 of 32 bits.
    """
    if len(content) < 54:
        return False
    (header,) = struct.unpack_from("<I", content, 14)
    bits, compression = struct.unpack_from("<HI", content, 28)
    return channels == 3 and (header, bits, compression) == (40, 24, 0)


def _webp_is_direct(content: bytes, channels: int) -> bool:
    """Return whether TensorFlow can decode this WebP: no animation, and alpha exactly when 4 channels are requested."""
    if len(content) < 30 or content[8:12] != b"WEBP":
        return False
    kind = content[12:16]
    if kind == b"VP8X":
        return channels == (4 if content[20] & 0x10 else 3) and not content[20] & 0x02
    alpha = kind == b"VP8L" and bool(content[24] & 0x10)
    return channels == (4 if alpha else 3)


# For each format its first bytes, and a check whether TensorFlow decodes a file to `channels` as Pillow does.
_FORMATS: dict[str, tuple[bytes, Callable[[bytes, int], bool]]] = {
    "JPEG": (b"\xff\xd8\xff", _jpeg_is_direct),
    "PNG": (b"\x89PNG\r\n\x1a\n", _png_is_direct),
    "GIF": (b"GIF8", _gif_is_direct),
    "BMP": (b"BM", _bmp_is_direct),
    "WebP": (b"RIFF", _webp_is_direct),
}


def alike_jpegs(contents: ByteRows, channels: int, keep: np.ndarray) -> np.ndarray:
    """Mark the JPEG files that begin as the first one does, up to the frame header, and that TensorFlow can decode.

    Files of one encoder do, so that none of them needs to be looked at alone.

    Args:
        contents: Encoded files.
        channels: The number of channels of the decoded image: 1, 3 or 4.
        keep: The boolean mask of the rows that are used; the first of them is the first file.

    Returns:
        A boolean mask of shape (rows,); none are marked if the first used row is no such file.
    """
    none = np.zeros(len(contents), bool)
    if not keep.any():
        return none
    start = int(np.argmax(keep))
    first = contents[start : start + 1].objects()[0]
    if not first.startswith(_FORMATS["JPEG"][0]) or not _jpeg_is_direct(first, channels):
        return none
    frame = _jpeg_frame(first)
    alike = np.asarray(pc.starts_with(contents.values, first[: frame + 2]).to_numpy(zero_copy_only=False)).astype(bool)
    place, ends = frame + _JPEG_COMPONENTS, contents.ends - contents.ends[0]
    alike &= np.diff(ends) > place
    alike[alike] = np.isin(contents.content[ends[:-1][alike] + place], (1, 3))
    return alike


def prepare_images(contents: np.ndarray, channels: int) -> tuple[np.ndarray, dict[str, int]]:
    """Replace image files that TensorFlow doesn't decode as Pillow does by PNG files.

    Args:
        contents: Objects of shape (rows,): encoded files, or Spark images from `media.image_bytes`.
        channels: The number of channels of the decoded image: 1, 3 or 4.

    Returns:
        The contents, with PNG files where needed; and the number of rows that can't be decoded, by reason.
    """
    prepared = contents.copy()
    faults: Counter[str] = Counter()
    # Files of one encoder begin alike up to the frame header, which needs to be looked for once in a row of them.
    frame, before, components = 0, b"", slice(0)
    for row, content in enumerate(contents):
        if frame and content.startswith(before) and content[components] in (b"\x01", b"\x03"):
            continue
        name = next((name for name, (begin, _) in _FORMATS.items() if content.startswith(begin)), "")
        if not name:
            faults[", ".join(_FORMATS)] += not is_spark_image(content)
        elif name == "PNG" and content[24:26] == _PNG_GRAY_16:
            faults["16-bit grayscale PNG, of which decoders make different 8 bits: convert it"] += 1
        elif not _FORMATS[name][1](content, channels):
            try:
                prepared[row] = _png(content, name, _MODES[channels])
            except Exception as error:  # Pillow raises various exceptions for damaged files
                faults[f"{name} that Pillow can't read: {type(error).__name__}"] += 1
        elif name == "JPEG":
            frame = _jpeg_frame(content)
            before = content[: frame + 2]
            components = slice(frame + _JPEG_COMPONENTS, frame + _JPEG_COMPONENTS + 1)
    return prepared, {reason: rows for reason, rows in faults.items() if rows}


def _png(content: bytes, name: str, mode: str) -> bytes:
    """Decode the first frame with Pillow and encode its pixels as a PNG file."""
    from PIL import Image

    with warnings.catch_warnings(), io.BytesIO() as file:
        warnings.simplefilter("ignore")  # Pillow warns of palettes with alpha, which convert() handles
        with Image.open(io.BytesIO(content), formats=[name.upper()]) as image:
            image.convert(mode).save(file, "PNG", compress_level=1)
        return file.getvalue()


def can_be_decoded(content: bytes) -> bool:
    """Return whether Pillow decodes a file to its end, or the bytes are a Spark image."""
    from PIL import Image

    if is_spark_image(content):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                image.load()
    except Exception:  # Pillow raises various exceptions for damaged files
        return False
    return not content.startswith(_FORMATS["PNG"][0]) or _png_is_whole(content)


def _png_is_whole(content: bytes) -> bool:
    """Return whether all chunks of a PNG are known or optional and have their checksums, as TensorFlow requires."""
    place = len(_FORMATS["PNG"][0])
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        kind = content[place + 4 : place + 8]
        is_critical = not kind[0] & 0x20
        if zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            return False
        if is_critical and kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            return False
        if kind == b"IEND":
            return True
        place = end + 4
    return False


def plain_image(grey: int) -> bytes:
    """Return a PNG file of one pixel, which fills an input when it is resized.

    Args:
        grey: Its red, green and blue, from 0 to 255.
    """
    from PIL import Image

    with io.BytesIO() as file:
        Image.new("RGB", (1, 1), (grey, grey, grey)).save(file, "PNG")
        return file.getvalue()
