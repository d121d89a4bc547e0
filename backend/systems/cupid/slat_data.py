"""What stage 2 trains on, from the shards: voxel features, and signed distances and colours at grid vertices.

A shard holds 4,096 surface points with normals and colours an object, and a carved inside test. Distances are those to
the planes of the nearest points; where the points belong to two sides of the surface, the sides are combined as an edge
or a plate (convex: the larger distance) or as a crevice (the smaller). Plates thinner than the grid are thickened.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from backend.data.shards import ShardDataset
from backend.data.surface import voxel_indices
from backend.geometry.cube_cases import CORNERS

MIRROR = np.diag([-1, 1, 1]).astype(np.float32)
SURFACE_CHANNELS = 10  # a voxel's mean colour, normal, mean offset from its centre, signed distance of its centre
INSET = 2e-3  # the shards' voxels were made from points moved this far inward
NEIGHBOURS = 8
REACH = 0.02  # object units: about the spacing of the points
SAME_SIDE = 0.5  # cosine between normals of points of one side
THINNEST = 1.5  # grid cells: a thinner plate would fall between the grid's vertices
DEEP = 0.015  # object units: carving has about this resolution; deeper inside than that it may contradict the normals
FAR = 0.03  # object units: further from every point, the carved inside test decides alone
LIMIT = 1.5  # voxels
RIM = 0.1  # voxels: the grid's border is outside, also of objects that touch it


@dataclass(frozen=True)
class Surface:
    """One object: points [P,3], normals [P,3], colors [P,3] in [0,1], solid [65,65,65] bool before ``turn`` [3,3]."""

    points: np.ndarray
    normals: np.ndarray
    colors: np.ndarray
    solid: np.ndarray
    turn: np.ndarray = field(default_factory=lambda: np.eye(3, dtype=np.float32))

    @cached_property
    def tree(self) -> cKDTree:
        """Search tree over the points."""
        return cKDTree(self.points)

    def turned(self, turn: np.ndarray) -> Surface:
        """The object after a rotation or reflection [3,3] that keeps the cube."""
        return replace(self, points=self.points @ turn.T, normals=self.normals @ turn.T, turn=turn @ self.turn)

    def inside_share(self, positions: np.ndarray) -> np.ndarray:
        """Carved inside test at positions [N,3], interpolated: 0 is certainly seen as outside, 1 never."""
        side = self.solid.shape[0] - 1
        grid = (positions @ self.turn + 0.5) * side
        return ndimage.map_coordinates(self.solid.astype(np.float32), grid.T, order=1, mode="nearest")


@dataclass(frozen=True)
class Field:
    """signed distance [N] in object units (negative inside), colors [N,3] and normals [N,3] of the nearest surface."""

    distance: np.ndarray
    colors: np.ndarray
    normals: np.ndarray


class SurfaceSet:
    """The objects of a split at a voxel resolution of 32 or 64. Raises FileNotFoundError without shards."""

    def __init__(self, folder: Path, split: str, resolution: int, limit: int | None = None) -> None:
        self.shards = ShardDataset(folder, split, limit)
        self.resolution = resolution
        self.occupancy = self.shards.occupancy_at(resolution)

    def __len__(self) -> int:
        return len(self.shards)

    def surface(self, index: int) -> Surface:
        """The surface of one object."""
        shards = self.shards
        normals = shards.normals[index].astype(np.float32)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-6)
        return Surface(
            shards.points[index].astype(np.float32), normals, shards.colors[index].astype(np.float32) / 255,
            shards.solid[index],
        )  # fmt: skip

    def voxels(self, index: int) -> np.ndarray:
        """Surface voxels [L,3] int64 of one object."""
        return np.argwhere(self.occupancy[index])


def cube_turn(random: np.random.Generator) -> np.ndarray:
    """A random quarter turn about z, half of the time mirrored [3,3]."""
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    turn = np.linalg.matrix_power(quarter, int(random.integers(4)))
    return turn @ MIRROR if random.random() < 0.5 else turn


def turn_voxels(coords: np.ndarray, turn: np.ndarray, resolution: int) -> np.ndarray:
    """Voxels [L,3] after ``turn``, in lexicographic order."""
    centred = (2 * coords + 1 - resolution) @ turn.T.astype(np.int64)
    return sorted_voxels((centred + resolution - 1) // 2, resolution)


def sorted_voxels(coords: np.ndarray, resolution: int) -> np.ndarray:
    """Each voxel [L,3] once, in lexicographic order."""
    keys = np.unique((coords[:, 0] * resolution + coords[:, 1]) * resolution + coords[:, 2])
    return np.stack([keys // resolution**2, keys // resolution % resolution, keys % resolution], axis=1)


def mirrored_camera(world_to_camera: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The camera [4,4], [3,3] that shows the object mirrored along x in the picture mirrored left to right."""
    camera, matrix = world_to_camera.copy(), intrinsics.copy()
    camera[:3, 0] *= -1
    matrix[0] = matrix[2] - matrix[0]
    return camera, matrix


