"""The fake system's answers without a photo: a box for a sentence, and a sent mesh as it came, in one colour."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MEDIA_TYPE, MeshData, mesh_from_bytes, mesh_to_bytes
from backend.systems.base import ArtifactData

TEXT, REFINE = "text_to_3d", "refine_mesh"
TILE = 16  # pixels of the pictures from four sides


def bundle(shade: int) -> bytes:
    """A 2 x 4 grid of tiles as a PNG: the left half red, the right half green."""
    picture = np.zeros((2 * TILE, 4 * TILE, 3), np.uint8)
    picture[:, : 2 * TILE, 0], picture[:, 2 * TILE :, 1], picture[..., 2] = 255, 255, shade
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def files(task: str, box: MeshData, inputs: dict[str, bytes], parameters: dict[str, Any]) -> tuple[ArtifactData, ...]:
    """Mesh and bundle. Errors: `MaquetteError` when the text is missing, or what was sent is not of the agreed form."""
    if task == TEXT and not parameters.get("prompt"):
        raise MaquetteError("bad_input", "There is no text. Say what to make.")
    mesh, picture = box, bundle(255)
    if task == REFINE:
        sent, picture = mesh_from_bytes(inputs["mesh"]), inputs["bundle"]
        width, height = Image.open(io.BytesIO(picture)).size
        if width != 2 * height or np.abs(sent.vertices).max() > 0.5 + 1e-5 or not 0 <= parameters["strength"] <= 1:
            raise MaquetteError("bad_input", "The mesh or its picture is not of the agreed form.")
        mesh = MeshData(sent.vertices, sent.faces, None, np.full((len(sent.vertices), 4), 200, np.uint8))
    return (
        ArtifactData("asset.mesh", mesh_to_bytes(mesh), MEDIA_TYPE),
        ArtifactData("bundle.png", picture, "image/png"),
    )
