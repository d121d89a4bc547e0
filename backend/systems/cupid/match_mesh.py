"""Task match_mesh: the camera under which a photo shows the artist's own mesh, and the mesh laid onto CUPID's result.

CUPID makes its object and camera from the photo; the artist's mesh is registered to that object, which carries CUPID's
camera over as a first guess. Because the mesh is known exactly, its outline then says more than any guess: all sides
are searched, fitted to the photo's mask, and the best view wins (`mesh_search`). match.json says which it was.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backend.contract import meshes
from backend.contract.errors import MaquetteError
from backend.contract.frames import uncrop_intrinsics
from backend.contract.meshes import MeshData, MeshError
from backend.formats.images import photo_on_white
from backend.geometry.pose import Camera
from backend.geometry.registration import Registration, register
from backend.geometry.surface_sampling import SurfacePoints, sample_surface
from backend.nn.devices import peak_mib
from backend.rendering.image_metrics import mask_iou
from backend.rendering.rasterizer import rasterize
from backend.rendering.thumbnails import object_picture, thumbnail
from backend.systems.base import ArtifactData, Hooks, RunResult
from backend.systems.cupid import mesh_search, results
from backend.systems.cupid.mesh_search import Found, Guess, Picture
from backend.systems.cupid.mesh_view import view_of_camera
from backend.systems.cupid.model import CupidModel
from backend.systems.cupid.object_stage import MadeObject, make_object
from backend.systems.cupid.photo import Photo, prepare_image
from backend.systems.cupid.request import Request

logger = logging.getLogger(__name__)

TASK = "match_mesh"
STAGE = "match_mesh"
SAMPLES = 30_000
REGISTERED = 4000  # points that the registration compares
FLAT = 1e-3  # thinnest over longest extent below which a mesh is flat
CUT = 0.8  # share of the picture's longer side from which on the crop is the picture: it was cut to its object
MOST_FACES = 200_000  # that are drawn; a mesh of more is drawn with its vertices merged on a grid
GRID = 160  # cells of that grid along the longest side
TRUSTED_IOU = 0.9  # thin parts keep right matches below it, and simple shapes wrong ones above 0.8
DIFFERENT_IOU = 0.7  # below it mesh and photo hardly show the same thing
ANOTHER_SIDE = (np.radians(20), 0.06)  # another view this far away that scores within this much is worth a word


@dataclass(frozen=True)
class ArtistMesh:
    """The artist's mesh, and its surface brought to the cube: `unit` [4,4] takes the artist's coordinates there."""

    mesh: MeshData
    surface: SurfacePoints
    middle: np.ndarray
    side: float

    @property
    def unit(self) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, :3] /= self.side
        matrix[:3, 3] = -self.middle / self.side
        return matrix


@dataclass(frozen=True)
class Match:
    """The answer: the view that won, how many others fit as well, CUPID's object and the registration if there are any.

    world_to_camera [4,4] belongs to the artist's coordinates; intrinsics [3,3] to the whole picture; mask_iou is of the
    mesh drawn through them.
    """

    found: Found
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    mask_iou: float
    others: int
    registration: Registration | None
    made: MadeObject | None

    @property
    def trusted(self) -> bool:
        """Whether mesh and photo agree."""
        return self.mask_iou >= TRUSTED_IOU

    @property
    def message(self) -> str:
        """What the artist should know, empty when all is well."""
        return verdict(self.mask_iou, self.others)


def verdict(iou: float, others: int) -> str:
    """What to say of outlines that overlap by `iou` when `others` views fit as well; empty when all is well."""
    overlap = f"the outlines overlap by {100 * iou:.0f} %"
    if iou < DIFFERENT_IOU:
        return (
            f"Mesh and photo do not agree ({overlap}); check that the mesh shows the photo's object and that the mask "
            "covers all of it."
        )
    if iou < TRUSTED_IOU:
        return f"Mesh and photo agree only in part ({overlap}); check the view, and that the mask covers the object."
    if others:
        return "The photo may show the mesh from another side too; check the view, or try another mask or seed."
    return ""


def match_mesh(networks: CupidModel, inputs: dict[str, bytes], request: Request, hooks: Hooks) -> RunResult:
    """Task match_mesh. inputs: image, mesh (contract mesh, any scale and place, z up); mask if there is one."""
    if not {"image", "mesh"} <= set(inputs) or set(inputs) - {"image", "mesh", "mask"}:
        raise MaquetteError("bad_input", "Matching needs a picture and a mesh; choose both.", next_step="choose_image")
    artist = read_mesh(inputs["mesh"])
    photo = prepare_image(inputs["image"], inputs.get("mask"), networks)
    if photo.cutout.source == "cut_out":
        hooks.message(photo.cutout.message)
    hooks.preview(object_picture(photo.crop.image))
    made = _cupids_object(networks, photo, request, hooks)
    hooks.stage(STAGE)
    match = match_to_photo(artist, photo, request, made, hooks)
    if match.message:
        hooks.message(match.message)
    hooks.stage("finish")
    result = _artifacts(artist, photo, request, match, hooks)
    hooks.finish()
    return result


def read_mesh(data: bytes) -> ArtistMesh:
    """The artist's mesh from its wire form. Errors: `MaquetteError` bad_input with a sentence."""
    try:
        mesh = meshes.mesh_from_bytes(data)
    except MeshError as error:
        text = "The mesh has places that are not finite numbers; repair it and try again." if "finite" in str(error) \
            else "The mesh cannot be read; choose the object again."
        raise MaquetteError("bad_input", text, str(error)) from error
    try:
        surface = sample_surface(mesh, SAMPLES)
    except ValueError as error:
        raise MaquetteError("bad_input", str(error)) from error
    used = np.zeros(len(mesh.vertices), bool)
    used[mesh.faces.reshape(-1)] = True
    extents = np.sqrt(np.linalg.eigvalsh(np.cov(surface.points.T)).clip(0.0))
    if extents[0] <= FLAT * extents[2]:
        raise MaquetteError("bad_input", "The mesh is flat, so its camera is not certain; choose one that has depth.")
    shown = mesh.vertices[used].astype(np.float64)
    low, high = shown.min(axis=0), shown.max(axis=0)
    middle, side = (low + high) / 2, float((high - low).max())
    order = np.random.default_rng(0).permutation(len(surface))  # every first part is a fair sample of the whole
    colors = None if surface.colors is None else surface.colors[order]
    points = (surface.points[order] - middle) / side
    return ArtistMesh(mesh, SurfacePoints(points, surface.normals[order], colors), middle, side)


