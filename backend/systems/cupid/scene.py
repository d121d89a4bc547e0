"""Task photo_to_scene: every masked object of a photo made by itself, then all of them put before one camera (spec 9).

An object that fails does not lose the others: the report names it. Its inputs are image, mask_0 to mask_11 (proposed
where there are none) and depth.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backend.contract import meshes
from backend.contract.errors import Cancelled, Failure, MaquetteError
from backend.contract.meshes import MeshData
from backend.formats import glb
from backend.formats.images import SOLID_ALPHA, Picture, decode_image, encode_png
from backend.nn.devices import peak_mib
from backend.rendering.image_metrics import mask_iou
from backend.rendering.thumbnails import THUMBNAIL_SIZE
from backend.rendering.views import render_mesh
from backend.systems.base import ArtifactData, Hooks, RunResult
from backend.systems.cupid import results, scene_depth
from backend.systems.cupid.model import CupidModel
from backend.systems.cupid.object_stage import MadeObject, make_object
from backend.systems.cupid.occlusion import OCCLUDER_CHANNELS
from backend.systems.cupid.photo import prepare_image
from backend.systems.cupid.request import Request
from backend.systems.cupid.scene_depth import DepthMap
from backend.systems.cupid.scene_masks import MASK_NAME, masks_picture, occluder_of, scene_masks
from backend.systems.cupid.scene_placement import PlacedScene, place_objects
from backend.systems.cupid.scene_pose import SceneObject

TASK = "photo_to_scene"
PROPOSED = "The objects were told apart by the plain background; give masks if they are wrong."
NO_CAMERA = "This object's camera could not be found, so that nobody knows where it belongs; try another seed."
STEPS_AN_OBJECT = 100  # of the progress, which runs over all objects


@dataclass(frozen=True)
class SceneInputs:
    """The photo, one mask [H,W] uint8 an object, whether these are only proposed, and the depth if there is any."""

    image: bytes
    picture: Picture
    masks: tuple[np.ndarray, ...]
    proposed: bool
    depth: DepthMap | None


@dataclass(frozen=True)
class SceneEntry:
    """One mask's object: what was made of it, or why nothing was."""

    name: str
    made: MadeObject | None
    failure: Failure | None

    def trusted(self) -> bool:
        """Whether its camera is believed."""
        return self.made is not None and self.made.camera.trusted


class ObjectHooks(Hooks):
    """What one of several objects tells: its steps are its part of the whole job, its messages carry its name."""

    def __init__(self, parent: Hooks, index: int, count: int, name: str) -> None:
        super().__init__()
        self._parent, self._index, self._count, self._name = parent, index, count, name

    def on_stage(self, name: str) -> None:
        self._parent.check_cancelled()

    def on_step(self, stage: str, index: int, count: int) -> None:
        done = self._index * STEPS_AN_OBJECT + round(STEPS_AN_OBJECT * index / max(count, 1))
        self._parent.step(done, self._count * STEPS_AN_OBJECT)

    def on_message(self, text: str) -> None:
        self._parent.message(f"{self._name}: {text}")

    def on_preview(self, png: bytes) -> None:
        self._parent.preview(png)

    def wants_preview(self) -> bool:
        return self._parent.wants_preview()

    def cancelled(self) -> bool:
        return self._parent.cancelled()


def scene_from_photo(networks: CupidModel, inputs: dict[str, bytes], request: Request, hooks: Hooks) -> RunResult:
    """Task photo_to_scene; see the module. Errors: `MaquetteError` when not one object could be made and placed."""
    if request.camera is not None:
        raise MaquetteError("bad_input", "A scene finds its camera itself; give a focal length instead of a camera.")
    read = read_inputs(inputs, networks.device)
    hooks.preview(encode_png(_small(masks_picture(read.picture, read.masks))))
    if read.proposed:
        hooks.message(PROPOSED)
    if request.focal is None and read.depth is not None and read.depth.intrinsics is not None:
        request = dataclasses.replace(request, focal=float(read.depth.intrinsics[0, 0]))
    hooks.stage("sample_structure")
    entries = make_objects(networks, read, request, hooks)
    hooks.stage("solve_camera")
    placed = place_entries(entries, read, request.focal)
    if placed.message:
        hooks.message(placed.message)
    hooks.stage("finish")
    result = _artifacts(entries, placed, read, request, hooks)
    hooks.finish()
    return result


