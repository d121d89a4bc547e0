"""A mesh changed by what Stage I changed of its bundle; everything else of it stays.

Small weights draw tiles of 64 pixels, less than the mesh itself holds, so only the difference is taken over: between
the bundle that was made and what the weights' autoencoder alone makes of the one that was sent. What the autoencoder
cannot hold is in both and falls out. Colours: the difference is added to the mesh's own. Shape: not from the bundle,
because even true normals of such tiles, laid on the faces that they show, make a mesh worse; what smoothing took off is
given back (`geometry/regrowth.py`) and what it rounded is drawn flat again by a filter that keeps edges
(`geometry/normal_filter.py`). An edit leaves the shape alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from backend.contract.bundle_views import join_tiles, split_tiles
from backend.contract.meshes import MeshData
from backend.geometry.edge_splitting import with_short_edges
from backend.geometry.nearest_surface import NearestSurface
from backend.geometry.normal_filter import without_noise
from backend.geometry.regrowth import regrown
from backend.geometry.surface_sampling import colors_at
from backend.rendering.rasterizer import rasterize
from backend.rendering.tangent_space import angle_normals
from backend.systems.finishing import Canvas, FinishOptions, Painter, finish
from backend.systems.kiss3dgen.bundle import Bundle, split, view_cameras
from backend.systems.kiss3dgen.flux.latents import decode_tokens, encode_pictures
from backend.systems.kiss3dgen.flux.networks import FluxNetworks
from backend.systems.kiss3dgen.texture import DEPTH_SIZE, SURE, ViewColors, blended, bundle_painter, filled_vertices

WORK_TILE = 256  # pixels of a tile that a change is laid on: a finer texture shows no more of it
# A difference of colours [3] up to this is taken for the networks' noise. Mini's own, after 320 steps of its tile
# ControlNet, cost 0.9 dB at 0.04 and 0.1 dB at this on degraded bundles; another colour asked for is far above it.
COLOR_NOISE = 0.2
PURE = 0.5  # share of a pixel that both show from which its colours are compared
REACH = 2.0  # pixels that differences are carried beyond the outline, where pixels are mixed with white
LONGEST_EDGE = 0.03  # of a mesh that is drawn flat: longer ones hide what was rounded
FLATTENING = 12  # rounds of the filter
MOST_FACES = 40_000


@dataclass(frozen=True)
class Change:
    """What is different in four views: colors [4,s,s,3], and where [4,s,s] bool they are known."""

    colors: np.ndarray
    colored: np.ndarray


def change_between(seen: np.ndarray, made: np.ndarray) -> Change:
    """The change from one bundle picture [2s,4s,3] to another."""
    before, after = split(seen), split(made)
    change = without_small(after.rgb - before.rgb, COLOR_NOISE)
    return Change(change, np.minimum(before.mask, after.mask) >= PURE)


def without_small(change: np.ndarray, noise: float) -> np.ndarray:
    """Differences [...,3]: none up to `noise`, whole from twice as much."""
    length = np.linalg.norm(change, axis=-1, keepdims=True)
    return np.asarray(change * (length / noise - 1.0).clip(0.0, 1.0), np.float32)


def changed_mesh(
    mesh: MeshData, sent: np.ndarray, change: Change, options: FinishOptions, sharpening: float = 1.0
) -> MeshData:
    """The mesh, in the object cube, with a change of its bundle picture `sent` [2S,4S,3], finished; no part is lost.

    Colours are its own texture's where it has one, else those of the picture. sharpening: of its shape, 0 (stays as it
    is) to 1.
    """
    vertices, faces = sharpened(mesh, sharpening)
    return finish(vertices, faces, options, None, change_painter(mesh, split(sent), change), whole=True)


def sharpened(mesh: MeshData, amount: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V,3] and faces [F,3] of the mesh: rounded edges drawn out, dents and bumps drawn flat."""
    if amount <= 0:
        return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    vertices, faces = with_short_edges(mesh.vertices, mesh.faces, LONGEST_EDGE, MOST_FACES)
    grown = regrown(vertices, faces, amount)
    return without_noise(grown, faces, max(1, round(amount * FLATTENING))).clip(-0.5, 0.5), faces


