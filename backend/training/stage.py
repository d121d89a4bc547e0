"""One stage of a system's training: what is asked for, what every stage has, and how it is run.

A system has one `TrainingStage` for each network that is trained by itself; `train_stage` puts it into the loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.contract.errors import MaquetteError

from .checkpoints import load_strict, load_tensors, save_model, tensor_files
from .loop import LoopSettings, TrainingLoop

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRequest:
    """What the command line asks for. `batch` and `rate` 0 take the stage's own; `steps` go before `minutes`.

    export_to: folder of the exported weights; None is the one that ships.
    """

    stage: str
    data: Path
    out: Path
    config: str
    minutes: float
    resume: bool
    export: bool
    device: str
    batch: int
    rate: float
    total: int
    seed: int
    export_to: Path | None = None
    steps: int = 0


class TrainingStage:
    """One stage: its module, its loss on a random batch and what it exports."""

    batch = 16
    rate = 2e-3
    warmup = 200
    bf16_on_cpu = False
    muon = False
    most_workers = 1
    average = 0.999
    weight_decay = 0.01
    betas = (0.9, 0.98)
    constant = False
    exact: tuple[str, ...] = ()
    """Matrices that keep their precision when they are exported."""
    parts: dict[str, str] = {}
    """Role of each network that the stage trains, and its name inside `module` ("" for the module itself)."""

    module: nn.Module

    def __init__(self, request: StageRequest, entries: Mapping[str, Any], folder: Path, shipped: Path) -> None:
        """entries: {"name", "args"} of each role. folder: where weights are exported to; shipped: where they lie."""
        self.entries, self.folder, self.shipped = entries, folder, shipped
        self.device = torch.device(request.device)
        cores = os.cpu_count() or 1
        self.workers = min(cores, self.most_workers) if self.device.type == "cpu" else 1
        self.size = max(1, (request.batch or self.batch) // self.workers)  # what one worker draws
        torch.manual_seed(request.seed)

    def loss(self, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of a batch drawn with `generator`."""
        raise AssertionError("a stage defines its loss")

    def validate(self) -> dict[str, float]:
        """Measures on validation objects."""
        return {}

    def arguments(self, role: str) -> dict[str, Any]:
        """The arguments that `role` is exported with."""
        return dict(self.entries[role]["args"])

    def export(self, loop: TrainingLoop) -> None:
        """Write the averaged weights where the pipeline finds them: matrices in half precision."""
        for role, name in self.parts.items():
            tensors = loop.averaged_state(name)
            tensors = {k: v.half() if v.ndim > 1 and k not in self.exact else v for k, v in tensors.items()}
            save_model(self.folder, role, self.entries[role]["name"], self.arguments(role), tensors)

    def place(self, role: str) -> Path:
        """Where the weights of `role` lie, without suffix: in `folder` if exported there, else those that ship."""
        return (self.folder if tensor_files(self.folder / role) else self.shipped) / role

    def load_shipped(self) -> bool:
        """Start from exported weights, where a run's own checkpoint is not at hand; False if they do not fit."""
        try:
            for role, name in self.parts.items():
                tensors = {key: tensor.float() for key, tensor in load_tensors(self.place(role)).items()}
                load_strict(self.module.get_submodule(name), tensors, role)
        except MaquetteError as error:
            logger.info("%s", error)
            return False
        return True


def train_stage(stage: TrainingStage, request: StageRequest, folder: Path, trial: bool = False) -> dict[str, float]:
    """Run `stage` in `folder` for the requested minutes; returns its last measures.

    A trial of the machine is not validated, and nothing is saved.
    """
    shipped = request.resume and not (folder / "state.json").exists() and stage.load_shipped()
    settings = LoopSettings(
        minutes=request.minutes,
        learning_rate=request.rate or stage.rate,
        total=request.total,
        seed=request.seed,
        bf16=stage.bf16_on_cpu or stage.device.type != "cpu",
        muon=stage.muon,
        warmup=stage.warmup,
        workers=stage.workers,
        average=stage.average,
        weight_decay=stage.weight_decay,
        betas=stage.betas,
        constant=stage.constant,
        steps=request.steps,
        save=not trial,
    )
    loop = TrainingLoop(stage.module, folder, settings, stage.device)
    if request.resume and not loop.resume():
        logger.info("no run in %s: starting %s", folder, "from the shipped weights" if shipped else "anew")
    result = loop.run(stage.loss, None if trial else stage.validate)
    if request.export and not trial:
        stage.export(loop)
    return result
