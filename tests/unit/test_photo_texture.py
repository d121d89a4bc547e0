"""backend.systems.cupid.photo_texture: a known photo comes back, and what it does not show is filled."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.formats.glb import mesh_to_glb
from backend.rendering.image_metrics import psnr
from backend.rendering.views import render_mesh
from backend.systems.cupid.photo_texture import is_symmetric, photo_projection, seen_colors, textured_mesh

SIZE = 192
INTRINSICS = np.array([[1.6, 0, 0.5], [0, 1.6, 0.5], [0, 0, 1.0]])
SPHERE = trimesh.creation.icosphere(4, 0.5)
VERTICES, FACES = np.asarray(SPHERE.vertices), np.asarray(SPHERE.faces)
FRONT = look_at(np.array([0.0, -2.0, 0.0]), np.zeros(3))
BACK = look_at(np.array([0.0, 2.0, 0.0]), np.zeros(3))
SIDE = look_at(np.array([1.6, -1.2, 0.0]), np.zeros(3))


def stripes(points: np.ndarray) -> np.ndarray:
    """A smooth pattern in space, finer than the vertices of the sphere could carry."""
    x, y, z = points.T
    return np.stack([0.5 + 0.4 * np.sin(40 * x), 0.5 + 0.4 * np.sin(33 * z), 0.5 + 0.3 * np.cos(20 * (x + z))], axis=1)


def photo(camera: np.ndarray, background: tuple[int, int, int] = (0, 255, 0)) -> np.ndarray:
    """The striped sphere [SIZE,SIZE,4] uint8 as `camera` sees it; its background is loud but transparent."""
    return photo_of(camera.tobytes(), background).copy()


@functools.cache
def photo_of(matrix: bytes, background: tuple[int, int, int]) -> np.ndarray:
    camera = np.frombuffer(matrix).reshape(4, 4)
    fine = trimesh.creation.icosphere(5, 0.5)
    colors = np.concatenate([np.rint(stripes(np.asarray(fine.vertices)) * 255), np.full((len(fine.vertices), 1), 255)],
                            axis=1).astype(np.uint8)  # fmt: skip
    mesh = MeshData(np.asarray(fine.vertices, np.float32), np.asarray(fine.faces, np.int32), colors=colors)
    view = render_mesh(mesh, camera, INTRINSICS, (SIZE, SIZE), tuple(value / 255 for value in background))
    return np.rint(np.dstack([view.color, view.alpha]) * 255).astype(np.uint8)


def picture_of(mesh: MeshData) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(mesh.texture)))


@pytest.fixture(scope="module")
def baked() -> MeshData:
    return textured_mesh(VERTICES, FACES, photo(FRONT), FRONT, INTRINSICS, size=512)


def test_the_photo_comes_back_from_its_own_camera(baked):
    rgba = photo(FRONT, (255, 255, 255))
    view = render_mesh(baked, FRONT, INTRINSICS, (SIZE, SIZE))
    assert picture_of(baked).shape == (512, 512, 3)
    assert psnr(view.color, rgba[..., :3] / 255.0) >= 25.0
    middle = np.s_[60:132, 60:132]
    assert psnr(view.color[middle], rgba[middle][..., :3] / 255.0) >= 32.0


def test_the_hidden_side_has_colours_of_the_object_only(baked):
    view = render_mesh(baked, BACK, INTRINSICS, (SIZE, SIZE))
    shown = view.color[view.alpha > 0.99]
    assert len(shown) > 5000
    assert (shown[:, 1] < 0.93).all()  # nothing of the green background, 0.9 is the pattern's own most
    assert shown.min() > 0.05  # and no holes


def test_no_background_at_the_rim(baked):
    view = render_mesh(baked, SIDE, INTRINSICS, (SIZE, SIZE))
    pixels = view.color[view.alpha > 0.99]
    assert (pixels[:, 1] - np.maximum(pixels[:, 0], pixels[:, 2]) < 0.85).all()


def test_the_same_photo_gives_the_same_bytes(baked):
    again = textured_mesh(VERTICES, FACES, photo(FRONT), FRONT, INTRINSICS, size=512)
    assert again.texture == baked.texture and np.array_equal(again.uvs, baked.uvs)


def test_a_symmetric_object_shows_its_mirror_image_where_it_was_not_seen():
    camera = look_at(np.array([2.0, 0.0, 0.0]), np.zeros(3))
    other = look_at(np.array([-2.0, 0.0, 0.0]), np.zeros(3))
    rgba = photo(camera, (255, 255, 255))
    mesh = textured_mesh(VERTICES, FACES, rgba, camera, INTRINSICS, size=512)
    view = render_mesh(mesh, other, INTRINSICS, (SIZE, SIZE))
    assert is_symmetric(VERTICES)
    assert psnr(view.color[:, ::-1], rgba[..., :3] / 255.0) >= 25.0


def test_a_lopsided_object_is_not_mirrored():
    shifted = VERTICES * [1.0, 1.0, 1.0] + np.where(VERTICES[:, :1] > 0, [0.3, 0.0, 0.0], [0.0, 0.0, 0.0])
    assert not is_symmetric(shifted)


def test_base_colours_stay_where_nothing_is_seen_and_are_corrected_nearby():
    base = np.tile([0.2, 0.4, 0.6], (len(VERTICES), 1))
    plain = np.zeros((SIZE, SIZE, 4), np.uint8)
    plain[photo(FRONT)[..., 3] > 0] = (204, 102, 51, 255)
    mesh = textured_mesh(VERTICES, FACES, plain, FRONT, INTRINSICS, base, 256)
    back = render_mesh(mesh, BACK, INTRINSICS, (SIZE, SIZE)).color[SIZE // 2, SIZE // 2]
    front = render_mesh(mesh, FRONT, INTRINSICS, (SIZE, SIZE)).color[SIZE // 2, SIZE // 2]
    assert np.allclose(back, [0.2, 0.4, 0.6], atol=0.02) and np.allclose(front, [0.8, 0.4, 0.2], atol=0.01)


def test_what_stands_behind_takes_no_colour_from_what_stands_before():
    near, far = trimesh.creation.box((0.3, 0.1, 0.3)), trimesh.creation.box((0.9, 0.1, 0.9))
    near.apply_translation([0, -0.35, 0])
    far.apply_translation([0, 0.35, 0])
    both = trimesh.util.concatenate([near, far])
    vertices, faces = np.asarray(both.vertices), np.asarray(both.faces)
    rgba = np.full((SIZE, SIZE, 4), 255, np.uint8)
    view = photo_projection(vertices, faces, rgba, FRONT, INTRINSICS)
    points = np.array([[0.0, -0.4, 0.0], [0.0, 0.3, 0.0], [0.4, 0.3, 0.0]])
    _, weight = seen_colors(points, np.tile([0.0, -1.0, 0.0], (3, 1)), view, False)
    assert weight.tolist() == [1.0, 0.0, 1.0]


def test_an_empty_mask_leaves_a_plain_object():
    mesh = textured_mesh(VERTICES, FACES, np.zeros((32, 32, 4), np.uint8), FRONT, INTRINSICS, size=64)
    assert np.abs(picture_of(mesh) - 0.7 * 255).max() < 1


def test_the_glb_carries_the_texture(baked):
    scene = trimesh.load(io.BytesIO(mesh_to_glb(baked)), file_type="glb", process=False)
    (mesh,) = scene.geometry.values()
    material = mesh.visual.material
    assert np.array_equal(np.asarray(material.baseColorTexture.convert("RGB")), picture_of(baked))
    assert (material.metallicFactor, material.roughnessFactor) == (0.0, 1.0)
    assert np.allclose(mesh.visual.uv[mesh.faces.reshape(-1)], baked.uvs, atol=1e-6)
