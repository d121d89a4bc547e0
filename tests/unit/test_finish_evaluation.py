"""backend.evaluation.finish: a pattern finer than the triangles is worth a texture, and means are means."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from backend.contract.errors import MaquetteError
from backend.evaluation.finish import Shape, compare, main, summarise
from backend.geometry.pose import Camera
from backend.systems.cupid.outline_fit import draw_to_outlines
from backend.systems.cupid.outline_snap import Outline
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
    assert (summary["2000"]["gain_median"], summary["2000"]["share_of_2_db"]) == (3.0, 0.5)  # gains of 0 and 6


def test_a_shape_with_an_outline_is_compared_with_that_outline():
    ball = trimesh.creation.icosphere(4, 0.47)
    rgba = photo(FRONT, (255, 255, 255))  # of a larger ball
    outlines = (Outline(Camera(INTRINSICS, FRONT, 0.0), rgba[..., 3] / 255.0),)
    vertices, faces = np.asarray(ball.vertices), np.asarray(ball.faces)
    entries = []
    for drawn in ((), outlines):
        surface = draw_to_outlines(vertices, faces, drawn)
        entries.append(compare(Shape(*surface, (rgba, FRONT, INTRINSICS), FRONT, INTRINSICS, drawn), rgba, 600))
    assert entries[1]["psnr_baked"] > entries[0]["psnr_baked"] + 2.0 and entries[1]["triangles"] <= 612


def test_nothing_to_evaluate_on_is_said(tmp_path):
    with pytest.raises(MaquetteError, match="nothing to evaluate"):
        main(["--out", str(tmp_path / "report.json")])
