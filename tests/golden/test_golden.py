"""Every golden case of the copied folders, and the runner's own refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden.__main__ import REPLAYS, main
from tests.golden.replay import list_cases, replay_case

FOLDER = Path(__file__).parent / "cupid"
KISS_FOLDER = Path(__file__).parent / "kiss3dgen"
REFANY_FOLDER = Path(__file__).parent / "refany3d"
CASES = list_cases(FOLDER) + list_cases(KISS_FOLDER) + list_cases(REFANY_FOLDER)
torch.set_num_threads(1)


def test_there_are_cases() -> None:
    assert len(list_cases(FOLDER)) >= 21
    assert len(list_cases(KISS_FOLDER)) >= 6
    assert len(list_cases(REFANY_FOLDER)) >= 12


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_case(path: Path) -> None:
    result = replay_case(path, REPLAYS)
    assert result.passed, result.line()


def test_empty_folder_fails(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 1


def test_unknown_case_fails(tmp_path: Path) -> None:
    manifest = {"case": "telepathy", "file": "telepathy.npz", "config": {}, "tolerance": {"rtol": 0, "atol": 0}}
    (tmp_path / "telepathy.json").write_text(json.dumps(manifest))
    np.savez(tmp_path / "telepathy.npz", out=np.zeros(1))
    result = replay_case(tmp_path / "telepathy.json", REPLAYS)
    assert not result.passed
    assert "unknown case" in result.detail
    assert main([str(tmp_path)]) == 1


def test_a_wrong_value_fails(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "embeddings.json", tmp_path)
    with np.load(FOLDER / "embeddings.npz") as stored:
        arrays = dict(stored)
    arrays["ape_48"] = arrays["ape_48"] + 1e-3
    np.savez(tmp_path / "embeddings.npz", **arrays)
    assert main([str(tmp_path)]) == 1


def test_cases_listed_in_one_manifest_with_tolerances_in_words(tmp_path: Path) -> None:
    entry = json.loads((KISS_FOLDER / "srgb_to_linear.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({"set": "any", "cases": [entry]}))
    assert main([str(tmp_path)]) == 1  # its arrays are missing
    shutil.copy(KISS_FOLDER / "srgb_to_linear.npz", tmp_path)
    assert main([str(tmp_path)]) == 0
    with np.load(KISS_FOLDER / "srgb_to_linear.npz") as stored:
        arrays = dict(stored)
    arrays["out_linear"] = arrays["out_linear"] + 1e-5
    np.savez(tmp_path / "srgb_to_linear.npz", **arrays)
    assert main([str(tmp_path)]) == 1
