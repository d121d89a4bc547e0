"""How true a picture and its point map are to the mesh: the mesh is drawn again under the picture's solved camera.

Every measure compares a painted picture or point map [S,S,3] in [0,1] with that drawing. The camera comes from the
point map itself: the object may be seen from anywhere, but only as one camera can see it. Whether the picture shows
the same is what PSNR, SSIM and matches tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.contract.frames import look_at, project
from backend.contract.meshes import MeshData
from backend.data.reference_layout import ELEVATION_DEGREES
from backend.rendering.image_metrics import best_gain, mask_iou, psnr, ssim_map
from backend.rendering.rasterizer import rasterize
from backend.rendering.views import interpolate
from backend.systems.refany3d.condition_views import base_colors, joined
from backend.systems.refany3d.point_maps import Bounds, bounds_of, decode_points, encode_points, foreground

SUPERSAMPLE = 2  # a side, for colours: the pictures that are compared are smooth at edges
LEAST_PIXELS = 16  # of the object; fewer tell nothing
WORST = {"pointmap_error": 1.0, "silhouette_iou": 0.0, "masked_psnr": 0.0, "masked_ssim": 0.0, "inside_psnr": 0.0}
"""Of a result without a camera. A point map cannot be much further off than the object is long."""
FOCAL = 1.5  # picture widths: of a random camera, where none was solved


@dataclass(frozen=True)
class Subject:
    """A mesh in parts, its joined vertices [V,3] and faces [F,3] in world axes, and its box."""

    parts: tuple[MeshData, ...]
    vertices: np.ndarray
    faces: np.ndarray
    bounds: Bounds


@dataclass(frozen=True)
class Drawing:
    """A mesh under a camera. color [S,S,3] unlit, on white; points [S,S,3] coded, on white; mask [S,S] bool."""

    color: np.ndarray
    points: np.ndarray
    mask: np.ndarray


def subject_of(parts: Sequence[MeshData]) -> Subject:
    """Errors: ValueError when there is no face."""
    vertices, faces = joined(parts)
    return Subject(tuple(parts), vertices, faces, bounds_of(vertices[np.unique(faces)]))


def draw(subject: Subject, world_to_camera: np.ndarray, intrinsics: np.ndarray, size: int) -> Drawing:
    """The mesh through a camera [4,4], [3,3], `size` pixels square."""
    vertices, faces = subject.vertices, subject.faces
    raster = rasterize(vertices, faces, world_to_camera, intrinsics, (size, size))
    codes = interpolate(raster, faces, encode_points(vertices, subject.bounds))
    large = (SUPERSAMPLE * size, SUPERSAMPLE * size)
    fine = rasterize(vertices, faces, world_to_camera, intrinsics, large)
    samples = np.where(fine.mask[..., None], base_colors(fine, subject.parts), 1.0)
    color = samples.reshape(size, SUPERSAMPLE, size, SUPERSAMPLE, 3).mean(axis=(1, 3))
    return Drawing(color, np.where(raster.mask[..., None], codes, 1.0), raster.mask)


def score(picture: np.ndarray, points: np.ndarray, drawing: Drawing, bounds: Bounds) -> dict[str, float]:
    """The measures that need a camera, by name, of a picture and its point map [S,S,3]."""
    return {
        "pointmap_error": pointmap_error(points, drawing, bounds),
        "silhouette_iou": mask_iou(foreground(points), drawing.mask),
        "masked_psnr": masked_psnr(picture, points, drawing),
        "masked_ssim": masked_ssim(picture, points, drawing),
        "inside_psnr": inside_psnr(picture, drawing),
    }


def pointmap_error(points: np.ndarray, drawing: Drawing, bounds: Bounds) -> float:
    """Mean distance, in lengths of the object's longest side, between the place that a pixel of the point map [S,S,3]
    says and the place of the mesh that the solved camera sees there.

    Over the pixels that both the point map and the mesh cover; what only one covers is the silhouettes' affair. The
    worst, 1, when they hardly meet.
    """
    both = foreground(points) & drawing.mask
    if both.sum() < LEAST_PIXELS:
        return WORST["pointmap_error"]
    places = [decode_points(each[both], bounds) for each in (points, drawing.points)]
    return float(np.linalg.norm(places[0] - places[1], axis=1).mean() / (bounds.longest or 1.0))


def matched_color(drawing: Drawing, picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The drawing's colours [S,S,3] in the picture's light: for each channel the gain, none below 0, and the offset
    that are best `where` [S,S] both show the object; its own colours where they hardly meet. A picture is lit and the
    drawing is not."""
    if where.sum() < LEAST_PIXELS:
        return drawing.color
    shown, wanted = drawing.color[where], np.asarray(picture, np.float64)[where]
    moved = (drawing.color - shown.mean(axis=0)) * best_gain(shown, wanted) + wanted.mean(axis=0)
    return np.asarray(moved.clip(0.0, 1.0))


