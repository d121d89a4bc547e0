"""Start meshes: a body's own outlines give its hull, normals hollow it out, masks that fail are left out or refused."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract.errors import MaquetteError
from backend.geometry.mesh_repair import face_areas, is_closed
from backend.rendering.views import interpolate, vertex_normals
from backend.systems.kiss3dgen import bundle as bundles
from backend.systems.kiss3dgen import start_mesh as starts

SIZE, GRID = 48, 64
AXES = np.array([0.6, 0.75, 0.5])  # of the ellipsoid, in the bundle frame


def ellipsoid() -> starts.Surface:
    vertices, faces = starts.ball(1.0, 4)
    return (vertices * AXES).astype(np.float32), faces


def drawn_bundle(surface: starts.Surface, size: int = SIZE) -> bundles.Bundle:
    """The bundle of a surface, coloured by place."""
    vertices, faces = surface
    normals = vertex_normals(vertices, faces)
    rasters = starts.draw(surface, size)
    mask = np.stack([raster.mask for raster in rasters]).astype(np.float32)
    world = np.stack([interpolate(raster, faces, normals) for raster in rasters])
    world /= np.maximum(np.linalg.norm(world, axis=-1, keepdims=True), 1e-6)
    colors = np.stack([interpolate(raster, faces, (vertices + 1) / 2) for raster in rasters])
    local = bundles.world_to_local(world)
    return bundles.Bundle(bundles.on_white(colors, mask), bundles.encode_normals(local, mask), mask)


def off_surface(vertices: np.ndarray) -> np.ndarray:
    """About how far vertices [N,3] are off the ellipsoid."""
    return np.abs(np.linalg.norm(vertices / AXES, axis=1) - 1.0) * AXES.min()


def test_a_ball_is_round_closed_and_faces_outward() -> None:
    vertices, faces = starts.ball(0.6, 3)
    assert len(faces) == 20 * 4**3 and is_closed(faces)
    assert np.allclose(np.linalg.norm(vertices, axis=1), 0.6, atol=1e-6)
    normals = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    assert (np.einsum("fi,fi->f", normals, vertices[faces].mean(axis=1)) > 0).all()
    assert face_areas(vertices, faces).sum() == pytest.approx(4 * np.pi * 0.36, rel=0.01)


def test_the_hull_holds_the_body_and_the_normals_hollow_it_out() -> None:
    bundle = drawn_bundle(ellipsoid())
    field, views = starts.consistent_hull(bundle.mask, grid=GRID)
    hull, carved = starts.extract(field), starts.start_mesh(bundle, grid=GRID)
    assert views == (0, 1, 2, 3) and is_closed(hull[1]) and is_closed(carved[1])
    assert off_surface(hull[0]).mean() > 0.025  # four views leave the corners
    assert off_surface(carved[0]).mean() < 0.7 * off_surface(hull[0]).mean()
    for surface in (hull, carved):
        outline = np.stack([raster.mask for raster in starts.draw(surface, SIZE)])
        wanted = bundle.mask >= 0.5
        assert (outline & wanted).sum() / (outline | wanted).sum() > 0.93


def test_an_empty_mask_and_one_that_disagrees_are_left_out() -> None:
    bundle = drawn_bundle(ellipsoid())
    empty = bundle.mask.copy()
    empty[2] = 0.0
    assert starts.consistent_hull(empty, grid=GRID)[1] == (0, 1, 3)
    wrong = bundle.mask.copy()
    wrong[1] = 0.0
    wrong[1, :6, :6] = 1.0  # a corner where the object is not
    field, views = starts.consistent_hull(wrong, grid=GRID)
    assert views == (0, 2, 3) and (field > 0).any()
    damaged = bundles.Bundle(bundle.rgb, bundle.normals, wrong)
    assert off_surface(starts.start_mesh(damaged, grid=GRID)[0]).mean() < 0.1


def test_views_without_an_object_are_refused_with_a_next_step() -> None:
    bundle = drawn_bundle(ellipsoid())
    nothing = np.zeros_like(bundle.mask)
    with pytest.raises(MaquetteError, match="try another seed"):
        starts.consistent_hull(nothing, grid=GRID)
    front_only = nothing.copy()
    front_only[0] = bundle.mask[0]
    with pytest.raises(MaquetteError, match="no object"):
        starts.consistent_hull(front_only, grid=GRID)
    apart = nothing.copy()
    apart[[0, 2], :10, 10:30] = 1.0
    apart[[1, 3], -10:, 10:30] = 1.0
    with pytest.raises(MaquetteError, match="no object"):
        starts.consistent_hull(apart, grid=GRID)


def test_a_bundle_shrinks_by_area() -> None:
    bundle = drawn_bundle(ellipsoid())
    small = starts.resized(bundle, SIZE // 2)
    assert small.size == SIZE // 2
    assert small.mask.mean() == pytest.approx(bundle.mask.mean(), abs=1e-6)
    assert np.allclose(small.rgb[0, 3, 5], bundle.rgb[0, 6:8, 10:12].mean(axis=(0, 1)), atol=1e-6)
    assert starts.resized(bundle, SIZE) is bundle


def test_a_rod_thinner_than_a_pixel_is_kept() -> None:
    vertices, faces = starts.ball(1.0, 3)
    rod = (vertices * [0.012, 0.8, 0.012]).astype(np.float32), faces  # a pixel of 48 is 0.05 wide
    bundle = starts.resized(drawn_bundle(rod, 8 * SIZE), SIZE)
    assert bundle.mask.max() < 0.7
    surface = starts.start_mesh(bundle)
    assert np.ptp(surface[0][:, 1]) > 0.95 and np.ptp(surface[0][:, 0]) < 0.12
    wide = starts.with_thin_parts(bundle)
    assert (wide.mask >= 0.99).any(axis=-1).sum() > 0.7 * (bundle.mask > 0.2).any(axis=-1).sum()
    local = bundles.decode_normals(wide.normals[wide.mask > 0.99])
    assert np.abs(np.linalg.norm(2 * wide.normals[wide.mask > 0.99] - 1, axis=-1) - 1).mean() < 0.15
    assert (local[:, 2] > 0.5).mean() > 0.9
