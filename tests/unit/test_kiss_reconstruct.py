"""Stage II from a bundle to a finished mesh; what texels take from the views; what is measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.contract.errors import Cancelled, MaquetteError
from backend.contract.meshes import MeshData
from backend.evaluation import mesh_scores
from backend.geometry.mesh_repair import face_areas
from backend.rendering.image_metrics import psnr
from backend.rendering.views import render_mesh
from backend.systems.base import Hooks
from backend.systems.finishing import FinishOptions, finish
from backend.systems.kiss3dgen import bundle as bundles
from backend.systems.kiss3dgen import inpaint, texture
from backend.systems.kiss3dgen.reconstruct import STAGES, ReconstructSettings, evened, reconstruct, refined
from backend.systems.kiss3dgen.start_mesh import ball, resized
from tests.unit.test_kiss_start_mesh import AXES, SIZE, drawn_bundle, ellipsoid, off_surface

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bundle() -> bundles.Bundle:
    return drawn_bundle(ellipsoid())


def test_a_bundle_becomes_a_textured_mesh_in_the_object_cube(bundle: bundles.Bundle) -> None:
    hooks = Hooks()
    options = FinishOptions(triangles=2000, texture_size=256)
    mesh = reconstruct(bundle, ReconstructSettings(stage1_steps=10, stage2_steps=8, finish=options), hooks)
    hooks.finish()
    assert tuple(hooks.seconds) == STAGES
    assert mesh.texture and mesh.uvs is not None and len(mesh.faces) <= 2000
    assert np.abs(mesh.vertices).max() <= 0.5
    assert off_surface(bundles.to_bundle_frame(mesh.vertices.astype(float))).mean() < 0.02
    cameras, intrinsics = bundles.view_cameras()
    for rgb, camera in zip(bundle.rgb, cameras, strict=True):
        assert psnr(render_mesh(mesh, camera, intrinsics, (SIZE, SIZE)).color, rgb) > 22.0  # outlines at 48 pixels


def test_a_cancelled_job_stops_and_an_unknown_start_is_named(bundle: bundles.Bundle) -> None:
    class Stopped(Hooks):
        def cancelled(self) -> bool:
            return True

    with pytest.raises(Cancelled):
        reconstruct(bundle, ReconstructSettings(), Stopped())
    with pytest.raises(ValueError, match="hull"):
        reconstruct(bundle, ReconstructSettings(start="clay"), Hooks())
    white = np.ones_like(bundle.rgb)
    with pytest.raises(MaquetteError, match="no object"):
        reconstruct(bundles.Bundle(white, white, np.zeros_like(bundle.mask)), ReconstructSettings(), Hooks())


def test_a_thin_rod_is_one_skin_and_not_crumpled_inside() -> None:
    """Long first steps made its area more than three times the true one."""
    vertices, faces = ball(1.0, 3)
    rod = (vertices * np.float32([0.025, 0.85, 0.025]), faces)
    made, triangles = refined(resized(drawn_bundle(rod, 192), 64), ReconstructSettings(), Hooks())
    true_area = face_areas(*rod).sum()
    assert 0.8 * true_area < face_areas(bundles.to_bundle_frame(made), triangles).sum() < 2.3 * true_area


def test_a_mesh_coloured_from_its_own_renders_looks_like_them() -> None:
    """The spec's fourth acceptance check: above 28 dB at the four views."""
    vertices, faces = ellipsoid()
    large = drawn_bundle((vertices, faces), 128)
    ours = bundles.from_bundle_frame(vertices.astype(np.float64))
    mesh = finish(ours, faces, FinishOptions(texture_size=512), None, texture.bundle_painter(large))
    cameras, intrinsics = bundles.view_cameras()
    for rgb, camera in zip(large.rgb, cameras, strict=True):
        assert psnr(render_mesh(mesh, camera, intrinsics, (128, 128), supersample=1).color, rgb) > 28.0


def test_colours_at_an_outline_are_freed_of_white_and_carried_out() -> None:
    red = np.zeros((16, 16, 3), np.float32) + np.float32([0.8, 0.1, 0.1])
    mask = np.zeros((16, 16), np.float32)
    mask[4:12, 4:12] = 1.0
    mask[3, 4:12] = 0.6
    colors, inside = texture.carried_colors(bundles.on_white(red, mask), mask)
    assert np.allclose(colors[3, 6], red[0, 0], atol=1e-5) and np.allclose(colors[1, 6], red[0, 0], atol=1e-5)
    assert inside[1, 6] and not inside[0, 6] and not inside[15, 15]


def test_what_no_view_saw_takes_its_neighbours_colours() -> None:
    faces = torch.tensor([[k, k + 1, k + 2] for k in range(8)] + [[10, 11, 12]])
    colors = torch.zeros(13, 3)
    colors[0] = torch.tensor([1.0, 0.0, 0.0])
    colors[10:] = 0.3
    seen = torch.zeros(13, dtype=torch.bool)
    seen[0] = True
    filled = inpaint.complete_unseen(colors, faces, seen)
    assert torch.allclose(filled[:10, 0], torch.ones(10)) and torch.allclose(filled[10:], torch.full((3, 3), 0.3))
    vertices = np.random.default_rng(0).random((13, 3))
    nearest = texture.filled_vertices(vertices, faces.numpy(), colors.numpy(), seen.numpy())
    assert np.allclose(nearest[:, 0], 1.0)  # also the part that nothing connects to what was seen


def test_evening_takes_noise_and_keeps_the_volume() -> None:
    vertices, faces = ellipsoid()
    noisy = vertices + 0.01 * np.random.default_rng(0).normal(size=vertices.shape).astype(np.float32)
    smooth = evened(torch.from_numpy(noisy.astype(np.float32)), torch.from_numpy(faces)).numpy()
    assert off_surface(smooth).mean() < 0.6 * off_surface(noisy).mean()
    assert np.ptp(smooth, axis=0) == pytest.approx(2 * AXES, rel=0.04)


def test_scores_are_perfect_for_the_same_mesh_and_fall_with_damage() -> None:
    vertices, faces = ellipsoid()
    ours = bundles.from_bundle_frame(vertices).astype(np.float32)
    colors = np.full((len(ours), 4), (200, 40, 40, 255), np.uint8)
    original = MeshData(ours, faces.astype(np.int32), colors=colors)
    same = mesh_scores.compare_meshes(original, original, 64)
    assert same["fscore_05"] == 1.0 and same["normal_consistency"] > 0.99 and same["psnr"] == 60.0
    noise = np.random.default_rng(0).normal(size=ours.shape).astype(np.float32)
    blue = colors.copy()
    blue[:, :3] = (40, 40, 200)
    worse = mesh_scores.compare_meshes(MeshData(ours + 0.02 * noise, original.faces, colors=blue), original, 64)
    assert worse["normal_consistency"] < 0.8 and worse["psnr"] < 20.0 and worse["chamfer"] > same["chamfer"]
    moved = mesh_scores.compare_meshes(MeshData(ours + np.float32(2.0), original.faces, colors=colors), original, 64)
    assert moved["fscore_05"] == 0.0 and moved["mask_iou"] == 0.0
