"""Objects of one photo brought into one camera (spec section 9; what differs from the paper is said here).

Every object comes with a camera of its own. Its pose is first told in the camera that all share, then its size, and
with it its distance, is found: from the depth of the photo (`by_depth`); without depth from the ground that all stand
on, or, where their tops do not agree on one, by giving all the same size. Objects that stand nearly upright on the
ground are made to stand upright.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize

from backend.systems.cupid import scene_ground
from backend.systems.cupid.scene_depth import DepthMap
from backend.systems.cupid.scene_ground import PicturePlane, camera_intrinsics
from backend.systems.cupid.scene_pose import (
    Placement,
    SceneObject,
    drop_below_camera,
    reframed,
    scaled_from_camera,
    upright,
    upright_axes,
)
from backend.systems.cupid.scene_surface import EROSION, by_depth

WORK_SIDE = 384  # pixels of the longer side at which surfaces are compared
LENS_SIDE = 512  # pixels of the longer side at which ground and lens are looked for, at least, if the depth has them
SIZE_SPREAD = 0.5  # in log size: how different the objects of a photo are, usually
LEVEL_SPREAD = np.radians(4.0)  # how level a camera is held
USUAL_PITCH, PITCH_SPREAD = np.radians(25.0), np.radians(12.0)  # how far down one looks at things on a ground
LEAST_DROP = 0.02  # of its distance that an object's underside must lie below the camera to tell how far it is
NO_OVERLAP = "The depth image shows nothing where this object is; its distance is a guess."
GUESSED_ON_GROUND = "Distances are a guess: all objects were put on one ground, whose slope their own poses tell."
GUESSED_BY_SIZE = "Distances are a guess: the objects do not agree on a ground, so that all got the same size."
MEASURED = "Distances come from the depth of the photo."


@dataclass(frozen=True)
class PlacedScene:
    """The shared `intrinsics` [3,3], `world_to_camera` [4,4] of a world with z up, one placement an object.

    `focal_source` is given, depth (the prior's own), ground or usual; `ground` is depth, objects or none: where the
    plane z = 0 comes from.
    """

    intrinsics: np.ndarray
    world_to_camera: np.ndarray
    placements: tuple[Placement, ...]
    focal_source: str
    ground: str
    message: str


def place_objects(
    objects: Sequence[SceneObject], size: tuple[int, int], focal: float | None, depth: DepthMap | None
) -> PlacedScene:
    """Place `objects`, all of one picture of `size` (width, height). `focal` is its fx in picture widths if known."""
    work = _work_size(size)
    measured = None if depth is None else depth.resized(work)
    masks = [_resized(item.mask, work) for item in objects]
    plane, told = None, None
    if depth is not None:
        even = depth.even(LENS_SIDE)
        shown = [_resized(item.mask, (even.shape[1], even.shape[0])) for item in objects]
        beside = ~ndimage.binary_dilation(np.any(shown, axis=0), EROSION, iterations=2)
        plane = scene_ground.find_ground(even, beside)
        if plane is not None and focal is None and depth.intrinsics is None:
            told = scene_ground.estimate_focal(even, shown, plane, size)
    intrinsics, focal_source = _shared_camera(size, focal, depth, told)
    poses = [reframed(item, intrinsics) for item in objects]
    up, ground = None, "none"
    if plane is not None:
        up, ground = plane.in_camera(intrinsics)[0], "depth"
    else:
        up, agreeing = scene_ground.common_up([pose[:3, 2] for pose in poses])
        if up is not None:
            ground = "objects"
            up = _likely_up(objects, poses, up, agreeing) if measured is None else up
    if up is not None:
        poses = [upright(item, pose, up) for item, pose in zip(objects, poses, strict=True)]
    standing = None if up is None else (up, None if plane is None else plane.in_camera(intrinsics)[1])
    guessed = _by_ground(objects, poses, up) if up is not None else [None] * len(objects)
    placements = []
    for item, pose, mask, guess in zip(objects, poses, masks, guessed, strict=True):
        found = None
        if measured is not None:
            found = by_depth(item, pose, intrinsics, measured, mask, standing)
        placements.append(found or _guess(item, pose, guess))
    if measured is None:
        placements = _comparable(objects, placements)
    else:
        placements = _with_measured(objects, placements, plane, intrinsics)
    return _in_world(objects, placements, intrinsics, up, plane, focal_source, ground)


def _shared_camera(
    size: tuple[int, int], focal: float | None, depth: DepthMap | None, told: float | None
) -> tuple[np.ndarray, str]:
    """The photo's intrinsics and where they come from; `told` is the focal length that the ground tells, if any."""
    if focal is not None:
        return camera_intrinsics(focal, size), "given"
    if depth is not None and depth.intrinsics is not None:
        return depth.intrinsics, "depth"
    if told is not None:
        return camera_intrinsics(told, size), "ground"
    return camera_intrinsics(scene_ground.usual_focal(size), size), "usual"


def _likely_up(
    objects: Sequence[SceneObject], poses: Sequence[np.ndarray], up: np.ndarray, agreeing: np.ndarray
) -> np.ndarray:
    """The ground's normal near `up` [3]: tops agree, objects differ little in size, the camera is held as usual."""
    first = np.cross(up, [1.0, 0.0, 0.0])
    first /= np.linalg.norm(first)
    second = np.cross(up, first)

    def turned(tilt: np.ndarray) -> np.ndarray:
        direction = up + tilt[0] * first + tilt[1] * second
        return np.asarray(direction / np.linalg.norm(direction))

    def cost(tilt: np.ndarray) -> float:
        direction, sizes, total = turned(tilt), [], 0.0
        for item, pose, agrees in zip(objects, poses, agreeing, strict=True):
            if agrees:
                angle = np.arccos(np.clip(pose[:3, 2] @ direction, -1.0, 1.0))
                total += min(angle / scene_ground.UP_SPREAD, 3.0) ** 2
            distance = float(np.linalg.norm(pose[:3, :3] @ item.middle + pose[:3, 3]))
            sizes.append(np.log(item.side / max(drop_below_camera(item, pose, direction), LEAST_DROP * distance)))
        roll, pitch = np.arctan2(direction[0], -direction[1]), np.arcsin(-direction[2])
        total += (roll / LEVEL_SPREAD) ** 2 + ((pitch - USUAL_PITCH) / PITCH_SPREAD) ** 2
        return total + float(((np.array(sizes) - np.mean(sizes)) ** 2).sum()) / SIZE_SPREAD**2

    found = minimize(cost, np.zeros(2), method="Nelder-Mead", options={"maxfev": 200, "initial_simplex": [
        [0.0, 0.0], [0.1, 0.0], [0.0, 0.1]]})  # fmt: skip
    return turned(found.x)


def _by_ground(objects: Sequence[SceneObject], poses: Sequence[np.ndarray], up: np.ndarray) -> list[Placement | None]:
    """Every object as far as its underside meets the ground, one unit below the camera; None above the horizon."""
    found: list[Placement | None] = []
    for item, pose in zip(objects, poses, strict=True):
        distance = float(np.linalg.norm(pose[:3, :3] @ item.middle + pose[:3, 3]))
        drop = drop_below_camera(item, pose, up)
        on_ground = drop > LEAST_DROP * distance
        placed = scaled_from_camera(pose, 1.0 / drop) if on_ground else None
        found.append(None if placed is None else Placement(placed, "ground", GUESSED_ON_GROUND))
    return found


def _guess(item: SceneObject, pose: np.ndarray, on_ground: Placement | None) -> Placement:
    """On the ground if that is known, else one unit large."""
    if on_ground is not None:
        return on_ground
    return Placement(scaled_from_camera(pose, 1.0 / item.side), "mask_size", GUESSED_BY_SIZE)


def _size(item: SceneObject, placement: Placement) -> float:
    return item.side * float(np.cbrt(np.linalg.det(placement.object_to_camera[:3, :3])))


def _comparable(objects: Sequence[SceneObject], placements: list[Placement]) -> list[Placement]:
    """Objects above the horizon as large as the others on the ground usually are; then the usual size becomes 1."""
    sizes = np.array([_size(item, found) for item, found in zip(objects, placements, strict=True)])
    grounded = np.array([found.depth_source == "ground" for found in placements])
    usual = float(np.median(sizes[grounded])) if grounded.any() else 1.0
    factors = np.where(grounded, 1.0 / usual, 1.0 / sizes)
    return [
        Placement(scaled_from_camera(found.object_to_camera, float(factor)), found.depth_source, found.message)
        for found, factor in zip(placements, factors, strict=True)
    ]


def _with_measured(
    objects: Sequence[SceneObject], placements: list[Placement], plane: PicturePlane | None, intrinsics: np.ndarray
) -> list[Placement]:
    """Objects without depth: on the measured ground, else as large as the others usually are."""
    measured = [_size(item, found) for item, found in zip(objects, placements, strict=True)
                if found.depth_source == "depth"]  # fmt: skip
    usual = float(np.median(measured)) if measured else 1.0
    result = []
    for item, found in zip(objects, placements, strict=True):
        if found.depth_source != "depth":
            on_ground = found.depth_source == "ground" and plane is not None
            factor = plane.in_camera(intrinsics)[1] if on_ground and plane is not None else usual / _size(item, found)
            pose = scaled_from_camera(found.object_to_camera, factor)
            found = Placement(pose, found.depth_source, NO_OVERLAP)
        result.append(found)
    return result


def _in_world(
    objects: Sequence[SceneObject], placements: list[Placement], intrinsics: np.ndarray, up: np.ndarray | None,
    plane: PicturePlane | None, focal_source: str, ground: str,
) -> PlacedScene:  # fmt: skip
    """The world: z along `up`, the ground (or the lowest underside) at z = 0, the origin below the objects' middle."""
    direction = np.array([0.0, -1.0, 0.0]) if up is None else up
    poses = [found.object_to_camera for found in placements]
    middle = np.mean([pose[:3, :3] @ item.middle + pose[:3, 3] for item, pose in zip(objects, poses, strict=True)], 0)
    height = max(drop_below_camera(item, pose, direction) for item, pose in zip(objects, poses, strict=True))
    if plane is not None and ground == "depth":
        height = plane.in_camera(intrinsics)[1]
    camera_to_world = np.eye(4)
    camera_to_world[:3, :3] = upright_axes(direction)
    origin = middle - (middle @ direction + height) * direction
    camera_to_world[:3, 3] = -camera_to_world[:3, :3] @ origin
    sources = {found.depth_source for found in placements}
    message = MEASURED if "depth" in sources else GUESSED_ON_GROUND if "ground" in sources else GUESSED_BY_SIZE
    return PlacedScene(intrinsics, np.linalg.inv(camera_to_world), tuple(placements), focal_source, ground, message)


def _work_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, WORK_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H,W] bool at `size` (width, height), nearest."""
    rows = ((np.arange(size[1]) + 0.5) / size[1] * mask.shape[0]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) / size[0] * mask.shape[1]).astype(int)
    return np.asarray(mask[rows[:, None], columns[None]])
