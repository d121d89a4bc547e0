"""ISOMER's numbers: the published schedules, and those for bundles smaller than the published 512 pixel tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

from backend.systems.kiss3dgen.bundle import RADIUS
from backend.systems.kiss3dgen.projection import NORMAL_WEIGHTS

PUBLISHED_TILE = 512


@dataclass(frozen=True)
class StageSettings:
    """One stage (spec 8). Lengths are of edges, in bundle units; `decay` multiplies the step size before each step.

    project_first, project_every: stage 2 looks at the pictures again in each of the first steps and then at every
    n-th.
    """

    steps: int
    decay: float
    gain: float
    start_length: float
    end_length: float
    ramp: float
    expansion: float = 0.0
    step_size: float = 0.3
    laplacian: float = 0.02
    remesh: bool = True
    project_first: int = 5
    project_every: int = 20


STAGE1 = StageSettings(steps=0, decay=0.995, gain=0.05, start_length=0.1, end_length=0.02, ramp=1.0, expansion=0.1)
STAGE2 = StageSettings(steps=50, decay=0.99, gain=0.2, start_length=0.02, end_length=0.005, ramp=5.0)


@dataclass(frozen=True)
class IsomerSettings:
    """A whole refinement. `radius` of the cameras must fit the bundle: 4.5 for those that we draw, and for what the
    published networks draw another radius a flow (`flows.json`). `weights` of the views blend their normals in stage
    2. `subdivisions` rounds of Loop's scheme cut edges longer than
    `subdivide_above` of the box's diagonal; `smoothing` counts Laplacian passes."""

    stage1: StageSettings = STAGE1
    stage2: StageSettings = STAGE2
    radius: float = RADIUS
    weights: tuple[float, ...] = NORMAL_WEIGHTS
    smoothing: int = 1
    subdivisions: int = 2
    subdivide_above: float = 0.0025


def settings_for(size: int, stage1_steps: int, stage2_steps: int, radius: float = RADIUS) -> IsomerSettings:
    """A schedule for tiles of `size` pixels: no edge much shorter than a pixel shows anything.

    The published least length, about a pixel, is kept for the published size.
    """
    scale = max(1.0, PUBLISHED_TILE / size)
    least = STAGE2.end_length * scale
    first = replace(STAGE1, steps=stage1_steps, end_length=max(STAGE1.end_length, least))
    first = replace(first, start_length=max(STAGE1.start_length, 2 * first.end_length))
    second = replace(STAGE2, steps=stage2_steps, start_length=max(STAGE2.start_length, least), end_length=least)
    return IsomerSettings(stage1=first, stage2=second, radius=radius, subdivisions=2 if scale == 1.0 else 0)
