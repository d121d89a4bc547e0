"""Reader for the uncompressed scanline OpenEXR files that Blender writes: the passes of a render as numpy arrays.

Blender cannot hand the passes of a multilayer render to Python directly (``Render Result`` has no readable pixels),
so a capture saves one uncompressed multilayer file a view and reads it back here (128 px: under a millisecond).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

_MAGIC = 20000630
_MULTIPART_FLAG = 0x1000
_DEEP_FLAG = 0x800
_TILED_FLAG = 0x200
_DTYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}


class ExrError(ValueError):
    """The file is not an uncompressed single-part scanline OpenEXR file."""


def _c_string(data: bytes, offset: int) -> tuple[str, int]:
    end = data.index(b"\0", offset)
    return data[offset:end].decode("utf-8"), end + 1


def _channels(block: bytes) -> list[tuple[str, np.dtype]]:
    """The (name, dtype) of every channel, in file order."""
    channels = []
    offset = 0
    while block[offset] != 0:
        name, offset = _c_string(block, offset)
        kind, _linear, x_step, y_step = struct.unpack_from("<iIii", block, offset)
        offset += 16
        if (x_step, y_step) != (1, 1) or kind not in _DTYPES:
            raise ExrError(f"Channel {name} of the EXR file has an unsupported layout; save it as 32-bit float.")
        channels.append((name, _DTYPES[kind]))
    return channels


def read_exr(path: str | Path) -> dict[str, np.ndarray]:
    """Read every channel of an uncompressed EXR file.

    Returns {channel name: float32 [H, W]}, rows from the top. Raises ExrError for any other flavour of the format.
    """
    data = Path(path).read_bytes()
    if len(data) < 8:
        raise ExrError("The EXR file is empty; check that the disk is not full.")
    magic, version = struct.unpack_from("<iI", data, 0)
    if magic != _MAGIC:
        raise ExrError("The file is not an OpenEXR file.")
    if version & (_MULTIPART_FLAG | _DEEP_FLAG | _TILED_FLAG):
        raise ExrError("Only single-part scanline EXR files can be read; save it interleaved and untiled.")
    attributes: dict[str, bytes] = {}
    offset = 8
    while data[offset] != 0:
        name, offset = _c_string(data, offset)
        _kind, offset = _c_string(data, offset)
        (size,) = struct.unpack_from("<i", data, offset)
        attributes[name] = data[offset + 4 : offset + 4 + size]
        offset += 4 + size
    offset += 1
    if attributes["compression"][0] != 0:
        raise ExrError("Only uncompressed EXR files can be read; save it with the codec NONE.")
    x_min, y_min, x_max, y_max = struct.unpack("<4i", attributes["dataWindow"])
    width, height = x_max - x_min + 1, y_max - y_min + 1
    channels = _channels(attributes["channels"])

    # Each scanline: int32 y, int32 byte count, then the row of every channel in turn.
    row = np.dtype([("y", "<i4"), ("size", "<i4")] + [(name, kind, (width,)) for name, kind in channels])
    first = offset + 8 * height  # behind the table of scanline offsets
    if len(data) < first + height * row.itemsize:
        raise ExrError("The EXR file is cut short; check that the disk is not full.")
    rows = np.frombuffer(data, dtype=row, count=height, offset=first)
    rows = rows[np.argsort(rows["y"])]
    return {name: rows[name].astype(np.float32) for name, _ in channels}