def match_to_photo(
    artist: ArtistMesh, photo: Photo, request: Request, made: MadeObject | None, hooks: Hooks
) -> Match:
    """Register the mesh to CUPID's object, search its view, and judge it. Errors: `Cancelled`."""
    registration, guesses, axes = None, [], [np.eye(3)]
    if made is not None and len(made.mesh.faces):
        registration = register(artist.surface.points[:REGISTERED], sample_surface(made.mesh, REGISTERED).points)
        guesses = first_guesses(registration, made.camera.crop)
        if not registration.upright:
            axes.append(_nearest_axis(registration.similarity.rotation))
    picture = _picture(photo, request.focal)
    found = mesh_search.find_views(artist.surface, picture, guesses, axes, hooks.step)
    best = found[0]
    camera = best.view.camera()
    intrinsics = uncrop_intrinsics(camera.intrinsics, photo.box)
    world_to_camera = in_artists_units(camera.world_to_camera, artist)
    same = mesh_search.symmetry(artist.surface.points)
    others = [item for item in found[1:] if _another_side(best, item, same)]
    iou = _drawn_iou(artist.mesh, photo, world_to_camera, intrinsics)
    return Match(best, world_to_camera, intrinsics, iou, len(others), registration, made)


def first_guesses(registration: Registration, crop: Camera | None) -> list[Guess]:
    """CUPID's camera as a view of the mesh in the cube, once for each way in which the mesh fits CUPID's object."""
    if crop is None:
        return []
    scale, rotation, shift = (
        registration.similarity.scale, registration.similarity.rotation, registration.similarity.translation
    )
    guesses = []
    turns = registration.symmetric if len(registration.symmetric) <= 4 else registration.symmetric[:1]
    for turn in turns:
        turned = mesh_search.up_turn(turn)
        matrix = np.eye(4)
        matrix[:3, :3] = crop.world_to_camera[:3, :3] @ turned @ rotation
        matrix[:3, 3] = (crop.world_to_camera[:3, :3] @ shift + crop.world_to_camera[:3, 3]) / scale
        guesses.append(Guess(view_of_camera(Camera(crop.intrinsics, matrix, 0.0), None), "cupid"))
    return guesses


def in_artists_units(world_to_camera: np.ndarray, artist: ArtistMesh) -> np.ndarray:
    """The camera [4,4] that sees the untouched mesh as `world_to_camera` [4,4] sees it in the cube."""
    matrix = np.array(world_to_camera, np.float64)
    matrix[:3, 3] = world_to_camera[:3, 3] * artist.side - world_to_camera[:3, :3] @ artist.middle
    return matrix


def _cupids_object(networks: CupidModel, photo: Photo, request: Request, hooks: Hooks) -> MadeObject | None:
    """CUPID's own result; None when no object takes shape, which the search can do without."""
    try:
        return make_object(networks, photo, request, torch.Generator().manual_seed(request.seed), hooks)
    except MaquetteError as error:
        if error.failure.code != "bad_input":
            raise
        logger.warning("no first guess: %s", error)
        return None


def _picture(photo: Photo, focal: float | None) -> Picture:
    """The crop as the search takes it. A picture that was not cut to its object has its axis in the middle."""
    left, top, right, bottom = photo.box
    width, height = photo.picture.size
    share = (right - left) * width / max(width, height)
    principal = None
    if focal is not None or share < CUT:
        principal = np.array([(0.5 - left) / (right - left), (0.5 - top) / (bottom - top)])
    return Picture(photo.crop.image, principal, None if focal is None else focal / (right - left))


