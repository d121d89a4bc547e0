"""A CUPID job that asks for a finished asset: budget, texture size, normal map, splats and pivot reach the files."""

from __future__ import annotations

import io

import pytest
import torch
import trimesh
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.contract.meshes import mesh_from_bytes
from backend.contract.splats import splats_from_ply
from backend.systems.base import Hooks
from backend.systems.cupid import model
from backend.systems.cupid.request import parse_request
from backend.systems.cupid.splats import DECODER, FROM_SURFACE
from tests.unit.test_pipeline import TRUNK, photo, system_with, tiny_model

ASKED = {"seed": 1, "triangles": 400, "texture_size": 256, "normal_map": True, "splats": True, "pivot": "base"}
GAUSSIANS = {"lr": {}, "perturb_offset": True, "voxel_size": 1.5, "num_gaussians": 4, "2d_filter_kernel_size": 0.1,
             "3d_filter_kernel_size": 9e-4, "scaling_bias": 4e-3, "opacity_bias": 0.1,
             "scaling_activation": "softplus"}  # fmt: skip


@pytest.mark.parametrize("stage_2", [False, True])
def test_what_was_asked_for_is_handed_over(stage_2):
    networks = tiny_model(stage_2)
    if stage_2:
        torch.manual_seed(0)
        made = model.build({"name": "SLatGaussianDecoder", "args": {**TRUNK, "representation_config": GAUSSIANS}})
        networks = model.CupidModel(
            {**networks.networks, DECODER: made.eval()}, networks.settings, networks.device
        )
    result = system_with(networks).run("image_to_3d", {"image": photo()}, ASKED, Hooks())
    data = {artifact.name: artifact.data for artifact in result.artifacts}
    mesh = mesh_from_bytes(data["asset.mesh"])
    assert 0 < len(mesh.faces) <= 408 and result.report["triangles"] == len(mesh.faces)
    assert Image.open(io.BytesIO(mesh.texture)).size == (256, 256)
    assert result.report["normal_map"] and Image.open(io.BytesIO(mesh.normal_map)).size == (256, 256)
    (glb,) = trimesh.load(io.BytesIO(data["asset.glb"]), file_type="glb", process=False).geometry.values()
    assert abs(glb.vertices[:, 1].min()) < 1e-5  # glTF's y is up: it stands on its origin
    assert abs(mesh.vertices[:, 2].min()) > 0.01  # and the mesh itself stays in its cube
    material = glb.visual.material
    assert material.normalTexture.size == material.baseColorTexture.size == (256, 256)
    assert (material.metallicFactor, material.roughnessFactor) == (0.0, 1.0)
    splats = splats_from_ply(data["splats.ply"])
    assert result.report["splats"] == len(splats.positions) > 0
    assert (FROM_SURFACE in result.report["notes"]) is not stage_2
    if stage_2:
        assert len(splats.positions) == 4 * result.report["voxels"]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [({"triangles": 99}, "triangles"), ({"triangles": 3_000_000}, "triangles"), ({"triangles": True}, "triangles"),
     ({"texture_size": 64}, "texture size"), ({"texture_size": 8192}, "texture size"),
     ({"normal_map": 1}, "normal_map"),
     ({"splats": "yes"}, "splats"), ({"pivot": "top"}, "pivot")],
)  # fmt: skip
def test_impossible_wishes_are_refused_by_name(parameters, named):
    with pytest.raises(MaquetteError, match=named) as caught:
        parse_request(parameters)
    assert caught.value.failure.code == "bad_input"
