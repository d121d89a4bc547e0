"""What follows ISOMER's stages (spec 8): one smoothing, repair, Loop subdivision."""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from backend.geometry.loop_subdivision import subdivide
from backend.geometry.mesh_repair import face_areas, repair
from backend.geometry.mesh_topology import find_edges, neighbour_means
from backend.systems.kiss3dgen.isomer.settings import IsomerSettings

logger = logging.getLogger(__name__)


def clean(vertices: Tensor, faces: Tensor, settings: IsomerSettings) -> tuple[Tensor, Tensor]:
    """The refined mesh [N,3], [F,3] smoothed, made manifold and subdivided within `most_faces`."""
    for _ in range(settings.smoothing):
        vertices = neighbour_means(vertices, find_edges(faces, len(vertices))[0])
    vertices, faces = manifold(vertices, faces)
    if settings.subdivisions and len(faces):
        diagonal = float((vertices.amax(dim=0) - vertices.amin(dim=0)).norm())
        for _ in range(settings.subdivisions):
            vertices, faces = subdivide(vertices, faces, settings.subdivide_above * diagonal, settings.most_faces)
    return vertices, faces


def manifold(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """The mesh with at most two faces at an edge and one fan of faces at a vertex, without crumbs and holes."""
    points, triangles = vertices.detach().cpu().double().numpy(), faces.cpu().numpy()
    mended = repair(points, without_crowded_edges(points, triangles))
    points, triangles = separate_fans(mended.vertices, mended.faces)
    if len(triangles) != len(faces):
        logger.info("repair: %d faces of %d left", len(triangles), len(faces))
    return torch.from_numpy(points).to(vertices), torch.from_numpy(triangles).to(faces)


def without_crowded_edges(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces, of each edge with more than two the two largest."""
    sides = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, edge, count = np.unique(
        sides[:, 0] * (int(faces.max(initial=0)) + 1) + sides[:, 1], return_inverse=True, return_counts=True
    )
    crowded = np.flatnonzero(count[edge] > 2)
    if not len(crowded):
        return faces
    area = np.repeat(face_areas(vertices, faces), 3)
    order = crowded[np.lexsort((-area[crowded], edge[crowded]))]
    first = np.r_[True, edge[order][1:] != edge[order][:-1]]
    place = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    kept = np.ones(len(faces), bool)
    kept[order[place >= 2] // 3] = False
    return faces[kept]


def separate_fans(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mesh with a vertex of its own for every fan of faces that met at one vertex only."""
    if not len(faces):
        return vertices, faces
    sides = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    low = np.sort(sides, axis=1)
    key = low[:, 0] * (int(faces.max()) + 1) + low[:, 1]
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    one, two = order[same], order[same + 1]
    # side k of a face runs from its corner k to k + 1; corners of both faces at the same vertex belong together
    starts, ends = one, one // 3 * 3 + (one % 3 + 1) % 3
    others, other_ends = two, two // 3 * 3 + (two % 3 + 1) % 3
    against = sides[one, 0] == sides[two, 1]
    pairs = np.concatenate(
        [
            np.stack([starts, np.where(against, other_ends, others)], axis=1),
            np.stack([ends, np.where(against, others, other_ends)], axis=1),
        ]
    )
    size = 3 * len(faces)
    links = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (size, size))
    count, fan = connected_components(links, directed=False)
    owner = np.zeros(count, np.int64)
    owner[fan] = faces.reshape(-1)
    # fans in the order of the vertices they had, so that a manifold mesh keeps its numbers
    rank = np.argsort(owner, kind="stable")
    place = np.empty(count, np.int64)
    place[rank] = np.arange(count)
    return vertices[owner[rank]], place[fan].reshape(-1, 3)
