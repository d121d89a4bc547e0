"""CUPID from a photo to a textured mesh and the camera that took the photo (spec section 0).

Stages: prepare_image, encode_image, sample_structure, solve_camera, sample_latent, decode_mesh, finish. Every sampler
step reports progress and looks for a cancel. Without weights for stage 2 the mesh comes from stage 1's voxels and the
report says so. An unsolvable camera is a message, not a failure: the object is still delivered.
"""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.contract import meshes
from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData
from backend.contract.messages import SystemInfo
from backend.formats import glb
from backend.nn.sparse_tensor import SparseTensor
from backend.rendering.image_metrics import mask_iou, psnr, ssim
from backend.systems.base import ArtifactData, Hooks, RunResult
from backend.systems.cupid import model, results
from backend.systems.cupid.flow_sampler import denormalise, sample_flow, with_steps
from backend.systems.cupid.mesh_cleanup import visible_parts
from backend.systems.cupid.occupancy_mesh import mesh_from_occupancy
from backend.systems.cupid.photo import Photo, prepare_image
from backend.systems.cupid.photo_texture import textured_mesh
from backend.systems.cupid.silhouette_fit import SilhouetteFit
from backend.systems.cupid.structure_decode import Structure, voxel_uv
from backend.systems.cupid.structure_stage import SolvedCamera, find_structure

logger = logging.getLogger(__name__)

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
MOST_STEPS = 200
ONLY_STAGE_1 = "stage 2 not trained: mesh from occupancy"
TOO_MANY_VOXELS = "too many voxels for stage 2: mesh from occupancy"
FILLED_SHARE = 1 / 8  # of the grid (32,768 of 64^3 in the published data): more is noise and would take minutes


@dataclass(frozen=True)
class Request:
    """The parameters of a job, checked. focal is the locked normalised fx of the full picture, or None."""

    seed: int = 42
    steps: int | None = None
    weights: str = "mini"
    config: str = "mini"
    focal: float | None = None


class CupidSystem:
    """The system "cupid" (see `backend.systems.base.System`)."""

    name = "cupid"
    title = "CUPID"
    tasks = (TASK,)
    stages = STAGES

    def __init__(self, device: str | None = None) -> None:
        self.device = device or os.environ.get("MAQUETTE_DEVICE", "cpu")
        self._loaded: tuple[tuple[str, str, int], model.CupidModel] | None = None

    def info(self) -> SystemInfo:
        """Ready when mini's stage-1 weights are there."""
        missing = model.missing_weights(model.MINI_FOLDER) if model.MINI_FOLDER.is_dir() else list(model.STAGE_1)
        note = f"The weights of {missing[0]} are not installed." if missing else ""
        return SystemInfo(self.name, self.title, self.tasks, self.stages, not missing, note, "MIT")

    def use_model(self, loaded: model.CupidModel, weights: str = "mini", config: str = "mini", seed: int = 0) -> None:
        """Keep networks made elsewhere; runs with these parameters use them."""
        self._loaded = ((weights, config, seed), loaded)

    def run(self, task: str, inputs: dict[str, bytes], parameters: dict[str, Any], hooks: Hooks) -> RunResult:
        """inputs: image, and mask if there is one. Errors: `MaquetteError`; see the module's text for the rest."""
        if task != TASK:
            raise MaquetteError("bad_input", f"CUPID cannot do {task!r}; choose {TASK}.")
        request = parse_request(parameters)
        if set(inputs) - {"image", "mask"} or "image" not in inputs:
            raise MaquetteError("bad_input", "CUPID needs one picture; choose an image.", next_step="choose_image")
        with torch.inference_mode():
            return self._run(inputs, request, hooks)

    def _run(self, inputs: dict[str, bytes], request: Request, hooks: Hooks) -> RunResult:
        hooks.stage("prepare_image")
        networks = self._networks(request)
        with_alpha = getattr(networks["image_encoder"], "in_channels", 3) == 4
        photo = prepare_image(inputs["image"], inputs.get("mask"), networks.settings, with_alpha)
        if photo.cutout.source == "cut_out":
            hooks.message(photo.cutout.message)
        hooks.preview(results.object_picture(photo.crop.image))

        hooks.stage("encode_image")
        tokens = networks["image_encoder"](photo.encoder_input.to(self.device))

        generator = torch.Generator().manual_seed(request.seed)
        found = find_structure(networks, tokens, photo, generator, request.steps, request.focal, hooks)
        structure, camera, resolution = found.structure, found.camera, found.resolution
        if camera.message:
            hooks.message(camera.message)

        hooks.stage("sample_latent")
        latent = None
        notes = () if networks.has_stage_2 else (ONLY_STAGE_1,)
        if len(structure.coords) > FILLED_SHARE * resolution**3:
            notes = (*notes, TOO_MANY_VOXELS)
        if not notes:
            latent = sample_latent(networks, structure, tokens, photo, camera, generator, request.steps, hooks)

        hooks.stage("decode_mesh")
        if latent is not None:
            mesh = decode_mesh(networks, latent, photo, camera)
        else:
            mesh = mesh_from_structure(structure, resolution, photo, camera)
        hooks.check_cancelled()

        hooks.stage("finish")
        result = _finish(mesh, photo, camera, structure, found.fit, request, notes, hooks)
        hooks.finish()
        return result

    def _networks(self, request: Request) -> model.CupidModel:
        key = (request.weights, request.config, request.seed if request.weights == "random" else 0)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = (key, model.load_model(request.weights, request.config, self.device, key[2]))
        return self._loaded[1]


