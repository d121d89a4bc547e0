"""Triangle meshes made fit for use: no broken faces, no crumbs, no parts that nobody can see, one winding, no holes.

Nothing here knows where a mesh came from. Parts are connected faces; a part goes as a whole or stays as a whole, so a
closed surface stays closed. Vertices keep their order; `Repaired.rows` says which ones stayed, for their attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from backend.geometry.nearest_surface import face_samples

CRUMB_SHARE = 0.003  # of the largest part's area: smaller parts are floaters
GRID = 96  # cells of the longest side in which outside is told from inside
HIDDEN_SHARE = 0.95  # of a part's area that no outside cell touches: nobody sees it
MOST_HOLE_EDGES = 400  # longer borders belong to surfaces that are meant to be open
MOST_HOLE_SHARE = 0.2  # likewise a filling of more than this share of all area
LEAST_AREA = 1e-12  # of a face, for a mesh whose longest side is 1


@dataclass(frozen=True)
class Repaired:
    """vertices [V,3] float64, faces [F,3] int64; rows [V]: each vertex's row in the mesh before, -1 for a new one."""

    vertices: np.ndarray
    faces: np.ndarray
    rows: np.ndarray


def repair(vertices: np.ndarray, faces: np.ndarray) -> Repaired:
    """The mesh [V,3], [F,3] cleaned, wound outward and closed. A mesh without proper faces comes back as it is."""
    before = np.asarray(vertices, np.float64)
    faces = np.asarray(faces, np.int64).reshape(-1, 3)
    kept = proper_faces(before, faces)
    if not len(kept):
        return Repaired(before, faces, np.arange(len(before)))
    if not is_closed(kept):
        kept = without_twins(kept)
    kept = without_hidden_parts(before, without_crumbs(before, kept))
    points, kept = fill_holes(before, wound_outward(before, kept))
    used = np.unique(kept)
    place = np.full(len(points), -1)
    place[used] = np.arange(len(used))
    return Repaired(points[used], place[kept], np.where(used < len(before), used, -1))


def kept_whole(vertices: np.ndarray, faces: np.ndarray) -> Repaired:
    """The mesh [V,3], [F,3] without faces that have no area, and nothing else of it touched."""
    points, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64).reshape(-1, 3)
    kept = proper_faces(points, faces)
    if not len(kept):
        return Repaired(points, faces, np.arange(len(points)))
    used, place = np.unique(kept, return_inverse=True)
    return Repaired(points[used], place.reshape(-1, 3), used)


def face_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Areas [F] of the faces."""
    corners = np.asarray(vertices, np.float64)[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.asarray(np.linalg.norm(across, axis=1) / 2)


def proper_faces(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces [F',3] that have an area and finite corners."""
    finite = np.isfinite(vertices).all(axis=1)
    if not finite.any():
        return faces[:0]
    kept = faces[finite[faces].all(axis=1)]
    size = max(float(np.ptp(vertices[finite], axis=0).max()), 1e-9)
    named_once = (kept[:, 0] != kept[:, 1]) & (kept[:, 1] != kept[:, 2]) & (kept[:, 2] != kept[:, 0])
    return kept[named_once & (face_areas(vertices, kept) > LEAST_AREA * size * size)]


