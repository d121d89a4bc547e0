"""A mesh fitted to the photo's outline at the photo's own resolution (not in the paper; mini only).

After `outline_snap` the outlines still differ by a pixel or two, which an artist sees when the object stands before its
photo. Here the mesh is drawn with gradients (`rendering/differentiable.py`) and its vertices move within the picture's
plane until its coverage is the photo's alpha. Steps are taken on smoothed offsets, as Nicolet et al. 2021 (Large Steps
in Inverse Rendering of Geometry) do, so that neighbours come along and the hidden side stays whole; what turned a
triangle over is taken back. Outline edges that still miss are split, as far as the triangles allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from backend.rendering.differentiable import antialias, rasterize
from backend.rendering.differentiable_silhouette import silhouette_edges
from backend.systems.cupid.outline_snap import Outline, resized, snap_to_outline
from backend.systems.finishing import Reshape

LARGEST = 512  # pixels a side of the outline that is fitted: finer ones are made smaller
REACH = 0.06  # of the picture: what misses the mesh's own rim by more is another shape, which no vertex is stretched to
LEAST_ERROR = 0.3  # pixels of missed area at an edge that are worth two triangles
SHORTEST = 2.5  # pixels: shorter edges are not split
SPARE = 1.4  # times the triangles of a mesh without a budget: room for its outline
UNFOLDING = 6  # rounds of taking back what turned triangles over
FIRST_MOMENT, SECOND_MOMENT = 0.9, 0.99


@dataclass(frozen=True)
class Level:
    """Steps at one size: `size` in pixels a side at most, first step in pixels, how stiff neighbours hang together."""

    size: int
    iterations: int
    step: float
    stiffness: float


ROUGH = (Level(192, 14, 1.5, 8.0), Level(LARGEST, 16, 1.5, 2.0))
FINE = (Level(LARGEST, 8, 1.0, 1.0), Level(LARGEST, 8, 1.0, 0.7), Level(LARGEST, 12, 0.8, 0.4))  # splits between them


def draw_to_outlines(
    vertices: np.ndarray, faces: np.ndarray, outlines: Sequence[Outline]
) -> tuple[np.ndarray, np.ndarray]:
    """A new surface [V,3], [F,3] drawn to the outlines of all photos, then fitted to the first one's."""
    for outline in outlines:
        vertices = snap_to_outline(vertices, faces, outline)
    if not outlines:
        return vertices, faces
    return fit_to_outline(vertices, faces, outlines[0], int(SPARE * len(faces)), ROUGH + FINE[:2])


def outline_keeper(outlines: Sequence[Outline]) -> Reshape | None:
    """What gives a simplified mesh the first photo's outline back (see `finishing.finish`); None without outlines."""
    if not outlines:
        return None
    return lambda vertices, faces, triangles: fit_to_outline(vertices, faces, outlines[0], triangles, FINE)


def fit_to_outline(
    vertices: np.ndarray,
    faces: np.ndarray,
    outline: Outline,
    triangles: int,
    levels: Sequence[Level] = ROUGH + FINE,
) -> tuple[np.ndarray, np.ndarray]:
    """The mesh [V,3], [F,3] with the outline; edges at it are split while there are fewer than `triangles` faces.

    Depths from the camera stay. A mesh that reaches behind the camera, or an empty outline, changes nothing.
    """
    alpha = np.nan_to_num(np.asarray(outline.alpha, np.float32))
    if not len(faces) or alpha.max() < 0.5 or alpha.min() >= 0.5:
        return vertices, faces
    view = _View.of(np.asarray(vertices, np.float64), np.asarray(faces, np.int64), outline)
    if view.depth.min() <= 0:
        return vertices, faces
    with torch.inference_mode(False), torch.enable_grad():
        for number, level in enumerate(levels):
            error = view.fit(level)
            if number + 1 < len(levels):
                view.split(error, triangles)
    return np.asarray(view.points(), np.asarray(vertices).dtype), view.faces


