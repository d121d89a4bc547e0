"""backend.contract.splats and geometry.surface_splats: the file reads back, and splats lie on the surface."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from backend.contract.meshes import MeshData
from backend.contract.splats import SplatError, Splats, splats_from_ply, splats_to_ply
from backend.geometry.surface_splats import rotations_to, surface_splats
from backend.systems.cupid.slat_vae import Gaussians
from backend.systems.cupid.splats import gaussian_splats


def matrices(quaternions: np.ndarray) -> np.ndarray:
    """Rotation matrices [N,3,3] by an implementation that is not ours."""
    return np.stack([trimesh.transformations.quaternion_matrix(q)[:3, :3] for q in quaternions.astype(np.float64)])


def some(count: int = 40) -> Splats:
    rng = np.random.default_rng(0)
    rotations = rng.normal(size=(count, 4))
    rotations /= np.linalg.norm(rotations, axis=1, keepdims=True)
    arrays = (rng.uniform(-0.5, 0.5, (count, 3)), rng.uniform(0.001, 0.1, (count, 3)), rotations,
              rng.random((count, 3)), rng.uniform(0.01, 0.99, count))  # fmt: skip
    return Splats(*(values.astype(np.float32) for values in arrays))


def test_the_file_reads_back():
    before = some()
    after = splats_from_ply(splats_to_ply(before))
    for name in ("positions", "scales", "colors", "opacities"):
        assert np.abs(getattr(before, name) - getattr(after, name)).max() < 1e-5
    assert np.abs(matrices(before.rotations) - matrices(after.rotations)).max() < 1e-5


def test_other_programs_find_what_they_expect():
    splats = some(3)
    cloud = trimesh.load(trimesh.util.wrap_as_stream(splats_to_ply(splats)), file_type="ply")
    raw = cloud.metadata["_ply_raw"]["vertex"]["data"]
    x, y, z = splats.positions.T
    assert np.allclose(np.stack([raw["x"], raw["y"], raw["z"]]), [x, -z, y], atol=1e-6)
    assert np.allclose(raw["scale_1"], np.log(splats.scales[:, 1]), atol=1e-5)
    assert np.allclose(raw["opacity"], np.log(splats.opacities / (1 - splats.opacities)), atol=1e-4)
    assert np.allclose(0.5 + 0.28209479 * raw["f_dc_2"], splats.colors[:, 2], atol=1e-5)
    turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    stored = np.stack([raw[f"rot_{k}"] for k in range(4)], axis=1)
    assert np.allclose(matrices(stored), turn @ matrices(splats.rotations), atol=1e-5)


def test_properties_in_another_order_and_more_of_them():
    data = splats_to_ply(some(2))
    head, body = data.split(b"end_header\n", 1)
    table = np.frombuffer(body, "<f4").reshape(2, 17)
    lines = head.decode().split("\n")
    names = [line for line in lines if line.startswith("property")]
    wider = [*names[::-1], "property float f_rest_0"]
    text = "\n".join([*lines[:3], *wider, "end_header", ""]).encode()
    again = splats_from_ply(text + np.column_stack([table[:, ::-1], [7.0, 8.0]]).astype("<f4").tobytes())
    assert np.allclose(again.positions, some(2).positions, atol=1e-6)


@pytest.mark.parametrize(
    "data",
    [b"", b"ply\n", splats_to_ply(some(4))[:-8], splats_to_ply(some(2)).replace(b"rot_3", b"rot_9"),
     splats_to_ply(some(2)).replace(b"vertex 2", b"vertex 99999999"), b"ply\nformat ascii 1.0\nend_header\n"],
)  # fmt: skip
def test_other_files_are_refused_with_a_sentence(data):
    with pytest.raises(SplatError, match="Choose another file"):
        splats_from_ply(data)


def test_splats_of_a_surface_lie_flat_on_it_in_its_colours():
    ball = trimesh.creation.icosphere(3, 0.5)
    colors = np.full((len(ball.vertices), 4), 255, np.uint8)
    colors[:, 0] = np.where(ball.vertices[:, 2] > 0, 255, 0)
    mesh = MeshData(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32), colors=colors)
    splats = surface_splats(mesh, 6000)
    assert 5000 <= len(splats.positions) <= 6000
    radius = np.linalg.norm(splats.positions, axis=1)
    assert radius.min() > 0.49 and radius.max() < 0.501
    outward = splats.positions / radius[:, None]
    assert (np.einsum("ni,ni->n", matrices(splats.rotations)[:, :, 2], outward) > 0.97).all()
    assert (splats.colors[splats.positions[:, 2] > 0.1, 0] > 0.95).all()
    assert (splats.scales[:, 2] < splats.scales[:, 0] / 4).all()
    assert np.allclose(matrices(rotations_to(np.array([[0, 0, -1.0]])))[0] @ [0, 0, 1], [0, 0, -1])


def test_a_networks_gaussians_keep_what_a_renderer_uses():
    generator = torch.Generator().manual_seed(0)
    shapes = {"raw_xyz": (9, 3), "raw_features_dc": (9, 1, 3), "raw_scaling": (9, 3), "raw_rotation": (9, 4),
              "raw_opacity": (9, 1)}  # fmt: skip
    raw = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    gaussians = Gaussians(**raw, scaling_bias=0.004, opacity_bias=0.1, minimum_scale=0.0009,
                          scaling_activation="softplus")  # fmt: skip
    splats = splats_from_ply(splats_to_ply(gaussian_splats(gaussians)))
    assert np.allclose(splats.positions, gaussians.positions.numpy(), atol=1e-5)
    assert np.allclose(splats.scales, gaussians.scales.numpy(), rtol=1e-4)
    assert np.allclose(splats.opacities, gaussians.opacities[:, 0].numpy(), atol=1e-5)
    assert np.allclose(splats.colors, gaussians.colors.numpy(), atol=1e-5)
    assert np.abs(matrices(splats.rotations) - matrices(gaussians.rotations.numpy())).max() < 1e-4
