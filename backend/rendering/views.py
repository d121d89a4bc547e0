"""Pictures of a mesh: colour, coverage, depth and normals of one view, with supersampling.

Unlit: colours are shown as they are, which is what a photo-coloured asset needs for comparison. Images are [H,W,C]
float32,
sRGB, alpha straight.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from backend.contract.meshes import MeshData
from backend.rendering.rasterizer import Raster, rasterize

PLAIN_COLOR = (0.7, 0.7, 0.7)  # grey of meshes without colours


@dataclass(frozen=True)
class View:
    """color [H,W,3] over the background, alpha [H,W], depth [H,W] (0 = none, first sample), normal [H,W,3] in world
    axes."""

    color: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray
    normal: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Pixels that are at least half covered [H,W] bool."""
        return self.alpha >= 0.5


def interpolate(raster: Raster, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values at vertices [V,C] -> values at pixels [H,W,C] float32; zero on the background."""
    corners = np.asarray(faces)[raster.face.clip(0)] if len(faces) else np.zeros((*raster.face.shape, 3), int)
    if not len(values):
        return np.zeros((*raster.face.shape, np.shape(values)[1]), np.float32)
    picked = np.asarray(values, dtype=np.float32)[corners]  # [H,W,3,C]
    return np.einsum("hwk,hwkc->hwc", raster.barycentric, picked) * raster.mask[..., None]


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals [V,3] float32; (0,0,1) where a vertex belongs to no triangle."""
    vertices = np.asarray(vertices, dtype=np.float64)
    faces = np.asarray(faces, dtype=np.int64).reshape(-1, 3)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.stack(
        [
            np.bincount(faces.ravel(), weights=np.repeat(face_normals[:, axis], 3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 1e-20, normals / np.maximum(length, 1e-20), [0.0, 0.0, 1.0]).astype(np.float32)


def render_view(
    vertices: np.ndarray,
    faces: np.ndarray,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    vertex_colors: np.ndarray | None = None,
    corner_uvs: np.ndarray | None = None,
    texture: np.ndarray | None = None,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    supersample: int = 1,
) -> View:
    """Draw a mesh. `vertex_colors` [V,3] in [0,1]; or `corner_uvs` [3F,2] (v up) with `texture` [h,w,3].

    size = (width, height); every pixel is the mean of `supersample`^2 samples.
    """
    width, height = size
    raster = rasterize(vertices, faces, world_to_camera, intrinsics, (width * supersample, height * supersample))
    mask = raster.mask
    if texture is not None and corner_uvs is not None:
        color = _sample_texture(raster, corner_uvs, texture)
    elif vertex_colors is not None:
        color = interpolate(raster, faces, np.asarray(vertex_colors)[:, :3])
    else:
        color = np.broadcast_to(np.asarray(PLAIN_COLOR, np.float32), (*mask.shape, 3)) * mask[..., None]
    normal = interpolate(raster, faces, vertex_normals(vertices, faces))
    color = color + (1.0 - mask[..., None]) * np.asarray(background, np.float32)
    alpha = _box(mask.astype(np.float32)[..., None], supersample)[..., 0]
    normal = _box(normal, supersample)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return View(
        color=_box(color.astype(np.float32), supersample),
        alpha=alpha,
        depth=raster.depth[::supersample, ::supersample],
        normal=(normal / np.maximum(length, 1e-8)).astype(np.float32),
    )


def render_mesh(
    mesh: MeshData,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    supersample: int = 2,
) -> View:
    """`render_view` of a contract mesh: its texture if it has one, else its vertex colours, else grey."""
    texture = None
    if mesh.texture and mesh.uvs is not None:
        texture = np.asarray(Image.open(io.BytesIO(mesh.texture)).convert("RGB"), np.float32) / 255.0
    colors = None if mesh.colors is None else np.asarray(mesh.colors, np.float32)[:, :3] / 255.0
    return render_view(
        mesh.vertices, mesh.faces, world_to_camera, intrinsics, size, colors, mesh.uvs, texture, background, supersample
    )


def _sample_texture(raster: Raster, corner_uvs: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """The texture [h,w,3], interpolated between texels as Blender does it, at each covered pixel [H,W,3]."""
    hit = raster.mask
    corner = np.asarray(corner_uvs, np.float32).reshape(-1, 3, 2)[raster.face[hit]]  # [N,3,2]
    uv = np.einsum("nk,nkc->nc", raster.barycentric[hit], corner)
    color = np.zeros((*hit.shape, 3), np.float32)
    color[hit] = sample_bilinear(texture[..., :3], np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1))
    return color


def sample_bilinear(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """`image` [H,W,C] at normalised places uv [N,2] (v down) -> [N,C] float32; outside, the nearest inside."""
    height, width = image.shape[:2]
    x = (uv[:, 0] * width - 0.5).clip(0, width - 1)
    y = (uv[:, 1] * height - 0.5).clip(0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, low = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
    upper = image[top, left] * (1 - fx) + image[top, right] * fx
    lower = image[low, left] * (1 - fx) + image[low, right] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float32)


def _box(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean over factor x factor blocks: [H*factor,W*factor,C] -> [H,W,C]."""
    if factor == 1:
        return image
    height, width, channels = image.shape
    return image.reshape(height // factor, factor, width // factor, factor, channels).mean(axis=(1, 3))
