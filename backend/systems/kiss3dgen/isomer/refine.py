"""The whole of ISOMER: targets from the bundle, stage 1, stage 2, cleanup."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from backend.geometry.mesh_topology import face_normals
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.bundle import Bundle
from backend.systems.kiss3dgen.cameras import isomer_cameras
from backend.systems.kiss3dgen.isomer import stage1, stage2
from backend.systems.kiss3dgen.isomer.cleanup import clean, manifold
from backend.systems.kiss3dgen.isomer.settings import IsomerSettings
from backend.systems.kiss3dgen.isomer.stage2 import Projector
from backend.systems.kiss3dgen.isomer.targets import normal_pictures, normal_targets
from backend.systems.kiss3dgen.isomer.views import make_renderer, visible_faces
from backend.systems.kiss3dgen.projection import project_views

logger = logging.getLogger(__name__)


def refine(
    vertices: Tensor, faces: Tensor, bundle: Bundle, settings: IsomerSettings, hooks: Hooks
) -> tuple[Tensor, Tensor]:
    """A start mesh [N,3] float32, [F,3] int64 in the bundle frame drawn to the normals and outlines of a bundle.

    Runs on the vertices' device; returns the same kinds of tensors. Says each step. Errors: `Cancelled`; ValueError for
    a start mesh without faces.
    """
    if not len(faces):
        raise ValueError("The start mesh has no faces; check that the bundle shows an object on white.")
    device = vertices.device
    pictures = normal_pictures(bundle).to(device)
    target = normal_targets(pictures)
    views, projection = (part.to(device) for part in isomer_cameras(settings.radius))
    render = make_renderer(views, projection, bundle.size)
    tell = _teller(settings.stage1.steps + settings.stage2.steps, hooks)
    vertices, faces = manifold(vertices.detach().float(), faces.long())  # a hidden shell would double the work
    settings = settings.fitted(float(face_normals(vertices, faces).norm(dim=1).sum()) / 2)
    if settings.stage1.steps:
        vertices, faces = stage1.run(vertices, faces, target, render, settings.stage1, tell)
    if settings.stage2.steps:
        project = projector(pictures, views, projection, settings)
        vertices, faces = stage2.run(vertices, faces, target, render, project, settings.stage2, tell)
    hooks.check_cancelled()
    return clean(vertices, faces, settings)


def projector(pictures: Tensor, views: Tensor, projection: Tensor, settings: IsomerSettings) -> Projector:
    """Normals that pictures [4,S,S,4] of `normal_pictures` ask of a mesh's vertices, views blended by their cosines."""

    def project(vertices: Tensor, faces: Tensor, normals: Tensor) -> Tensor:
        seen = visible_faces(vertices, faces, views, projection, pictures.shape[1])
        before = (normals + 1) / 2
        asked = project_views(
            vertices, faces, pictures, seen, before,
            view_weights=settings.weights, power=1, smooth=False, complete=False, radius=settings.radius,
        )  # fmt: skip
        return torch.nn.functional.normalize(2 * asked - 1, dim=1)

    return project


def _teller(count: int, hooks: Hooks) -> Callable[[float], None]:
    done = 0

    def tell(loss: float) -> None:
        nonlocal done
        done += 1
        hooks.step(done, count)
        logger.debug("step %d of %d: loss %.5f", done, count, loss)

    return tell