def without_twins(faces: np.ndarray) -> np.ndarray:
    """The faces, each once. Two that face opposite ways both stay."""
    turn = (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3
    return faces[np.sort(np.unique(np.take_along_axis(faces, turn, axis=1), axis=0, return_index=True)[1])]


def parts(faces: np.ndarray, count: int) -> np.ndarray:
    """The connected part [F] of every face of a mesh of `count` vertices, numbered from 0."""
    ends = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    links = coo_matrix((np.ones(len(ends[0]), np.int8), ends), (count, count))
    return np.unique(connected_components(links, directed=False)[1][faces[:, 0]], return_inverse=True)[1]


def without_crumbs(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces of the parts that are not tiny beside the largest one."""
    part = parts(faces, len(vertices))
    area = np.bincount(part, face_areas(vertices, faces))
    return faces[(area >= CRUMB_SHARE * area.max())[part]]


def without_hidden_parts(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces of the parts that the outside touches somewhere: inner shells go."""
    part = parts(faces, len(vertices))
    if part.max() == 0:
        return faces
    area = face_areas(vertices, faces)
    share = np.bincount(part, area * hidden_faces(vertices, faces)) / np.maximum(np.bincount(part, area), 1e-30)
    seen = share < HIDDEN_SHARE
    return faces[seen[part]] if seen.any() else faces


def hidden_faces(vertices: np.ndarray, faces: np.ndarray, grid: int = GRID) -> np.ndarray:
    """Faces [F] bool that lie in closed rooms: no empty cell beside them is connected with the outside.

    Holes narrower than a cell count as closed, so a leak of the surface opens no room.
    """
    used = vertices[np.unique(faces)]
    low = used.min(axis=0)
    cell = max(float(np.ptp(used, axis=0).max()), 1e-9) / grid
    shape = tuple(np.floor(np.ptp(used, axis=0) / cell).astype(int) + 5)  # two free cells on each side
    samples = face_samples(vertices, faces, 0.7 * cell)
    places = np.floor((samples.interpolate(faces, vertices) - low) / cell).astype(np.int64) + 2
    solid = np.zeros(shape, bool)
    solid[tuple(places.T)] = True
    outside = ndimage.label(~solid)[0]
    reached = ndimage.binary_dilation(outside == outside[0, 0, 0], np.ones((3, 3, 3), bool))
    touched = reached[tuple(places.T)]
    return np.bincount(samples.face, touched, minlength=len(faces)) == 0


def wound_outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces, turned where needed so that neighbours agree and every closed part encloses a positive volume."""
    faces = faces.copy()
    if not is_closed(faces) and not _consistent(faces):  # touching parts may share an edge and still agree
        turned = _disagreeing(faces)
        faces[turned] = faces[turned, ::-1]
    part = parts(faces, len(vertices))
    corners = vertices[faces] - vertices[faces].reshape(-1, 3).mean(axis=0)
    volume = np.bincount(part, np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])))
    still_open = np.zeros(len(volume), bool)
    still_open[part[border_edges(faces)[1]]] = True
    inside_out = ((volume < 0) & ~still_open)[part]
    faces[inside_out] = faces[inside_out, ::-1]
    return faces


def border_edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directed edges [E,2] that no other face runs along the other way, and their faces [E]."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    span = int(faces.max()) + 1 if len(faces) else 1
    forward, backward = edges[:, 0] * span + edges[:, 1], edges[:, 1] * span + edges[:, 0]
    keys, inverse = np.unique(np.concatenate([forward, backward]), return_inverse=True)
    there = np.bincount(inverse[: len(edges)], minlength=len(keys))
    back = np.bincount(inverse[len(edges) :], minlength=len(keys))
    free = np.flatnonzero((there - back)[inverse[: len(edges)]] > 0)
    return edges[free], free // 3


def is_closed(faces: np.ndarray) -> bool:
    """Whether every edge is run along as often one way as the other: no holes, one winding."""
    return len(faces) > 0 and len(border_edges(faces)[0]) == 0


def fill_holes(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mesh [V',3], [F',3] with its holes closed by fans about their middle (new vertices at the end).

    Borders too long or too wide to be a hole stay open.
    """
    edges, _ = border_edges(faces)
    total = face_areas(vertices, faces).sum()
    points, added = [], []
    for loop in border_loops(edges):
        if len(loop) < 3 or len(loop) > MOST_HOLE_EDGES:
            continue
        if len(loop) == 3:
            fan = loop[None, ::-1]
        else:
            middle = len(vertices) + len(points)
            fan = np.stack([np.roll(loop, -1), loop, np.full(len(loop), middle)], axis=1)
        centre = vertices[loop].mean(axis=0)
        spokes = vertices[loop] - centre
        if np.linalg.norm(np.cross(spokes, np.roll(spokes, -1, axis=0)), axis=1).sum() / 2 > MOST_HOLE_SHARE * total:
            continue
        if len(loop) > 3:
            points.append(centre)
        added.append(fan)
    if not added:
        return vertices, faces
    return np.concatenate([vertices, np.array(points).reshape(-1, 3)]), np.concatenate([faces, *added])


def border_loops(edges: np.ndarray) -> list[np.ndarray]:
    """Directed border edges [E,2] joined into closed loops of vertices; edges that close no loop are left out."""
    leaving: dict[int, list[int]] = {}
    for start, stop in edges.tolist():
        leaving.setdefault(start, []).append(stop)
    loops = []
    while leaving:
        walk = [next(iter(leaving))]
        step: dict[int, int] = {walk[0]: 0}
        while True:
            here = walk[-1]
            if here not in leaving:  # a dead end
                break
            after = leaving[here].pop()
            if not leaving[here]:
                del leaving[here]
            if after in step:  # a loop; what led to it goes on from there
                start = step[after]
                loops.append(np.array(walk[start:], np.int64))
                for name in walk[start + 1 :]:
                    del step[name]
                del walk[start + 1 :]
                if len(walk) == 1 and walk[0] not in leaving:
                    break
            else:
                step[after] = len(walk)
                walk.append(after)
    return loops


def _consistent(faces: np.ndarray) -> bool:
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    return len(np.unique(edges[:, 0] * (int(faces.max()) + 1) + edges[:, 1])) == len(edges)


def _disagreeing(faces: np.ndarray) -> np.ndarray:
    """Faces [F] bool to turn so that each agrees with the first face of its part; edges of two faces decide."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    upward = edges[:, 0] < edges[:, 1]
    low, high = edges.min(axis=1), edges.max(axis=1)
    key = low * (int(faces.max()) + 1) + high
    order = np.argsort(key, kind="stable")
    _, start, count = np.unique(key[order], return_index=True, return_counts=True)
    first, second = order[start[count == 2]], order[start[count == 2] + 1]
    clash = upward[first] == upward[second]
    pair = first // 3, second // 3
    size = (len(faces), len(faces))
    graph = csr_matrix((np.ones(2 * len(first), np.int8), (np.concatenate(pair), np.concatenate(pair[::-1]))), size)
    clashes = csr_matrix((clash, pair), size)
    clashes = clashes + clashes.T
    label = connected_components(graph, directed=False)[1]
    turned = np.zeros(len(faces), bool)
    for root in np.unique(label, return_index=True)[1]:
        order, before = breadth_first_order(graph, root, directed=False)
        relation = np.asarray(clashes[order[1:], before[order[1:]]]).ravel() if len(order) > 1 else []
        for face, differs in zip(order[1:].tolist(), relation, strict=True):
            turned[face] = turned[before[face]] ^ bool(differs)
    return turned
