"""Objects read without Blender, made worse on purpose, drawn as bundles, and written as shards."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.contract.meshes import MeshData
from backend.data import bundles, degradation, objects
from backend.evaluation.mesh_scores import fixed_cameras, mesh_pictures, picture_scores, surface_scores
from backend.formats import glb
from backend.formats.images import encode_png
from backend.geometry.surface_sampling import sample_surface
from backend.rendering.bundle_views import draw_bundle

RED, GREEN = (200, 20, 20), (20, 160, 40)


def box(half: tuple[float, float, float] = (0.5, 0.3, 0.2)) -> MeshData:
    """A box whose left half (-x) is red and whose right half is green, with hard edges."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    vertices = np.concatenate([corners[list(side)] for side in sides]) * half
    faces = np.concatenate([[[4 * k, 4 * k + 1, 4 * k + 2], [4 * k, 4 * k + 2, 4 * k + 3]] for k in range(6)])
    u = (vertices[:, 0] + half[0]) / (2 * half[0])
    uvs = np.stack([u * 0.96 + 0.02, np.full(len(u), 0.5)], axis=1)[faces.ravel()].astype(np.float32)
    texture = np.zeros((16, 64, 3), np.uint8)
    texture[:, :32], texture[:, 32:] = RED, GREEN
    return MeshData(vertices.astype(np.float32), faces.astype(np.int32), uvs, texture=encode_png(texture))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The box as a GLB, twice as large and elsewhere."""
    mesh = box()
    path = tmp_path / "box.glb"
    moved = MeshData(mesh.vertices * 2 + np.float32([5, 1, -3]), mesh.faces, mesh.uvs, texture=mesh.texture)
    path.write_bytes(glb.mesh_to_glb(moved, "box"))
    return path


def test_an_object_comes_into_the_cube_with_its_colours(file: Path) -> None:
    found = objects.read_object(file, 256)
    assert found.vertices.min(axis=0) == pytest.approx([-0.5, -0.3, -0.2], abs=1e-5)
    assert found.vertices.max(axis=0) == pytest.approx([0.5, 0.3, 0.2], abs=1e-5)
    points = sample_surface(found, 2000)
    assert points.colors is not None
    left, right = points.points[:, 0] < -0.05, points.points[:, 0] > 0.05
    assert np.abs(points.colors[left] * 255 - RED).max() <= 2 and np.abs(points.colors[right] * 255 - GREEN).max() <= 2
    assert np.abs(np.abs(points.normals).max(axis=1) - 1).max() < 1e-6


def test_a_file_without_a_surface_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flat.glb"
    mesh = box((0.5, 0.3, 0.2))
    path.write_bytes(glb.mesh_to_glb(MeshData(mesh.vertices * np.float32(0), mesh.faces), "flat"))
    with pytest.raises(ValueError, match="surface"):
        objects.read_object(path)


def test_a_bundle_is_drawn_as_blender_captures_it() -> None:
    picture = draw_bundle(box(), 32)
    assert picture.shape == (64, 128, 4)
    front, left = picture[:32, :32], picture[:32, 32:64]
    assert np.abs(front[16, 8, :3] * 255 - RED).max() < 2  # azimuth 0: +x is to the right
    assert np.abs(left[16, 16, :3] * 255 - GREEN).max() < 2  # azimuth 90 looks from +x
    assert np.abs(picture[32:][16, 16, :3] - [0.5, 0.5 - 0.0436, 0.998]).max() < 0.01  # to the viewer, 5 degrees below
    assert (picture[:, :, 3].min(), picture[:, :, 3].max()) == (0, 1)
    assert (picture[0, 0] == (1, 1, 1, 0)).all() and (picture[63, 127] == (1, 1, 1, 0)).all()


def test_a_mesh_is_made_worse_by_degrees() -> None:
    original = box()
    truth = sample_surface(original, 4000)
    pictures = mesh_pictures(original, fixed_cameras(), 64)
    found = []
    for width in (0.0, 0.02, 0.04):
        worse = degradation.degraded(original, degradation.Degree(400, width, width), 256)
        assert len(worse.faces) <= 420
        points = sample_surface(worse, 4000)
        score = surface_scores(points.points, points.normals, truth.points, truth.normals)
        found.append((score["normal_consistency"], picture_scores(worse, pictures)["psnr"]))
    (normals, psnr), (_, _), (worst_normals, worst_psnr) = found
    assert normals > 0.97 and psnr > 24
    assert found[0][0] > found[1][0] > found[2][0] and found[0][1] > found[1][1] > found[2][1]
    assert worst_normals < normals - 0.02 and worst_psnr < psnr - 3


def test_blur_goes_as_far_as_it_says() -> None:
    points = sample_surface(box(), 20_000)
    line = np.stack([np.linspace(-0.2, 0.2, 41), np.zeros(41), np.full(41, 0.2)], axis=1)
    red = degradation.blurred_colors(points, line, 0.05)[:, 0] * 255
    share = (red - GREEN[0]) / (RED[0] - GREEN[0])
    assert share[0] > 0.98 and share[-1] < 0.02 and abs(share[20] - 0.5) < 0.08
    assert share[15] == pytest.approx(0.841, abs=0.06)  # one standard deviation before the border
    untouched = degradation.blurred_colors(points, line, 0.0)[:, 0] * 255
    assert untouched[16] > RED[0] - 5 and untouched[24] < GREEN[0] + 5


def test_the_same_object_is_always_made_worse_the_same_way() -> None:
    rng = np.random.default_rng(3)
    degrees = [degradation.random_degree(rng) for _ in range(200)]
    assert min(d.triangles for d in degrees) < 300 and max(d.triangles for d in degrees) > 3000
    assert 0.028 < max(d.smoothing for d in degrees) < 0.03 and 0.045 < max(d.blur for d in degrees) < 0.05
    first, second = (degradation.degraded(box(), degrees[0], 64) for _ in range(2))
    assert first.texture == second.texture and np.array_equal(first.vertices, second.vertices)


def test_shards_of_degraded_objects_need_no_blender(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAQUETTE_BLENDER", "/nowhere")
    out = tmp_path / "worse"
    arguments = ["--assets", str(file.parent), "--out", str(out), "--size", "32", "--workers", "1", "--degraded"]
    assert bundles.main(arguments) == 0
    dataset = bundles.BundleDataset(out, "val")
    assert dataset.ids == ["box"] and dataset.size == 32
    true = np.rint(draw_bundle(box(), 32) * 255)
    shown = dataset.pictures()[0].astype(np.float64)
    both = (shown[..., 3] > 200) & (true[..., 3] > 200)
    assert both.sum() > 0.8 * (true[..., 3] > 200).sum()
    assert 2 < np.abs(shown - true)[both].mean() < 60  # the same box, not as good


def test_the_texture_of_a_degraded_mesh_is_a_picture() -> None:
    worse = degradation.degraded(box(), degradation.STRONG, 64)
    assert Image.open(io.BytesIO(worse.texture)).size == (64, 64)
