"""Edges, lengths and normals of a triangle mesh held in torch, and the empty first rows that let faces vanish in place.

Remeshing works on meshes with a *dummy* first vertex (not a number) and a dummy first face (0, 0, 0): a face that goes
is set to the dummy, which keeps every row's number until `packed` drops what is unused. Faces [F,3] int64 name corners;
side k of a face runs from corner k to corner k + 1. Everything is vectorised and works on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def with_dummies(state: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """State [N,C] and faces [F,3] with a dummy row before each; the faces count vertices from 1."""
    empty = state.new_full((1, state.shape[1]), float("nan"))
    return torch.cat([empty, state]), torch.cat([faces.new_zeros(1, 3), faces + 1])


def without_dummies(state: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `with_dummies`."""
    return state[1:], faces[1:] - 1


def packed(state: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """State [N',C] and faces [F',3] (with dummies) without the faces set to the dummy and the vertices nobody names."""
    kept = faces.any(dim=1)
    kept[0] = True
    faces = faces[kept]
    used = torch.zeros(len(state), dtype=torch.bool, device=state.device)
    used[faces.reshape(-1)] = True
    used[0] = True
    place = torch.cumsum(used, 0) - 1
    return state[used], place[faces]


def find_edges(faces: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Edges [E,2] (smaller vertex first, sorted) and the edge of each face's sides [F,3], of faces [F,3].

    `count` is the number of vertices. A dummy face makes edge 0 the dummy edge (0, 0).
    """
    starts, ends = faces, faces.roll(-1, dims=1)
    keys, of_faces = torch.unique(
        torch.minimum(starts, ends) * count + torch.maximum(starts, ends), return_inverse=True
    )
    return torch.stack([torch.div(keys, count, rounding_mode="floor"), keys % count], dim=1), of_faces


def edge_sides(faces: Tensor, of_faces: Tensor, count: int) -> Tensor:
    """Faces beside edges [E,2,2] int64: [:,0] the one that runs from the smaller to the larger vertex, [:,1] the other;
    each as (face, its side). (0, 0), the dummy, where there is none. `count` is the number of edges."""
    sides = faces.new_zeros(count, 2, 2)
    backward = (faces > faces.roll(-1, dims=1)).long()
    rows = torch.arange(len(faces), device=faces.device)[:, None].expand(-1, 3)
    columns = torch.arange(3, device=faces.device)[None].expand(len(faces), -1)
    sides[of_faces, backward] = torch.stack([rows, columns], dim=2)
    sides[0] = 0
    return sides


def edge_lengths(vertices: Tensor, edges: Tensor) -> Tensor:
    """Lengths [E] of edges [E,2] between vertices [N,3]."""
    return (vertices[edges[:, 0]] - vertices[edges[:, 1]]).norm(dim=1)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Normals [F,3] of faces, their length twice the face's area."""
    first, second, third = (vertices[faces[:, k]] for k in range(3))
    return torch.linalg.cross(second - first, third - first, dim=1)


def vertex_normals(vertices: Tensor, faces: Tensor, normals: Tensor | None = None) -> Tensor:
    """Unit normals [N,3] of vertices: the area-weighted mean of their faces' (`normals` [F,3] if known already)."""
    normals = face_normals(vertices, faces) if normals is None else normals
    summed = torch.zeros_like(vertices)
    for corner in range(3):
        summed = summed.index_add(0, faces[:, corner], normals)
    return torch.nn.functional.normalize(summed, dim=1)


def reference_normals(faces: Tensor, normals: Tensor) -> Tensor:
    """What the vertices' unit normals [N,3] say of each face's normal: their sum at its corners [F,3]."""
    return normals[faces].sum(dim=1)


def neighbour_means(values: Tensor, edges: Tensor) -> Tensor:
    """Means [N,C] of values [N,C] over each vertex's neighbours along edges [E,2]; zero where a vertex has none."""
    summed = torch.zeros_like(values).index_add(0, edges[:, 0], values[edges[:, 1]])
    summed = summed.index_add(0, edges[:, 1], values[edges[:, 0]])
    degrees = torch.bincount(edges.reshape(-1), minlength=len(values)).clamp_min(1)
    return summed / degrees[:, None]
