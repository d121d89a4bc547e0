"""backend.training.stage: a stage of one matrix is run, exported, gone on from, and tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.training.checkpoints import load_tensors
from backend.training.stage import StageRequest, TrainingStage, train_stage

ENTRIES = {"line": {"name": "Line", "args": {"width": 3}}}


class Line(TrainingStage):
    """Learns to double what it gets."""

    batch = 8
    rate = 0.05
    warmup = 1
    average = 0.5
    exact = ("table",)
    parts = {"line": "inner"}

    def __init__(self, request: StageRequest, shipped: Path) -> None:
        super().__init__(request, ENTRIES, request.export_to or shipped, shipped)
        inner = nn.Linear(3, 3)
        inner.table = nn.Parameter(torch.full((2, 2), 1 / 3))
        self.module = nn.ModuleDict({"inner": inner})

    def loss(self, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        inputs = torch.randn(self.size, 3, generator=generator)
        return (self.module["inner"](inputs) - 2 * inputs).square().mean(), {}

    def validate(self) -> dict[str, float]:
        return {"checked": 1.0}

    def arguments(self, role: str) -> dict[str, Any]:
        return super().arguments(role) | {"learnt": True}


def asked(folder: Path, **changes: Any) -> StageRequest:
    values = {
        "stage": "line", "data": folder, "out": folder / "runs", "config": "mini", "minutes": 1.0, "resume": False,
        "export": True, "device": "cpu", "batch": 0, "rate": 0.0, "total": 1000, "seed": 3, "steps": 200,
        "export_to": folder / "weights", **changes,
    }  # fmt: skip
    return StageRequest(**values)


def test_a_stage_learns_and_exports_matrices_in_half_precision_but_for_exact_ones(tmp_path: Path) -> None:
    request = asked(tmp_path)
    result = train_stage(Line(request, tmp_path / "shipped"), request, tmp_path / "run")
    assert result["step"] == 200 and result["loss"] < 0.5 and result["val_checked"] == 1.0
    tensors = load_tensors(tmp_path / "weights" / "line")
    assert (tensors["weight"].dtype, tensors["bias"].dtype, tensors["table"].dtype) == (
        torch.float16, torch.float32, torch.float32,
    )  # fmt: skip
    assert torch.allclose(tensors["weight"].float(), 2 * torch.eye(3), atol=0.1)
    described = json.loads((tmp_path / "weights" / "line.json").read_text())
    assert described == {"name": "Line", "args": {"width": 3, "learnt": True}}


def test_without_a_run_it_goes_on_from_shipped_weights_and_without_those_anew(tmp_path: Path) -> None:
    first = asked(tmp_path)
    train_stage(Line(first, tmp_path), first, tmp_path / "run")
    again = asked(tmp_path, resume=True, export=False, steps=1, rate=1e-9, seed=4)
    stage = Line(again, tmp_path / "weights")
    assert train_stage(stage, again, tmp_path / "other")["loss"] < 0.5
    elsewhere = asked(tmp_path, resume=True, export_to=tmp_path / "empty")
    assert Line(elsewhere, tmp_path / "weights").load_shipped()
    assert Line(again, tmp_path / "nothing").load_shipped(), "what has been exported goes before what ships"
    assert not Line(elsewhere, tmp_path / "nothing").load_shipped()
    resumed = train_stage(Line(again, tmp_path / "nothing"), again, tmp_path / "run")
    assert resumed["step"] == 201, "a run's own checkpoint goes before"


def test_a_trial_saves_nothing_and_a_batch_is_shared_by_the_workers(tmp_path: Path) -> None:
    request = asked(tmp_path, steps=2, batch=6)
    stage = Line(request, tmp_path)
    assert (stage.workers, stage.size) == (1, 6)
    result = train_stage(stage, request, tmp_path / "run", trial=True)
    assert "val_checked" not in result and not (tmp_path / "weights").exists()
    assert not (tmp_path / "run" / "state.json").exists()


def test_the_request_goes_before_the_stages_own_numbers(tmp_path: Path) -> None:
    slow, quick = asked(tmp_path, rate=1e-9, export=False), asked(tmp_path, export=False)
    losses = [
        train_stage(Line(request, tmp_path), request, tmp_path / name)["loss"]
        for request, name in ((slow, "a"), (quick, "b"))
    ]
    assert losses[0] > 2 * losses[1]
