"""Stage II: a bundle becomes a mesh. Start mesh -> ISOMER -> colours of the views -> repair, budget, UVs, texture.

The refinement runs in the bundle frame; what comes out lies in our object cube, z up.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import torch

from backend.contract.meshes import MeshData
from backend.systems.base import Hooks
from backend.systems.finishing import FinishOptions, finish
from backend.systems.kiss3dgen.bundle import RADIUS, Bundle, from_bundle_frame
from backend.systems.kiss3dgen.isomer.refine import refine
from backend.systems.kiss3dgen.isomer.settings import IsomerSettings, settings_for
from backend.systems.kiss3dgen.start_mesh import Surface, ball, start_mesh
from backend.systems.kiss3dgen.texture import bundle_painter

logger = logging.getLogger(__name__)

STAGES = ("start_mesh", "refine_mesh", "finish")
STARTS = ("hull", "sphere")
STAGE1_STEPS, STAGE2_STEPS = 0, 50
SPHERE_STAGE1_STEPS, SPHERE_STAGE2_STEPS = 200, 100  # from a ball, as the original ISOMER takes (spec 8)


@dataclass(frozen=True)
class ReconstructSettings:
    """start: "hull" or "sphere", where no start mesh is given. Steps of ISOMER's stages, None for those that the start
    needs. radius: of the bundle's cameras in bundle units. isomer: the whole schedule, instead of steps and radius.
    """

    start: str = "hull"
    stage1_steps: int | None = None
    stage2_steps: int | None = None
    radius: float = RADIUS
    isomer: IsomerSettings | None = None
    finish: FinishOptions = field(default_factory=FinishOptions)
    device: str = "cpu"

    def schedule(self, size: int) -> IsomerSettings:
        """ISOMER's schedule for tiles of `size` pixels."""
        if self.isomer is not None:
            return self.isomer
        usual = (SPHERE_STAGE1_STEPS, SPHERE_STAGE2_STEPS) if self.start == "sphere" else (STAGE1_STEPS, STAGE2_STEPS)
        first = usual[0] if self.stage1_steps is None else self.stage1_steps
        second = usual[1] if self.stage2_steps is None else self.stage2_steps
        return settings_for(size, first, second, self.radius)


def reconstruct(bundle: Bundle, settings: ReconstructSettings, hooks: Hooks, start: Surface | None = None) -> MeshData:
    """The finished, textured mesh of a bundle in the object cube; `start` in the bundle frame replaces the usual one.

    Errors: `MaquetteError` where the views show no object, `Cancelled`; ValueError for an unknown start.
    """
    vertices, faces = refined(bundle, settings, hooks, start)
    hooks.stage(STAGES[2])
    painter = bundle_painter(bundle, settings.schedule(bundle.size).radius)
    return finish(vertices, faces, settings.finish, None, painter)


def refined(bundle: Bundle, settings: ReconstructSettings, hooks: Hooks, start: Surface | None = None) -> Surface:
    """The shape alone: vertices [V,3] float64 in the object cube and faces [F,3] int64. Errors as `reconstruct`."""
    if settings.start not in STARTS:
        raise ValueError(f"The start mesh is one of {', '.join(STARTS)}; got {settings.start}.")
    schedule = settings.schedule(bundle.size)
    hooks.stage(STAGES[0])
    if start is None:
        start = ball() if settings.start == "sphere" else start_mesh(bundle, schedule.radius)
    hooks.stage(STAGES[1])
    vertices, faces = start
    device = torch.device(settings.device)
    shape, triangles = refine(
        torch.as_tensor(vertices, dtype=torch.float32, device=device),
        torch.as_tensor(faces, dtype=torch.int64, device=device),
        bundle, schedule, hooks,
    )  # fmt: skip
    logger.info("start mesh of %d triangles, refined to %d", len(faces), len(triangles))
    moved = from_bundle_frame(shape.detach().cpu().numpy().astype(np.float64))
    return np.clip(moved, -0.5, 0.5), triangles.cpu().numpy()
