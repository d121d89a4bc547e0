"""Read OpenEXR pictures: single-part scanline files, uncompressed or with RLE, ZIPS or ZIP, which is Blender's default;
write them with ZIP and 32-bit numbers.

Written from the file layout that the OpenEXR project documents. PIZ, PXR24, B44 and DWA are refused with a sentence.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

MAGIC = b"\x76\x2f\x31\x01"
_FLAVOURS = 0x200 | 0x800 | 0x1000  # tiled, deep, several parts
_DTYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_LINES = {0: 1, 1: 1, 2: 1, 3: 16}  # scanlines a block, by compression: none, RLE, ZIPS, ZIP
_LARGEST_SIDE = 20_000
_ZIP, _FLOAT = 3, 2
MEDIA_TYPE = "image/x-exr"


class ExrError(ValueError):
    """The bytes are no OpenEXR file of a supported kind; the text says what to do."""


def read_exr(data: bytes) -> dict[str, np.ndarray]:
    """{channel name: float32 [H,W]}, rows from the top. Errors: ExrError."""
    try:
        return _read(data)
    except ExrError:
        raise
    except (struct.error, zlib.error, ValueError, IndexError, KeyError) as error:
        raise ExrError("The EXR file is damaged or cut short; save it again.") from error


def write_exr(channels: dict[str, np.ndarray]) -> bytes:
    """The file of {channel name: [H,W]}, rows from the top, as 32-bit numbers. Errors: ValueError for unequal sizes."""
    names = sorted(channels)
    planes = [np.asarray(channels[name], "<f4") for name in names]
    if not planes or any(plane.shape != planes[0].shape or plane.ndim != 2 for plane in planes):
        raise ValueError("an EXR file wants channels of one size, [H,W] each")
    height, width = planes[0].shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    listed = b"".join(name.encode("latin-1") + b"\0" + struct.pack("<iIii", _FLOAT, 0, 1, 1) for name in names)
    header = b"".join(
        name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value
        for name, kind, value in (
            ("channels", "chlist", listed + b"\0"),
            ("compression", "compression", bytes([_ZIP])),
            ("dataWindow", "box2i", window),
            ("displayWindow", "box2i", window),
            ("lineOrder", "lineOrder", b"\0"),
            ("pixelAspectRatio", "float", struct.pack("<f", 1.0)),
            ("screenWindowCenter", "v2f", struct.pack("<2f", 0.0, 0.0)),
            ("screenWindowWidth", "float", struct.pack("<f", 1.0)),
        )
    )
    start = MAGIC + struct.pack("<I", 2) + header + b"\0"
    rows = np.stack(planes, axis=1)  # [H,C,W]: a row's channels one after the other
    blocks = [
        struct.pack("<i", y) + _packed(rows[y : y + _LINES[_ZIP]].tobytes()) for y in range(0, height, _LINES[_ZIP])
    ]
    places = len(start) + 8 * len(blocks) + np.cumsum([0, *(len(block) for block in blocks[:-1])])
    return start + struct.pack(f"<{len(blocks)}Q", *places.tolist()) + b"".join(blocks)


def _packed(raw: bytes) -> bytes:
    """A block with its length: split, differenced and deflated, or as it is where that is no shorter."""
    values = np.frombuffer(raw, np.uint8)
    split = np.concatenate([values[0::2], values[1::2]]).astype(np.int64)
    split[1:] = np.diff(split) + 128
    packed = zlib.compress((split & 255).astype(np.uint8).tobytes())
    content = packed if len(packed) < len(raw) else raw
    return struct.pack("<I", len(content)) + content


def _read(data: bytes) -> dict[str, np.ndarray]:
    if data[:4] != MAGIC:
        raise ExrError("This is no EXR file; save the picture again as OpenEXR.")
    if struct.unpack_from("<I", data, 4)[0] & _FLAVOURS:
        raise ExrError("Only EXR files with one part and scanlines can be read; save it without tiles or parts.")
    attributes, offset = _attributes(data)
    compression = attributes["compression"][0]
    if compression not in _LINES:
        raise ExrError("This EXR file's compression cannot be read; save it with ZIP or without compression.")
    x_min, y_min, x_max, y_max = struct.unpack("<4i", attributes["dataWindow"])
    width, height = x_max - x_min + 1, y_max - y_min + 1
    if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        raise ExrError("The EXR file has an impossible size; save it again.")
    channels = _channels(attributes["channels"])
    row_bytes = width * sum(kind.itemsize for _, kind in channels)
    lines = _LINES[compression]
    count = -(-height // lines)
    rows = np.zeros((height, row_bytes), np.uint8)
    for block in struct.unpack_from(f"<{count}Q", data, offset):
        y, size = struct.unpack_from("<iI", data, block)
        first = y - y_min
        held = min(lines, height - first)
        content = data[block + 8 : block + 8 + size]
        if len(content) < size or not 0 <= first < height:
            raise ExrError("The EXR file is cut short; save it again.")
        raw = _unpacked(content, compression, held * row_bytes)
        rows[first : first + held] = np.frombuffer(raw, np.uint8, held * row_bytes).reshape(held, row_bytes)
    result, start = {}, 0
    for name, kind in channels:
        stop = start + width * kind.itemsize
        result[name] = np.ascontiguousarray(rows[:, start:stop]).view(kind).astype(np.float32)
        start = stop
    return result


def _attributes(data: bytes) -> tuple[dict[str, bytes], int]:
    """The header's attributes and where the table of blocks begins."""
    found: dict[str, bytes] = {}
    offset = 8
    while data[offset] != 0:
        end = data.index(b"\0", offset)
        name = data[offset:end].decode("latin-1")
        offset = data.index(b"\0", end + 1) + 1
        (size,) = struct.unpack_from("<I", data, offset)
        found[name] = data[offset + 4 : offset + 4 + size]
        offset += 4 + size
    return found, offset + 1


def _channels(block: bytes) -> list[tuple[str, np.dtype]]:
    found = []
    offset = 0
    while block[offset] != 0:
        end = block.index(b"\0", offset)
        kind, _, x_step, y_step = struct.unpack_from("<iIii", block, end + 1)
        if (x_step, y_step) != (1, 1):
            raise ExrError("This EXR file's channels have different sizes; save it again without subsampling.")
        found.append((block[offset:end].decode("latin-1"), _DTYPES[kind]))
        offset = end + 17
    return found


def _unpacked(content: bytes, compression: int, size: int) -> bytes:
    """The block's bytes as they were before compression, which splits, differences and packs them."""
    if compression == 0 or len(content) >= size:  # a block that would not shrink is stored as it is
        return content
    packed = _run_lengths(content) if compression == 1 else zlib.decompress(content)
    values = np.frombuffer(packed, np.uint8)
    if len(values) != size:
        raise ExrError("The EXR file is damaged; save it again.")
    steps = values.astype(np.int64)
    steps[1:] -= 128
    undone = (np.cumsum(steps) & 255).astype(np.uint8)
    half = (size + 1) // 2
    result = np.empty(size, np.uint8)
    result[0::2], result[1::2] = undone[:half], undone[half:]
    return result.tobytes()


def _run_lengths(content: bytes) -> bytes:
    """RLE undone: a negative count is followed by that many bytes, another by one byte to repeat count + 1 times."""
    parts, offset = [], 0
    while offset < len(content):
        count = content[offset] - 256 if content[offset] > 127 else content[offset]
        if count < 0:
            parts.append(content[offset + 1 : offset + 1 - count])
            offset += 1 - count
        else:
            parts.append(content[offset + 1 : offset + 2] * (count + 1))
            offset += 2
    return b"".join(parts)
