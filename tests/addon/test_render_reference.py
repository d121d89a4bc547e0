"""RefAny3D's training scenes in a real Blender process: pictures with point maps that agree with their cameras."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backend.contract import frames, reference_views
from backend.data import blender, reference_words
from tests.addon.conftest import ROOT
from tests.addon.test_render_objects import write_box

SIDES = {"tall": (0.6, 1.0, 0.5), "flat": (1.0, 0.3, 0.8), "cube": (1.0, 1.0, 1.0)}  # glTF: y is up
SIZE = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three boxes as GLB files, and their table."""
    made = tmp_path_factory.mktemp("boxes")
    for name, sides in SIDES.items():
        write_box(made / f"{name}.glb", sides)
    with (made / "objects.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "path", "split", "caption"])
        rows.writerows([name, f"{name}.glb", "val" if name == "cube" else "train", f"a {name} box"] for name in SIDES)
    return made


@pytest.fixture(scope="module")
def rendered(folder: Path) -> list[blender.RenderedObject]:
    """Three scenes of each box and a file that is no GLB."""
    (folder / "broken.txt").write_text("no GLB")
    paths = [folder / f"{name}.glb" for name in SIDES]
    assets = [blender.Asset(path.stem, path, seed) for seed, path in enumerate([*paths, folder / "broken.txt"])]
    options = blender.SceneOptions(tuple(str(path) for path in paths), scenes=3, size=SIZE, samples=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(blender.BLENDER_VARIABLE, sys.executable)
        return list(blender.render_assets(assets, options, blender.SCENE_SCRIPT))


def test_a_broken_file_is_told_and_the_others_have_scenes(rendered: list[blender.RenderedObject]) -> None:
    assert [bool(item.error) for item in rendered] == [False, False, False, True]
    for item in rendered[:3]:
        arrays = item.arrays
        assert arrays["color"].shape == (3, SIZE, SIZE, 3) and arrays["words"].shape == (3, 5)
        assert arrays["color"].reshape(3, -1).std(axis=1).min() > 3, "no picture is a flat colour"
        for numbers, places in zip(arrays["words"], arrays["neighbours"], strict=True):
            words = reference_words.SceneWords.of_numbers(numbers)
            assert words.light in reference_words.LIGHTS and (places >= 0).sum() <= words.neighbours


def test_point_maps_are_places_on_the_box_where_the_camera_sees_them(rendered: list[blender.RenderedObject]) -> None:
    for item in rendered[:3]:
        arrays = item.arrays
        sides = np.array(SIDES[item.asset.id])[[0, 2, 1]]
        high = sides / sides.max() / 2
        for scene in range(3):
            whole, visible = arrays["whole"][scene], arrays["visible"][scene]
            assert whole.mean() > 0.02 and (visible <= whole).all() and visible.sum() > 0.8 * whole.sum()
            assert (arrays["points"][scene][~whole] == 255).all(), "white where the object is not"
            codes = (arrays["points"][scene][whole] + 0.5) / 255.0
            points = reference_views.decode_points(codes, -high, high)
            assert (np.abs(np.abs(points) / high - 1).min(axis=-1) < 0.02).all(), "every place is on a side of the box"
            uv, depth = frames.project(points, arrays["world_to_camera"][scene], arrays["intrinsics"][scene])
            rows, columns = np.nonzero(whole)
            centres = np.stack([columns + 0.5, rows + 0.5], axis=1)
            assert (depth > 0).all() and np.abs(uv * SIZE - centres).max() < 0.6, "its pixel is where it is seen"


def test_the_command_makes_shards_and_keeps_them(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, blender.BLENDER_VARIABLE: sys.executable, "OMP_NUM_THREADS": "1"}
    command = [
        os.environ["MAQUETTE_BACKEND_PYTHON"], "-m", "backend.data.reference_scenes", "--assets", str(folder),
        "--out", str(tmp_path), "--scenes", "1", "--size", "32", "--samples", "1",
    ]  # fmt: skip
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        index = json.loads((tmp_path / "index.json").read_text())
        assert index["counts"] == {"train": 2, "val": 1}
        captions = [caption for shard in index["shards"] for caption in shard["captions"]]
        assert all(" box " in caption and " on " in caption for caption in captions)
    assert "seconds a scene" not in done.stderr, "what is there is not made again"
