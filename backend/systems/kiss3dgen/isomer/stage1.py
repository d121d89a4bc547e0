"""Stage 1: the coarse shape, from normals and outlines; a constant push outward keeps the surface from sinking."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from backend.geometry.mesh_optimizer import MeshOptimizer, OptimizerSettings
from backend.geometry.mesh_topology import vertex_normals
from backend.geometry.remeshing import Picker
from backend.systems.kiss3dgen.isomer.losses import box_loss, expansion_loss, outline_loss, picture_loss
from backend.systems.kiss3dgen.isomer.settings import StageSettings
from backend.systems.kiss3dgen.isomer.views import Renderer


def make_optimizer(vertices: Tensor, faces: Tensor, settings: StageSettings) -> MeshOptimizer:
    """The optimiser of a stage."""
    return MeshOptimizer(
        vertices,
        faces,
        OptimizerSettings(
            lr=settings.step_size,
            lengths=(settings.end_length, settings.start_length),
            gain=settings.gain,
            ramp=settings.ramp,
            laplacian=settings.laplacian,
            most_faces=settings.most_faces,
        ),
    )


def run(
    vertices: Tensor,
    faces: Tensor,
    target: Tensor,
    render: Renderer,
    settings: StageSettings,
    on_loss: Callable[[float], None],
    pick: Picker | None = None,
    *,
    clear_gradients: bool = True,
) -> tuple[Tensor, Tensor]:
    """Mesh [N,3], [F,3] drawn to the target [V,H,W,4] (on black). `on_loss` is told each step's loss.

    With remeshing, gradients are cleared in any case; without, the published loop forgets to (`clear_gradients`).
    """
    mesh = make_optimizer(vertices, faces, settings)
    for _ in range(settings.steps):
        mesh.lr *= settings.decay
        if clear_gradients:
            mesh.zero_grad()
        normals = vertex_normals(mesh.vertices, mesh.faces)
        pictures = render(mesh.vertices, mesh.faces, normals)
        loss = (
            picture_loss(pictures, target, 4)
            + outline_loss(pictures, target, settings.both_sides)
            + box_loss(mesh.vertices)
        )
        loss = loss + settings.expansion * expansion_loss(mesh.vertices, normals)
        loss.backward()
        mesh.step()
        if settings.remesh:
            mesh.remesh(pick)
        on_loss(float(loss.detach()))
    return mesh.vertices.detach(), mesh.faces
