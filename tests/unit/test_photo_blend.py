"""backend.systems.cupid.photo_blend: what one photo does not show comes from another, and the better view prevails."""

from __future__ import annotations

import numpy as np

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.rendering.image_metrics import psnr
from backend.rendering.views import render_mesh
from backend.systems.cupid.photo_blend import PhotoBlend, facing
from backend.systems.cupid.photo_texture import blended_photos, textured_mesh
from tests.unit.test_photo_texture import BACK, FACES, FRONT, INTRINSICS, SIDE, SIZE, VERTICES, photo

SPHERE_MASK_PSNR = 25.0  # dB of a texture of 256 texels against the photo it came from; unseen sides have about 12


def likeness(mesh: MeshData, camera: np.ndarray) -> float:
    """PSNR of the mesh and the photo that `camera` took, within the object."""
    view = render_mesh(mesh, camera, INTRINSICS, (SIZE, SIZE))
    shown = photo(camera)
    inside = (shown[..., 3] > 250) & view.mask
    return psnr(view.color[inside], shown[..., :3][inside] / 255.0)


def test_a_second_photo_shows_the_other_side() -> None:
    one = textured_mesh(VERTICES, FACES, photo(FRONT), FRONT, INTRINSICS, size=256)
    two = textured_mesh(VERTICES, FACES, photo(FRONT), FRONT, INTRINSICS, size=256,
                        more=[(photo(BACK), BACK, INTRINSICS)])  # fmt: skip
    assert likeness(one, BACK) < SPHERE_MASK_PSNR - 5
    assert likeness(two, BACK) > SPHERE_MASK_PSNR and likeness(two, FRONT) > SPHERE_MASK_PSNR


def test_each_point_takes_most_from_the_photo_that_faces_it() -> None:
    red, blue = (np.zeros((32, 32, 4), np.uint8) for _ in range(2))
    red[..., [0, 3]] = blue[..., [2, 3]] = 255
    view = blended_photos(VERTICES, FACES, [(red, FRONT, INTRINSICS), (blue, SIDE, INTRINSICS)])
    ways = np.array([[0.0, -1.0, 0.0], [0.8, -0.6, 0.0], [0.0, 1.0, 0.0]])
    colors, weight = view.sample(0.5 * ways, ways)
    assert colors[0, 0] > 0.9 and colors[1, 2] > 0.9 and np.allclose(weight, [1.0, 1.0, 0.0], atol=0.01)
    between = ways[:2].sum(0) / np.linalg.norm(ways[:2].sum(0))
    middle = view.sample(0.5 * between[None], between[None])[0][0]
    assert abs(middle[0] - middle[2]) < 0.15


def test_one_photo_is_not_blended() -> None:
    assert not isinstance(blended_photos(VERTICES, FACES, [(photo(FRONT), FRONT, INTRINSICS)]), PhotoBlend)


def test_facing_is_the_cosine_to_the_camera() -> None:
    camera = look_at(np.array([0.0, -2.0, 0.0]), np.zeros(3))
    normals = np.array([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0], [np.sqrt(0.5), -np.sqrt(0.5), 0.0]])
    assert np.allclose(facing(camera, np.zeros((3, 3)), normals), [1.0, 0.0, np.sqrt(0.5)], atol=1e-6)
