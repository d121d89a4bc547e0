"""From a photo to the reference bundle: framing, which view goes where, drawn normals, the whole way made small."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.systems.base import Hooks
from backend.systems.kiss3dgen.bundle import (
    AZIMUTHS,
    RADIUS,
    Bundle,
    decode_normals,
    encode_normals,
    local_to_world,
    view_axes,
)
from backend.systems.kiss3dgen.foreground import prepare_photo, resize_foreground
from backend.systems.kiss3dgen.lrm.generator import random_generator
from backend.systems.kiss3dgen.lrm.start import fit_scale, lrm_start
from backend.systems.kiss3dgen.lrm.surface import LrmMesh
from backend.systems.kiss3dgen.reference_bundle import (
    PREVIEW_AZIMUTHS,
    ReferenceSettings,
    bundle_of,
    draw_mesh,
    reference_bundle,
)
from backend.systems.kiss3dgen.start_mesh import ball
from backend.systems.kiss3dgen.zero123_networks import random_networks
from tests.unit.test_kiss_lrm import SMALL as SMALL_LRM
from tests.unit.test_kiss_zero123 import SMALL as SMALL_VIEWS

torch.set_num_threads(1)


@pytest.fixture
def photo() -> np.ndarray:
    """A blue object 30 wide and 20 high, off the middle of a red picture whose alpha shows the object only."""
    rgba = np.zeros((60, 80, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[10:30, 5:35] = (0, 0, 200, 255)
    return rgba


def sphere() -> LrmMesh:
    """A ball whose colours are its normals."""
    vertices, faces = ball(0.8, 4)
    outward = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    colors = np.rint(encode_normals(outward) * 255).astype(np.uint8)
    return LrmMesh(vertices, faces, colors, np.zeros(len(vertices), np.float32), np.ones(len(vertices), np.float32))


def test_the_object_spans_the_frame_on_white(photo: np.ndarray) -> None:
    framed = prepare_photo(photo)
    assert framed.shape == (35, 35, 3)  # 30 / 0.85
    blue = (framed == (0, 0, 200)).all(-1)
    assert blue.sum() == 600 and (framed[~blue] == 255).all()
    rows, columns = np.nonzero(blue)
    assert abs(rows.mean() - 17) <= 1 and abs(columns.mean() - 17) <= 1


def test_the_published_framing_squares_the_whole_photo(photo: np.ndarray) -> None:
    framed = prepare_photo(photo, published=True)
    assert framed.shape == (92, 92, 3)  # 79 / 0.85: the last column is lost
    blue = (framed == (0, 0, 200)).all(-1)
    assert blue.sum() == 600 and (framed[~blue] == 255).all()
    assert np.nonzero(blue)[1].mean() < 40  # not brought to the middle


def test_a_photo_of_nothing_is_refused(photo: np.ndarray) -> None:
    photo[..., 3] = 0
    for refuse in (prepare_photo, resize_foreground):
        with pytest.raises(ValueError, match="mask"):
            refuse(photo)


def test_drawn_normals_are_those_of_the_surface() -> None:
    colors, normals, mask = draw_mesh(sphere(), 48)
    assert colors.shape == normals.shape == (4, 48, 48, 3) and mask.shape == (4, 48, 48)
    assert (normals[mask == 0] == 1).all() and (colors[mask == 0] == 1).all()
    inner = mask == 1
    assert 0.35 < inner.mean() < 0.6
    # the colours are the true normals of the bundle frame; the picture's are local to each view
    world = local_to_world(decode_normals(normals), PREVIEW_AZIMUTHS)
    angle = (world[inner] * decode_normals(colors)[inner]).sum(-1)
    assert angle.mean() > 0.999
    middle = decode_normals(normals[:, 24, 24])
    assert np.allclose(middle, [0, 0, 1], atol=0.05)


def test_the_fourth_tile_is_the_front_and_the_mesh_a_quarter_turn_away() -> None:
    tiles = np.stack([np.full((20, 20, 3), value, np.float32) for value in (0.1, 0.2, 0.3, 0.4)])
    bundle = bundle_of(tiles, sphere(), 40)
    assert bundle.rgb.shape == (4, 40, 40, 3)
    assert bundle.rgb[:, 20, 20, 0] == pytest.approx([0.4, 0.1, 0.2, 0.3], abs=1e-5)
    drawn = bundle_of(tiles, sphere(), 40, rendered_colors=True)
    for view, azimuth in enumerate((270, 0, 90, 180)):
        toward = view_axes(azimuth)[2]
        assert decode_normals(drawn.rgb[view, 20, 20]) == pytest.approx(toward, abs=0.06)
    assert np.array_equal(drawn.normals, bundle.normals) and np.array_equal(drawn.mask, bundle.mask)


@pytest.mark.parametrize("scale", [0.75, 1.3])
def test_the_start_mesh_gets_as_large_as_the_outlines(scale: float) -> None:
    vertices, faces = ball(0.7, 3)
    vertices = vertices * np.float32([1.0, 0.6, 0.8])
    colors, blank = np.zeros((len(vertices), 3), np.uint8), np.zeros(len(vertices), np.float32)
    _, _, mask = draw_mesh(LrmMesh(vertices, faces, colors, blank, blank), 64, AZIMUTHS, RADIUS)
    assert fit_scale(vertices / scale, mask) == pytest.approx(scale, rel=0.03)
    assert fit_scale(vertices, np.zeros_like(mask)) == 1.0


def test_the_reconstruction_model_is_a_start() -> None:
    colors, normals, mask = draw_mesh(sphere(), 32, AZIMUTHS, RADIUS)
    drawn = Bundle(colors, normals, mask)
    vertices, faces = lrm_start(drawn, random_generator(SMALL_LRM, 1))
    assert len(faces) and faces.max() == len(vertices) - 1 and vertices.dtype == np.float32
    again = lrm_start(drawn, random_generator(SMALL_LRM, 1))
    assert np.array_equal(vertices, again[0]) and np.array_equal(faces, again[1])


def test_a_photo_becomes_a_bundle_the_same_one_again(photo: np.ndarray) -> None:
    views_model, mesh_model = random_networks(SMALL_VIEWS, 0), random_generator(SMALL_LRM, 1)
    settings = ReferenceSettings(steps=2, tile=32)
    hooks = Hooks()
    bundle = reference_bundle(photo, views_model, mesh_model, 7, settings, hooks)
    hooks.finish()
    assert bundle.rgb.shape == (4, 32, 32, 3) and bundle.mask.max() > 0
    assert list(hooks.seconds) == ["views", "rough_mesh"]
    again = reference_bundle(photo, views_model, mesh_model, 7, settings)
    assert np.array_equal(bundle.rgb, again.rgb) and np.array_equal(bundle.normals, again.normals)
    other = reference_bundle(photo, views_model, mesh_model, 7, ReferenceSettings(2, tile=32, published_framing=True))
    assert not np.array_equal(bundle.rgb, other.rgb)
