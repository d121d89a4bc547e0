"""Stage 2: details. The four normal maps are projected on the mesh and blended first, so that the views agree; that
picture of the mesh is then what its own normals are fitted to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backend.geometry.mesh_topology import vertex_normals
from backend.geometry.remeshing import Picker
from backend.systems.kiss3dgen.isomer.losses import box_loss, expansion_loss, outline_loss, picture_loss
from backend.systems.kiss3dgen.isomer.settings import StageSettings
from backend.systems.kiss3dgen.isomer.stage1 import make_optimizer
from backend.systems.kiss3dgen.isomer.views import Renderer

Projector = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`project(vertices [N,3], faces [F,3], normals [N,3]) -> [N,3]`: unit normals that the pictures ask for, and the given
ones where no picture says any."""


def run(
    vertices: Tensor,
    faces: Tensor,
    target: Tensor,
    render: Renderer,
    project: Projector,
    settings: StageSettings,
    on_loss: Callable[[float], None],
    pick: Picker | None = None,
) -> tuple[Tensor, Tensor]:
    """Mesh [N,3], [F,3] drawn to what `project` makes of the pictures; outlines come from the target [V,H,W,4]."""
    mesh = make_optimizer(vertices, faces, settings)
    wanted = target
    for step in range(settings.steps):
        mesh.lr *= settings.decay
        mesh.zero_grad()
        normals = vertex_normals(mesh.vertices, mesh.faces)
        pictures = render(mesh.vertices, mesh.faces, normals)
        if step < settings.project_first or step % settings.project_every == 0:
            with torch.no_grad():
                asked = project(mesh.vertices, mesh.faces, normals)
                wanted = render(mesh.vertices, mesh.faces, asked)
        loss = (
            picture_loss(pictures, wanted, 3)
            + outline_loss(pictures, target, settings.both_sides)
            + box_loss(mesh.vertices)
        )
        if settings.expansion:
            loss = loss + settings.expansion * expansion_loss(mesh.vertices, normals)
        loss.backward()
        mesh.step()
        if settings.remesh:
            mesh.remesh(pick)
        on_loss(float(loss.detach()))
    return mesh.vertices.detach(), mesh.faces
