"""Stage 2 of a job and the surface: sample the structured latent, decode it; without stage 2 the voxels' surface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData
from backend.nn.attention import PreparedContext
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.base import Hooks
from backend.systems.cupid import model
from backend.systems.cupid.condition import Condition
from backend.systems.cupid.flow_sampler import denormalise, sample_flow, with_steps
from backend.systems.cupid.mesh_cleanup import visible_parts
from backend.systems.cupid.occupancy_mesh import mesh_from_occupancy
from backend.systems.cupid.outline_fit import draw_to_outlines, outline_keeper
from backend.systems.cupid.outline_snap import Outline
from backend.systems.cupid.photo import Photo
from backend.systems.cupid.photo_texture import PhotoView, textured_mesh
from backend.systems.cupid.structure_decode import Structure, voxel_uv
from backend.systems.cupid.structure_stage import SolvedCamera
from backend.systems.finishing import AS_MADE, FinishOptions, finish

Seen = tuple[PreparedContext, Tensor]
"""What the flow is told of one photo: its tokens, prepared, and features of the voxels [L,D]."""


def sample_latent(
    networks: model.CupidModel,
    structure: Structure,
    condition: Condition,
    photo: Photo,
    camera: SolvedCamera,
    generator: torch.Generator,
    steps: int | None,
    hooks: Hooks,
    more: Sequence[tuple[Condition, Photo, SolvedCamera]] = (),
) -> SparseTensor:
    """Stage 2: the structured latent [L,8] on the occupied voxels, conditioned on what each voxel shows in the
    photo.

    With `more` photos of the object, those with a camera count: the velocity is the mean of all photos' (spec 10).
    """
    flow, settings, device = networks["slat_flow"], networks.settings, networks.device
    coords = structure.coords.to(device)
    template = SparseTensor(coords, torch.randn((len(coords), flow.latent_channels), generator=generator).to(device))
    encoder = networks.networks.get("slat_enc")
    if encoder is not None and encoder.input_layer.in_features != condition.tokens.shape[-1]:
        encoder = None  # trained on other features than image tokens: its part of the condition is zero

    def seen_by(shown: Condition, image: Tensor, view: SolvedCamera) -> Seen:
        if view.crop is None:  # without a camera the sampled UV cube itself says where the voxels are seen
            uv = _voxel_values(structure, coords)
        else:
            matrices = (torch.from_numpy(m).float().to(device)[None] for m in (
                view.crop.world_to_camera, view.crop.intrinsics))
            uv = voxel_uv(coords, *matrices, flow.resolution)
        local = flow.local_features(template, shown.tokens, image.to(device), uv, encoder)
        return flow.prepare(shown.tokens, shown.weights), local

    solved = [each for each in more if each[2].crop is not None]
    views = [seen_by(each, one.visual_input, view) for each, one, view in ((condition, photo, camera), *solved)]
    nothing = [seen_by(condition.empty(), torch.zeros_like(photo.visual_input), camera)]

    def velocity(x: Tensor, t: Tensor, seen: list[Seen]) -> Tensor:
        answers: list[Tensor] = [flow(template.replace(x), t[:1], *each).feats for each in seen]  # one object: one time
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(0)

    sampler = with_steps(settings.latent_sampler, steps)
    sampled = sample_flow(
        velocity, template.feats, views, nothing, sampler, on_step=lambda i, n, _: hooks.step(i, n)
    ).samples
    return template.replace(denormalise(sampled, settings.slat_normalization))


def decode_mesh(
    networks: model.CupidModel,
    latent: SparseTensor,
    photo: Photo,
    camera: SolvedCamera,
    more: Sequence[PhotoView] = (),
    options: FinishOptions = AS_MADE,
) -> MeshData:
    """The mesh decoder's surface with its vertex colours, or with a texture of these and the photo, and `more` of them,
    if the settings ask for that; finished as `options` say."""
    decoder = networks["slat_dec_mesh"]
    resolution, dual = decoder.resolution, decoder(latent)[0]
    if not len(dual.faces):
        raise MaquetteError(
            "bad_input", "The surface of the object came out empty; try another seed.", next_step="retry"
        )
    vertices = dual.vertices.float().cpu().numpy()
    rows, faces = visible_parts(vertices, dual.faces.cpu().numpy(), latent.coords[:, 1:].cpu().numpy(), resolution)
    vertices, colors = vertices[rows], np.full((len(rows), 3), 0.7)
    if dual.attributes is not None:
        colors = dual.attributes[:, :3].float().cpu().numpy().astype(np.float64)[rows]
    if networks.settings.project_photo and camera.crop is not None:
        k = camera.crop.intrinsics
        return textured_mesh(
            vertices, faces, photo.crop.image, camera.crop.world_to_camera, k, colors, more=more, options=options
        )
    return _plain_mesh(vertices, faces, colors, options)


def mesh_from_structure(
    structure: Structure,
    resolution: int,
    photo: Photo,
    camera: SolvedCamera,
    more: Sequence[PhotoView] = (),
    options: FinishOptions = AS_MADE,
    outlines: Sequence[Outline] = (),
) -> MeshData:
    """The surface of the voxels, drawn to `outlines`, textured from the photo, and `more` of them, through the solved
    camera.

    Errors: `MaquetteError`.
    """
    occupancy = np.zeros((resolution,) * 3, bool)
    occupancy[tuple(structure.coords[:, 1:].long().cpu().numpy().T)] = True
    vertices, faces = mesh_from_occupancy(occupancy)
    if not len(faces):
        raise MaquetteError("bad_input", "The object came out too thin to have a surface; try another seed.",
                            next_step="retry")
    vertices, faces = draw_to_outlines(vertices, faces, outlines)
    if camera.crop is not None:
        k = camera.crop.intrinsics
        return textured_mesh(
            vertices, faces, photo.crop.image, camera.crop.world_to_camera, k, more=more, options=options,
            reshape=outline_keeper(outlines),
        )  # fmt: skip
    solid = photo.rgba[photo.rgba[..., 3] > 250][:, :3]
    mean = solid.mean(axis=0) / 255.0 if len(solid) else np.full(3, 0.7)
    return _plain_mesh(vertices, faces, np.tile(mean, (len(vertices), 1)), options)


def _plain_mesh(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray, options: FinishOptions) -> MeshData:
    """A contract mesh from colours [V,3] in [0,1]: at its vertices, or baked when `options` change the triangles."""
    colors = np.nan_to_num(colors).clip(0, 1)
    if options.triangles is not None:
        return finish(vertices, faces, options, colors)
    rgba = np.full((len(vertices), 4), 255, np.uint8)
    rgba[:, :3] = np.rint(colors * 255)
    return MeshData(vertices.astype(np.float32), faces.astype(np.int32), colors=rgba)


def _voxel_values(structure: Structure, coords: Tensor) -> Tensor:
    """The UV cube's values at `coords` [L,4] -> [L,2]; the pose set holds at least every occupied voxel."""
    place = {tuple(row): index for index, row in enumerate(structure.uv_coords.tolist())}
    rows = torch.tensor([place[tuple(row)] for row in coords.tolist()], dtype=torch.int64)
    return structure.uv.to(coords.device)[rows.to(coords.device)]