def _nearest_axis(rotation: np.ndarray) -> np.ndarray:
    """The turn [3,3] that stands the mesh upright when `rotation` does so but for a turn about z."""
    up = rotation[2]
    return max(mesh_search.registration.up_axes(), key=lambda axis: float(axis[2] @ up))


def _another_side(best: Found, other: Found, same: int) -> bool:
    """Whether `other` is as good, and not the same view of a mesh that looks alike after `same` turns."""
    least, margin = ANOTHER_SIDE
    if other.score < best.score - margin:
        return False
    turns = [mesh_search.up_turn(2 * np.pi * step / same) for step in range(same)]
    return min(mesh_search.angle_between(best.view.rotation @ turn, other.view.rotation) for turn in turns) > least


def _drawn_iou(mesh: MeshData, photo: Photo, world_to_camera: np.ndarray, intrinsics: np.ndarray) -> float:
    """IoU of the photo's mask and the mesh drawn through the camera of the whole picture."""
    width, height = results.fit_size(photo.picture.size)
    mesh = light_mesh(mesh)
    raster = rasterize(mesh.vertices, mesh.faces, world_to_camera, intrinsics, (width, height))
    _, alpha = photo_on_white(photo.rgba, (width, height))
    return mask_iou(raster.mask, alpha >= 0.5)


def light_mesh(mesh: MeshData) -> MeshData:
    """The mesh itself, or one of far fewer faces that looks the same from afar (no texture, vertex colours kept)."""
    if len(mesh.faces) <= MOST_FACES:
        return mesh
    low = mesh.vertices.min(axis=0)
    cell = max(float(np.ptp(mesh.vertices, axis=0).max()) / GRID, 1e-30)
    place = np.floor((mesh.vertices - low) / cell).astype(np.int64)
    key = (place[:, 0] * (GRID + 2) + place[:, 1]) * (GRID + 2) + place[:, 2]
    _, first, merged = np.unique(key, return_index=True, return_inverse=True)
    faces = merged[mesh.faces].astype(np.int32)
    proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    faces = np.sort(faces[proper], axis=1).astype(np.int64)  # drawn from both sides
    _, once = np.unique((faces[:, 0] * len(first) + faces[:, 1]) * len(first) + faces[:, 2], return_index=True)
    faces = faces[once].astype(np.int32)
    colors = None if mesh.colors is None else mesh.colors[first]
    return MeshData(mesh.vertices[first], faces, None, colors)


def _artifacts(artist: ArtistMesh, photo: Photo, request: Request, match: Match, hooks: Hooks) -> RunResult:
    made, registration, found = match.made, match.registration, match.found
    crop = found.view.camera()
    picture = thumbnail(light_mesh(artist.mesh), match.world_to_camera, crop.intrinsics)
    hooks.preview(picture)
    answer: dict[str, Any] = {
        "world_to_camera": match.world_to_camera.tolist(),
        "intrinsics": match.intrinsics.tolist(),
        "image_size": list(photo.picture.original_size),
        "mesh_to_canonical": None if registration is None else (registration.matrix @ artist.unit).tolist(),
        "symmetric": [] if registration is None else list(registration.symmetric),
        "residual": None if registration is None else registration.residual,
        "shapes_agree": None if registration is None else registration.trusted,
        "shapes_message": "" if registration is None else registration.message,
        "mask_iou": match.mask_iou,
        "color": found.color,
        "origin": found.origin,
        "trusted": match.trusted,
        "message": match.message,
    }
    report = {
        "system": "cupid", "task": TASK, "seed": request.seed, "weights": request.weights, "config": request.config,
        "mask": photo.cutout.source, "mask_message": photo.cutout.message,
        "vertices": len(artist.mesh.vertices), "triangles": len(artist.mesh.faces),
        "camera_trusted": match.trusted, "camera_message": match.message, "focal": float(match.intrinsics[0, 0]),
        **{name: answer[name] for name in ("mask_iou", "color", "origin", "residual", "shapes_agree", "symmetric")},
        "peak_mib": peak_mib(),
    }  # fmt: skip
    hooks.finish()
    report["seconds"] = {name: round(value, 4) for name, value in hooks.seconds.items()}
    artifacts = [ArtifactData("match.json", json.dumps(answer, indent=1).encode(), "application/json")]
    if made is not None:
        camera = made.camera
        described = results.camera_json(
            camera.world_to_camera, camera.intrinsics, photo.picture.original_size, camera.residual_px, camera.trusted,
            camera.message,
        )
        artifacts += [
            ArtifactData("asset.mesh", meshes.mesh_to_bytes(made.mesh), meshes.MEDIA_TYPE),
            ArtifactData("camera.json", described, "application/json"),
        ]
    artifacts += [
        ArtifactData("thumbnail.png", picture, "image/png"),
        ArtifactData("report.json", json.dumps(report, indent=1).encode(), "application/json"),
    ]
    return RunResult(tuple(artifacts), report)
