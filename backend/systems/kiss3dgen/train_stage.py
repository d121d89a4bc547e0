"""What every training stage of Kiss3DGen mini has: its request, its networks, what it writes."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.contract.errors import MaquetteError
from backend.training.checkpoints import load_strict, load_tensors, save_model
from backend.training.loop import TrainingLoop

from .flux.config import build, read_config, read_settings
from .flux.places import MINI_FOLDER

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KissTrainRequest:
    """What the command line asks for. `batch`, `rate` 0 take the stage's own."""

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
    photos: Path | None = None
    export_to: Path | None = None
    steps: int = 0

    @property
    def folder(self) -> Path:
        """Where the exported weights lie."""
        return self.export_to or MINI_FOLDER


class Stage:
    """One stage: its module, its loss on a random batch and what it exports."""

    batch = 32
    rate = 1e-3
    muon = False
    workers_on_cpu = 2
    parts: dict[str, str] = {}
    """Role of each network that the stage trains, and its name inside `module` ("" for the module itself)."""

    def __init__(self, request: KissTrainRequest) -> None:
        self.request, self.device = request, torch.device(request.device)
        self.config = read_config(request.config)
        self.settings = read_settings(self.config)
        self.workers = min(os.cpu_count() or 1, self.workers_on_cpu) if self.device.type == "cpu" else 1
        self.size = max(1, (request.batch or self.batch) // self.workers)
        torch.manual_seed(request.seed)

    module: nn.Module

    def new(self, role: str) -> nn.Module:
        """A network as its class starts it."""
        return build(self.config["networks"][role]).to(self.device)

    def frozen(self, role: str) -> Any:
        """The exported network `role`. Errors: `MaquetteError` model_missing: its stage comes first."""
        network = self.new(role)
        tensors = {name: tensor.float() for name, tensor in load_tensors(self.request.folder / role).items()}
        load_strict(network, tensors, role)
        return network.to(self.device).eval().requires_grad_(False)

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch drawn with `generator`."""
        raise AssertionError("a stage defines its loss")

    def validate(self) -> dict[str, float]:
        """Measures on validation objects."""
        raise AssertionError("a stage defines its validation")

    def load_shipped(self) -> bool:
        """Start from the exported weights, where a run's own checkpoint is not at hand; False if they do not fit."""
        try:
            for role, name in self.parts.items():
                tensors = {key: value.float() for key, value in load_tensors(self.request.folder / role).items()}
                load_strict(self.module.get_submodule(name), tensors, role)
        except MaquetteError as error:
            logger.info("%s", error)
            return False
        return True

    def arguments(self, role: str) -> dict[str, Any]:
        """The arguments that `role` is exported with."""
        return dict(self.config["networks"][role]["args"])

    def export(self, loop: TrainingLoop) -> None:
        """Write the averaged weights where the pipeline finds them: matrices in half precision."""
        for role, name in self.parts.items():
            tensors = {key: v.half() if v.ndim > 1 else v for key, v in loop.averaged_state(name).items()}
            save_model(self.request.folder, role, self.config["networks"][role]["name"], self.arguments(role), tensors)
