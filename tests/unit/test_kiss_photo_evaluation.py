"""The photo part of Kiss3DGen's evaluation: a true mesh is found in its photo, a failure scores worst."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MEDIA_TYPE, mesh_to_bytes
from backend.evaluation import kiss3dgen_photo
from backend.systems.base import ArtifactData
from tests.unit.test_evaluation import mesh, view


class Maker:
    """In the place of the networks: answers the first photo with the truth, and no other."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def run(self, task: str, inputs: dict[str, bytes], parameters: dict[str, Any], hooks: object) -> Any:
        self.asked.append(parameters)
        if task != "image_to_3d" or set(inputs) != {"image"} or len(self.asked) > 1:
            raise MaquetteError("bad_input", "No object took shape.")
        files = [ArtifactData("asset.mesh", mesh_to_bytes(mesh()), MEDIA_TYPE)]
        return argparse.Namespace(artifacts=files)


def test_the_true_mesh_is_found_in_its_photo_and_a_failure_scores_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    def views(folder: Path, split: str, count: int, limit: int | None, seed: int) -> list[Any]:
        assert (folder, split, count, limit, seed) == (Path("shards"), "val", 1, 2, 3)
        return [view(), view(1.4)]

    monkeypatch.setattr(kiss3dgen_photo, "views_from_shards", views)
    options = argparse.Namespace(shards=Path("shards"), assets=None, split="val", limit=2, seed=3, weights="mini")
    report = kiss3dgen_photo.measure_photo(Maker(), options)  # type: ignore[arg-type]
    good, bad = report["objects"]
    assert good["chamfer_full"] < 0.02 and good["voxel_iou"] > 0.7  # 4,000 points miss some voxels
    assert good["mask_iou"] > 0.9 and good["rotation_error_sym_deg"] < 10, "the camera of the photo is found"
    assert bad["error"] and bad["mask_iou"] == 0 and bad["rotation_error_deg"] == 180
    assert report["summary"]["count"] == 2
