"""backend.rendering.thumbnails: the small pictures of what came in and what came out."""

from __future__ import annotations

import numpy as np

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.formats.images import decode_image
from backend.rendering.thumbnails import THUMBNAIL_SIZE, object_picture, thumbnail

CORNERS = np.array([[x, y, z] for x in (-0.25, 0.25) for y in (-0.25, 0.25) for z in (-0.25, 0.25)], np.float32)
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
FACES = np.array([face for a, b, c, d in SIDES for face in ((a, b, c), (a, c, d))], np.int32)
RED = np.tile(np.array([255, 0, 0, 255], np.uint8), (8, 1))
BOX = MeshData(CORNERS, FACES, colors=RED)


def test_a_mesh_stands_in_the_middle_before_nothing() -> None:
    rgba = decode_image(thumbnail(BOX)).rgba
    assert rgba.shape == (THUMBNAIL_SIZE, THUMBNAIL_SIZE, 4)
    assert tuple(rgba[128, 128]) == (255, 0, 0, 255) and not rgba[0, :, 3].any() and not rgba[:, -1, 3].any()


def test_a_given_camera_is_the_one_that_is_used() -> None:
    camera = look_at(np.array([0.0, -2.0, 0.0]), np.zeros(3))
    aside = np.array([[1.6, 0, 0.75], [0, 1.6, 0.5], [0, 0, 1.0]])
    columns = np.nonzero(decode_image(thumbnail(BOX, camera, aside)).rgba[..., 3].any(0))[0]
    assert abs(columns.mean() / THUMBNAIL_SIZE - 0.75) < 0.01


def test_what_was_taken_for_the_object_is_shown_small() -> None:
    crop = np.zeros((600, 600, 4), np.uint8)
    crop[150:450, 150:450] = (10, 200, 30, 255)
    rgba = decode_image(object_picture(crop)).rgba
    assert rgba.shape == (THUMBNAIL_SIZE, THUMBNAIL_SIZE, 4)
    assert tuple(rgba[128, 128]) == (10, 200, 30, 255) and rgba[5, 5, 3] == 0