def parse_request(parameters: dict[str, Any]) -> Request:
    """Check a job's parameters. Errors: `MaquetteError` bad_input naming the parameter."""
    unknown = sorted(set(parameters) - {"seed", "steps", "weights", "config", "focal"})
    if unknown:
        raise MaquetteError("bad_input", f"CUPID has no parameter {unknown[0]!r}; remove it.")
    given = {name: value for name, value in parameters.items() if value is not None}
    for name in ("seed", "steps"):
        if name in given and (not isinstance(given[name], int) or isinstance(given[name], bool)):
            raise MaquetteError("bad_input", f"The parameter {name} must be a whole number.")
    for name in ("weights", "config"):
        if name in given and not isinstance(given[name], str):
            raise MaquetteError("bad_input", f"The parameter {name} must be a name.")
    request = Request(**given)
    if not 0 <= request.seed < 2**63:
        raise MaquetteError("bad_input", "The seed must be zero or a positive number.")
    if request.steps is not None and not 1 <= request.steps <= MOST_STEPS:
        raise MaquetteError("bad_input", f"The number of steps must be between 1 and {MOST_STEPS}.")
    if request.focal is not None:
        numeric = isinstance(request.focal, int | float) and not isinstance(request.focal, bool)
        if not numeric or not math.isfinite(request.focal) or not 0.05 <= request.focal <= 100:
            raise MaquetteError("bad_input", "The focal length must be between 0.05 and 100 picture widths.")
    return request


def sample_latent(
    networks: model.CupidModel,
    structure: Structure,
    tokens: Tensor,
    photo: Photo,
    camera: SolvedCamera,
    generator: torch.Generator,
    steps: int | None,
    hooks: Hooks,
) -> SparseTensor:
    """Stage 2: the structured latent [L,8] on the occupied voxels, conditioned on what each voxel shows in the
    photo."""
    flow, settings, device = networks["slat_flow"], networks.settings, networks.device
    coords = structure.coords.to(device)
    template = SparseTensor(coords, torch.randn((len(coords), flow.latent_channels), generator=generator).to(device))
    if camera.crop is None:  # without a camera the sampled UV cube itself says where the voxels are seen
        uv = _voxel_values(structure, coords)
    else:
        matrices = (torch.from_numpy(m).float().to(device)[None] for m in (
            camera.crop.world_to_camera, camera.crop.intrinsics))
        uv = voxel_uv(coords, *matrices, flow.resolution)
    image = photo.visual_input.to(device)
    encoder = networks.networks.get("slat_enc")
    if encoder is not None and encoder.input_layer.in_features != tokens.shape[-1]:
        encoder = None  # trained on other features than image tokens: its part of the condition is zero
    conditions = []
    for shown_tokens, shown_image in ((tokens, image), (torch.zeros_like(tokens), torch.zeros_like(image))):
        conditions.append((shown_tokens, flow.local_features(template, shown_tokens, shown_image, uv, encoder)))

    def velocity(x: Tensor, t: Tensor, condition: tuple[Tensor, Tensor]) -> Tensor:
        answer: Tensor = flow(template.replace(x), t[:1], *condition).feats  # one object: one time
        return answer

    sampler = with_steps(settings.latent_sampler, steps)
    sampled = sample_flow(
        velocity, template.feats, conditions[0], conditions[1], sampler, on_step=lambda i, n, _: hooks.step(i, n)
    ).samples
    return template.replace(denormalise(sampled, settings.slat_normalization))


def decode_mesh(networks: model.CupidModel, latent: SparseTensor, photo: Photo, camera: SolvedCamera) -> MeshData:
    """The mesh decoder's surface with its vertex colours, or with a texture of these and the photo if the settings ask
    for that."""
    dual = networks["slat_dec_mesh"](latent)[0]
    if not len(dual.faces):
        raise MaquetteError(
            "bad_input", "The surface of the object came out empty; try another seed.", next_step="retry"
        )
    vertices = dual.vertices.float().cpu().numpy()
    flow = networks["slat_flow"]
    rows, faces = visible_parts(vertices, dual.faces.cpu().numpy(), latent.coords[:, 1:].cpu().numpy(), flow.resolution)
    vertices, colors = vertices[rows], np.full((len(rows), 3), 0.7)
    if dual.attributes is not None:
        colors = dual.attributes[:, :3].float().cpu().numpy().astype(np.float64)[rows]
    if networks.settings.project_photo and camera.crop is not None:
        k = camera.crop.intrinsics
        return textured_mesh(vertices, faces, photo.crop.image, camera.crop.world_to_camera, k, colors)
    return _mesh(vertices, faces, colors)


