"""ISOMER's numbers: the published schedules, and those for bundles smaller than the published 512 pixel tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from backend.systems.kiss3dgen.bundle import RADIUS
from backend.systems.kiss3dgen.projection import NORMAL_WEIGHTS

PUBLISHED_TILE = 512
PIXELS_WIDE = 2.4  # bundle units that a tile is wide where the object is: 1.8 cover three quarters of it
EDGE_PIXELS = 0.667
LAST_STEP = 0.05  # of the first step's size
FACES_PER_PIXEL = 500  # of a tile's side, aimed at: 64 pixels give what 2 cores refine in a few seconds
MOST_FACES = 500_000  # while a shape is refined: an object's pixels in four tiles of 512; noise takes millions


@dataclass(frozen=True)
class StageSettings:
    """One stage (spec 8). Lengths are of edges, in bundle units; `decay` multiplies the step size before each step.

    project_first, project_every: stage 2 looks at the pictures again in each of the first steps and then at every
    n-th. both_sides: outlines are held from inside too, which the published code leaves to the normals. most_faces:
    no remeshing goes beyond.
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
    both_sides: bool = False
    project_first: int = 5
    project_every: int = 20
    most_faces: int | None = None


STAGE1 = StageSettings(steps=0, decay=0.995, gain=0.05, start_length=0.1, end_length=0.02, ramp=1.0, expansion=0.1)
STAGE2 = StageSettings(steps=50, decay=0.99, gain=0.2, start_length=0.02, end_length=0.005, ramp=5.0)


@dataclass(frozen=True)
class IsomerSettings:
    """A whole refinement.

    radius: of the cameras, must fit the bundle: 4.5 for those that we draw, another for each flow of the published
    networks (`flows.json`). weights: of the views' normals in stage 2. smoothing: Laplacian passes at the end.
    subdivisions: rounds of Loop's scheme, for edges longer than subdivide_above of the box's diagonal. most_faces:
    there are never more, or as many as the start mesh has; edges get longer where its area would need more, and what
    grows beyond that while it is refined, as noise does, is neither split nor subdivided any further.
    """

    stage1: StageSettings = STAGE1
    stage2: StageSettings = STAGE2
    radius: float = RADIUS
    weights: tuple[float, ...] = NORMAL_WEIGHTS
    smoothing: int = 1
    subdivisions: int = 2
    subdivide_above: float = 0.0025
    most_faces: int = MOST_FACES

    def fitted(self, area: float) -> IsomerSettings:
        """These settings with stages that keep to `most_faces`, and edges that a surface of this area needs no more
        faces with."""
        least = math.sqrt(area / (self.most_faces * math.sqrt(3) / 4))
        stages = (
            replace(
                stage,
                end_length=max(stage.end_length, least),
                start_length=max(stage.start_length, least),
                most_faces=self.most_faces,
            )
            for stage in (self.stage1, self.stage2)
        )
        return replace(self, **dict(zip(("stage1", "stage2"), stages, strict=True)))


def settings_for(size: int, stage1_steps: int, stage2_steps: int, radius: float = RADIUS) -> IsomerSettings:
    """A schedule for tiles of `size` pixels: the published one for the published size, ours for smaller ones.

    Ours starts from a surface that already has the outlines: outlines are held from both sides, steps shrink to a
    twentieth until the end so that the surface comes out smooth, and edges are two thirds of a pixel.
    """
    if size >= PUBLISHED_TILE:
        return IsomerSettings(
            stage1=replace(STAGE1, steps=stage1_steps), stage2=replace(STAGE2, steps=stage2_steps), radius=radius
        )
    least = EDGE_PIXELS * PIXELS_WIDE / size
    first = replace(STAGE1, steps=stage1_steps, end_length=max(STAGE1.end_length, 1.6 * least))
    first = replace(first, start_length=max(STAGE1.start_length, 2 * first.end_length))
    decay = LAST_STEP ** (1 / max(stage2_steps, 1))
    second = replace(
        STAGE2,
        steps=stage2_steps,
        decay=decay,
        start_length=1.2 * least,
        end_length=least,
        step_size=0.2,
        laplacian=0.05,
        both_sides=True,
    )
    return IsomerSettings(first, second, radius, smoothing=2, subdivisions=0, most_faces=FACES_PER_PIXEL * size)