def cut_outs(picture: np.ndarray, points: np.ndarray, drawing: Drawing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The painted object, cut out by its point map, and the mesh in its light, cut out by its silhouette, [S,S,3] both,
    before the mean colour that the picture has around its object; and the pixels [S,S] that either covers.

    What only one of them covers is wrong by its contrast to that background: a mesh beside the painted object must not
    be compared with the ground that happens to be there.
    """
    shown = foreground(points)
    around = np.asarray(picture[~shown].mean(axis=0) if not shown.all() else np.ones(3))
    lit = matched_color(drawing, picture, shown & drawing.mask)
    painted, mesh = (
        np.where(mask[..., None], color, around) for mask, color in ((shown, picture), (drawing.mask, lit))
    )
    return painted, mesh, shown | drawing.mask


def masked_psnr(picture: np.ndarray, points: np.ndarray, drawing: Drawing) -> float:
    """PSNR in dB between the painted object and the mesh in its light, over all pixels that either covers."""
    if drawing.mask.sum() < LEAST_PIXELS:
        return WORST["masked_psnr"]
    painted, mesh, either = cut_outs(picture, points, drawing)
    return psnr(painted[either], mesh[either])


def masked_ssim(picture: np.ndarray, points: np.ndarray, drawing: Drawing) -> float:
    """Mean structural similarity of the painted object and the mesh in its light around all pixels that either
    covers."""
    if drawing.mask.sum() < LEAST_PIXELS:
        return WORST["masked_ssim"]
    painted, mesh, either = cut_outs(picture, points, drawing)
    return float(ssim_map(painted, mesh)[either].mean())


def inside_psnr(picture: np.ndarray, drawing: Drawing) -> float:
    """PSNR in dB between the picture and the mesh in its light over the mesh's silhouette alone, whatever the picture
    shows there: an even background, too, is then a good likeness."""
    if drawing.mask.sum() < LEAST_PIXELS:
        return WORST["inside_psnr"]
    return psnr(matched_color(drawing, picture, drawing.mask)[drawing.mask], picture[drawing.mask])


def composite(picture: np.ndarray, color: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`color` [S,S,3] before `picture` [S,S,3] where `mask` [S,S] is."""
    return np.where(mask[..., None], color, picture)


def random_camera(subject: Subject, points: np.ndarray | None, focal: float, rng: np.random.Generator) -> np.ndarray:
    """`world_to_camera` [4,4] of a pose that knows nothing but where and how large the object is: from anywhere around
    at the heights of the training scenes, its box in the picture as long as the point map's and in the same place.

    A harder baseline than any pose at all. Without a point map the object fills two thirds of the picture's middle.
    """
    low, high = np.full(2, 1 / 6), np.full(2, 5 / 6)
    shown = np.argwhere(foreground(points)) if points is not None else np.zeros((0, 2))
    if points is not None and len(shown) >= LEAST_PIXELS:
        low, high = shown.min(axis=0)[::-1] / len(points), (shown.max(axis=0)[::-1] + 1) / len(points)
    azimuth, elevation = rng.uniform(0.0, 2.0 * np.pi), np.radians(rng.uniform(*ELEVATION_DEGREES))
    flat = np.cos(elevation)
    direction = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    used = subject.vertices[np.unique(subject.faces)]
    centre, longest = subject.bounds.centre, subject.bounds.longest or 1.0
    lens = np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
    near, far = 0.9, 60.0  # longest sides
    for _ in range(30):
        distance = np.sqrt(near * far)
        matrix = look_at(centre + distance * longest * direction, centre)
        uv, depth = project(used, matrix, lens)
        fits = bool((depth > 0).all()) and float(np.ptp(uv, axis=0).max()) < float((high - low).max())
        near, far = (near, distance) if fits else (distance, far)
    offset = (low + high) / 2 - (uv.min(axis=0) + uv.max(axis=0)) / 2
    matrix[:2, 3] += offset * float(np.median(depth)) / focal
    return np.asarray(matrix)