def mesh_from_structure(structure: Structure, resolution: int, photo: Photo, camera: SolvedCamera) -> MeshData:
    """The surface of the voxels, textured from the photo through the solved camera. Errors: `MaquetteError`."""
    occupancy = np.zeros((resolution,) * 3, bool)
    occupancy[tuple(structure.coords[:, 1:].long().cpu().numpy().T)] = True
    vertices, faces = mesh_from_occupancy(occupancy)
    if not len(faces):
        raise MaquetteError("bad_input", "The object came out too thin to have a surface; try another seed.",
                            next_step="retry")
    if camera.crop is not None:
        k = camera.crop.intrinsics
        return textured_mesh(vertices, faces, photo.crop.image, camera.crop.world_to_camera, k)
    solid = photo.rgba[photo.rgba[..., 3] > 250][:, :3]
    mean = solid.mean(axis=0) / 255.0 if len(solid) else np.full(3, 0.7)
    return _mesh(vertices, faces, np.tile(mean, (len(vertices), 1)))


def fit_to_photo(mesh: MeshData, photo: Photo, camera: SolvedCamera) -> dict[str, float]:
    """Mask IoU, PSNR and SSIM (white background) of the result seen by the solved camera; empty without a camera."""
    if camera.world_to_camera is None or camera.intrinsics is None:
        return {}
    width, height = results.fit_size(photo.picture.size)
    view = results.photo_view(mesh, camera.world_to_camera, camera.intrinsics, (width, height))
    shown, alpha = results.photo_on_white(photo.rgba, (width, height))
    return {
        "mask_iou": mask_iou(view.mask, alpha >= 0.5),
        "psnr": psnr(view.color, shown),
        "ssim": ssim(view.color, shown),
    }


def _finish(
    mesh: MeshData,
    photo: Photo,
    camera: SolvedCamera,
    structure: Structure,
    fit: SilhouetteFit | None,
    request: Request,
    notes: tuple[str, ...],
    hooks: Hooks,
) -> RunResult:
    crop_intrinsics = None if camera.crop is None else camera.crop.intrinsics
    thumbnail = results.thumbnail(mesh, camera.world_to_camera, crop_intrinsics)
    hooks.preview(thumbnail)
    report = {
        "system": CupidSystem.name,
        "seed": request.seed,
        "steps": request.steps,
        "weights": request.weights,
        "config": request.config,
        "mask": photo.cutout.source,
        "mask_message": photo.cutout.message,
        "image_size": list(photo.picture.original_size),
        "voxels": len(structure.coords),
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "stage_2": not notes,
        "notes": list(notes),
        "camera_trusted": camera.trusted,
        "camera_message": camera.message,
        "residual_px": camera.residual_px,
        "silhouette": None if fit is None else {
            "solved": fit.iou_solved, "moved": fit.iou_moved, "reshaped": fit.iou_reshaped},
        "focal": None if camera.intrinsics is None else float(camera.intrinsics[0, 0]),
        **fit_to_photo(mesh, photo, camera),
        "peak_mib": results.peak_mib(),
    }
    glb_bytes = glb.mesh_to_glb(mesh, "Maquette object")
    camera_bytes = results.camera_json(
        camera.world_to_camera, camera.intrinsics, photo.picture.original_size, camera.residual_px, camera.trusted,
        camera.message,
    )
    hooks.finish()
    report["seconds"] = {name: round(value, 4) for name, value in hooks.seconds.items()}
    artifacts = (
        ArtifactData("asset.mesh", meshes.mesh_to_bytes(mesh), meshes.MEDIA_TYPE),
        ArtifactData("asset.glb", glb_bytes, glb.MEDIA_TYPE),
        ArtifactData("camera.json", camera_bytes, "application/json"),
        ArtifactData("thumbnail.png", thumbnail, "image/png"),
        ArtifactData("report.json", json.dumps(report, indent=1).encode(), "application/json"),
    )
    return RunResult(artifacts, report)


def _mesh(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> MeshData:
    """A contract mesh from colours [V,3] in [0,1]."""
    rgba = np.full((len(vertices), 4), 255, np.uint8)
    rgba[:, :3] = np.rint(np.nan_to_num(colors).clip(0, 1) * 255)
    return MeshData(vertices.astype(np.float32), faces.astype(np.int32), colors=rgba)


def _voxel_values(structure: Structure, coords: Tensor) -> Tensor:
    """The UV cube's values at `coords` [L,4] -> [L,2]; the pose set holds at least every occupied voxel."""
    place = {tuple(row): index for index, row in enumerate(structure.uv_coords.tolist())}
    rows = torch.tensor([place[tuple(row)] for row in coords.tolist()], dtype=torch.int64)
    return structure.uv.to(coords.device)[rows.to(coords.device)]
