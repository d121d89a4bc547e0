"""How close a mesh comes to what it should be: surface distances and directions, and pictures from fixed views.

Nothing is fitted: both lie in the same object cube. Distances are in object units (longest side = 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from backend.contract.bundle_views import bundle_intrinsics, bundle_view
from backend.contract.meshes import MeshData
from backend.geometry.surface_sampling import sample_surface
from backend.rendering.image_metrics import mask_iou, psnr, ssim
from backend.rendering.views import render_mesh

SAMPLES = 40_000  # normals of nearest points agree as well as the points are dense
LIMIT = 0.05  # distance within which a point counts as found
FIXED_VIEWS = ((0, 5), (90, 5), (180, 5), (270, 5), (45, 30), (225, 30))  # azimuth and elevation in degrees
VIEW_SIZE = 256

Camera = tuple[np.ndarray, np.ndarray]
"""world_to_camera [4,4] and normalised intrinsics [3,3]."""


@dataclass(frozen=True)
class Picture:
    """What a camera should see: color [H,W,3] in [0,1] on white, mask [H,W] bool."""

    camera: Camera
    color: np.ndarray
    mask: np.ndarray


def surface_scores(points: np.ndarray, normals: np.ndarray, truth: np.ndarray, truth_normals: np.ndarray) -> dict:
    """Chamfer distance, F-score, its precision and recall, and normal consistency of points [N,3] with unit normals
    against true ones [M,3].

    Normal consistency is the mean absolute cosine between the normals of nearest points, both ways averaged, so that
    the two sides of a thin sheet count as one.
    """
    if not len(points):
        nothing = ("fscore_05", "precision_05", "recall_05", "normal_consistency")
        return {"chamfer": 1.0, **dict.fromkeys(nothing, 0.0)}
    to_truth, true_row = cKDTree(truth).query(points)
    to_points, own_row = cKDTree(points).query(truth)
    precision, recall = float((to_truth < LIMIT).mean()), float((to_points < LIMIT).mean())
    own = np.abs(np.einsum("ni,ni->n", normals, truth_normals[true_row])).mean()
    back = np.abs(np.einsum("ni,ni->n", truth_normals, normals[own_row])).mean()
    return {
        "chamfer": float((to_truth.mean() + to_points.mean()) / 2),
        "fscore_05": 2 * precision * recall / max(precision + recall, 1e-9),
        "precision_05": precision,
        "recall_05": recall,
        "normal_consistency": float((own + back) / 2),
    }


def picture_scores(mesh: MeshData, pictures: Sequence[Picture]) -> dict:
    """Mean PSNR, SSIM and mask IoU of a mesh drawn into true pictures."""
    found = []
    for picture in pictures:
        height, width = picture.mask.shape
        shown = render_mesh(mesh, *picture.camera, (width, height))
        iou = mask_iou(shown.mask, picture.mask)
        found.append((psnr(shown.color, picture.color), ssim(shown.color, picture.color), iou))
    means = np.mean(found, axis=0) if found else np.zeros(3)
    return {"psnr": float(means[0]), "ssim": float(means[1]), "mask_iou": float(means[2])}


def fixed_cameras(views: Sequence[tuple[float, float]] = FIXED_VIEWS) -> list[Camera]:
    """The bundle's four cameras and two from above."""
    return [(bundle_view(azimuth, elevation), bundle_intrinsics()) for azimuth, elevation in views]


def mesh_pictures(mesh: MeshData, cameras: Sequence[Camera], size: int = VIEW_SIZE) -> list[Picture]:
    """What the cameras see of a mesh."""
    pictures = []
    for camera in cameras:
        shown = render_mesh(mesh, *camera, (size, size))
        pictures.append(Picture(camera, shown.color, shown.mask))
    return pictures


def compare_meshes(mesh: MeshData, original: MeshData, size: int = VIEW_SIZE) -> dict:
    """`surface_scores` and `picture_scores` of a mesh against an original in the same cube: how much a repair or an
    enhancement brought back. Errors: ValueError for a mesh without a surface."""
    own, truth = sample_surface(mesh, SAMPLES), sample_surface(original, SAMPLES)
    surface = surface_scores(own.points, own.normals, truth.points, truth.normals)
    return surface | picture_scores(mesh, mesh_pictures(original, fixed_cameras(), size))
