"""What can be said about a picture file from its first bytes: kind, size in pixels, EXIF orientation.

No decoding: the backend does that. This catches a wrong choice before a job starts, without holding Blender up.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...backend.contract.errors import MaquetteError

LIMIT_BYTES = 256 * 1024 * 1024  # the largest picture worth sending; a 20,000 px JPEG has about 100 MiB
HEAD_BYTES = 64 * 1024
READABLE = "PNG, JPEG, WebP, TIFF, BMP or GIF"


@dataclass(frozen=True)
class PictureInfo:
    """`size` is (width, height) as displayed, (0, 0) when the header does not tell; `orientation` is EXIF's 1 to 8."""

    kind: str
    size: tuple[int, int] = (0, 0)
    orientation: int = 1


def inspect_picture(path: Path | None, what: str = "picture") -> PictureInfo:
    """Look at the head of the picture at `path`; `what` is what the artist calls it (picture, mask).

    Errors: `MaquetteError` bad_input with one sentence for the artist.
    """
    if path is None:
        raise MaquetteError("bad_input", "No picture is chosen. Choose a picture first.", next_step="choose_image")
    if path.is_dir():
        raise _bad(f'"{path.name}" is a folder. Choose a {READABLE} file as the {what}.', str(path))
    if not path.is_file():
        raise _bad(f'The {what} "{path.name}" was not found. Choose another one.', str(path))
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            info = _read_head(file)
    except (OSError, struct.error) as error:
        raise _bad(f'The {what} "{path.name}" cannot be read. Choose another one.', repr(error)) from error
    if size == 0:
        raise _bad(f'The {what} "{path.name}" is empty. Choose another one.')
    if size > LIMIT_BYTES:
        raise _bad(f'The {what} "{path.name}" is larger than 256 MB. Save it smaller and choose it again.')
    if info is None:
        raise _bad(f'"{path.name}" is not a {what} Maquette can read. Choose a {READABLE} file.')
    return info


def normalised_focal(focal_mm: float, size: tuple[int, int]) -> float:
    """fx as a fraction of the picture's width for a lens of `focal_mm` on 36 mm along the longer side.

    `size` is (width, height) as displayed. Errors: `MaquetteError` when the size is not known.
    """
    width, height = size
    if not width or not height:
        raise _bad("The picture's size cannot be read, so its focal length cannot be locked. Choose Free instead.")
    return focal_mm / 36.0 * max(width, height) / width


def _bad(message: str, detail: str = "") -> MaquetteError:
    return MaquetteError("bad_input", message, detail, "choose_image")


def _read_head(file: BinaryIO) -> PictureInfo | None:
    head = file.read(HEAD_BYTES)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PictureInfo("png", struct.unpack(">II", head[16:24]) if len(head) >= 24 else (0, 0))
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg(file)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return PictureInfo("webp", _webp_size(head))
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return PictureInfo("gif", struct.unpack("<HH", head[6:10]))
    if head[:2] == b"BM":
        width, height = struct.unpack("<ii", head[18:26])
        return PictureInfo("bmp", (abs(width), abs(height)))
    if head[:4] in (b"II*\0", b"MM\0*"):
        tags = _tiff_tags(head)
        return _turned("tiff", (tags.get(256, 0), tags.get(257, 0)), tags.get(274, 1))
    return None


def _jpeg(file: BinaryIO) -> PictureInfo:
    """Walk the segments up to the frame header; APP1 holds the EXIF orientation."""
    orientation = 1
    file.seek(2)
    while True:
        marker = file.read(2)
        if len(marker) < 2 or marker[0] != 0xFF:
            return PictureInfo("jpeg")
        if marker[1] == 0xFF:  # fill byte
            file.seek(-1, 1)
            continue
        (length,) = struct.unpack(">H", file.read(2))
        code = marker[1]
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            _, height, width = struct.unpack(">BHH", file.read(5))
            return _turned("jpeg", (width, height), orientation)
        segment = file.read(length - 2)
        if code == 0xE1 and segment.startswith(b"Exif\0\0"):
            orientation = _tiff_tags(segment[6:]).get(274, 1)


def _turned(kind: str, size: tuple[int, int], orientation: int) -> PictureInfo:
    orientation = orientation if 1 <= orientation <= 8 else 1
    return PictureInfo(kind, size if orientation < 5 else (size[1], size[0]), orientation)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The short and long values of the first image directory of a TIFF header."""
    order = "<" if data[:2] == b"II" else ">"
    (offset,) = struct.unpack(order + "I", data[4:8])
    if offset + 2 > len(data):
        return {}
    (count,) = struct.unpack(order + "H", data[offset : offset + 2])
    tags = {}
    for start in range(offset + 2, min(offset + 2 + 12 * count, len(data) - 11), 12):
        tag, kind = struct.unpack(order + "HH", data[start : start + 4])
        if kind in (3, 4):
            form = order + ("H" if kind == 3 else "I")
            (tags[tag],) = struct.unpack(form, data[start + 8 : start + 8 + struct.calcsize(form)])
    return tags


def _webp_size(head: bytes) -> tuple[int, int]:
    kind = head[12:16]
    if kind == b"VP8X" and len(head) >= 30:
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(head) >= 30:
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0
