"""backend.evaluation.finish: a pattern finer than the triangles is worth a texture, and means are means."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from backend.contract.errors import MaquetteError
from backend.evaluation.finish import Shape, compare, main, summarise
from tests.unit.test_photo_texture import FRONT, INTRINSICS, photo


def test_baking_and_the_normal_map_are_worth_what_they_cost():
    ball = trimesh.creation.icosphere(4, 0.5)
    vertices = np.asarray(ball.vertices) * (1 + 0.01 * np.sin(40 * np.asarray(ball.vertices)[:, :1]))
    rgba = photo(FRONT, (255, 255, 255))
    entry = compare(Shape(vertices, np.asarray(ball.faces), (rgba, FRONT, INTRINSICS), FRONT, INTRINSICS), rgba, 600)
    assert entry["triangles"] <= 612
    assert entry["psnr_inside_baked"] > entry["psnr_inside_vertex"] + 2.0
    assert entry["psnr_baked"] > entry["psnr_vertex"] + 2.0
    assert entry["shading_mapped"] < 0.6 * entry["shading_flat"]


def test_means_over_the_objects_of_each_budget():
    names = ("triangles", "psnr_vertex", "psnr_baked", "psnr_inside_vertex", "psnr_inside_baked", "shading_flat")
    entries = [{"budgets": {"2000": {name: float(value) for name in names}}} for value in (1, 3)]
    entries[1]["budgets"]["2000"]["psnr_baked"] = 9.0
    summary = summarise([*entries, {"budgets": {}}])
    assert set(summary) == {"2000"} and summary["2000"]["count"] == 2
    assert (summary["2000"]["triangles"], summary["2000"]["gain"], summary["2000"]["gain_inside"]) == (2.0, 3.0, 0.0)


def test_nothing_to_evaluate_on_is_said(tmp_path):
    with pytest.raises(MaquetteError, match="nothing to evaluate"):
        main(["--out", str(tmp_path / "report.json")])
