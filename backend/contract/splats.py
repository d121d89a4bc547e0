"""Gaussian splats and their file: the PLY layout that the field's viewers read, written and read with numpy alone.

A splat's file holds logits of opacity, logarithms of scales, spherical harmonics of degree 0 for colour, and a
quaternion (w,x,y,z). Axes: (x, y, z) of the object cube becomes (x, -z, y), up is -y, as cameras of reconstructions
have it; rotations turn along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MEDIA_TYPE = "application/x-ply"
SH_C0 = 0.28209479177387814  # the constant spherical harmonic: 1 / (2 sqrt(pi))
LIMIT_SPLATS = 20_000_000
LEAST_OPACITY = 1e-6  # beyond it the logit says nothing
_LAYOUT = (
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip
_TO_FILE = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
_TURN = np.array([np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0])  # the same rotation: 90 degrees about x
_TYPES = {"float": "<f4", "float32": "<f4", "double": "<f8", "uchar": "|u1", "uint8": "|u1", "int": "<i4",
          "int32": "<i4", "uint": "<u4", "short": "<i2", "ushort": "<u2", "char": "|i1"}  # fmt: skip


class SplatError(ValueError):
    """Bytes that are not a file of Gaussian splats."""


@dataclass(frozen=True)
class Splats:
    """N splats in the object cube, z up.

    positions [N,3], scales [N,3] (standard deviations), rotations [N,4] unit quaternions (w,x,y,z), colors [N,3] sRGB
    in [0,1] or a little beyond, opacities [N] in [0,1]; all float32.
    """

    positions: np.ndarray
    scales: np.ndarray
    rotations: np.ndarray
    colors: np.ndarray
    opacities: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.positions)
        shapes = (self.positions.shape, self.scales.shape, self.rotations.shape, self.colors.shape)
        if shapes != ((count, 3), (count, 3), (count, 4), (count, 3)) or self.opacities.shape != (count,):
            raise SplatError("splats need a row of each attribute")


def splats_to_ply(splats: Splats) -> bytes:
    """The bytes of the PLY file."""
    opacity = np.asarray(splats.opacities, np.float64).clip(LEAST_OPACITY, 1 - LEAST_OPACITY)
    columns = np.concatenate(
        [
            splats.positions @ _TO_FILE.T,
            np.zeros((len(opacity), 3)),
            (np.asarray(splats.colors, np.float64) - 0.5) / SH_C0,
            np.log(opacity / (1 - opacity))[:, None],
            np.log(np.asarray(splats.scales, np.float64).clip(1e-12)),
            quaternion_product(_TURN, splats.rotations),
        ],
        axis=1,
    )
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(columns)}"]
    header += [f"property float {name}" for name in _LAYOUT] + ["end_header", ""]
    return "\n".join(header).encode() + columns.astype("<f4").tobytes()


def splats_from_ply(data: bytes) -> Splats:
    """The splats in a file of this layout, whatever the order of its properties and whatever else it holds.

    Errors: `SplatError` with a sentence.
    """
    columns = _read_columns(data)
    missing = [name for name in _LAYOUT if name not in columns and not name.startswith("n")]
    if missing:
        raise SplatError(f"This PLY file holds no Gaussian splats: it has no {missing[0]}. Choose another file.")

    def stacked(*names: str) -> np.ndarray:
        return np.stack([columns[name] for name in names], axis=1).astype(np.float64)

    rotations = stacked("rot_0", "rot_1", "rot_2", "rot_3")
    rotations /= np.maximum(np.linalg.norm(rotations, axis=1, keepdims=True), 1e-12)
    found = Splats(
        (stacked("x", "y", "z") @ _TO_FILE).astype(np.float32),
        np.exp(stacked("scale_0", "scale_1", "scale_2").clip(-30, 10)).astype(np.float32),
        quaternion_product(_TURN * [1, -1, -1, -1], rotations).astype(np.float32),
        (0.5 + SH_C0 * stacked("f_dc_0", "f_dc_1", "f_dc_2")).astype(np.float32),
        (1 / (1 + np.exp(-columns["opacity"].astype(np.float64).clip(-60, 60)))).astype(np.float32),
    )
    if not all(np.isfinite(values).all() for values in vars(found).values()):
        raise SplatError("This PLY file holds numbers that are not finite. Choose another file.")
    return found


def quaternion_product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The rotation `second` [N,4] followed by `first` [4], quaternions (w,x,y,z)."""
    w, x, y, z = np.asarray(first, np.float64)
    matrix = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return np.asarray(np.asarray(second, np.float64) @ matrix.T)


def _read_columns(data: bytes) -> dict[str, np.ndarray]:
    """The properties of the first element of a binary PLY."""
    end = data.find(b"end_header\n", 0, 65536)
    lines = data[: max(end, 0)].decode("ascii", "replace").split("\n")
    binary = "format binary_little_endian 1.0" in [line.strip() for line in lines]
    if end < 0 or lines[0].strip() != "ply" or not binary:
        raise SplatError("This is not a binary PLY file. Choose another file.")
    words = [line.split() for line in lines if line.startswith(("element", "property"))]
    if not words or words[0][:2] != ["element", "vertex"] or len(words[0]) != 3 or not words[0][2].isdigit():
        raise SplatError("This PLY file does not start with its points. Choose another file.")
    fields = []
    for word in words[1:]:
        if word[0] == "element":
            break
        if len(word) != 3 or word[1] not in _TYPES:
            raise SplatError("This PLY file holds lists where splats have numbers. Choose another file.")
        fields.append((word[2], _TYPES[word[1]]))
    try:
        layout = np.dtype(fields)
    except ValueError as error:
        raise SplatError("This PLY file names a property twice. Choose another file.") from error
    count, start = int(words[0][2]), end + len(b"end_header\n")
    if count > LIMIT_SPLATS or start + count * layout.itemsize > len(data) or not fields:
        raise SplatError("This PLY file is cut short or too large. Choose another file.")
    table = np.frombuffer(data, layout, count, start)
    return {name: table[name] for name, _ in fields}