class _View:
    """A mesh in the outline's picture: `start` [V,2] places in [-1,1] before, `place` now, `depth` [V], `faces` [F,3].

    `origin` [V,3] are the points before.
    """

    def __init__(
        self, outline: Outline, origin: np.ndarray, start: np.ndarray, depth: np.ndarray, faces: np.ndarray
    ) -> None:
        self.outline, self.origin, self.start, self.depth, self.faces = outline, origin, start, depth, faces
        self.place = start.copy()
        self.counted: np.ndarray | None = None

    @classmethod
    def of(cls, points: np.ndarray, faces: np.ndarray, outline: Outline) -> _View:
        matrix, k = np.asarray(outline.camera.world_to_camera), np.asarray(outline.camera.intrinsics)
        seen = points @ matrix[:3, :3].T + matrix[:3, 3]
        depth = seen[:, 2]
        return cls(outline, points, (seen @ k.T)[:, :2] / np.where(depth > 0, depth, 1)[:, None] * 2 - 1, depth, faces)

    def points(self, place: np.ndarray | None = None) -> np.ndarray:
        """The points [V,3] moved to places [V,2], those of now if none are given."""
        k = np.asarray(self.outline.camera.intrinsics)
        moved = (self.place if place is None else place) - self.start
        shift = moved / 2 * self.depth[:, None] / np.array([k[0, 0], k[1, 1]])
        return np.asarray(self.origin + shift @ np.asarray(self.outline.camera.world_to_camera)[:2, :3])

    def clip(self, place: Tensor) -> Tensor:
        """Clip positions [1,V,4] of places [V,2]; the near plane lies before all of them."""
        w = torch.from_numpy(self.depth).float()[:, None]
        return torch.cat([place * w, w - w.min(), w], 1)[None]

    def fit(self, level: Level) -> np.ndarray:
        """Move the places; returns the squared error [s,s] of the coverage at the end."""
        size = min(level.size, len(self.outline.alpha))
        wanted, weight = self._wanted(size)
        faces, pixel = torch.from_numpy(self.faces), 2.0 / size
        smooth = _factorised(self.faces, len(self.start), level.stiffness)
        base, rough = torch.from_numpy(self.place).float(), np.zeros_like(self.place)
        mean, scale = np.zeros_like(rough), 0.0
        error = torch.zeros(0)
        for step in range(1, level.iterations + 1):
            place = (base + pixel * torch.from_numpy(smooth.solve(rough)).float()).requires_grad_()
            clip = self.clip(place)
            fragments = rasterize(clip, faces, (size, size))
            cover = antialias(fragments.mask[..., None].float(), fragments, clip, faces)[0, :, :, 0]
            error = (cover - wanted).square() * weight
            (slope,) = torch.autograd.grad(error.sum(), place)
            gradient = smooth.solve(np.nan_to_num(slope.numpy().astype(np.float64)))
            mean = FIRST_MOMENT * mean + (1 - FIRST_MOMENT) * gradient
            scale = SECOND_MOMENT * scale + (1 - SECOND_MOMENT) * float((gradient**2).sum(1).max())
            size_now = np.sqrt(scale / (1 - SECOND_MOMENT**step)) + 1e-20
            length = level.step * (1 - 0.8 * (step - 1) / level.iterations)
            rough -= length * mean / (1 - FIRST_MOMENT**step) / size_now
        before = self.place.copy()
        self.place = self.place + pixel * smooth.solve(rough)
        self._unfold(before)
        return error.detach().numpy()

    def _wanted(self, size: int) -> tuple[Tensor, Tensor]:
        """The outline's alpha and how much each pixel counts, both [size,size]."""
        outline = self.outline
        alpha = resized(np.nan_to_num(np.asarray(outline.alpha, np.float32)), size)
        if self.counted is None:
            mesh = self._drawn(size)
            away = ndimage.distance_transform_edt(mesh) + ndimage.distance_transform_edt(~mesh)
            known = away <= REACH * size
            if outline.hidden is not None:
                known &= ~(resized(outline.hidden, size) > 0)
            self.counted = known
        counted = resized(self.counted, size) > 0.5
        return torch.from_numpy(alpha.copy()), torch.from_numpy(counted.astype(np.float32))

    def _drawn(self, size: int) -> np.ndarray:
        clip = self.clip(torch.from_numpy(self.place).float())
        return np.asarray(rasterize(clip, torch.from_numpy(self.faces), (size, size)).mask[0].numpy())

    def _unfold(self, before: np.ndarray) -> None:
        """Take back, more and more widely, the moves since `before` [V,2] of triangles that they turned over."""
        facing = _normals(self.points(before), self.faces)
        kept = np.ones((len(before), 1))
        for _ in range(UNFOLDING):
            moved = before + kept * (self.place - before)
            turned = (_normals(self.points(moved), self.faces) * facing).sum(1) < 0
            if not turned.any():
                break
            kept[np.unique(self.faces[turned])] *= 0.5
        self.place = before + kept * (self.place - before)

    def split(self, error: np.ndarray, triangles: int) -> None:
        """Split the outline's edges where `error` [s,s] is left, the worst first, up to `triangles` faces."""
        room = (triangles - len(self.faces)) // 2
        if room < 1:
            return
        size = len(error)
        clip = self.clip(torch.from_numpy(self.place).float())
        _, start, stop, _ = (part.numpy() for part in silhouette_edges(clip, torch.from_numpy(self.faces)))
        ends = (self.place[np.stack([start, stop], 1)] + 1) * (size / 2)  # [K,2,2] pixels
        length = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
        along = (np.arange(5) + 0.5)[None, :, None] / 5
        cell = np.floor(ends[:, :1] + along * (ends[:, 1:] - ends[:, :1])).astype(int).clip(0, size - 1)
        near = ndimage.uniform_filter(error, 5, mode="constant")[cell[..., 1], cell[..., 0]].mean(1)
        missed = near * 5 * length  # the error in a band five pixels wide
        rows = np.flatnonzero((missed > LEAST_ERROR) & (length > SHORTEST))
        rows = rows[np.argsort(-missed[rows], kind="stable")]
        chosen = _apart(np.stack([start, stop], 1)[rows], self.faces)[:room]
        if len(chosen):
            self._halve(chosen)

    def _halve(self, edges: np.ndarray) -> None:
        """Put a vertex into the middle of edges [K,2], of which no face has two."""
        count = len(self.place)
        new = {(min(a, b), max(a, b)): count + row for row, (a, b) in enumerate(edges.tolist())}
        middle = (self.place[edges[:, 0]] + self.place[edges[:, 1]]) / 2
        # The middle in the picture of a straight edge in space; its depth is the harmonic mean.
        depth = 2.0 / (1.0 / self.depth[edges]).sum(1)
        share = (self.depth[edges[:, 0]] / self.depth[edges].sum(1))[:, None]
        self.origin = np.concatenate(
            [self.origin, self.origin[edges[:, 0]] * (1 - share) + share * self.origin[edges[:, 1]]]
        )
        self.place = np.concatenate([self.place, middle])
        self.start = np.concatenate([self.start, (self.start[edges[:, 0]] + self.start[edges[:, 1]]) / 2])
        self.depth = np.concatenate([self.depth, depth])
        followers = np.roll(self.faces, -1, axis=1)
        keys = np.minimum(self.faces, followers) * count + np.maximum(self.faces, followers)
        wanted = np.array(sorted(new))
        hit = np.isin(keys, wanted[:, 0] * count + wanted[:, 1])
        rows, sides = np.nonzero(hit)
        a, b, c = (self.faces[rows, (sides + k) % 3] for k in range(3))
        m = np.array([new[min(p, q), max(p, q)] for p, q in zip(a.tolist(), b.tolist(), strict=True)])
        faces = self.faces.copy()
        faces[rows] = np.stack([a, m, c], 1)
        self.faces = np.concatenate([faces, np.stack([m, b, c], 1)])


