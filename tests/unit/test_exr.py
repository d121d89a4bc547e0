"""EXR files of every kind that is promised, against bytes that were written here by the format's rules."""

import struct
import zlib

import numpy as np
import pytest

from backend.formats import exr

NAMED = b"compression\0compression\0\x01\0\0\0"  # the attribute up to its value


def predicted(raw: bytes) -> bytes:
    """What ZIP and RLE pack: even bytes, then odd ones, each as the step from the one before."""
    values = np.frombuffer(raw, np.uint8)
    split = np.concatenate([values[0::2], values[1::2]]).astype(np.int64)
    return bytes([int(split[0]), *((np.diff(split) + 128) & 255).tolist()])


def run_lengths(data: bytes) -> bytes:
    """Half literal, half repeated, so that both branches are met."""
    half = len(data) // 2
    parts = []
    for start in range(0, half, 100):
        piece = data[start : min(start + 100, half)]
        parts.append(bytes([256 - len(piece)]) + piece)
    parts += [bytes([0, value]) for value in data[half:]]
    return b"".join(parts)


def exr_file(channels: dict[str, np.ndarray], compression: int) -> bytes:
    """A scanline file with float32 and float16 channels [H,W]."""
    ordered = dict(sorted(channels.items()))
    height, width = next(iter(ordered.values())).shape
    kinds = {np.dtype("<f2"): 1, np.dtype("<f4"): 2}
    listed = b"".join(
        name.encode() + b"\0" + struct.pack("<iIii", kinds[values.dtype], 0, 1, 1) for name, values in ordered.items()
    )
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = exr.MAGIC + struct.pack("<I", 2)
    attributes = {"channels": ("chlist", listed + b"\0"), "compression": ("compression", bytes([compression])),
                  "dataWindow": ("box2i", window)}  # fmt: skip
    for name, (kind, value) in attributes.items():
        header += name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value
    header += b"\0"
    lines = 16 if compression == 3 else 1
    blocks = []
    for first in range(0, height, lines):
        rows = range(first, min(first + lines, height))
        raw = b"".join(a[row].tobytes() for row in rows for a in ordered.values())
        packed = {0: raw, 1: run_lengths(predicted(raw)), 2: zlib.compress(predicted(raw)),
                  3: zlib.compress(predicted(raw))}[compression]  # fmt: skip
        packed = packed if len(packed) < len(raw) else raw
        blocks.append(struct.pack("<iI", first, len(packed)) + packed)
    offsets, place = [], len(header) + 8 * len(blocks)
    for block in blocks:
        offsets.append(place)
        place += len(block)
    return header + struct.pack(f"<{len(offsets)}Q", *offsets) + b"".join(blocks)


def planes() -> dict[str, np.ndarray]:
    smooth = np.repeat(np.linspace(1, 3, 37, dtype=np.float32)[:, None], 48, axis=1)
    return {"Z": smooth, "R": np.round(smooth).astype("<f2")}


@pytest.mark.parametrize("compression", [0, 1, 2, 3])
def test_every_compression_gives_the_same_numbers(compression):
    read = exr.read_exr(exr_file(planes(), compression))
    assert sorted(read) == ["R", "Z"]
    for name, values in planes().items():
        assert read[name].dtype == np.float32 and np.array_equal(read[name], values.astype(np.float32))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no exr at all", "no EXR file"),
        (exr_file(planes(), 3)[:400], "damaged|cut short"),
        (exr_file(planes(), 0).replace(NAMED + b"\0", NAMED + b"\4"), "compression cannot be read"),
        (exr.MAGIC + struct.pack("<I", 2 | 0x200) + b"\0" * 40, "without tiles"),
    ],
)
def test_other_files_are_refused_with_a_sentence(data, words):
    with pytest.raises(exr.ExrError, match=words):
        exr.read_exr(data)


@pytest.mark.parametrize("shape", [(1, 1), (16, 5), (37, 20)])
def test_what_is_written_is_read_back(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    channels = {name: random.standard_normal(shape).astype(np.float32) for name in "RGB"}
    channels["A"] = np.ones(shape, np.float32)  # shrinks, the noise does not
    data = exr.write_exr(channels)
    found = exr.read_exr(data)
    assert list(found) == ["A", "B", "G", "R"]
    for name, plane in channels.items():
        np.testing.assert_array_equal(found[name], plane)


def test_channels_of_unequal_sizes_are_not_written() -> None:
    with pytest.raises(ValueError, match="one size"):
        exr.write_exr({"R": np.zeros((2, 2)), "G": np.zeros((2, 3))})
