"""Noise goes, edges stay."""

from __future__ import annotations

import numpy as np

from backend.geometry.normal_filter import beside, normals_and_areas, without_noise


def sheet(size: int = 21) -> tuple[np.ndarray, np.ndarray]:
    """A roof: two flat halves [size * size vertices] that meet at a right angle along y."""
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    vertices = np.stack([x, y, 1 - np.abs(x)], axis=-1).reshape(-1, 3)
    rows = np.arange(size * size).reshape(size, size)
    a, b, c, d = rows[:-1, :-1].ravel(), rows[1:, :-1].ravel(), rows[1:, 1:].ravel(), rows[:-1, 1:].ravel()
    return vertices, np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])


def test_a_noisy_roof_gets_flat_sides_and_keeps_its_ridge() -> None:
    true, faces = sheet()
    noisy = true + np.random.default_rng(0).normal(0, 0.015, true.shape)
    wanted = normals_and_areas(true, faces)[0]

    def error(vertices: np.ndarray) -> float:
        return float(1 - (normals_and_areas(vertices, faces)[0] * wanted).sum(axis=1).mean())

    smooth = without_noise(noisy, faces)
    assert error(smooth) < 0.3 * error(noisy)
    ridge = np.abs(true[:, 0]) < 1e-9
    assert smooth[ridge, 2].mean() > 0.97  # a plain smoothing takes it off
    assert np.abs(smooth - true).max() < 0.08


def test_an_exact_roof_stays_and_an_empty_mesh_is_no_error() -> None:
    true, faces = sheet(7)
    assert np.allclose(without_noise(true, faces, spread=0.2), true, atol=1e-3)
    assert without_noise(np.zeros((3, 3)), np.zeros((0, 3), np.int64)).shape == (3, 3)


def test_faces_beside_each_other_share_an_edge() -> None:
    one, other = beside(np.array([[0, 1, 2], [2, 1, 3], [3, 4, 5]]))
    assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == [(0, 1), (1, 0)]
