"""The measured comparison of camera solvers, on shells seen by known cameras."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract import frames
from backend.contract.errors import MaquetteError
from backend.evaluation import pose
from backend.evaluation.views import TestView as View  # pytest would take a name with Test for a test


def shell_view(seed: int) -> View:
    """A bent shell in a grid of 16, seen from anywhere so that it fills most of the picture."""
    random = np.random.default_rng(seed)
    axis = (np.arange(16) + 0.5) / 16 - 0.5
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    radius = np.sqrt((x / 0.45) ** 2 + (y / 0.3) ** 2 + ((z - 0.5 * x**2) / 0.25) ** 2)
    eye = random.normal(size=3)
    distance = random.uniform(1.8, 4.0)
    camera = frames.look_at(eye / np.linalg.norm(eye) * distance, np.zeros(3))
    intrinsics = np.array([[0.8 * distance, 0, 0.5], [0, 0.8 * distance, 0.5], [0, 0, 1.0]])
    shell, picture, nothing = abs(radius - 1) < 0.2, np.zeros((4, 4, 4), np.uint8), np.zeros((0, 3))
    return View(str(seed), 0, picture, intrinsics, camera, shell, nothing, nothing)


def test_the_robust_solver_is_exact_on_clean_points_and_three_times_better_on_wrong_ones() -> None:
    report = pose.measure([shell_view(seed) for seed in range(4)], seed=0)
    assert set(report) == set(pose.CASES)
    clean = report["clean"]
    for solver in pose.SOLVERS:
        assert clean[solver]["rotation_error_deg_median"] < 1e-5  # degrees; float64 and a cost of 1e-20 leave less
        assert clean[solver]["focal_error_median"] < 1e-6
    for name in ("20 % wrong", "20 % wrong, noise 1 %"):
        robust, linear = (report[name][solver]["rotation_error_deg_median"] for solver in ("robust", "dlt"))
        assert robust * 3 < linear
        assert report[name]["robust"]["unsolved"] == 0
    assert report["noise 1 %"]["robust"]["rotation_error_deg_median"] < 1.5


def test_missing_shards_are_one_sentence(tmp_path) -> None:
    with pytest.raises(MaquetteError, match="none"):
        pose.main(["--shards", str(tmp_path / "none"), "--out", str(tmp_path / "report.json")])
