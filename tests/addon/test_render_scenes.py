"""Test scenes in a real Blender process, and the command that evaluates scenes on one of them.

The full count, 20 scenes with mini, is `python -m backend evaluate cupid-scenes`; it takes too long for every change.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backend.contract import frames
from backend.data import blender, scenes
from tests.addon.conftest import ROOT
from tests.addon.test_render_objects import write_box

SIDES = {"tall": (0.6, 1.0, 0.5), "flat": (1.0, 0.3, 0.8), "cube": (1.0, 1.0, 1.0)}  # glTF: y is up
SIZE = (96, 72)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three boxes as GLB files."""
    made = tmp_path_factory.mktemp("boxes")
    for name, sides in SIDES.items():
        write_box(made / f"{name}.glb", sides)
    return made


@pytest.fixture(scope="module")
def rendered(folder: Path) -> list[scenes.RenderedScene]:
    """Two scenes of the boxes; a third job is spare, a fourth has a file that is no GLB."""
    (folder / "broken.txt").write_text("no GLB")
    paths = tuple(folder / f"{name}.glb" for name in SIDES)
    broken = scenes.SceneJob("broken", (*paths[:2], folder / "broken.txt"), 0)
    jobs = [broken, *(scenes.SceneJob(f"scene {seed}", paths, seed) for seed in (1, 2, 3))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(blender.BLENDER_VARIABLE, sys.executable)
        return list(scenes.render_scenes(jobs, wanted=2, size=SIZE, samples=1))


def test_a_broken_scene_is_left_out_and_no_more_than_wanted_are_made(rendered: list[scenes.RenderedScene]) -> None:
    assert [scene.id for scene in rendered] == ["scene 1", "scene 2"]


def test_the_truth_agrees_with_masks_and_depth(rendered: list[scenes.RenderedScene]) -> None:
    for scene in rendered:
        assert scene.color.shape == (SIZE[1], SIZE[0], 3) and scene.masks.shape == (3, SIZE[1], SIZE[0])
        assert scene.masks.sum(axis=0).max() == 1, "a pixel shows one object"
        assert (scene.masks <= scene.whole_masks).all()
        rows, columns = np.nonzero(scene.depth > 0)
        pixels = np.stack([(columns + 0.5) / SIZE[0], (rows + 0.5) / SIZE[1], np.ones(len(rows))], axis=1)
        points = pixels @ np.linalg.inv(scene.intrinsics).T * scene.depth[rows, columns, None]
        to_world = np.linalg.inv(scene.world_to_camera)
        world = points @ to_world[:3, :3].T + to_world[:3, 3]
        beside = ~scene.masks.any(axis=0)[rows, columns]
        assert np.abs(world[beside, 2]).max() < 0.02 * scene.depth.max(), "beside the objects there is the ground"
        for index, mask in enumerate(scene.masks):
            own = np.linalg.inv(scene.object_to_world[index])
            local = world[mask[rows, columns]] @ own[:3, :3].T + own[:3, 3]
            low, high = scene.bounds[index]
            assert ((local > low - 0.06) & (local < high + 0.06)).all(), "every masked point lies on its object"
            uv, _ = frames.project(scene.centres[index][None], np.eye(4), scene.intrinsics)
            assert ((uv > 0) & (uv < 1)).all()


def test_objects_stand_apart_on_the_ground(rendered: list[scenes.RenderedScene]) -> None:
    for scene in rendered:
        corners = []
        for matrix, (low, high) in zip(scene.object_to_world, scene.bounds, strict=True):
            box = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
            corners.append(box @ matrix[:3, :3].T + matrix[:3, 3])
            assert corners[-1][:, 2].min() == pytest.approx(0.0, abs=1e-5)
        for a in range(3):
            for b in range(a):
                middle_a, middle_b = corners[a].mean(axis=0)[:2], corners[b].mean(axis=0)[:2]
                reach = [np.linalg.norm(corners[i][:, :2] - corners[i].mean(axis=0)[:2], axis=1).max() for i in (a, b)]
                assert np.linalg.norm(middle_a - middle_b) > sum(reach)


def test_the_evaluation_reports_both_ways(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, blender.BLENDER_VARIABLE: sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [os.environ["MAQUETTE_BACKEND_PYTHON"], "-m", "backend", "evaluate", "cupid-scenes", "--assets", folder,
         "--scenes", "1", "--steps", "1", "--out", tmp_path / "report.json", "--sheet", tmp_path / "sheet.png"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["summary"]) == {"scenes", "depth", "depth_focal", "no_depth", "no_depth_focal"}
    for mode in ("depth", "no_depth"):
        entry = report["scenes"][0]["modes"][mode]
        assert len(entry["objects"]) == 3
        assert all(0 <= item["centre_error"] and 0 <= item["mask_iou"] <= 1 for item in entry["objects"])
    assert (tmp_path / "sheet.png").stat().st_size > 5000
