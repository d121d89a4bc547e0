"""Training of Kiss3DGen mini on true bundles (`backend.data.bundles`), spec section 11 at small numbers.

Stages, in the order they need each other: `vae`; `base`, the transformer with the Redux encoder; then `controlnet`
(the tile condition) and `lora` (the bundle LoRA) on the frozen base. Each writes its run below `OUT/kiss3dgen/<stage>`
and, with export, its averaged weights into the folder that the pipeline loads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from backend.contract.errors import MaquetteError
from backend.training.loop import LoopSettings, TrainingLoop

from .train_flow import Base, BundleLora, ControlNet
from .train_stage import KissTrainRequest, Stage
from .train_vae import Vae

logger = logging.getLogger(__name__)

STAGES: dict[str, Callable[[KissTrainRequest], Stage]] = {
    "vae": Vae, "base": Base, "controlnet": ControlNet, "lora": BundleLora,
}  # fmt: skip


def train(request: KissTrainRequest) -> dict[str, float]:
    """Run one stage for the requested minutes; returns its last measures. Errors: `MaquetteError` bad_input."""
    if request.stage not in STAGES:
        raise MaquetteError("bad_input", f"Kiss3DGen has no stage {request.stage!r}; choose: {', '.join(STAGES)}.")
    stage = STAGES[request.stage](request)
    folder = request.out / "kiss3dgen" / request.stage
    shipped = request.resume and not (folder / "state.json").exists() and stage.load_shipped()
    settings = LoopSettings(
        minutes=request.minutes, learning_rate=request.rate or stage.rate, total=request.total, seed=request.seed,
        muon=stage.muon, workers=stage.workers, steps=request.steps,
    )  # fmt: skip
    loop = TrainingLoop(stage.module, folder, settings, stage.device)
    if request.resume and not loop.resume():
        logger.info("no run in %s: starting %s", folder, "from the shipped weights" if shipped else "anew")
    result = loop.run(stage.loss, stage.validate)
    if request.export:
        stage.export(loop)
    return result
