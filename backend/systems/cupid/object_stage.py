"""One object from its prepared photo: stage 1, its camera, stage 2, the surface. All tasks are made of this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from backend.contract.meshes import MeshData
from backend.contract.splats import Splats
from backend.formats.images import photo_on_white
from backend.rendering.image_metrics import mask_iou, psnr, ssim
from backend.systems.base import Hooks
from backend.systems.cupid import results
from backend.systems.cupid.condition import Condition, encode_photo
from backend.systems.cupid.latent_stage import decode_mesh, mesh_from_structure, sample_latent
from backend.systems.cupid.model import CupidModel
from backend.systems.cupid.outline_snap import Outline
from backend.systems.cupid.photo import Photo
from backend.systems.cupid.request import Request
from backend.systems.cupid.silhouette_fit import SilhouetteFit
from backend.systems.cupid.splats import make_splats
from backend.systems.cupid.structure_decode import Structure
from backend.systems.cupid.structure_stage import Hypothesis, SolvedCamera, find_structure

ONLY_STAGE_1 = "stage 2 not trained: mesh from occupancy"
TOO_MANY_VOXELS = "{dropped:,} of {all:,} voxels left out, the least certain: more would take too long"


@dataclass(frozen=True)
class MadeObject:
    """A mesh in the object cube, the camera of its photo, what they came from, and `notes` on what was left out.

    `more_cameras` are those of further photos; splats where the job asked for them.
    """

    mesh: MeshData
    camera: SolvedCamera
    structure: Structure
    fit: SilhouetteFit | None
    notes: tuple[str, ...]
    more_cameras: tuple[SolvedCamera, ...] = ()
    splats: Splats | None = None


def make_object(
    networks: CupidModel,
    photo: Photo,
    request: Request,
    generator: torch.Generator,
    hooks: Hooks,
    more: Sequence[Photo] = (),
) -> MadeObject:
    """Stages encode_image to decode_mesh; `more` are further photos of the same object (spec 10).

    Errors: `MaquetteError` when no object takes shape.
    """
    photos = (photo, *more)
    conditions = encode_photos(networks, photos, hooks)
    found = find_structure(networks, conditions, photos, generator, request, hooks)
    tell_cameras(found, hooks)
    return finish_object(networks, conditions, photos, found, request, generator, hooks)


def encode_photos(networks: CupidModel, photos: Sequence[Photo], hooks: Hooks) -> list[Condition]:
    """Stage encode_image: a condition for each photo."""
    hooks.stage("encode_image")
    return [encode_photo(networks, photo) for photo in photos]


def tell_cameras(found: Hypothesis, hooks: Hooks) -> None:
    """Say what is to be thought of the cameras."""
    for number, each in enumerate(found.cameras, start=1):
        if each.message:
            hooks.message(each.message if not found.more else f"Photo {number}: {each.message}")


def finish_object(
    networks: CupidModel,
    conditions: Sequence[Condition],
    photos: Sequence[Photo],
    found: Hypothesis,
    request: Request,
    generator: torch.Generator,
    hooks: Hooks,
) -> MadeObject:
    """Stages sample_latent and decode_mesh: the surface of what stage 1 has found. Errors: `MaquetteError`."""
    photo, *more = photos
    structure, camera, resolution = found.structure, found.camera, found.resolution

    hooks.stage("sample_latent")
    latent = None
    notes = _left_out(networks, structure)
    if networks.has_stage_2:
        others = list(zip(conditions[1:], more, found.more, strict=True))
        latent = sample_latent(
            networks, structure, conditions[0], photo, camera, generator, request.steps, hooks, others
        )

    hooks.stage("decode_mesh")
    views = [
        (each.crop.image, view.crop.world_to_camera, view.crop.intrinsics)
        for each, view in zip(more, found.more, strict=True)
        if view.crop is not None and view.trusted
    ]
    if latent is not None:
        mesh = decode_mesh(networks, latent, photo, camera, views, request.finish)
    else:
        outlines = [] if found.fit is None else [  # a fit means that the configuration draws shapes to silhouettes
            Outline(view.crop, each.crop.image[..., 3] / 255.0, each.occluder)
            for each, view in zip(photos, (camera, *found.more), strict=True)
            if view.crop is not None and (view.trusted or not more)
        ]
        mesh = mesh_from_structure(structure, resolution, photo, camera, views, request.finish, outlines)
    hooks.check_cancelled()
    splats = None
    if request.splats:
        splats, note = make_splats(networks, latent, mesh)
        notes = (*notes, note) if note else notes
    return MadeObject(mesh, camera, structure, found.fit, notes, found.more, splats)


def fit_to_photo(mesh: MeshData, photo: Photo, camera: SolvedCamera) -> dict[str, float]:
    """Mask IoU, PSNR and SSIM (white background) of the result seen by the solved camera; empty without a camera.

    What an occluder hides is left out: white in both pictures, object in neither.
    """
    if camera.world_to_camera is None or camera.intrinsics is None:
        return {}
    width, height = results.fit_size(photo.picture.size)
    view = results.photo_view(mesh, camera.world_to_camera, camera.intrinsics, (width, height))
    shown, alpha = photo_on_white(photo.rgba, (width, height))
    hidden = results.small_hidden(photo.hidden, (width, height))
    color = np.where(hidden[..., None], np.float32(1), view.color)
    shown = np.where(hidden[..., None], np.float32(1), shown)
    return {
        "mask_iou": mask_iou(view.mask & ~hidden, (alpha >= 0.5) & ~hidden),
        "psnr": psnr(color, shown),
        "ssim": ssim(color, shown),
    }


def _left_out(networks: CupidModel, structure: Structure) -> tuple[str, ...]:
    notes = [] if networks.has_stage_2 else [ONLY_STAGE_1]
    if structure.dropped:
        notes.append(TOO_MANY_VOXELS.format(dropped=structure.dropped, all=structure.dropped + len(structure.coords)))
    return tuple(notes)
