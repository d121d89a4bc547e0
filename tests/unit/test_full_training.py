"""Every stage makes a step with the published recipe: middle-sized networks of the published classes, one object."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.contract.errors import MaquetteError
from backend.systems.cupid import dinov2, model, train
from backend.training.cli import main
from tests.unit.test_cupid_train_slat import data  # noqa: F401

STAGES = ("uv_vae", "structure_vae", "structure_flow", "slat_vae", "slat_flow")
WIDTH = 32


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The full configuration, narrower: its classes, its resolutions but for the latent's, its recipe."""
    monkeypatch.setitem(dinov2.ARCHITECTURES, "narrow", (WIDTH, 1, 2))
    full = model.read_config("full")
    models = full["models"]
    models["image_encoder"]["args"] = {"architecture": "narrow", "channels": WIDTH}
    for role in ("structure_flow", "slat_flow"):
        models[role]["args"] |= {"model_channels": WIDTH, "cond_channels": WIDTH, "num_blocks": 1, "num_heads": 2}
    models["structure_flow"]["args"]["resolution"] = 8
    models["slat_flow"]["args"] |= {"resolution": 32, "io_block_channels": [16]}
    for role in ("ss_enc", "uv_enc"):
        models[role]["args"] |= {"channels": [8, 8, 8], "num_res_blocks": 1, "num_res_blocks_middle": 1}
    for role in ("ss_dec", "uv_dec"):
        models[role]["args"] |= {"channels": [8, 8, 8], "num_res_blocks": 1, "num_res_blocks_middle": 1}
    for role in ("slat_enc", "slat_dec_mesh", "slat_dec_gs"):
        models[role]["args"] |= {"resolution": 32, "model_channels": WIDTH, "num_blocks": 1, "num_heads": 2}
    models["slat_enc"]["args"]["in_channels"] = WIDTH
    path = tmp_path / "middle.json"
    path.write_text(json.dumps(full))
    return str(path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_trial_makes_one_step_with_a_finite_loss(
    stage: str, config: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:
    options = ["cupid", "--config", config, "--stage", stage, "--data", str(data), "--out", str(tmp_path / "runs")]
    assert main([*options, "--steps", "1", "--batch", "1", "--limit", "1", "--random"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == 1 and np.isfinite(result["loss"]) and result["gradient_norm"] > 0
    assert not list((tmp_path / "runs").rglob("*.safetensors")), "a trial leaves nothing behind"


def test_the_published_recipe_is_the_configurations(config: str, data: Path, tmp_path: Path) -> None:  # noqa: F811
    request = train.TrainRequest(
        "structure_flow", data, tmp_path, config, 0.0, False, False, "cpu", 1, 0.0, 10, 0, None, 1, 1, True
    )
    stage = train.STAGES["structure_flow"](request)
    assert (stage.rate, stage.average, stage.weight_decay, tuple(stage.betas)) == (1e-4, 0.9999, 0.01, (0.9, 0.999))
    assert stage.constant and not stage.muon and stage.workers == 1 and stage.parts == {"structure_flow": "flow"}
    assert stage.module.flow.checkpointing and not any(p.requires_grad for p in stage.module.encoder.parameters())
    assert torch.equal(stage.train_set.normalization[0], torch.zeros(16)), "published stage-1 latents are as they are"
    assert train.StructureFlow.rate == 1e-3, "mini's stays"


def test_without_the_image_encoders_weights_training_says_so(
    config: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    monkeypatch.setattr(train, "MINI_WEIGHTS", tmp_path / "a" / "nothing")
    options = ["cupid", "--config", config, "--stage", "structure_flow", "--data", str(data), "--out", str(tmp_path)]
    with pytest.raises(MaquetteError, match="install DINOv2"):
        main([*options, "--steps", "1"])
    with pytest.raises(MaquetteError, match="mini or full"):
        main([*options[:2], "huge", *options[3:]])
