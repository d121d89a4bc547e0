"""From a raw surface to an asset, for every system: repaired, decimated, unwrapped, painted, with a normal map.

    repair -> simplify to a budget -> reshape -> atlas -> texel colours by a painter -> normal map of the lost detail

A painter is a function of the `Canvas`; the one here paints the surface's own colours, a system may bring another (a
photo). What reshapes may move the simplified mesh a little and spend the rest of its budget. Dense colours and
normals reach the texels from the nearest place of the dense surface that faces their way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from backend.contract.meshes import MeshData
from backend.formats.images import encode_png
from backend.geometry.charts import best_atlas
from backend.geometry.mesh_repair import Repaired, face_areas, kept_whole, repair
from backend.geometry.nearest_surface import NearestSurface
from backend.geometry.simplify import simplify
from backend.geometry.unwrap import Atlas, unwrap
from backend.rendering.bake import Texels, covered_texels, paint
from backend.rendering.tangent_space import FLAT, angle_normals, encode_normals, tangent_frames

TEXTURE_SIZE = 1024
PIVOTS = ("cube", "base", "centre")
PLAIN = np.array([0.7, 0.7, 0.7])  # where nothing is known about colour
ROOM = 0.9  # of a budget that simplifying leaves to the shape where something reshapes it
SAMPLE_SPACING = 1.5  # of the mean edge of the dense mesh: most of its triangles are one sample


@dataclass(frozen=True)
class FinishOptions:
    """triangles: the budget, None for all there are; texture_size in texels; normal_map: of what the budget took away.
    """

    triangles: int | None = None
    texture_size: int = TEXTURE_SIZE
    normal_map: bool = False


AS_MADE = FinishOptions()


@dataclass(frozen=True)
class Canvas:
    """A finished shape about to be painted.

    vertices [V,3] float64, faces [F,3] int64, unit normals [V,3]; shape_vertices [W,3] of the dense mesh; base [V,3]
    and texel_base [N,3] are the dense surface's colours, or None; points and point_normals [N,3] of the texels.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    shape_vertices: np.ndarray
    atlas: Atlas
    texels: Texels
    points: np.ndarray
    point_normals: np.ndarray
    base: np.ndarray | None
    texel_base: np.ndarray | None


Painter = Callable[[Canvas], np.ndarray]
"""Colours [N,3] in [0,1] of a canvas's texels."""


Reshape = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Better vertices [V,3] and faces [F,3] for those of a simplified mesh, at most so many faces."""


def own_colors(canvas: Canvas) -> np.ndarray:
    """The painter of the surface's own colours; grey where it has none."""
    return np.tile(PLAIN, (len(canvas.points), 1)) if canvas.texel_base is None else canvas.texel_base


def finish(
    vertices: np.ndarray,
    faces: np.ndarray,
    options: FinishOptions,
    colors: np.ndarray | None = None,
    painter: Painter = own_colors,
    reshape: Reshape | None = None,
    whole: bool = False,
) -> MeshData:
    """The asset of a surface: vertices [V,3] in the object cube, faces [F,3], colors [V,3] in [0,1] or None.

    `reshape` is asked where there is a budget. A `whole` surface is somebody's own: nothing is taken out or closed.
    Errors: ValueError for a mesh without triangles.
    """
    if not len(faces):
        raise ValueError("A mesh without triangles cannot be finished; give one with triangles.")
    dense = kept_whole(vertices, faces) if whole else repair(vertices, faces)
    dense_colors = None if colors is None else _carried_colors(np.asarray(colors, np.float64), vertices, dense)
    low_vertices, low_faces = dense.vertices, dense.faces
    if options.triangles is not None:
        room = options.triangles if reshape is None else int(ROOM * options.triangles)
        low_vertices, low_faces = simplify(low_vertices, low_faces, room)
        if reshape is not None:
            low_vertices, low_faces = reshape(low_vertices, low_faces, options.triangles)
    simplified = not np.array_equal(low_faces, dense.faces)
    # A mesh as made is a first answer, wanted quickly: the better atlas costs another half second.
    chosen = unwrap if options.triangles is None else best_atlas
    atlas = chosen(low_vertices, low_faces, options.texture_size)
    texels = covered_texels(atlas)
    normals = angle_normals(low_vertices, low_faces)
    points = texels.interpolate(low_faces, low_vertices)
    point_normals = texels.interpolate(low_faces, normals)
    point_normals /= np.maximum(np.linalg.norm(point_normals, axis=1, keepdims=True), 1e-9)

    base, texel_base, normal_map = dense_colors, None, b""
    if not simplified:
        texel_base = None if dense_colors is None else texels.interpolate(low_faces, dense_colors)
    elif dense_colors is not None or options.normal_map:
        dense_normals = angle_normals(dense.vertices, dense.faces)
        edge = float(np.sqrt(face_areas(dense.vertices, dense.faces).mean()))
        nearest = NearestSurface(dense.vertices, dense.faces, dense_normals, SAMPLE_SPACING * edge)
        places = nearest.at(points, point_normals)
        if dense_colors is not None:
            base = nearest.at(low_vertices, normals).interpolate(dense.faces, dense_colors)
            texel_base = places.interpolate(dense.faces, dense_colors)
        if options.normal_map:
            frames = tangent_frames(low_vertices, low_faces, atlas.uvs)
            wanted = places.interpolate(dense.faces, dense_normals)
            shown = encode_normals(frames, texels.face, texels.barycentric, wanted)
            normal_map = encode_png(paint(texels, shown, rest=FLAT))
    canvas = Canvas(
        low_vertices, low_faces, normals, dense.vertices, atlas, texels, points, point_normals, base, texel_base
    )
    texture = encode_png(paint(texels, painter(canvas)))
    return MeshData(
        low_vertices.astype(np.float32), low_faces.astype(np.int32), uvs=atlas.uvs, texture=texture,
        normal_map=normal_map,
    )  # fmt: skip


def with_pivot(mesh: MeshData, pivot: str) -> MeshData:
    """The mesh moved so that its origin is where `pivot` says: in the middle of the object cube as it is, of the
    underside ("base"), or of its own box ("centre"). For files that leave Maquette: asset.mesh stays in its cube.
    """
    if pivot == "cube" or not len(mesh.vertices):
        return mesh
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    origin = (low + high) / 2
    if pivot == "base":
        origin[2] = low[2]
    return replace(mesh, vertices=(mesh.vertices - origin).astype(np.float32))


def _carried_colors(colors: np.ndarray, vertices: np.ndarray, repaired: Repaired) -> np.ndarray:
    """Colours [V',3] of the repaired mesh; new vertices take the nearest old one's."""
    rows = repaired.rows.copy()
    new = rows < 0
    if new.any():
        rows[new] = cKDTree(vertices).query(repaired.vertices[new])[1]
    return colors[rows].clip(0.0, 1.0)
