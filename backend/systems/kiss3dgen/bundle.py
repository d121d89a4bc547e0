"""The 3D bundle image: four colour views above their four normal maps; its frame, its masks, its normals.

The layout and our cameras are those of `contract/bundle_views.py` (spec 4): above the colours seen from azimuth 0, 90,
180 and 270 degrees, below the normals of the same views, both on white.

Bundle frame: y up, the object within [-0.9, 0.9]^3, azimuth 0 looks from +z, 90 from +x. It is 1.8 times our z-up
object cube turned to y up, so that our front (-y) is +z and our +x stays +x; only this file converts.

Normals of a view are local: red points to the image's LEFT, green up, blue to the viewer; stored as (n + 1) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from backend.contract.bundle_views import (
    AZIMUTHS_DEGREES,
    DISTANCE,
    ELEVATION_DEGREES,
    FOV_DEGREES,
    bundle_intrinsics,
    bundle_view,
    join_tiles,
    split_tiles,
)
from backend.contract.frames import Y_UP_TO_Z_UP

AZIMUTHS = AZIMUTHS_DEGREES
ELEVATION = ELEVATION_DEGREES
FOV = FOV_DEGREES  # degrees, vertical
FRAME_SCALE = 1.8  # bundle units in one unit of the object cube
RADIUS = FRAME_SCALE * DISTANCE  # of the cameras that draw a bundle, in bundle units: 4.5 (spec 10)

# Half the least distance of a unit normal's colour from white, (sqrt(3) - 1) / 4: nearer to white is background.
BACKGROUND_DISTANCE = 0.18
SPECK_SHARE = 5e-4  # of a tile: smaller islands and holes of a mask are noise (2 pixels of 64 x 64)


@dataclass(frozen=True)
class Bundle:
    """Four views as numpy arrays: rgb [4,S,S,3] float32 in [0,1] on white; normals [4,S,S,3] float32, local and
    encoded, on white; mask [4,S,S] float32, the share of a pixel that shows the object."""

    rgb: np.ndarray
    normals: np.ndarray
    mask: np.ndarray

    def __post_init__(self) -> None:
        count, size = len(AZIMUTHS), self.mask.shape[-1]
        if self.mask.shape != (count, size, size) or self.rgb.shape != (count, size, size, 3):
            raise ValueError(f"A bundle has four square views; got rgb {self.rgb.shape} and mask {self.mask.shape}.")
        if self.normals.shape != self.rgb.shape:
            raise ValueError(f"Normals {self.normals.shape} and colours {self.rgb.shape} of a bundle differ in shape.")

    @property
    def size(self) -> int:
        """Pixels of a tile's side."""
        return int(self.mask.shape[-1])


def split(picture: np.ndarray, mask: np.ndarray | None = None) -> Bundle:
    """The views of a bundle picture [2S,4S,3] in [0,1]; mask [4,S,S] is read from the normals where none is given.

    Errors: ValueError for a picture of another shape.
    """
    rgb, normals = (np.ascontiguousarray(row) for row in split_tiles(np.asarray(picture, np.float32).clip(0.0, 1.0)))
    return Bundle(rgb, normals, find_mask(normals) if mask is None else np.asarray(mask, np.float32))


def join(bundle: Bundle) -> np.ndarray:
    """The bundle picture [2S,4S,3] float32 of four views."""
    return np.asarray(join_tiles(bundle.rgb, bundle.normals), np.float32)


def find_mask(normals: np.ndarray) -> np.ndarray:
    """How much of each pixel [V,S,S] float32 shows the object, from encoded normals [V,S,S,3] on white.

    White is no unit normal's colour, so the distance from white tells; at an edge it is compared with the largest
    beside it, which gives the share that the object covers. Islands and holes of a few pixels are noise.
    """
    distance = np.linalg.norm(1.0 - np.asarray(normals, np.float32), axis=-1)
    full = ndimage.maximum_filter(distance, size=(1, 3, 3))
    share = np.where(full > BACKGROUND_DISTANCE, distance / np.maximum(full, 2 * BACKGROUND_DISTANCE), 0.0)
    smallest = max(2, round(SPECK_SHARE * normals.shape[1] * normals.shape[2]))
    for tile in share:
        inside = tile >= 0.5
        tile[_small(inside, smallest)] = 0.0
        tile[_small(~inside, smallest)] = 1.0
        tile[ndimage.binary_erosion(tile >= 0.5, np.ones((3, 3)), border_value=1)] = 1.0
        tile[~ndimage.binary_dilation(tile >= 0.5, np.ones((3, 3)))] = 0.0
    return share.astype(np.float32)


def _small(region: np.ndarray, limit: int) -> np.ndarray:
    """Pixels [H,W] bool of the connected parts of `region` with `limit` pixels or fewer."""
    labels, count = ndimage.label(region)
    if not count:
        return np.zeros(region.shape, bool)
    sizes = np.bincount(labels.ravel())
    small = sizes <= limit
    small[0] = False
    return np.asarray(small[labels])


