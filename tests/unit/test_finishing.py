"""backend.systems.finishing: budget, colours, normal map and pivot of a finished asset; charts and tangent space."""

from __future__ import annotations

import io
import sys
import time

import numpy as np
import pytest
import trimesh
from PIL import Image

from backend.geometry.charts import best_atlas, texel_density, xatlas_charts
from backend.geometry.mesh_repair import is_closed
from backend.geometry.unwrap import unwrap
from backend.rendering.bake import covered_texels
from backend.rendering.tangent_space import angle_normals, decode_normals, encode_normals, tangent_frames
from backend.systems.finishing import FinishOptions, finish, with_pivot


def bumpy(subdivisions: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A ball with waves that 500 triangles cannot follow."""
    mesh = trimesh.creation.icosphere(subdivisions, 0.45)
    vertices = np.asarray(mesh.vertices)
    wave = np.sin(30 * vertices[:, 0]) * np.sin(30 * vertices[:, 1]) * np.sin(30 * vertices[:, 2])
    return vertices * (1 + 0.02 * wave[:, None]), np.asarray(mesh.faces)


def picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)), np.float64) / 255


def uv_areas(uvs: np.ndarray) -> np.ndarray:
    a, b = np.diff(np.asarray(uvs, np.float64).reshape(-1, 3, 2), axis=1).transpose(1, 0, 2)
    return np.abs(a[:, 0] * (a + b)[:, 1] - a[:, 1] * (a + b)[:, 0]) / 2


VERTICES, FACES = bumpy()
COLORS = 0.5 + 0.4 * np.sin(25 * VERTICES)


@pytest.fixture(scope="module")
def asset():
    return finish(VERTICES, FACES, FinishOptions(500, 512, True), COLORS)


def test_the_asset_is_whole(asset):
    assert 400 <= len(asset.faces) <= 510 and is_closed(asset.faces.astype(np.int64))
    assert np.isfinite(asset.vertices).all() and np.isfinite(asset.uvs).all()
    assert asset.uvs.min() >= 0 and asset.uvs.max() <= 1 and uv_areas(asset.uvs).min() > 0
    assert picture(asset.texture).shape == picture(asset.normal_map).shape == (512, 512, 3)
    assert np.abs(asset.vertices).max() < 0.5


def test_the_texture_holds_what_the_vertices_cannot(asset):
    faces = asset.faces.astype(np.int64)
    atlas = best_atlas(asset.vertices.astype(np.float64), faces, 512)
    texels = covered_texels(atlas)
    assert np.allclose(atlas.uvs, asset.uvs, atol=1e-6)
    points = texels.interpolate(faces, asset.vertices)
    points = 0.45 * points / np.linalg.norm(points, axis=1, keepdims=True)
    error = np.abs(picture(asset.texture).reshape(-1, 3)[texels.index] - (0.5 + 0.4 * np.sin(25 * points)))
    assert error.mean() < 0.05  # vertices alone: the waves are shorter than the triangles


def test_the_normal_map_brings_the_waves_back(asset):
    faces = asset.faces.astype(np.int64)
    texels = covered_texels(best_atlas(asset.vertices.astype(np.float64), faces, 512))
    frames = tangent_frames(asset.vertices, faces, asset.uvs)
    stored = picture(asset.normal_map).reshape(-1, 3)[texels.index]
    shown = decode_normals(frames, texels.face, texels.barycentric, stored)
    points = texels.interpolate(faces, asset.vertices).astype(np.float64)
    nearest = trimesh.proximity.ProximityQuery(trimesh.Trimesh(VERTICES, FACES, process=False)).vertex(points[::37])[1]
    wanted = angle_normals(VERTICES, FACES)[nearest]
    smooth = texels.interpolate(faces, angle_normals(asset.vertices, faces)).astype(np.float64)[::37]
    smooth /= np.linalg.norm(smooth, axis=1, keepdims=True)
    with_map = np.degrees(np.arccos((shown[::37] * wanted).sum(axis=1).clip(-1, 1)))
    without = np.degrees(np.arccos((smooth * wanted).sum(axis=1).clip(-1, 1)))
    assert np.median(with_map) < 2.0 and np.median(without) > 4.0  # degrees


def test_without_options_all_triangles_stay_and_there_is_no_normal_map():
    vertices, faces = bumpy(2)
    mesh = finish(vertices, faces, FinishOptions(texture_size=256, normal_map=True), np.full((len(vertices), 3), 0.25))
    assert len(mesh.faces) == len(faces) and mesh.normal_map == b"" and mesh.colors is None
    assert np.abs(picture(mesh.texture) - 0.25).max() < 0.003
    with pytest.raises(ValueError, match="triangles"):
        finish(vertices, faces[:0], FinishOptions())


def test_every_picture_that_a_map_can_hold_is_read_as_it_was_meant():
    vertices, faces = bumpy(2)
    atlas = unwrap(vertices, faces, 128)
    texels = covered_texels(atlas)
    frames = tangent_frames(vertices, faces, atlas.uvs)
    flat = texels.interpolate(faces, angle_normals(vertices, faces)).astype(np.float64)
    wanted = flat / np.linalg.norm(flat, axis=1, keepdims=True) + np.random.default_rng(0).normal(0, 0.3, flat.shape)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    colors = encode_normals(frames, texels.face, texels.barycentric, wanted)
    again = decode_normals(frames, texels.face, texels.barycentric, colors)
    possible = colors[:, 2] > 0.53  # but for what faces away from the surface
    assert possible.mean() > 0.99 and np.abs(again - wanted)[possible].max() < 1e-6
    straight = encode_normals(frames, texels.face, texels.barycentric, flat)
    assert np.abs(straight - [0.5, 0.5, 1.0]).max() < 1e-6


def test_red_is_along_u_and_green_up():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uvs = vertices[faces.ravel()][:, :2]
    tilted = np.array([[0.6, 0.0, 0.8], [0.0, 0.6, 0.8]])
    place = np.array([0, 1]), np.full((2, 3), 1 / 3)
    assert np.allclose(encode_normals(tangent_frames(vertices, faces, uvs), *place, tilted),
                       [[0.8, 0.5, 0.9], [0.5, 0.8, 0.9]])  # fmt: skip
    mirrored = uvs * [-1, 1] + [1, 0]
    frames = tangent_frames(vertices, faces, mirrored)
    assert (frames.sign == -1).all()
    assert np.allclose(encode_normals(frames, *place, tilted), [[0.2, 0.5, 0.9], [0.5, 0.8, 0.9]])


def folded() -> tuple[np.ndarray, np.ndarray]:
    """Twenty thin rods in all directions: box projection cuts them into strips."""
    rods = []
    for seed in range(20):
        rod = trimesh.creation.cylinder(0.03, 0.8, sections=12)
        rod.apply_transform(trimesh.transformations.random_rotation_matrix(np.random.default_rng(seed).random(3)))
        rods.append(rod)
    mesh = trimesh.util.concatenate(rods)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def test_the_atlas_with_more_texels_is_taken_and_without_xatlas_there_is_one_too(monkeypatch):
    for shape, better in ((bumpy(3), "own"), (folded(), "general")):
        made = {"own": unwrap(*shape, 512), "general": xatlas_charts(*shape, 512)}
        density = {name: texel_density(atlas, *shape) for name, atlas in made.items()}
        assert max(density, key=density.__getitem__) == better
        assert np.array_equal(best_atlas(*shape, 512).uvs, made[better].uvs)
        general = made["general"]
        assert uv_areas(general.uvs).min() > 0 and general.uvs.min() >= 0 and general.uvs.max() <= 1
        assert len(np.unique(general.texels.face[general.texels.mask])) > 0.99 * len(shape[1])
    monkeypatch.setitem(sys.modules, "xatlas", None)
    assert np.array_equal(best_atlas(*shape, 512).uvs, made["own"].uvs)


@pytest.mark.parametrize(("pivot", "low"), [("cube", -0.1), ("base", 0.0), ("centre", -0.3)])
def test_pivots(pivot, low):
    vertices, faces = bumpy(2)
    box = vertices / np.abs(vertices).max() * 0.3 + [0.1, 0.0, 0.2]
    mesh = with_pivot(finish(box, faces, FinishOptions(texture_size=256)), pivot)
    assert mesh.vertices[:, 2].min() == pytest.approx(low, abs=0.02)
    centre = (mesh.vertices[:, 0].min() + mesh.vertices[:, 0].max()) / 2
    assert centre == pytest.approx(0.1 if pivot == "cube" else 0.0, abs=0.01)


def test_a_dense_mesh_is_finished_in_time():
    vertices, faces = bumpy(6)  # 81,920 triangles
    started = time.process_time()
    mesh = finish(vertices, faces, FinishOptions(10_000, 1024, True), np.full((len(vertices), 3), 0.5))
    seconds = time.process_time() - started
    assert abs(len(mesh.faces) - 10_000) < 200 and seconds < 9.0  # 3 s on an idle machine
