"""Several answers to one photo, for the artist to choose from: the visible side stays, the hidden side differs.

All are samples of one batch. Each is fitted to the photo's outline and textured from the photo, so they agree where the
photo shows the object; those that would look the same from behind too are passed over while there are others. (Not in
the paper; its sampler is random in the same way.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from backend.contract import meshes
from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.formats.images import encode_png
from backend.rendering.thumbnails import DEFAULT_EYE, THUMBNAIL_SIZE
from backend.rendering.views import render_mesh
from backend.systems.base import ArtifactData, Hooks
from backend.systems.cupid.condition import Condition
from backend.systems.cupid.model import CupidModel
from backend.systems.cupid.object_stage import MadeObject, encode_photos, finish_object, fit_to_photo, tell_cameras
from backend.systems.cupid.photo import Photo
from backend.systems.cupid.photo_results import camera_files
from backend.systems.cupid.request import Request
from backend.systems.cupid.structure_decode import voxel_centres
from backend.systems.cupid.structure_stage import (
    Hypothesis,
    fitted,
    ranking,
    read_views,
    sample_hypotheses,
    silhouette_overlap,
)

FITTING_OUTLINE = 0.85  # IoU with the photo's outline from which on an answer is offered beside the best one
SAME_SHAPE = 0.75  # IoU of two shapes as the photo's camera sees them, from which on they count as one answer
GRID = 16  # cells a side in which shapes are compared: details do not make another answer
TURN = np.radians(140.0)  # how far the thumbnail's view is turned away from the photo's, about the vertical
ELEVATION = np.radians([10.0, 50.0])  # of the thumbnail's view: where the photo's lies outside, the sides are not seen
FOCAL = 1.6
INSET = 0.36  # share of the thumbnail's side that the view through the photo's camera takes


def make_variants(
    networks: CupidModel,
    photo: Photo,
    request: Request,
    generator: torch.Generator,
    hooks: Hooks,
    more: Sequence[Photo] = (),
) -> list[MadeObject]:
    """Up to `request.hypotheses` objects, best first, by the stages encode_image to decode_mesh.

    Errors: `MaquetteError` when no object takes shape.
    """
    photos = (photo, *more)
    conditions = encode_photos(networks, photos, hooks)
    found = find_variants(networks, conditions, photos, generator, request, hooks)
    tell_cameras(found[0], hooks)
    return [finish_object(networks, conditions, photos, each, request, generator, hooks) for each in found]


def find_variants(
    networks: CupidModel,
    conditions: Sequence[Condition],
    photos: Sequence[Photo],
    generator: torch.Generator,
    request: Request,
    hooks: Hooks,
) -> list[Hypothesis]:
    """The samples worth showing, best first, distinct ones before those that resemble one of them."""
    found, logits = sample_hypotheses(networks, conditions, photos, generator, request, hooks)
    alphas = [photo.seen_alpha for photo in photos]
    fit, known = networks.settings.fit_silhouette, request.camera is not None
    chosen: list[Hypothesis] = []
    shapes: list[np.ndarray] = []
    similar: list[Hypothesis] = []
    wanted = 0.0
    for index in ranking(found, alphas, read_views(networks, found, photos)):
        hooks.check_cancelled()
        each = fitted(found[index], logits[index], alphas, photos, known) if fit else found[index]
        outline = each.fit.iou_reshaped if each.fit is not None else silhouette_overlap(each, alphas)
        if not chosen:
            wanted = min(FITTING_OUTLINE, outline)
        if outline < wanted:
            continue
        shape = seen_shape(each)
        if any(shape_overlap(shape, other) >= SAME_SHAPE for other in shapes):
            similar.append(each)
            continue
        chosen.append(each)
        shapes.append(shape)
        if len(chosen) == request.hypotheses:
            break
    return (chosen + similar)[: request.hypotheses]


def seen_shape(hypothesis: Hypothesis) -> np.ndarray:
    """The solid as the photo's camera sees it, [GRID,GRID,GRID] bool: two cameras may turn one answer differently.

    Without a camera in the object's own frame.
    """
    points = voxel_centres(hypothesis.structure.coords, hypothesis.resolution).cpu().numpy().astype(np.float64)
    crop = hypothesis.camera.crop
    if crop is not None:
        points = points @ crop.world_to_camera[:3, :3].T + crop.world_to_camera[:3, 3]
        # Pictures say nothing of size: in units of the picture at the object's distance.
        points = points * (crop.intrinsics[0, 0] / max(crop.world_to_camera[2, 3], 1e-3))
    middle = (points.min(0) + points.max(0)) / 2
    if crop is not None:
        middle[:2] = (np.array([0.5, 0.5]) - crop.intrinsics[:2, 2])
    cells = np.floor((points - middle + 0.5) * GRID).astype(int).clip(0, GRID - 1)
    grid = np.zeros((GRID,) * 3, bool)
    grid[tuple(cells.T)] = True
    return np.asarray(ndimage.binary_fill_holes(grid))


def shape_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two shapes of `seen_shape`."""
    return float((first & second).sum() / max((first | second).sum(), 1))