def read_inputs(inputs: dict[str, bytes], device: torch.device) -> SceneInputs:
    """Decode the task's inputs; without a depth image MoGe is asked where it is installed. Errors: `MaquetteError`."""
    wrong = sorted(name for name in inputs if name not in ("image", "depth") and not MASK_NAME.fullmatch(name))
    if wrong or "image" not in inputs:
        raise MaquetteError(
            "bad_input", "A scene needs one picture and a mask for each object; choose an image.",
            detail=", ".join(wrong), next_step="choose_image",
        )  # fmt: skip
    picture = decode_image(inputs["image"])
    masks, proposed = scene_masks(inputs, picture)
    depth = None
    if "depth" in inputs:
        depth = scene_depth.read_depth(inputs["depth"], picture.size)
    elif scene_depth.moge_available():
        depth = scene_depth.estimate_depth(picture.rgba[..., :3], device)
    return SceneInputs(inputs["image"], picture, tuple(masks), proposed, depth)


def knows_occluders(networks: CupidModel) -> bool:
    """Whether an occluder helps: the published encoder takes one by its attention, a small one only by a channel.

    A small encoder that saw no occluder in training gets a wider crop from one, and a worse object.
    """
    return getattr(networks["image_encoder"], "in_channels", 3) in (3, OCCLUDER_CHANNELS)


def make_objects(networks: CupidModel, read: SceneInputs, request: Request, hooks: Hooks) -> list[SceneEntry]:
    """Every object by itself, in the masks' order. Errors: `MaquetteError` when none could be made, `Cancelled`."""
    entries = []
    for index, mask in enumerate(read.masks):
        name = object_name(index, request)
        told = ObjectHooks(hooks, index, len(read.masks), name)
        hidden = occluder_of(index, read.masks, read.depth) if knows_occluders(networks) else None
        occluder = None if hidden is None else encode_png(np.where(hidden, 255, 0).astype(np.uint8))
        try:
            photo = prepare_image(read.image, encode_png(mask), networks, occluder)
            generator = torch.Generator().manual_seed(request.seed)
            made = make_object(networks, photo, request, generator, told)
            if made.camera.world_to_camera is None or made.camera.intrinsics is None or not len(made.mesh.faces):
                raise MaquetteError("bad_input", NO_CAMERA, made.camera.message, "retry")
            entries.append(SceneEntry(name, made, None))
        except Cancelled:
            raise
        except MaquetteError as error:
            entries.append(SceneEntry(name, None, error.failure))
            told.message(str(error))
        hooks.step((index + 1) * STEPS_AN_OBJECT, len(read.masks) * STEPS_AN_OBJECT)
    failures = [entry.failure for entry in entries if entry.failure is not None]
    if len(failures) == len(entries):
        first = failures[0]
        raise MaquetteError(first.code, first.message, first.detail, first.next_step)
    return entries


def object_name(index: int, request: Request) -> str:
    """What the object of mask `index` is called: as the request says, else by its number."""
    given = request.names[index] if index < len(request.names) else ""
    return given or f"Object {index + 1}"


def place_entries(entries: Sequence[SceneEntry], read: SceneInputs, focal: float | None) -> PlacedScene:
    """The objects that were made, before one camera, in their order."""
    objects = []
    for entry, mask in zip(entries, read.masks, strict=True):
        if entry.made is not None:
            camera = entry.made.camera
            vertices = np.asarray(entry.made.mesh.vertices, np.float64)
            objects.append(SceneObject(
                vertices, np.asarray(entry.made.mesh.faces), camera.world_to_camera, camera.intrinsics,
                mask > SOLID_ALPHA,
            ))  # fmt: skip
    return place_objects(objects, read.picture.size, focal, read.depth)


