"""What every training stage of Kiss3DGen mini has: its request and its networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from backend.training.checkpoints import load_strict, load_tensors
from backend.training.stage import StageRequest, TrainingStage

from .flux.config import build, read_config, read_settings
from .flux.places import MINI_FOLDER


@dataclass(frozen=True)
class KissTrainRequest(StageRequest):
    """What the command line asks for. photos: shards of the objects' photos; degraded: bundles of them made worse."""

    photos: Path | None = None
    degraded: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the exported weights lie."""
        return self.export_to or MINI_FOLDER


class Stage(TrainingStage):
    """One stage of Kiss3DGen."""

    batch = 32
    rate = 1e-3
    bf16_on_cpu = True
    most_workers = 2

    def __init__(self, request: KissTrainRequest) -> None:
        self.request = request
        self.config = read_config(request.config)
        self.settings = read_settings(self.config)
        super().__init__(request, self.config["networks"], request.folder, request.folder)

    def new(self, role: str) -> nn.Module:
        """A network as its class starts it."""
        return build(self.entries[role]).to(self.device)

    def frozen(self, role: str) -> Any:
        """The exported network `role`. Errors: `MaquetteError` model_missing: its stage comes first."""
        network = self.new(role)
        tensors = {name: tensor.float() for name, tensor in load_tensors(self.folder / role).items()}
        load_strict(network, tensors, role)
        return network.to(self.device).eval().requires_grad_(False)
