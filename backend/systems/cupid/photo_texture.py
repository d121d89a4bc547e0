"""The texture of a result: what the solved camera sees takes the photo's colours, texel by texel.

Every texel is a point of the surface. Where the camera sees it (nearest in depth, not at a grazing angle, inside the
object's mask) it takes the photo's colour. Where it does not, but the point mirrored at the plane x = 0 is seen and the
shape is symmetric, it takes that colour. Several photos are blended by angle (`photo_blend`). Everything else blends
into base colours: the decoder's, corrected by what the photo shows nearby, or the nearest seen colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from backend.contract.frames import project
from backend.contract.meshes import MeshData
from backend.rendering.rasterizer import rasterize
from backend.rendering.views import sample_bilinear
from backend.systems.cupid.photo_blend import PhotoBlend, Projection
from backend.systems.finishing import PLAIN, TEXTURE_SIZE, Canvas, FinishOptions, Painter, Reshape, finish

DEPTH_SIZE = 384  # pixels of the depth picture that decides visibility
DEPTH_SLACK = 0.004  # object units a point may lie behind the nearest surface beside what its slope explains
GRAZING, FACING = 0.05, 0.25  # cosines to the view ray between which the photo's weight rises from 0 to 1
OPAQUE = 0.9  # alpha from which a pixel shows the object and nothing of its background
ERODED = 0.002  # share of the photo's side whose colours at the mask's rim are not used (at least a pixel): mixed ones
REACH = 0.01  # share of the photo's side that the colours inside are carried over the eroded rim: meshes overshoot
SOFTNESS = 0.01  # share of the photo's side over which it is blurred before its colours spread to hidden surface
NEIGHBOURS = 8
SMOOTHING_ROUNDS = 40  # of the spread colours over the mesh: no steps where the nearest seen place changes
FADE = 0.1  # object units over which the photo's correction of the base colours dies away
SYMMETRIC_SHARE = 0.9  # of the vertices must have a mirrored partner
PARTNER_DISTANCE = 0.02  # object units

PhotoView = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A picture [H,W,4] uint8 with straight alpha, its `world_to_camera` [4,4] and normalised intrinsics [3,3]."""