def disturb_voxels(
    coords: np.ndarray, resolution: int, random: np.random.Generator, grown: float, dropped: float
) -> np.ndarray:
    """As stage 1 may answer: a share of the voxels [L,3] gets a random neighbour, a share is missing."""
    chosen = coords[random.random(len(coords)) < grown]
    steps = np.zeros_like(chosen)
    steps[np.arange(len(chosen)), random.integers(3, size=len(chosen))] = random.choice([-1, 1], len(chosen))
    kept = coords[random.random(len(coords)) >= dropped]
    if not len(kept):
        return coords
    return sorted_voxels(np.concatenate([kept, np.clip(chosen + steps, 0, resolution - 1)]), resolution)


def surface_features(surface: Surface, coords: np.ndarray, resolution: int) -> np.ndarray:
    """[L,10] float32 = colour, normal, offset, signed distance of each voxel [L,3]; lengths in voxels.

    Colour and offset are the means over the voxel's own points; a voxel without points takes its three nearest ones.
    The distance is what lets a decoder interpolate: products of offset and normal are slow to learn.
    """
    values = np.concatenate([surface.colors * 2 - 1, surface.points], axis=1)
    place = np.full((resolution,) * 3, -1, np.int64)
    place[tuple(coords.T)] = np.arange(len(coords))
    owner = place[tuple(voxel_indices(surface.points - INSET * surface.normals, resolution).T)]
    mine, owner = values[owner >= 0], owner[owner >= 0]
    count = np.bincount(owner, minlength=len(coords))
    sums = np.stack([np.bincount(owner, column, minlength=len(coords)) for column in mine.T], axis=1)
    means = sums / count.clip(1)[:, None]
    centres = (coords + 0.5) / resolution - 0.5
    empty = np.flatnonzero(count == 0)
    if len(empty):
        means[empty] = values[surface.tree.query(centres[empty], k=3)[1]].mean(axis=1)
    offset = ((means[:, 3:] - centres) * resolution).clip(-LIMIT, LIMIT)
    found = surface_field(surface, centres, 0.25 / resolution)
    distance = (found.distance[:, None] * resolution).clip(-LIMIT, LIMIT)
    return np.concatenate([means[:, :3], found.normals, offset, distance], axis=1).astype(np.float32)


