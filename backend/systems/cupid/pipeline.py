"""The system "cupid": its tasks, its networks, and the artifacts of one photo (spec section 0).

Every sampler step reports progress and looks for a cancel. Without weights for stage 2 the mesh comes from stage 1's
voxels and the report says so. An unsolvable camera is a message, not a failure: the object is still delivered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from backend.contract import meshes, splats
from backend.contract.errors import MaquetteError
from backend.contract.messages import SystemInfo
from backend.formats import glb
from backend.nn.devices import best_device, peak_mib
from backend.rendering.thumbnails import object_picture, thumbnail
from backend.systems.base import ArtifactData, Hooks, RunResult
from backend.systems.cupid import mask_proposals, match_mesh, model, scene
from backend.systems.cupid.hypotheses import gallery, make_variants
from backend.systems.cupid.object_stage import ONLY_STAGE_1, MadeObject
from backend.systems.cupid.photo import Photo, prepare_photos
from backend.systems.cupid.photo_results import camera_files, photo_report
from backend.systems.cupid.request import Request, parse_request
from backend.systems.finishing import with_pivot

TASK = "image_to_3d"
STAGES = (
    "prepare_image",
    "encode_image",
    "sample_structure",
    "solve_camera",
    "sample_latent",
    "decode_mesh",
    "finish",
)

TaskFunction = Callable[[model.CupidModel, dict[str, bytes], Request, Hooks], RunResult]


class CupidSystem:
    """The system "cupid" (see `backend.systems.base.System`)."""

    name = "cupid"
    title = "CUPID"
    stages = (*STAGES[:-1], match_mesh.STAGE, STAGES[-1])

    def __init__(self, device: str | None = None) -> None:
        self.device = device or os.environ.get("MAQUETTE_DEVICE") or str(best_device())
        self._loaded: tuple[tuple[str, str, int, str | None], model.CupidModel] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        return (*TASKS, mask_proposals.TASK)

    def info(self) -> SystemInfo:
        """Ready when mini's stage-1 weights are there."""
        missing = model.missing_weights(model.MINI_FOLDER) if model.MINI_FOLDER.is_dir() else list(model.STAGE_1)
        note = f"The weights of {missing[0]} are not installed." if missing else ""
        return SystemInfo(self.name, self.title, self.tasks, self.stages, not missing, note, "MIT")

    def use_model(self, loaded: model.CupidModel, weights: str = "mini", config: str = "mini", seed: int = 0) -> None:
        """Keep networks made elsewhere; runs with these parameters use them."""
        self._loaded = ((weights, config, seed, None), loaded)

    def run(self, task: str, inputs: dict[str, bytes], parameters: dict[str, Any], hooks: Hooks) -> RunResult:
        """Do the task; its function says which inputs it takes. Errors: `MaquetteError`."""
        if task not in self.tasks:
            raise MaquetteError("bad_input", f"CUPID cannot do {task!r}; choose one of {', '.join(self.tasks)}.")
        request = parse_request(parameters)
        with torch.inference_mode():
            hooks.stage("prepare_image")
            if task == mask_proposals.TASK:  # quick because it loads nothing
                return mask_proposals.proposed_masks(inputs, request, hooks)
            return TASKS[task](self._networks(request), inputs, request, hooks)

    def _networks(self, request: Request) -> model.CupidModel:
        seed = request.seed if request.weights == "random" else 0
        key = (request.weights, request.config, seed, request.profile)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # the memory is needed for the new ones
            loaded = model.load_model(request.weights, request.config, self.device, seed, request.profile)
            self._loaded = (key, loaded)
        return self._loaded[1]


def object_from_photo(
    networks: model.CupidModel, inputs: dict[str, bytes], request: Request, hooks: Hooks
) -> RunResult:
    """Task image_to_3d. inputs: image; mask and occluder if there are any; further photos of the object, numbered."""
    photo, *more = prepare_photos(inputs, networks)
    for each in (photo, *more):
        if each.cutout.source == "cut_out":
            hooks.message(each.cutout.message)
    hooks.preview(object_picture(photo.crop.image))
    generator = torch.Generator().manual_seed(request.seed)
    made = make_variants(networks, photo, request, generator, hooks, more)
    hooks.stage("finish")
    result = _artifacts(made, photo, request, hooks, more)
    hooks.finish()
    return result


TASKS: dict[str, TaskFunction] = {
    TASK: object_from_photo,
    scene.TASK: scene.scene_from_photo,
    match_mesh.TASK: match_mesh.match_mesh,
}


def _artifacts(
    variants: Sequence[MadeObject], photo: Photo, request: Request, hooks: Hooks, more: Sequence[Photo] = ()
) -> RunResult:
    """The artifacts of the first one; with several also those of the gallery."""
    made = variants[0]
    mesh, camera, fit = made.mesh, made.camera, made.fit
    gallery_files, scores = gallery(variants, photo, more) if len(variants) > 1 else ([], [])
    photos, cameras = (photo, *more), (camera, *made.more_cameras)
    seen = [photo_report(mesh, *each) for each in zip(photos, cameras, strict=True)]
    crop_intrinsics = None if camera.crop is None else camera.crop.intrinsics
    small = thumbnail(mesh, camera.world_to_camera, crop_intrinsics)
    hooks.preview(small)
    report: dict[str, Any] = {
        "system": CupidSystem.name,
        "seed": request.seed,
        "steps": request.steps,
        "weights": request.weights,
        "config": request.config,
        "mask": photo.cutout.source,
        "mask_message": photo.cutout.message,
        "image_size": list(photo.picture.original_size),
        "voxels": len(made.structure.coords),
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "normal_map": bool(mesh.normal_map),
        "splats": 0 if made.splats is None else len(made.splats.positions),
        "stage_2": ONLY_STAGE_1 not in made.notes,
        "notes": list(made.notes),
        "camera_trusted": camera.trusted,
        "camera_message": camera.message,
        "residual_px": camera.residual_px,
        "silhouette": None if fit is None else {
            "solved": fit.iou_solved, "moved": fit.iou_moved, "reshaped": fit.iou_reshaped},
        "focal": None if camera.intrinsics is None else float(camera.intrinsics[0, 0]),
        **{name: seen[0][name] for name in ("mask_iou", "psnr", "ssim") if name in seen[0]},
        "photos": seen,
        "hypotheses": scores,
        "peak_mib": peak_mib(),
    }
    glb_bytes = glb.mesh_to_glb(with_pivot(mesh, request.pivot), "Maquette object")
    splat_files = [] if made.splats is None else [
        ArtifactData("splats.ply", splats.splats_to_ply(made.splats), splats.MEDIA_TYPE)
    ]
    hooks.finish()
    report["seconds"] = {name: round(value, 4) for name, value in hooks.seconds.items()}
    artifacts = (
        ArtifactData("asset.mesh", meshes.mesh_to_bytes(mesh), meshes.MEDIA_TYPE),
        ArtifactData("asset.glb", glb_bytes, glb.MEDIA_TYPE),
        *camera_files(photos, cameras),
        ArtifactData("thumbnail.png", small, "image/png"),
        *gallery_files,
        *splat_files,
        ArtifactData("report.json", json.dumps(report, indent=1).encode(), "application/json"),
    )
    return RunResult(artifacts, report)
