"""backend.rendering.bake: texels know their place, and borders keep a chart's colour."""

from __future__ import annotations

import numpy as np
import trimesh

from backend.geometry.unwrap import unwrap
from backend.rendering.bake import covered_texels, paint

SPHERE = trimesh.creation.icosphere(3, 0.5)


def test_texels_lie_on_the_surface():
    faces = np.asarray(SPHERE.faces)
    texels = covered_texels(unwrap(np.asarray(SPHERE.vertices), faces, 128))
    points = texels.interpolate(faces, SPHERE.vertices)
    assert len(points) == len(texels.index) > 4000
    radius = np.linalg.norm(points, axis=1)
    assert radius.min() > 0.49 and radius.max() <= 0.5 + 1e-6  # chords of the sphere's triangles


def test_borders_repeat_the_chart_and_the_rest_is_the_mean():
    atlas = unwrap(np.asarray(SPHERE.vertices), np.asarray(SPHERE.faces), 128)
    texels = covered_texels(atlas)
    chart = atlas.chart[texels.face]
    palette = np.random.default_rng(0).random((chart.max() + 1, 3))
    image = paint(texels, palette[chart], border=4)
    expected = np.rint(palette * 255).astype(np.uint8)
    assert np.array_equal(image.reshape(-1, 3)[texels.index], expected[chart])
    rows, columns = texels.index // 128, texels.index % 128
    for step in range(1, 5):  # straight out of a chart: only its own colour, to four texels
        for row, column in ((step, 0), (-step, 0), (0, step), (0, -step)):
            there = image[(rows + row).clip(0, 127), (columns + column).clip(0, 127)]
            assert np.abs(there.astype(int) - expected[chart]).max() <= 1
    free = ~atlas.texels.mask
    mean = np.rint(expected[chart].mean(axis=0))
    assert (np.abs(image[free] - mean).max(axis=1) <= 1).any()


def test_nothing_covered_is_black():
    atlas = unwrap(np.asarray(SPHERE.vertices), np.asarray(SPHERE.faces), 32)
    texels = covered_texels(atlas)
    empty = type(texels)(32, texels.index[:0], texels.face[:0], texels.barycentric[:0])
    assert (paint(empty, np.zeros((0, 3))) == 0).all()