def composed(
    parts: Sequence[tuple[MeshData, np.ndarray]], intrinsics: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All meshes, each with its object_to_camera [4,4], in one picture of `size` (width, height).

    Returns premultiplied colour [H,W,3], alpha [H,W], and which part is in front [H,W] int (-1: none).
    """
    width, height = size
    fine = (2 * width, 2 * height)
    color, nearest = np.zeros((fine[1], fine[0], 3), np.float32), np.full((fine[1], fine[0]), np.inf)
    front = np.full((fine[1], fine[0]), -1)
    for index, (mesh, object_to_camera) in enumerate(parts):
        view = render_mesh(mesh, object_to_camera, intrinsics, fine, background=(0.0, 0.0, 0.0), supersample=1)
        visible = (view.depth > 0) & (view.depth < nearest)
        color[visible], nearest[visible], front[visible] = view.color[visible], view.depth[visible], index
    alpha = (front >= 0).astype(np.float32)
    blocks = (height, 2, width, 2)
    return color.reshape(*blocks, 3).mean((1, 3)), alpha.reshape(blocks).mean((1, 3)), front[::2, ::2]


def _artifacts(
    entries: Sequence[SceneEntry], placed: PlacedScene, read: SceneInputs, request: Request, hooks: Hooks
) -> RunResult:
    there = [(index, entry, entry.made) for index, entry in enumerate(entries) if entry.made is not None]
    camera_to_world = np.linalg.inv(placed.world_to_camera)
    parts = [(made.mesh, found.object_to_camera) for (_, _, made), found in zip(there, placed.placements, strict=True)]
    size = results.fit_size(read.picture.size)
    color, alpha, front = composed(parts, placed.intrinsics, size)
    thumbnail = encode_png(np.dstack([color / np.maximum(alpha, 1e-3)[..., None], alpha]))
    hooks.preview(thumbnail)
    objects: list[dict[str, Any]] = []
    files, nodes = [], []
    for number, ((index, entry, made), found) in enumerate(zip(there, placed.placements, strict=True)):
        matrix = camera_to_world @ found.object_to_camera
        shown = _resized(read.masks[index] > SOLID_ALPHA, size)
        objects.append({
            "name": entry.name, "mesh": f"object_{number}.mesh", "mask": index, "object_to_world": matrix.tolist(),
            "trusted": entry.trusted() and found.depth_source != "mask_size",
            "message": " ".join(text for text in (made.camera.message, found.message) if text),
            "depth_source": found.depth_source, "mask_iou": mask_iou(front == number, shown),
        })  # fmt: skip
        files.append(ArtifactData(f"object_{number}.mesh", meshes.mesh_to_bytes(made.mesh), meshes.MEDIA_TYPE))
        nodes.append((entry.name, made.mesh, matrix))
    every = np.any([_resized(read.masks[index] > SOLID_ALPHA, size) for index, _, _ in there], axis=0)
    camera = {"intrinsics": placed.intrinsics.tolist(), "world_to_camera": placed.world_to_camera.tolist(),
              "image_size": list(read.picture.original_size), "focal_source": placed.focal_source}  # fmt: skip
    failed = [{"name": entry.name, "mask": index, "message": entry.failure.message}
              for index, entry in enumerate(entries) if entry.failure is not None]  # fmt: skip
    scene = {"camera": camera, "ground": placed.ground, "message": placed.message, "objects": objects,
             "failed": failed}  # fmt: skip
    hooks.finish()
    report = {
        "system": "cupid", "task": TASK, "seed": request.seed, "steps": request.steps, "weights": request.weights,
        "config": request.config, "masks": "proposed" if read.proposed else "given",
        "depth": None if read.depth is None else read.depth.source, "focal": float(placed.intrinsics[0, 0]),
        "focal_source": placed.focal_source, "ground": placed.ground, "message": placed.message,
        "mask_iou": mask_iou(front >= 0, every), "objects": objects, "failed": failed,
        "peak_mib": peak_mib(), "seconds": {name: round(value, 4) for name, value in hooks.seconds.items()},
    }  # fmt: skip
    trusted = all(item["trusted"] for item in objects)
    camera_bytes = results.camera_json(
        placed.world_to_camera, placed.intrinsics, read.picture.original_size, None, trusted, placed.message
    )
    proposed = read.masks if read.proposed else ()
    artifacts = (
        *files,
        ArtifactData("scene.glb", glb.scene_to_glb(nodes), glb.MEDIA_TYPE),
        ArtifactData("scene.json", json.dumps(scene, indent=1).encode(), "application/json"),
        ArtifactData("camera.json", camera_bytes, "application/json"),
        *(ArtifactData(f"mask_{index}.png", encode_png(mask), "image/png") for index, mask in enumerate(proposed)),
        ArtifactData("thumbnail.png", thumbnail, "image/png"),
        ArtifactData("report.json", json.dumps(report, indent=1).encode(), "application/json"),
    )
    return RunResult(artifacts, report)


def _small(image: np.ndarray) -> np.ndarray:
    step = max(1, -(-max(image.shape[:2]) // THUMBNAIL_SIZE))
    return image[::step, ::step]


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H,W] bool at `size` (width, height), nearest."""
    rows = ((np.arange(size[1]) + 0.5) / size[1] * mask.shape[0]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) / size[0] * mask.shape[1]).astype(int)
    return np.asarray(mask[rows[:, None], columns[None]])
