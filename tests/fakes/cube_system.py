"""A system without networks that answers like CUPID: a textured cube, its camera, a thumbnail. For add-on tests."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from backend.contract.errors import MaquetteError
from backend.contract.frames import look_at
from backend.contract.meshes import MEDIA_TYPE, MeshData, mesh_to_bytes
from backend.contract.messages import SystemInfo
from backend.systems.base import ArtifactData, Hooks, RunResult
from tests.fakes import cube_masks, cube_match, cube_picture, cube_scene, cube_text

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


OWN_STEPS = 3  # where the request says none


def box_mesh(half: tuple[float, float, float] = (0.5, 0.25, 0.3)) -> MeshData:
    """A box with these half sides, outward triangles, UVs, colours and a 4 px texture."""
    faces = np.array([[q[a], q[b], q[c]] for q in QUADS for a, b, c in ((0, 1, 2), (0, 2, 3))], np.int32)
    uvs = np.tile(np.array([[0, 0], [1, 0], [1, 1], [0, 0], [1, 1], [0, 1]], np.float32), (6, 1))
    colors = np.full((8, 4), 255, np.uint8)
    colors[:, :3] = (CORNERS * 100 + 128).astype(np.uint8)
    return MeshData(CORNERS * np.float32(half), faces, uvs, colors, _png((4, 4), (200, 80, 40)))


class CubeSystem:
    """Parameters: steps; focal (None: 1.2); seed 13 gives an unsolved camera, to the first photo; seed 99 takes half a
    second a step."""

    name = "cube"
    title = "Cube"
    tasks = ("image_to_3d", cube_scene.TASK, cube_match.TASK, cube_masks.TASK, cube_text.TEXT, cube_text.REFINE,
             cube_picture.TASK)  # fmt: skip
    stages = ("look", "build")

    def info(self) -> SystemInfo:
        """What the panel shows."""
        return SystemInfo(self.name, self.title, self.tasks, self.stages, True)

    def run(self, task: str, inputs: dict[str, bytes], parameters: dict[str, Any], hooks: Hooks) -> RunResult:
        """Look at the picture's size and answer with a box."""
        hooks.stage("look")
        try:
            names = [name for name in inputs if name.startswith("image")]
            sizes = {name: Image.open(io.BytesIO(inputs[name])).size for name in names}
        except UnidentifiedImageError as error:
            text = "The picture cannot be read. Choose another one."
            raise MaquetteError("bad_input", text, repr(error), "choose_image") from error
        if task == cube_masks.TASK:
            return RunResult(cube_masks.mask_files(sizes["image"]), {"inputs": sorted(inputs)})
        seed, steps = int(parameters["seed"]), int(parameters["steps"] or OWN_STEPS)
        hooks.stage("build")
        for step in range(steps):
            time.sleep(0.5 if seed == 99 else 0.0)
            hooks.step(step + 1, steps)
            shade = 255 * step // steps
            from_sides = task in (cube_text.TEXT, cube_text.REFINE, cube_picture.TASK)
            hooks.preview(cube_text.bundle(shade) if from_sides else _png((32, 32), (shade, 60, 60)))
        if task == cube_picture.TASK:
            return cube_picture.result(inputs, parameters)
        artifacts = (
            *_files(task, inputs, sizes, parameters),
            ArtifactData("thumbnail.png", _png((32, 32), (90, 120, 200)), "image/png"),
            *_variants(int(parameters.get("hypotheses", 1)), sizes, seed, parameters),
        )
        return RunResult(artifacts, {"seed": seed, "steps": steps, "inputs": sorted(inputs)})


def _files(
    task: str, inputs: dict[str, bytes], sizes: dict[str, tuple[int, int]], parameters: dict[str, Any]
) -> tuple[ArtifactData, ...]:
    """The meshes and cameras of the task."""
    if task in (cube_text.TEXT, cube_text.REFINE):
        return cube_text.files(task, box_mesh(), inputs, parameters)
    if task == cube_match.TASK:
        return cube_match.match_files(inputs, sizes["image"], parameters)
    if task == cube_scene.TASK:
        return cube_scene.scene_files(box_mesh(), inputs, sizes["image"], parameters.get("names") or [])
    cameras = (_camera_file(name, size, int(parameters["seed"]), parameters) for name, size in sizes.items())
    return (ArtifactData("asset.mesh", mesh_to_bytes(box_mesh()), MEDIA_TYPE), *cameras)


def _camera_file(name: str, size: tuple[int, int], seed: int, parameters: dict[str, Any]) -> ArtifactData:
    """camera.json of the photo image, camera_1.json of image_1, which was taken a quarter turn further, ..."""
    data = json.dumps(_camera(size, seed, parameters, int(name.removeprefix("image").removeprefix("_") or 0)))
    return ArtifactData(f"{name.replace('image', 'camera')}.json", data.encode(), "application/json")


def _variants(
    count: int, sizes: dict[str, tuple[int, int]], seed: int, parameters: dict[str, Any]
) -> list[ArtifactData]:
    """A gallery of boxes, each flatter than the one before; nothing for a single one."""
    files: list[ArtifactData] = []
    for index in range(count if count > 1 else 0):
        mesh = box_mesh((0.5, 0.25, 0.3 / (1 + index)))
        first, *others = (_camera_file(name, size, seed, parameters) for name, size in sizes.items())
        about = json.dumps({"camera": json.loads(first.data), "scores": {}}).encode()
        files += [
            ArtifactData(f"hypothesis_{index}.mesh", mesh_to_bytes(mesh), MEDIA_TYPE),
            ArtifactData(f"hypothesis_{index}.png", _png((32, 32), (40 * index, 120, 200)), "image/png"),
            ArtifactData(f"hypothesis_{index}.json", about, "application/json"),
            *(replace(other, name=f"hypothesis_{index}_{other.name}") for other in others),
        ]
    return files


def _camera(size: tuple[int, int], seed: int, parameters: dict[str, Any], number: int = 0) -> dict[str, Any]:
    width, height = size
    eye = [np.array([1.5, -2.0, 1.0]), np.array([2.0, 1.5, 1.0]), np.array([-1.5, 2.0, 1.0])][number % 3]
    focal = parameters.get("focal") or 1.2
    solved = {
        "world_to_camera": look_at(eye, np.zeros(3)).tolist(),
        "intrinsics": [[focal, 0, 0.55], [0, focal * width / height, 0.46], [0, 0, 1]],
        "image_size": [width, height],
        "residual_px": 0.1,
        "trusted": True,
        "message": "",
    }
    if seed == 13 and number == 0:
        solved |= {
            "world_to_camera": None,
            "intrinsics": None,
            "trusted": False,
            "message": "The camera could not be found because the object is flat; only the object was added.",
        }
    return solved


def _png(size: tuple[int, int], color: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()