def gallery(
    made: Sequence[MadeObject], photo: Photo, more: Sequence[Photo] = ()
) -> tuple[list[ArtifactData], list[dict[str, Any]]]:
    """The artifacts hypothesis_k.mesh, .png and .json of each object, and its scores for the report.

    With `more` photos of the object, hypothesis_k_camera_1.json, ... are their cameras.
    """
    files, scores = [], []
    for index, each in enumerate(made):
        camera = each.camera
        score = {
            **fit_to_photo(each.mesh, photo, camera),
            "outline": camera.outline,
            "trusted": camera.trusted,
            "voxels": len(each.structure.coords),
            "triangles": len(each.mesh.faces),
        }
        first, *others = camera_files([photo, *more], [camera, *each.more_cameras])
        about = {"camera": json.loads(first.data), "scores": score}
        name = f"hypothesis_{index}"
        files += [
            ArtifactData(f"{name}.mesh", meshes.mesh_to_bytes(each.mesh), meshes.MEDIA_TYPE),
            ArtifactData(f"{name}.png", both_sides(each), "image/png"),
            ArtifactData(f"{name}.json", json.dumps(about, indent=1).encode(), "application/json"),
            *(replace(other, name=f"{name}_{other.name}") for other in others),
        ]
        scores.append(score)
    return files, scores


def both_sides(made: MadeObject) -> bytes:
    """PNG with alpha of the side that the photo hides, and small in a corner the view through the photo's camera."""
    size = THUMBNAIL_SIZE
    crop = made.camera.crop
    eye = np.array(DEFAULT_EYE)
    if crop is not None:
        eye = -crop.world_to_camera[:3, :3].T @ crop.world_to_camera[:3, 3]
    lens = np.array([[FOCAL, 0.0, 0.5], [0.0, FOCAL, 0.5], [0.0, 0.0, 1.0]])
    canvas = _picture(made.mesh, turned_view(made.mesh, eye), lens, size)
    if crop is not None:
        side = round(INSET * size)
        inset = _picture(made.mesh, crop.world_to_camera, crop.intrinsics, side)
        canvas.alpha_composite(inset, (0, size - side))
    return encode_png(np.asarray(canvas))


def turned_view(mesh: MeshData, eye: np.ndarray) -> np.ndarray:
    """`world_to_camera` [4,4] of a view of the whole mesh from `eye` [3] turned by TURN, not too steep."""
    low, high = mesh.vertices.min(0).astype(np.float64), mesh.vertices.max(0).astype(np.float64)
    middle, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    direction = eye - middle
    azimuth = np.arctan2(direction[1], direction[0]) + TURN
    elevation = np.arctan2(direction[2], np.linalg.norm(direction[:2])).clip(*ELEVATION)
    turned = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    distance = max(radius, 1e-3) / np.sin(np.arctan(0.5 / FOCAL))
    return look_at(middle + distance * turned, middle)


def _picture(mesh: MeshData, world_to_camera: np.ndarray, intrinsics: np.ndarray, side: int) -> Image.Image:
    view = render_mesh(mesh, world_to_camera, intrinsics, (side, side), background=(0.0, 0.0, 0.0))
    straight = view.color / np.maximum(view.alpha, 1e-3)[..., None]
    return Image.fromarray(np.rint(np.dstack([straight, view.alpha]).clip(0, 1) * 255).astype(np.uint8), "RGBA")
