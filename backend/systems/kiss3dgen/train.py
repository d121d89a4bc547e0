"""Training of Kiss3DGen mini on true bundles (`backend.data.bundles`), spec section 11 at small numbers.

Stages, in the order they need each other: `vae`; `base`, the transformer with the Redux encoder; then `controlnet`
(the tile condition) and `lora` (the bundle LoRA) on the frozen base. Each writes its run below `OUT/kiss3dgen/<stage>`
and, with export, its averaged weights into the folder that the pipeline loads.
"""

from __future__ import annotations

from collections.abc import Callable

from backend.contract.errors import MaquetteError
from backend.training.stage import train_stage

from .train_flow import Base, BundleLora, ControlNet
from .train_stage import KissTrainRequest, Stage
from .train_vae import Vae

STAGES: dict[str, Callable[[KissTrainRequest], Stage]] = {
    "vae": Vae, "base": Base, "controlnet": ControlNet, "lora": BundleLora,
}  # fmt: skip


def train(request: KissTrainRequest) -> dict[str, float]:
    """Run one stage for the requested minutes; returns its last measures. Errors: `MaquetteError` bad_input."""
    if request.stage not in STAGES:
        raise MaquetteError("bad_input", f"Kiss3DGen has no stage {request.stage!r}; choose: {', '.join(STAGES)}.")
    stage = STAGES[request.stage](request)
    return train_stage(stage, request, request.out / "kiss3dgen" / request.stage)