def checks(picture: np.ndarray) -> dict[str, float]:
    """What a sound bundle picture [2S,4S,3] fulfils (spec 15): `normal_length`, the mean length of the foreground's
    normals, within 0.9 to 1.1; `background`, the mean of what should be white; `mirrored`, the least IoU of opposite
    outlines, above 0.9. Zeros where nothing is shown.
    """
    bundle = split(picture)
    inside, outside = bundle.mask >= 0.99, bundle.mask <= 0.01
    if not inside.any():
        return {"normal_length": 0.0, "background": 0.0, "mirrored": 0.0}
    lengths = np.linalg.norm(2.0 * bundle.normals[inside] - 1.0, axis=-1)
    white = np.concatenate([bundle.rgb[outside], bundle.normals[outside]]) if outside.any() else np.zeros(1)
    shown = bundle.mask >= 0.5
    overlaps = []
    for view in (0, 1):
        back = shown[view + 2][:, ::-1]
        overlaps.append((shown[view] & back).sum() / max((shown[view] | back).sum(), 1))
    return {
        "normal_length": float(lengths.mean()),
        "background": float(white.mean()),
        "mirrored": float(min(overlaps)),
    }


def on_white(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values [...,3] in [0,1] laid on white by `mask` [...], float32."""
    share = np.asarray(mask, np.float32)[..., None]
    return np.asarray(values, np.float32) * share + (1.0 - share)


def decode_normals(images: np.ndarray) -> np.ndarray:
    """Unit local normals [...,3] float32 of stored ones in [0,1]; (0,0,1) where the colour is no direction."""
    values = 2.0 * np.asarray(images, np.float32) - 1.0
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.where(length > 1e-6, values / np.maximum(length, 1e-6), np.float32([0, 0, 1])).astype(np.float32)


def encode_normals(local: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Local normals [...,3] as colours in [0,1] float32, on white where `mask` [...] says so."""
    colors = (np.asarray(local, np.float32) + 1.0) / 2.0
    return colors if mask is None else on_white(colors, mask)


def view_axes(azimuth: float, elevation: float = ELEVATION) -> np.ndarray:
    """Rows [3,3] float64: the image's left, its up and the direction to the viewer in the bundle frame, of a view in
    degrees. world = local @ axes, local = world @ axes.T."""
    a, e = np.radians(azimuth), np.radians(elevation)
    viewer = np.array([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([-right, np.cross(viewer, right), viewer])


def local_to_world(local: np.ndarray, azimuths: tuple[float, ...] = AZIMUTHS) -> np.ndarray:
    """Local normals [V,...,3] -> the bundle frame [V,...,3] float32 (spec 4; a rotation with the flipped x)."""
    axes = np.stack([view_axes(azimuth) for azimuth in azimuths]).astype(np.float32)
    return np.einsum("v...i,vij->v...j", np.asarray(local, np.float32), axes)


def world_to_local(world: np.ndarray, published: bool = False, azimuths: tuple[float, ...] = AZIMUTHS) -> np.ndarray:
    """Normals in the bundle frame [V,...,3] -> local [V,...,3] float32: the exact inverse of `local_to_world`.

    The published code takes the same map for both ways (spec 10), which tilts normals by up to twice the elevation;
    `published` does so too.
    """
    axes = np.stack([view_axes(azimuth) for azimuth in azimuths]).astype(np.float32)
    return np.einsum("v...i,vij->v...j" if published else "v...j,vij->v...i", np.asarray(world, np.float32), axes)


def world_normals(bundle: Bundle) -> np.ndarray:
    """Unit normals [4,S,S,3] float32 of a bundle in the bundle frame; meaningless where the mask is 0."""
    return local_to_world(decode_normals(bundle.normals))


def to_bundle_frame(points: np.ndarray) -> np.ndarray:
    """Points [...,3] of the object cube (z up) in the bundle frame."""
    return FRAME_SCALE * directions_to_bundle_frame(points)


def from_bundle_frame(points: np.ndarray) -> np.ndarray:
    """Points [...,3] of the bundle frame in the object cube (z up)."""
    return directions_from_bundle_frame(points) / FRAME_SCALE


def directions_to_bundle_frame(directions: np.ndarray) -> np.ndarray:
    """Directions [...,3], z up, in the bundle frame's axes: (x, z, -y)."""
    return np.asarray(directions) @ Y_UP_TO_Z_UP[:3, :3].astype(np.asarray(directions).dtype)


def directions_from_bundle_frame(directions: np.ndarray) -> np.ndarray:
    """Directions [...,3] of the bundle frame in z-up axes: (x, -z, y)."""
    return np.asarray(directions) @ Y_UP_TO_Z_UP[:3, :3].T.astype(np.asarray(directions).dtype)


def view_cameras(
    radius: float = RADIUS, azimuths: tuple[float, ...] = AZIMUTHS, elevation: float = ELEVATION
) -> tuple[np.ndarray, np.ndarray]:
    """OpenCV cameras of a bundle's views around our object cube: world_to_camera [V,4,4], intrinsics [3,3] normalised.

    `radius` is in bundle units: 4.5 is 2.5 of ours.
    """
    cameras = [bundle_view(azimuth, elevation, radius / FRAME_SCALE) for azimuth in azimuths]
    return np.stack(cameras), bundle_intrinsics()
