"""backend.geometry.unwrap: atlases without overlaps, holes or chance."""

from __future__ import annotations

import time

import numpy as np
import pytest
import trimesh
from scipy import ndimage

from backend.geometry.unwrap import LEAST_FACING, Atlas, unwrap


def ramp(turns: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """A spiral ramp around z: one connected surface that faces up and lies above itself."""
    angle = np.linspace(0, 2 * np.pi * turns, steps + 1)
    rim = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    height = (angle / angle[-1] - 0.5)[:, None]
    vertices = np.concatenate([np.hstack([0.2 * rim, height]), np.hstack([0.5 * rim, height])])
    inner = np.arange(steps)
    outer = inner + steps + 1
    faces = np.concatenate([np.stack([inner, outer, outer + 1], 1), np.stack([inner, outer + 1, inner + 1], 1)])
    return vertices, faces


def solids() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rough = trimesh.creation.icosphere(3, 0.5)
    noise = np.random.default_rng(0).normal(0, 0.01, rough.vertices.shape)
    shapes = {
        "sphere": trimesh.creation.icosphere(2, 0.5),
        "torus": trimesh.creation.torus(0.35, 0.12),
        "box": trimesh.creation.box((1.0, 0.5, 0.1)),
    }
    return {
        **{name: (np.asarray(mesh.vertices), np.asarray(mesh.faces)) for name, mesh in shapes.items()},
        "rough": (np.asarray(rough.vertices) + noise, np.asarray(rough.faces)),
        "ramp": ramp(3.0, 120),
    }


def owners(atlas: Atlas, size: int) -> np.ndarray:
    """How many faces contain the centre of each texel well inside [size,size], face by face."""
    count = np.zeros((size, size), int)
    corners = atlas.uvs.reshape(-1, 3, 2).astype(np.float64) * size
    y, x = np.mgrid[:size, :size] + 0.5
    for a, b, c in corners:
        sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
        count[::-1] += np.min(sides, axis=0) > 1e-3
    return count


@pytest.mark.parametrize("name", list(solids()))
def test_no_texel_shows_two_places(name):
    size = 160
    atlas = unwrap(*solids()[name], size)
    count = owners(atlas, size)
    # two layers of the ramp share texels only where a face crosses the limit between them
    assert count.max() == 1 if name != "ramp" else (count > 1).mean() < 0.002
    assert (count > 0).sum() > 0.15 * size * size
    assert (atlas.texels.mask[count > 0]).all()
    assert atlas.uvs.min() >= 0 and atlas.uvs.max() <= 1


@pytest.mark.parametrize("name", ["sphere", "torus", "rough"])
def test_charts_keep_their_distance_and_their_area(name):
    vertices, faces = solids()[name]
    atlas = unwrap(vertices, faces, 256, padding=4)
    chart = np.where(atlas.texels.mask, atlas.chart[atlas.texels.face], -1)
    reach = np.ones((9, 9), bool)  # four texels to each side
    highest = ndimage.grey_dilation(chart, footprint=reach, mode="constant", cval=-1)
    lowest = -ndimage.grey_dilation(np.where(chart < 0, -(10**6), -chart), footprint=reach, mode="constant",
                                    cval=-(10**6))  # fmt: skip
    assert (highest[chart >= 0] == chart[chart >= 0]).all() and (lowest[chart >= 0] == chart[chart >= 0]).all()
    first, second = np.diff(atlas.uvs.reshape(-1, 3, 2).astype(np.float64) * 256 / atlas.texels_per_unit,
                            axis=1).transpose(1, 0, 2)  # fmt: skip
    drawn = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    true = np.linalg.norm(np.cross(*np.diff(vertices[faces], axis=1).transpose(1, 0, 2)), axis=1)
    assert (drawn > (LEAST_FACING - 1e-3) * true).all() and (drawn <= true * 1.001 + 1e-6).all()


def test_a_sphere_is_few_charts_and_noise_makes_few_more():
    shapes = solids()
    assert unwrap(*shapes["sphere"], 256).chart.max() + 1 == 6
    assert unwrap(*shapes["rough"], 256).chart.max() + 1 < 40


def test_the_same_mesh_gives_the_same_atlas():
    first, second = (unwrap(*solids()["torus"], 128) for _ in range(2))
    assert np.array_equal(first.uvs, second.uvs) and np.array_equal(first.texels.face, second.texels.face)


def test_single_faces_without_neighbours_still_fit():
    rng = np.random.default_rng(0)
    vertices = rng.uniform(-0.5, 0.5, (3 * 400, 3))
    atlas = unwrap(vertices, np.arange(1200).reshape(-1, 3), 64)  # 400 charts of which 64 x 64 texels hold little
    assert atlas.chart.max() == 399 and atlas.uvs.min() >= 0 and atlas.uvs.max() <= 1


def test_degenerate_faces_do_no_harm():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], float)
    faces = np.array([[0, 1, 2], [0, 3, 0], [1, 1, 1]])
    assert np.isfinite(unwrap(vertices, faces, 32).uvs).all()
    with pytest.raises(ValueError, match="triangles"):
        unwrap(vertices, np.zeros((0, 3), int))
    with pytest.raises(ValueError, match="too small"):
        unwrap(vertices, faces, 8)


def test_twenty_thousand_triangles_in_time():
    mesh = trimesh.creation.icosphere(5, 0.5)  # 20,480 triangles
    started = time.process_time()
    unwrap(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    assert time.process_time() - started < 2.0  # processor time: other work on the machine does not count
