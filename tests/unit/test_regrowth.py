"""What smoothing took off a surface comes back, and a crease that was never smoothed stays where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from backend.data.degradation import smoothed
from backend.geometry.edge_splitting import with_short_edges
from backend.geometry.mesh_topology import find_edges
from backend.geometry.regrowth import FARTHEST, near_creases, regrown


def capsule() -> tuple[np.ndarray, np.ndarray]:
    made = trimesh.creation.capsule(height=0.6, radius=0.1, count=[24, 24])
    return with_short_edges(np.asarray(made.vertices) - [0, 0, 0.3], np.asarray(made.faces), 0.03, 20_000)


def test_what_a_blur_took_off_is_mostly_given_back() -> None:
    vertices, faces = capsule()
    worse, cut = smoothed(vertices, faces, 0.02)
    before = trimesh.Trimesh(vertices, faces, process=False).volume
    after, back = (trimesh.Trimesh(v, cut, process=False).volume for v in (worse, regrown(worse, cut)))
    assert after < 0.98 * before
    assert abs(back - before) < 0.5 * abs(after - before)


def test_creases_stay_and_nothing_goes_far() -> None:
    box = trimesh.creation.box((0.8, 0.6, 0.4))
    vertices, faces = with_short_edges(np.asarray(box.vertices), np.asarray(box.faces), 0.03, 20_000)
    edges, _ = find_edges(torch.from_numpy(faces), len(vertices))
    near = near_creases(vertices, faces, edges)
    on_an_edge = np.isclose(np.abs(vertices), [0.4, 0.3, 0.2], atol=1e-9).sum(axis=1) >= 2
    assert near[on_an_edge].all() and 0.02 < near.mean() < 0.6
    moved = np.linalg.norm(regrown(vertices, faces) - vertices, axis=1)
    assert moved.max() < 0.3 * FARTHEST
    noisy = vertices + np.random.default_rng(0).normal(0, 0.05, vertices.shape)
    assert np.linalg.norm(regrown(noisy, faces) - noisy, axis=1).max() <= FARTHEST + 1e-12


@pytest.mark.parametrize("share", [0.0, -1.0])
def test_no_share_changes_nothing(share: float) -> None:
    vertices, faces = capsule()
    assert np.array_equal(regrown(vertices, faces, share), vertices)
    assert regrown(vertices, faces[:0]).shape == vertices.shape
