"""A surface drawn to the photo's outline, for voxels too coarse to hold it (not in the paper; mini only).

A voxel of mini is a thirty-second of the object, thicker than an arrow's shaft. Vertices that the camera sees outside
of the outline move onto it, the mesh's own rim moves out to it where it falls short, both within the picture's plane
and by a few voxels at most; their neighbours follow part of the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage, sparse

from backend.geometry import pose
from backend.geometry.pose import Camera
from backend.rendering.rasterizer import rasterize

SIZE = 192  # pixels of the compared outlines
INWARD = 0.12  # of the picture: a vertex farther outside than this is left where it is
OUTWARD = 0.1  # of the picture: a rim that falls shorter of the outline than this, does so by reason
RIM = 1.5  # pixels from the rendered outline that count as its rim
FOLLOWING = 6  # rounds in which neighbours follow


@dataclass(frozen=True)
class Outline:
    """A photo's outline: `alpha` [S,S] in [0,1] of the crop that `camera` sees.

    `hidden` [S,S] bool is where an occluder leaves it unknown: what is seen there stays.
    """

    camera: Camera
    alpha: np.ndarray
    hidden: np.ndarray | None = None


def snap_to_outline(vertices: np.ndarray, faces: np.ndarray, outline: Outline) -> np.ndarray:
    """Moved `vertices` [V,3] of the mesh with `faces` [F,3]; depths from the camera stay."""
    camera = outline.camera
    mask = resized(outline.alpha, SIZE) >= 0.5
    unknown = np.zeros_like(mask) if outline.hidden is None else resized(outline.hidden, SIZE) > 0
    if not mask.any() or mask.all() or not len(faces):
        return vertices
    points = np.asarray(vertices, np.float64)
    uv = pose.project(points, camera.intrinsics, camera.world_to_camera)
    cell = np.nan_to_num(uv * SIZE, nan=-1.0, posinf=-1.0, neginf=-1.0).astype(int)
    in_picture = ((cell >= 0) & (cell < SIZE)).all(1)
    x, y = cell.clip(0, SIZE - 1).T
    known = in_picture & ~unknown[y, x]

    allowed = mask | unknown
    to_inside, inside = ndimage.distance_transform_edt(~allowed, return_indices=True)
    to_outside, outside = ndimage.distance_transform_edt(mask & ~unknown, return_indices=True)
    shown = rasterize(vertices, faces, camera.world_to_camera, camera.intrinsics, (SIZE, SIZE)).mask
    to_border = ndimage.distance_transform_edt(shown)

    shift = np.zeros((len(points), 2))
    beyond = known & (to_inside[y, x] > 0) & (to_inside[y, x] <= INWARD * SIZE)
    short = known & (to_border[y, x] <= RIM) & (to_outside[y, x] > 1) & (to_outside[y, x] <= OUTWARD * SIZE)
    for moved, nearest in ((beyond, inside), (short, outside)):
        target = np.stack([nearest[1][y[moved], x[moved]], nearest[0][y[moved], x[moved]]], 1) + 0.5
        shift[moved] = target / SIZE - uv[moved]
    shift = _followed(shift, beyond | short, faces)

    depth = points @ camera.world_to_camera[2, :3] + camera.world_to_camera[2, 3]
    in_plane = shift / np.array([camera.intrinsics[0, 0], camera.intrinsics[1, 1]]) * depth[:, None]
    right_and_down = camera.world_to_camera[:2, :3]  # rows: the picture's axes in object space
    return np.asarray(points + np.nan_to_num(in_plane) @ right_and_down, vertices.dtype)


def resized(values: np.ndarray, size: int) -> np.ndarray:
    """values [S,S] as means [size,size] float32."""
    return np.asarray(Image.fromarray(np.asarray(values, np.float32)).resize((size, size), Image.Resampling.BOX))


def _followed(shift: np.ndarray, fixed: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """`shift` [V,2] where `fixed` [V]; elsewhere the mean of the neighbours, spread over a few rounds."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    count = len(shift)
    neighbours = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    weight = sparse.diags(1.0 / np.maximum(np.asarray(neighbours.sum(1)).ravel(), 1.0)) @ neighbours
    for _ in range(FOLLOWING):
        shift = np.where(fixed[:, None], shift, weight @ shift)
    return shift
