"""The part of `python -m backend generate` about pictures of a mesh: task render_picture, its views drawn without
Blender by our own rasteriser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData, MeshError, mesh_from_bytes
from backend.formats.glb_reader import GlbError, read_glb
from backend.formats.images import decode_image, encode_png
from backend.rendering.views import render_mesh
from backend.systems.base import RunResult
from backend.systems.refany3d.condition_views import ConditionViews, azimuths, draw_conditions

TASK = "render_picture"
VIEWS = 8
SIDE = 512  # pixels of a view, as published; weights for smaller pictures make them smaller
LOADERS = {".glb": read_glb, ".mesh": lambda data: [mesh_from_bytes(data)]}


def read_mesh(path: Path) -> list[MeshData]:
    """The meshes of a GLB or Maquette mesh file, in world axes. Errors: `MaquetteError` bad_input."""
    loader = LOADERS.get(path.suffix.lower())
    if loader is None:
        raise MaquetteError("bad_input", f"The mesh {path.name} is of no kind that can be read; give a .glb file.")
    try:
        return loader(path.read_bytes())
    except OSError as error:
        raise MaquetteError(
            "bad_input", f"The file {path} cannot be read; choose another one.", detail=str(error)
        ) from error
    except (GlbError, MeshError) as error:
        raise MaquetteError("bad_input", f"The mesh {path.name} cannot be used. {error}") from error


def draw_views(
    meshes: Sequence[MeshData], count: int = VIEWS, even: bool = False, elevation: float = 0.0
) -> ConditionViews:
    """The conditions of a mesh, `count` views; `even` and `elevation` (degrees) differ from what is published.

    Errors: `MaquetteError` bad_input without a face.
    """
    try:
        return draw_conditions(meshes, SIDE, azimuths(count, even), elevation)
    except ValueError as error:
        raise MaquetteError("bad_input", "The mesh has no faces; choose another one.", str(error)) from error


def picture_inputs(drawn: ConditionViews) -> dict[str, bytes]:
    """The task's inputs."""
    views, points = drawn.strips()
    return {"views": encode_png(views), "points": encode_png(points)}


def bounds_parameters(drawn: ConditionViews) -> dict[str, list[float]]:
    """The task's parameters that say where the mesh is."""
    return {"bounds_min": drawn.bounds.low.tolist(), "bounds_max": drawn.bounds.high.tolist()}


def write_pictures(result: RunResult, inputs: dict[str, bytes], meshes: Sequence[MeshData], out: Path) -> None:
    """Write the artifacts, the conditions and, where a camera was solved, picture | point map | mesh in the picture.

    Errors: `MaquetteError` disk_full when it cannot be written.
    """
    data = {artifact.name: artifact.data for artifact in result.artifacts}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in (*data.items(), *((f"{name}.png", content) for name, content in inputs.items())):
            (out / name).write_bytes(content)
        for number, variant in enumerate(json.loads(data["report.json"])["variants"]):
            if variant["camera"]["world_to_camera"] is not None:
                sheet = overlay(data[f"picture-{number}.png"], data[f"points-{number}.png"], meshes, variant["camera"])
                (out / f"overlay-{number}.png").write_bytes(sheet)
    except OSError as error:
        raise MaquetteError(
            "disk_full", f"The result could not be written to {out}; choose another folder or free space.",
            detail=str(error), next_step="free_disk",
        ) from error  # fmt: skip


def overlay(picture: bytes, points: bytes, meshes: Sequence[MeshData], camera: dict) -> bytes:
    """PNG, side by side: the picture, its point map, and the mesh drawn over the picture through the solved camera."""
    shown, places = (decode_image(each).rgba[..., :3].astype(np.float32) / 255.0 for each in (picture, points))
    size = (shown.shape[1], shown.shape[0])
    matrix, lens = np.array(camera["world_to_camera"]), np.array(camera["intrinsics"])
    composed, nearest = shown.copy(), np.full(shown.shape[:2], np.inf)
    for mesh in meshes:
        view = render_mesh(mesh, matrix, lens, size, supersample=1)
        front = view.mask & (view.depth < nearest)
        composed[front], nearest[front] = view.color[front], view.depth[front]
    return encode_png(np.concatenate([shown, places, composed], axis=1))