def change_views(vertices: np.ndarray, faces: np.ndarray, values: np.ndarray, known: np.ndarray) -> list[ViewColors]:
    """Views that tell the `values` [4,s,s,3] of a change where they are `known` [4,s,s], carried REACH beyond."""
    cameras, intrinsics = view_cameras()
    views = []
    for tile, where, camera in zip(values, known, cameras, strict=True):
        raster = rasterize(vertices, faces, camera, intrinsics, (DEPTH_SIZE, DEPTH_SIZE))
        depth = np.where(raster.mask, raster.depth, np.inf)
        inside, carried = where, tile
        if where.any():
            distance, (rows, columns) = ndimage.distance_transform_edt(~where, return_indices=True)
            inside, carried = distance <= REACH, tile[rows, columns]
        views.append(ViewColors(carried, inside, depth, camera, intrinsics, 1.0))
    return views


def change_painter(mesh: MeshData, sent: Bundle, change: Change) -> Painter:
    """A painter of the mesh's own colours, or of those sent, with the change of colours added."""
    own = mesh.colors is not None or (mesh.texture and mesh.uvs is not None)
    paint_sent = bundle_painter(sent)

    def painted(canvas: Canvas) -> np.ndarray:
        base = own_colors(mesh, canvas.points, canvas.point_normals) if own else paint_sent(canvas)
        if not change.colors[change.colored].any():
            return base
        views = change_views(canvas.vertices, canvas.faces, change.colors, change.colored)
        turn, weight = blended(views, canvas.vertices, canvas.normals)
        rest = np.zeros((len(canvas.points), 3))
        if (weight > SURE).any():
            hidden = filled_vertices(canvas.vertices, canvas.faces, turn, weight > SURE)
            rest = canvas.texels.interpolate(canvas.faces, hidden)
        shown, weight = blended(views, canvas.points, canvas.point_normals)
        return np.asarray((base + rest + (weight / SURE).clip(0.0, 1.0)[:, None] * (shown - rest)).clip(0.0, 1.0))

    return painted


def own_colors(mesh: MeshData, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Colours [N,3] of the mesh at the places nearest to points [N,3] that face as `normals` [N,3] do."""
    vertices, faces = mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)
    nearest = NearestSurface(vertices, faces, angle_normals(vertices, faces), LONGEST_EDGE / 2)
    places = nearest.at(points, normals)
    colors = colors_at(mesh, places.face, places.barycentric)
    assert colors is not None
    return colors


def transferred(sent: np.ndarray, seen: np.ndarray, made: np.ndarray, noise: float = COLOR_NOISE) -> np.ndarray:
    """The bundle picture [2W,4W,3] in [0,1] that shows `sent` [2S,4S,3] with the change from `seen` to `made`.

    seen, made: [2s,4s,3], s at most S; W is S, or WORK_TILE where S is larger.
    """
    tile = min(sent.shape[0] // 2, WORK_TILE)
    change = without_small(made - seen, noise)
    return np.asarray((resized_picture(sent, tile) + resized_picture(change, tile)).clip(0.0, 1.0), np.float32)


@torch.no_grad()
def seen_by(networks: FluxNetworks, picture: np.ndarray) -> np.ndarray:
    """What the weights' autoencoder alone makes of a bundle picture [2S,4S,3]: [2s,4s,3] of their own tiles, made
    smaller as the sampler does it."""
    height, width = networks.settings.size
    tensor = torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).permute(2, 0, 1)[None]
    small = functional.interpolate(tensor, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    latents = encode_pictures(networks["vae"], small.clamp(0, 1))
    return np.asarray(decode_tokens(networks["vae"], latents, height, width)[0].permute(1, 2, 0).cpu().numpy())


def resized_picture(picture: np.ndarray, tile: int) -> np.ndarray:
    """A bundle picture [2S,4S,C] at tiles of `tile` pixels, each tile by itself."""
    if picture.shape[0] == 2 * tile:
        return picture
    tiles = torch.from_numpy(np.concatenate(split_tiles(np.asarray(picture, np.float32)))).permute(0, 3, 1, 2)
    scaled = functional.interpolate(tiles, size=(tile, tile), mode="bicubic", align_corners=False, antialias=True)
    values = scaled.permute(0, 2, 3, 1).numpy()
    return join_tiles(values[:4], values[4:])