def _factorised(faces: np.ndarray, count: int, stiffness: float) -> Any:
    """The factors of I + stiffness * L, L the graph Laplacian of the faces' edges [count,count]."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    near = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    near.data[:] = 1.0
    laplacian = sparse.diags(np.asarray(near.sum(1)).ravel()) - near
    matrix = sparse.csc_matrix(sparse.identity(count) + stiffness * laplacian)
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})


def _normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals [F,3] of faces [F,3] with corners among points [V,3], as long as twice their areas."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def _apart(edges: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Those of the edges [K,2], in their order, that are the first of their faces [F,3]."""
    if not len(edges):
        return edges
    count = int(faces.max()) + 1
    followers = np.roll(faces, -1, axis=1)
    keys = np.minimum(faces, followers) * count + np.maximum(faces, followers)
    own = edges.min(1) * count + edges.max(1)
    order = np.argsort(own, kind="stable")
    found = np.searchsorted(own[order], keys).clip(max=len(own) - 1)
    rank = np.where(own[order][found] == keys, order[found], len(own))  # of each face's sides; the last: not chosen
    first = rank.min(1)
    beaten = rank[(rank > first[:, None]) & (rank < len(own))]
    kept = np.ones(len(own), bool)
    kept[beaten] = False
    return edges[kept]