def surface_field(surface: Surface, positions: np.ndarray, cell: float) -> Field:
    """Signed distance and attributes at positions [N,3]; ``cell`` is the side of a grid cell in object units."""
    distance, rows = surface.tree.query(positions, k=NEIGHBOURS)
    points, normals = surface.points[rows], surface.normals[rows]  # [N,k,3]
    height = ((positions[:, None] - points) * normals).sum(-1)
    weight = np.exp(-(distance**2 - distance[:, :1] ** 2) / REACH**2)
    near = (normals * normals[:, :1]).sum(-1) > SAME_SIDE
    near[:, 0] = True
    side, other = weight * near, weight * ~near
    total, rest = side.sum(1), other.sum(1)
    signed = (side * height).sum(1) / total
    opposite = (other * height).sum(1) / rest.clip(1e-9)
    middle = (side[..., None] * points).sum(1) / total[:, None]
    beyond = (other[..., None] * points).sum(1) / rest.clip(1e-9)[:, None]
    facing = (other[..., None] * normals).sum(1) / rest.clip(1e-9)[:, None]
    first = (side[..., None] * normals).sum(1) / total[:, None]
    first /= np.linalg.norm(first, axis=1, keepdims=True).clip(1e-6)
    both = rest > 0.1 * total
    convex = ((beyond - middle) * first).sum(1) < cell / 2
    combined = np.where(convex, np.maximum(signed, opposite), np.minimum(signed, opposite))
    plate = both & convex & ((facing * first).sum(1) < -SAME_SIDE)
    missing = (THINNEST * cell + signed + opposite).clip(0, THINNEST * cell)
    signed = np.where(both, combined, signed) - np.where(plate, missing / 2, 0)
    share = surface.inside_share(positions)
    signed = np.where((share == 0) & (signed < -DEEP), distance[:, 0], signed)
    signed = np.where(distance[:, 0] > FAR, np.where(share > 0.5, -1, 1) * distance[:, 0], signed)
    colors = (side[..., None] * surface.colors[rows]).sum(1) / total[:, None]
    return Field(signed.astype(np.float32), colors.astype(np.float32), first.astype(np.float32))


def cube_targets(surface: Surface, cubes: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """What the mesh decoder should say at the corners of cubes [M,3] of a ``grid``: distance [M,8], attributes [M,8,6].

    Distances are in voxels (four cells), within -1 and 1; attributes are colour and (normal + 1) / 2.
    """
    size = grid + 1
    corners = cubes[:, None] + CORNERS[None]
    keys, inverse = np.unique((corners[..., 0] * size + corners[..., 1]) * size + corners[..., 2], return_inverse=True)
    vertices = np.stack([keys // size**2, keys // size % size, keys % size], axis=1)
    found = surface_field(surface, vertices / grid - 0.5, 1.0 / grid)
    distance = np.clip(found.distance * grid / 4, -1, 1)
    rim = ((vertices == 0) | (vertices == grid)).any(axis=1)
    distance = np.where(rim, np.maximum(distance, RIM), distance)  # without an outside there would be a hole
    attributes = np.concatenate([found.colors, (found.normals + 1) / 2], axis=1)
    inverse = inverse.reshape(len(cubes), 8)
    return distance[inverse], attributes[inverse]


def children(coords: np.ndarray) -> np.ndarray:
    """The 64 cubes [64L,3] of each voxel [L,3] on the four times finer grid, in the decoder's order."""
    for _ in range(2):
        halves = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(1, 8, 3)
        coords = (coords[:, None] * 2 + halves).reshape(-1, 3)
    return coords


def disturb_cameras(
    world_to_camera: torch.Tensor, intrinsics: torch.Tensor, generator: torch.Generator, amount: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cameras [B,4,4] and intrinsics [B,3,3] a little off, as solved ones are.

    amount: standard deviation of the turn (radians), of the distance (share) and of the image point (share of the
    picture).
    """
    count = len(intrinsics)
    noise = torch.randn(count, 6, generator=generator).to(intrinsics.device) * amount
    turn = torch.zeros(count, 3, 3, device=intrinsics.device)
    turn[:, 0, 1], turn[:, 0, 2], turn[:, 1, 2] = noise[:, :3].unbind(1)
    turn = torch.linalg.matrix_exp(turn - turn.transpose(1, 2))
    cameras, matrices = world_to_camera.clone(), intrinsics.clone()
    cameras[:, :3, :3] = turn @ world_to_camera[:, :3, :3]  # about the object's middle: the picture stays centred
    cameras[:, :3, 3] *= 1 + noise[:, 3:4]
    matrices[:, :2, 2] += noise[:, 4:] / 2
    return cameras, matrices
