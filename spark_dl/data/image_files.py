"""Image files that TensorFlow decodes in another way than Pillow, or not at all: Pillow makes PNG files of them.

The rest, which is nearly all, is decoded in the graph as it is. What tells them apart are a file's first bytes.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np

from spark_dl.data.media import is_spark_image

__all__ = ["prepare_images"]

# By the number of channels.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Of PNG: bits and colour type.
_PNG_GRAY_16, _PNG_PALETTE = b"\x10\x00", 3


def _jpeg_is_direct(content: bytes, channels: int) -> bool:
    """TensorFlow makes no alpha of JPEG, and gray of three components at the most."""
    return channels != 4 and _jpeg_components(content) in (1, 3)


def _jpeg_components(content: bytes) -> int:
    """The number of components in the frame header; 0 where there is none."""
    place = 2
    while place + 10 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return content[place + 9]
        elif marker == 0xD9 or marker == 0xDA:
            return 0
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return 0


def _png_is_direct(content: bytes, channels: int) -> bool:
    """TensorFlow gives pixels of less than a byte, and those of a palette, a wrong alpha."""
    if len(content) < 33:
        return False
    bits, color = content[24:26]
    return channels != 4 or (bits >= 8 and color != _PNG_PALETTE)


def _gif_is_direct(content: bytes, channels: int) -> bool:
    """What a first frame leaves transparent is black in TensorFlow."""
    return False


def _bmp_is_direct(content: bytes, channels: int) -> bool:
    """TensorFlow knows no palette, no compression and no header but this; of 32 bits, Pillow ignores the last eight."""
    if len(content) < 54:
        return False
    (header,) = struct.unpack_from("<I", content, 14)
    bits, compression = struct.unpack_from("<HI", content, 28)
    return channels == 3 and (header, bits, compression) == (40, 24, 0)


def _webp_is_direct(content: bytes, channels: int) -> bool:
    """TensorFlow decodes no animations, and gives alpha where there is some and nowhere else."""
    if len(content) < 30 or content[8:12] != b"WEBP":
        return False
    kind = content[12:16]
    if kind == b"VP8X":
        return channels == (4 if content[20] & 0x10 else 3) and not content[20] & 0x02
    alpha = kind == b"VP8L" and bool(content[24] & 0x10)
    return channels == (4 if alpha else 3)


# How each format begins, and whether TensorFlow decodes such a file to so many channels as Pillow does.
_FORMATS: dict[str, tuple[bytes, Callable[[bytes, int], bool]]] = {
    "JPEG": (b"\xff\xd8\xff", _jpeg_is_direct),
    "PNG": (b"\x89PNG\r\n\x1a\n", _png_is_direct),
    "GIF": (b"GIF8", _gif_is_direct),
    "BMP": (b"BM", _bmp_is_direct),
    "WebP": (b"RIFF", _webp_is_direct),
}


def prepare_images(contents: np.ndarray, channels: int) -> tuple[np.ndarray, dict[str, int]]:
    """Give image files that TensorFlow decodes as Pillow does.

    Args:
        contents: objects of shape (rows,): files, or what `media.image_bytes` made.
        channels: that they are decoded to: 1, 3 or 4.

    Returns:
        the contents, with PNG files in the place of those that need it; and what can't be decoded: reason -> rows.
    """
    prepared = contents.copy()
    faults: Counter[str] = Counter()
    for row, content in enumerate(contents):
        name = next((name for name, (begin, _) in _FORMATS.items() if content.startswith(begin)), "")
        if not name:
            faults[", ".join(_FORMATS)] += not is_spark_image(content)
        elif name == "PNG" and content[24:26] == _PNG_GRAY_16:
            faults["16-bit grayscale PNG, of which decoders make different 8 bits: convert it"] += 1
        elif not _FORMATS[name][1](content, channels):
            try:
                prepared[row] = _png(content, name, _MODES[channels])
            except Exception as error:  # Pillow raises what it likes for a file that is damaged
                faults[f"{name} that Pillow can't read: {type(error).__name__}"] += 1
    return prepared, {reason: rows for reason, rows in faults.items() if rows}


def _png(content: bytes, name: str, mode: str) -> bytes:
    """The pixels that Pillow decodes, of the first frame, as a PNG file."""
    from PIL import Image

    with warnings.catch_warnings(), io.BytesIO() as file:
        warnings.simplefilter("ignore")  # of palettes with an alpha, which convert heeds
        with Image.open(io.BytesIO(content), formats=[name.upper()]) as image:
            image.convert(mode).save(file, "PNG", compress_level=1)
        return file.getvalue()