@dataclass(frozen=True)
class PhotoProjection:
    """A photo with its camera.

    colors [H,W,3] float32, the object's carried out over its rim; inside [H,W] float32: where these show the object;
    depth [D,D] of the nearest surface, inf where there is none; world_to_camera [4,4]; normalised intrinsics [3,3].
    """

    colors: np.ndarray
    inside: np.ndarray
    depth: np.ndarray
    world_to_camera: np.ndarray
    intrinsics: np.ndarray

    def sample(self, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Colours [N,3] at surface `points` [N,3] with `normals` [N,3], and how much to believe them [N] in [0,1]."""
        rotation, shift = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        rays = points + (rotation.T @ shift)  # from the camera's centre -R^T t
        rays = rays / np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-9)
        cosine = -np.einsum("nk,nk->n", normals, rays)
        colors, weight = np.zeros((len(points), 3), np.float32), np.zeros(len(points), np.float32)
        rows = np.flatnonzero(cosine > GRAZING)
        uv, depth = project(points[rows], self.world_to_camera, self.intrinsics)
        within = ((uv >= 0) & (uv < 1)).all(axis=1) & (depth > 0)
        rows, uv, depth = rows[within], uv[within], depth[within]
        side = len(self.depth)
        pixel = np.floor(uv * side).astype(np.int64).clip(0, side - 1)
        slope = np.sqrt(1.0 - cosine[rows].clip(GRAZING, 1.0) ** 2) / cosine[rows].clip(GRAZING, 1.0)
        focal = max(min(abs(self.intrinsics[0, 0]), abs(self.intrinsics[1, 1])), 1e-6)
        pitch = depth / (side * focal)  # object units across a pixel of the depth picture
        seen = np.abs(depth - self.depth[pixel[:, 1], pixel[:, 0]]) <= DEPTH_SLACK + 2.0 * pitch * slope
        rows, uv = rows[seen], uv[seen]
        share = ((cosine[rows] - GRAZING) / (FACING - GRAZING)).clip(0, 1)
        colors[rows] = sample_bilinear(self.colors, uv)
        weight[rows] = share * share * (3.0 - 2.0 * share) * sample_bilinear(self.inside[..., None], uv)[:, 0]
        return colors, weight

    def softened(self) -> PhotoProjection:
        """The same photo blurred, for colours that spread over hidden surface."""
        blur = SOFTNESS * max(self.colors.shape[:2])
        return replace(self, colors=ndimage.gaussian_filter(self.colors, (blur, blur, 0.0)))


def photo_projection(
    vertices: np.ndarray, faces: np.ndarray, rgba: np.ndarray, world_to_camera: np.ndarray, intrinsics: np.ndarray
) -> PhotoProjection:
    """Prepare `rgba` [H,W,4] uint8 straight alpha, the picture of the normalised `intrinsics` [3,3]."""
    side = max(rgba.shape[:2])
    rim = max(1, round(ERODED * side))
    pure = ndimage.binary_erosion(rgba[..., 3] >= OPAQUE * 255, np.ones((3, 3), bool), rim, border_value=1)
    colors = rgba[..., :3].astype(np.float32) / np.float32(255)
    inside = np.zeros(pure.shape, bool)
    if pure.any():
        distance, (rows, columns) = ndimage.distance_transform_edt(~pure, return_indices=True)
        colors = colors[rows, columns]
        inside = distance <= max(REACH * side, rim + 1)
    raster = rasterize(vertices, faces, world_to_camera, intrinsics, (DEPTH_SIZE, DEPTH_SIZE))
    depth = np.where(raster.mask, raster.depth, np.inf)
    return PhotoProjection(colors, inside.astype(np.float32), depth, world_to_camera, intrinsics)


def textured_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    rgba: np.ndarray,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    base: np.ndarray | None = None,
    size: int = TEXTURE_SIZE,
    more: Sequence[PhotoView] = (),
    options: FinishOptions | None = None,
    reshape: Reshape | None = None,
) -> MeshData:
    """The finished mesh with a texture of `size` texels a side from the photo and `base` [V,3] in [0,1] (or no such
    colours).

    `more` are further photos of the object; `options` say more than the size, `reshape` is `finish`'s. vertices [V,3],
    faces [F,3], the rest as in `photo_projection`. Errors: ValueError for a mesh without triangles.
    """
    photos = [(rgba, world_to_camera, intrinsics), *more]
    return finish(vertices, faces, options or FinishOptions(texture_size=size), base, photo_painter(photos), reshape)


def photo_painter(photos: Sequence[PhotoView]) -> Painter:
    """A painter with the colours of `photos`, sharp where they show the surface."""

    def painted(canvas: Canvas) -> np.ndarray:
        view = blended_photos(canvas.vertices, canvas.faces, photos)
        mirror = is_symmetric(canvas.shape_vertices)
        hidden = base_colors(canvas.vertices, canvas.faces, canvas.normals, view, canvas.base, mirror)
        if canvas.base is None or canvas.texel_base is None:
            colors = canvas.texels.interpolate(canvas.faces, hidden)
        else:  # the dense surface's colours, with the photo's correction, which is smooth
            correction = canvas.texels.interpolate(canvas.faces, hidden - canvas.base)
            colors = (canvas.texel_base + correction).clip(0.0, 1.0)
        shown, weight = seen_colors(canvas.points, canvas.point_normals, view, mirror)
        return np.asarray(colors + weight[:, None] * (shown - colors))

    return painted


def blended_photos(vertices: np.ndarray, faces: np.ndarray, photos: Sequence[PhotoView]) -> Projection:
    """The photos of a mesh as one source of colour."""
    views = tuple(photo_projection(vertices, faces, *photo) for photo in photos)
    return views[0] if len(views) == 1 else PhotoBlend(views)


def seen_colors(
    points: np.ndarray, normals: np.ndarray, view: Projection, mirror: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Colours [N,3] that the photo gives the points [N,3], directly or from their mirror image, and weights [N]."""
    colors, weight = view.sample(points, normals)
    if mirror:
        rest = np.flatnonzero(weight < 1.0)
        flip = np.array([-1.0, 1.0, 1.0], np.float32)
        other, other_weight = view.sample(points[rest] * flip, normals[rest] * flip)
        own = weight[rest]
        total = own + (1.0 - own) * other_weight
        part = np.where(total > 0, (1.0 - own) * other_weight / np.maximum(total, 1e-6), 0.0)[:, None]
        colors[rest] += part * (other - colors[rest])
        weight[rest] = total
    return colors, weight


def base_colors(
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    view: Projection,
    base: np.ndarray | None,
    mirror: bool,
) -> np.ndarray:
    """Colours [V,3] for what no photo shows: `base` [V,3] with the photo's correction nearby, else the colours seen
    nearest, both without the photo's noise and without steps."""
    shown, weight = seen_colors(vertices.astype(np.float32), normals, view.softened(), mirror)
    known = weight > 0.5
    if not known.any():
        return np.tile(PLAIN, (len(vertices), 1)) if base is None else np.asarray(base, np.float64)
    values = shown[known].astype(np.float64) - (0.0 if base is None else np.asarray(base, np.float64)[known])
    count = min(NEIGHBOURS, len(values))
    distance, index = cKDTree(vertices[known]).query(vertices, k=count)
    distance, index = distance.reshape(-1, count), index.reshape(-1, count)
    near = 1.0 / (distance + 1e-3)
    spread = (values[index] * (near / near.sum(axis=1, keepdims=True))[..., None]).sum(axis=1)
    spread = _smooth(spread, faces, ~known)
    if base is None:
        return spread
    return (base + spread * np.exp(-distance[:, :1] / FADE)).clip(0, 1)


def _smooth(values: np.ndarray, faces: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Values [V,C] where the `free` [V] vertices moved towards the mean of their neighbours, many times."""
    edges = np.concatenate([faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()])
    others = np.concatenate([faces[:, [1, 2, 0]].ravel(), faces[:, [0, 1, 2]].ravel()])
    graph = csr_matrix((np.ones(len(edges)), (edges, others)), shape=(len(values), len(values)))
    degree = np.asarray(graph.sum(axis=1)).ravel()
    rows = np.flatnonzero(free & (degree > 0))
    graph, degree = graph[rows], degree[rows, None]
    smooth = values.copy()
    for _ in range(SMOOTHING_ROUNDS):
        smooth[rows] = graph @ smooth / degree
    return smooth


def is_symmetric(vertices: np.ndarray) -> bool:
    """Whether the shape of `vertices` [V,3] is its own mirror image at x = 0, but for a few details."""
    flipped = vertices * [-1.0, 1.0, 1.0]
    distance, _ = cKDTree(vertices).query(flipped, distance_upper_bound=PARTNER_DISTANCE)
    return bool((distance <= PARTNER_DISTANCE).mean() >= SYMMETRIC_SHARE)
