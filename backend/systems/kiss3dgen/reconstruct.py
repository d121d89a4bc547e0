"""Stage II: a bundle becomes a mesh. Start mesh -> ISOMER -> colours of the views -> repair, budget, UVs, texture.

The refinement runs in the bundle frame; what comes out lies in our object cube, z up.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from backend.contract.meshes import MeshData
from backend.geometry.mesh_topology import find_edges, neighbour_means
from backend.geometry.normal_filter import without_noise
from backend.geometry.simplify import simplify
from backend.systems.base import Hooks
from backend.systems.finishing import FinishOptions, finish
from backend.systems.kiss3dgen.bundle import RADIUS, Bundle, from_bundle_frame
from backend.systems.kiss3dgen.isomer.refine import refine
from backend.systems.kiss3dgen.isomer.settings import IsomerSettings, settings_for
from backend.systems.kiss3dgen.start_mesh import Surface, ball, resized, start_mesh, with_thin_parts
from backend.systems.kiss3dgen.texture import bundle_painter

logger = logging.getLogger(__name__)

STAGES = ("start_mesh", "refine_mesh", "finish")
STARTS = ("hull", "sphere", "lrm")
# Chosen on true bundles of 64 to 256 pixels. Stage 1 moves whole sides of the carved hull, stage 2 sharpens them; ten
# more of stage 2 gain less than 0.01 of any measure.
HULL_STEPS = (30, 20)
SPHERE_STEPS = (200, 100)  # from a ball, as the original ISOMER takes (spec 8)
# Stage 1 from the hull starts with short edges and small steps: with the usual ones a vertex of a rod crosses it at
# once, and the rod's surface ends crumpled inside it, with many times its area.
HULL_STEP_SIZE, HULL_LAPLACIAN = 0.15, 0.05
START_FACES = 10_000  # the hull's own many faces are as small as its grid, flat sides or not
REFINE_SIZE = 128  # pixels of a tile at which shapes are refined: larger ones cost more than they show
NORMAL_SPREAD = 0.7  # of normals that are averaged: ISOMER's surface is bumpy up to such angles (41 degrees)
EVENING = ((0.5, -0.53),) * 2  # Taubin's smoothing: takes the noise of single edges, keeps the volume


@dataclass(frozen=True)
class ReconstructSettings:
    """start: one of STARTS, where no start mesh is given; lrm: the reconstruction model's weights, as `load_lrm` takes
    them. Steps of ISOMER's stages, None for those that the start needs. radius: of the bundle's cameras in bundle
    units. isomer: the whole schedule as published or otherwise, instead of ours, at the bundle's own size.
    """

    start: str = "hull"
    stage1_steps: int | None = None
    stage2_steps: int | None = None
    radius: float = RADIUS
    lrm: str = "published"
    isomer: IsomerSettings | None = None
    finish: FinishOptions = field(default_factory=FinishOptions)
    device: str = "cpu"

    def schedule(self, size: int) -> IsomerSettings:
        """ISOMER's schedule for tiles of `size` pixels. Errors: ValueError for an unknown start."""
        if self.isomer is not None:
            return self.isomer
        if self.start not in STARTS:
            raise ValueError(f"The start mesh is one of {', '.join(STARTS)}; got {self.start}.")
        usual = SPHERE_STEPS if self.start == "sphere" else HULL_STEPS
        first = usual[0] if self.stage1_steps is None else self.stage1_steps
        second = usual[1] if self.stage2_steps is None else self.stage2_steps
        ours = settings_for(size, first, second, self.radius)
        stage1 = replace(ours.stage1, both_sides=True)
        if self.start == "hull":
            stage1 = replace(stage1, start_length=stage1.end_length, step_size=HULL_STEP_SIZE, laplacian=HULL_LAPLACIAN)
        return replace(ours, stage1=stage1, smoothing=0)


def reconstruct(bundle: Bundle, settings: ReconstructSettings, hooks: Hooks, start: Surface | None = None) -> MeshData:
    """The finished, textured mesh of a bundle in the object cube; `start` in the bundle frame replaces the usual one.

    Errors: `MaquetteError` where the views show no object, `Cancelled`; ValueError for an unknown start.
    """
    vertices, faces = refined(bundle, settings, hooks, start)
    hooks.stage(STAGES[2])
    radius = settings.radius if settings.isomer is None else settings.isomer.radius
    painter = bundle_painter(bundle, radius)
    return finish(vertices, faces, settings.finish, None, painter)


def refined(bundle: Bundle, settings: ReconstructSettings, hooks: Hooks, start: Surface | None = None) -> Surface:
    """The shape alone: vertices [V,3] float64 in the object cube and faces [F,3] int64. Errors as `reconstruct`."""
    hooks.stage(STAGES[0])
    if settings.isomer is None and settings.start != "lrm":
        bundle = with_thin_parts(resized(bundle, REFINE_SIZE))
    schedule = settings.schedule(bundle.size)
    if start is None:
        start = made_start(bundle, settings, schedule.radius, hooks)
    hooks.stage(STAGES[1])
    vertices, faces = start
    device = torch.device(settings.device)
    shape, triangles = refine(
        torch.as_tensor(vertices, dtype=torch.float32, device=device),
        torch.as_tensor(faces, dtype=torch.int64, device=device),
        bundle, schedule, hooks,
    )  # fmt: skip
    logger.info("start mesh of %d triangles, refined to %d", len(faces), len(triangles))
    if settings.isomer is None:
        shape = evened(shape, triangles)
    moved = from_bundle_frame(shape.detach().cpu().numpy().astype(np.float64))
    numbered = triangles.cpu().numpy()
    if settings.isomer is None:
        moved = without_noise(moved, numbered, spread=NORMAL_SPREAD)
    return moved.clip(-0.5, 0.5), numbered


def made_start(bundle: Bundle, settings: ReconstructSettings, radius: float, hooks: Hooks) -> Surface:
    """The start mesh that the settings name, in the bundle frame."""
    if settings.start == "sphere":
        return ball()
    if settings.start == "lrm":  # its networks are imported only where they are wanted
        from backend.systems.kiss3dgen.lrm.lrm import load_lrm
        from backend.systems.kiss3dgen.lrm.start import lrm_start

        return lrm_start(bundle, load_lrm(settings.lrm, settings.device), radius, hooks)
    vertices, faces = start_mesh(bundle, radius)
    vertices, faces = simplify(np.asarray(vertices, np.float64), faces, START_FACES)
    return vertices.astype(np.float32), faces


def evened(vertices: Tensor, faces: Tensor) -> Tensor:
    """Vertices [N,3] smoothed without shrinking."""
    edges = find_edges(faces, len(vertices))[0]
    for inward, outward in EVENING:
        for share in (inward, outward):
            vertices = vertices + share * (neighbour_means(vertices, edges) - vertices)
    return vertices
