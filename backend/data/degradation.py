"""Meshes made worse on purpose: smoothed, decimated, their colours blurred. What enhancing is taught and measured on.

Degrees are lengths in object units (longest side = 1): the same for a crate of twelve triangles and for a scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import fast_simplification
import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from ..contract.meshes import MeshData
from ..formats.images import encode_png
from ..geometry.edge_splitting import with_short_edges
from ..geometry.mesh_repair import proper_faces
from ..geometry.mesh_topology import edge_lengths, find_edges, neighbour_means
from ..geometry.surface_sampling import SurfacePoints, sample_surface
from ..geometry.unwrap import unwrap
from ..rendering.bake import covered_texels, paint

COLOR_SAMPLES = 40_000  # points that stand for the colours of a surface
LONGEST_EDGE = 0.03  # of the mesh that is smoothed: long edges would hardly move
MOST_FACES = 60_000  # a finer mesh is smoothed as it is
SHARE = 0.5  # of the way to the mean of its neighbours that a vertex goes in a step
MOST_STEPS = 60
CELLS_PER_BLUR = 1.5
LEAST_WEIGHT = 1e-4  # of the densest place: points farther from the surface take its nearest colour
MOST_CELLS = 128  # of a side of the grid in which colours are blurred
PLAIN = 0.7
MOST_LOST = 0.05  # of the box by decimation: loose sheets may lose whole corners, and such a mesh stays as it was


@dataclass(frozen=True)
class Degree:
    """How much worse. triangles: that are left at most; smoothing, blur: standard deviations of the Gaussians that
    shape and colours are smoothed with, in object units, 0 for not at all."""

    triangles: int
    smoothing: float
    blur: float


STRONG = Degree(triangles=600, smoothing=0.02, blur=0.03)
"""What is measured: a pixel of mini's tiles is 0.02 wide, so less would hardly be seen in them."""


def random_degree(rng: np.random.Generator) -> Degree:
    """A degree for training: from almost untouched to worse than STRONG."""
    triangles = round(float(np.exp(rng.uniform(np.log(200), np.log(4000)))))
    return Degree(triangles, 0.03 * float(rng.random()), 0.05 * float(rng.random()))


def degraded(mesh: MeshData, degree: Degree, texture_size: int = 512) -> MeshData:
    """The mesh made worse, with a texture of its own. The same every time. Errors: ValueError without a surface."""
    vertices, faces = smoothed(mesh.vertices, mesh.faces, degree.smoothing)
    few, few_faces = decimated(vertices, faces, degree.triangles)
    if len(few_faces) and np.abs(_box(few) - _box(vertices)).max() < MOST_LOST:
        vertices, faces = few, few_faces
    atlas = unwrap(vertices, faces, texture_size)
    texels = covered_texels(atlas)
    colors = blurred_colors(sample_surface(mesh, COLOR_SAMPLES), texels.interpolate(faces, vertices), degree.blur)
    texture = encode_png(paint(texels, colors))
    return MeshData(vertices.astype(np.float32), faces.astype(np.int32), atlas.uvs, texture=texture)


def decimated(vertices: np.ndarray, faces: np.ndarray, triangles: int) -> tuple[np.ndarray, np.ndarray]:
    """The mesh [V,3], [F,3] with about `triangles` faces by edge collapse, and no repair afterwards."""
    if len(faces) <= triangles:
        return vertices, faces
    points, kept = fast_simplification.simplify(
        np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int32), target_count=triangles
    )
    proper = proper_faces(points, kept.astype(np.int64))
    used, place = np.unique(proper, return_inverse=True)
    return np.asarray(points, np.float64)[used], place.reshape(-1, 3)


def _box(vertices: np.ndarray) -> np.ndarray:
    return np.stack([vertices.min(axis=0), vertices.max(axis=0)])


def smoothed(vertices: np.ndarray, faces: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V,3] float64 and faces [F,3] of a mesh whose surface is smoothed by a Gaussian about `width` wide.

    Vertices in one place are made one, long edges are cut, then each step of going half the way to the neighbours'
    mean spreads a place over a quarter of the squared edge length.
    """
    fine, triangles = with_short_edges(vertices, faces, LONGEST_EDGE if width > 0 else np.inf, MOST_FACES)
    points, cut = torch.from_numpy(fine), torch.from_numpy(triangles)
    if width > 0:
        edges, _ = find_edges(cut, len(points))
        typical = float(edge_lengths(points, edges).square().mean())
        steps = min(round(4 * width**2 / max(typical, 1e-9)), MOST_STEPS)
        for _ in range(steps):
            points = points + SHARE * (neighbour_means(points, edges) - points)
    return points.numpy(), cut.numpy()


def blurred_colors(surface: SurfacePoints, points: np.ndarray, width: float) -> np.ndarray:
    """Colours [N,3] at points [N,3] of a surface whose colours are blurred by a Gaussian `width` wide in space."""
    if surface.colors is None:
        return np.full((len(points), 3), PLAIN)
    cells = int(np.clip(CELLS_PER_BLUR / max(width, 1e-9), 8, MOST_CELLS))
    low = surface.points.min(axis=0) - 3.0 / cells
    shape = tuple(np.ceil((np.ptp(surface.points, axis=0) + 6.0 / cells) * cells).astype(int) + 1)
    place = np.ravel_multi_index(tuple(np.rint((surface.points - low) * cells).astype(int).T), shape)
    values = np.column_stack([surface.colors, np.ones(len(surface))])
    where = ((points - low) * cells).T
    sigma = max(width * cells, 0.5)
    channels = []
    for channel in values.T:
        grid = np.bincount(place, channel, int(np.prod(shape))).reshape(shape)
        grid = ndimage.gaussian_filter(grid, sigma, mode="constant", truncate=3.0)
        channels.append(ndimage.map_coordinates(grid, where, order=1, mode="nearest"))
    colors = np.stack(channels[:3], axis=1) / np.maximum(channels[3], 1e-12)[:, None]
    far = channels[3] < LEAST_WEIGHT * channels[3].max(initial=1e-12)  # decimation moved the surface away
    if far.any():
        colors[far] = surface.colors[cKDTree(surface.points).query(points[far])[1]]
    return colors
