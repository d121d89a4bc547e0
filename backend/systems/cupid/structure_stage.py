"""Stage 1 of a job: sample the structure, solve the camera, fit both to the silhouette (spec sections 3, 6, 7).

Where the configuration asks for several `hypotheses`, they are sampled in one batch, each with a camera of its own, and
the one that the others and the photo's silhouette agree with most goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from backend.contract.errors import MaquetteError
from backend.contract.frames import uncrop_intrinsics
from backend.systems.base import Hooks
from backend.systems.cupid import camera_solver
from backend.systems.cupid.condition import Condition
from backend.systems.cupid.known_camera import KnownCamera, uv_latent
from backend.systems.cupid.model import CupidModel, CupidSettings
from backend.systems.cupid.photo import Photo
from backend.systems.cupid.pose import Camera, reprojection_error
from backend.systems.cupid.request import Request
from backend.systems.cupid.silhouette_fit import SilhouetteFit, fit_silhouette, overlap, small_mask
from backend.systems.cupid.structure_decode import MIN_ACTIVE, Structure, decode_structure, voxel_centres
from backend.systems.cupid.structure_sampler import sample_structure

logger = logging.getLogger(__name__)

SAME_VIEW = np.radians(30)  # views this close count as agreeing
TRUSTED_OUTLINE = 0.7  # IoU of the silhouettes below which a fitted camera should not be believed


@dataclass(frozen=True)
class SolvedCamera:
    """`crop` camera or None; `intrinsics` [3,3] of the full picture; `message` says what to think of it.

    `residual_px` is the solver's; `outline` the silhouettes' IoU under a camera that was fitted to the photo's.
    """

    crop: Camera | None
    intrinsics: np.ndarray | None
    residual_px: float | None
    message: str
    outline: float | None = None

    @property
    def trusted(self) -> bool:
        """A fitted or known camera is judged by the outline it leads to, any other by its residual."""
        if self.crop is None:
            return False
        return self.crop.trusted if self.outline is None else self.outline >= TRUSTED_OUTLINE

    @property
    def world_to_camera(self) -> np.ndarray | None:
        return None if self.crop is None else self.crop.world_to_camera


@dataclass(frozen=True)
class Hypothesis:
    """One sampled object: its voxels in a grid of `resolution`, its camera, and their fit to the silhouette if any."""

    structure: Structure
    resolution: int
    camera: SolvedCamera
    fit: SilhouetteFit | None


def find_structure(
    networks: CupidModel,
    condition: Condition,
    photo: Photo,
    generator: torch.Generator,
    request: Request,
    hooks: Hooks,
) -> Hypothesis:
    """Stages sample_structure and solve_camera. Errors: `MaquetteError` if hardly any voxel is occupied."""
    hooks.stage("sample_structure")
    known = None if request.camera is None else uv_latent(networks, request.camera, photo.box)
    occupancy, uv_logits = sample_structure(networks, condition, generator, request.steps, hooks, known)
    hooks.stage("solve_camera")
    alpha = photo.crop.image[..., 3] / 255.0
    found: list[Hypothesis] = []
    logits: list[np.ndarray] = []
    for item in range(len(occupancy)):
        hooks.check_cancelled()
        each = occupancy[item : item + 1], uv_logits[item : item + 1]
        structure = _decode(*each)
        if len(structure.coords) >= MIN_ACTIVE:
            camera = (
                solve_camera(structure, each[1], photo, networks.settings, request.focal)
                if request.camera is None
                else given_camera(structure, each[1], photo, networks.settings, request.camera)
            )
            found.append(Hypothesis(structure, occupancy.shape[-1], camera, None))
            logits.append(each[0][0, 0].cpu().numpy())
    if not found:
        raise MaquetteError(
            "bad_input",
            "No object took shape from this picture; try another seed or a picture that shows the object clearly.",
            detail=f"{len(occupancy)} tried", next_step="retry",
        )
    best = best_hypothesis(found, alpha)
    if not networks.settings.fit_silhouette or request.camera is not None:
        return found[best]
    return fitted(found[best], logits[best], alpha, photo)


def best_hypothesis(found: Sequence[Hypothesis], alpha: np.ndarray) -> int:
    """Which hypothesis goes on: the one with the photo's outline whose view many others with that outline share.

    Samples of a small network scatter; the truth is where they gather. `alpha` [S,S] in [0,1] of the crop.
    """
    solved = [index for index, hypothesis in enumerate(found) if hypothesis.camera.crop is not None]
    if len(found) == 1 or not solved:
        return 0
    outline = np.array([silhouette_overlap(found[i], alpha) for i in solved])
    rotations = np.stack([found[i].camera.crop.world_to_camera[:3, :3] for i in solved])  # type: ignore[union-attr]
    cosine = (np.einsum("aij,bij->ab", rotations, rotations) - 1.0) / 2.0
    shared = np.exp(-((np.arccos(cosine.clip(-1.0, 1.0)) / SAME_VIEW) ** 2))
    return solved[int((outline * (shared @ outline)).argmax())]


def silhouette_overlap(hypothesis: Hypothesis, alpha: np.ndarray) -> float:
    """IoU of the voxels' silhouette, as solved, and `alpha` [S,S]; 0 without a camera."""
    if hypothesis.camera.crop is None:
        return 0.0
    points = voxel_centres(hypothesis.structure.coords, hypothesis.resolution).cpu().numpy().astype(np.float64)
    return overlap(points, hypothesis.camera.crop, small_mask(alpha), hypothesis.resolution)


def fitted(hypothesis: Hypothesis, logits: np.ndarray, alpha: np.ndarray, photo: Photo) -> Hypothesis:
    """Voxels and camera brought into line with the crop's `alpha`; unchanged where that fails. `logits` [R,R,R]."""
    camera = hypothesis.camera
    if camera.crop is None:
        return hypothesis
    try:
        fit = fit_silhouette(logits, camera.crop, alpha)
    except ValueError as error:
        logger.info("no fit to the silhouette: %s", error)
        return hypothesis
    coords = torch.from_numpy(np.pad(np.argwhere(fit.occupied), ((0, 0), (1, 0)))).int()
    structure = replace(hypothesis.structure, coords=coords.to(hypothesis.structure.coords.device))
    message = "" if fit.iou_moved >= TRUSTED_OUTLINE else (
        f"The camera is uncertain (the outlines overlap by {100 * fit.iou_moved:.0f} %); check it or try another seed."
    )
    intrinsics = uncrop_intrinsics(fit.camera.intrinsics, photo.box)
    moved = SolvedCamera(fit.camera, intrinsics, camera.residual_px, message, fit.iou_moved)
    return replace(hypothesis, structure=structure, camera=moved, fit=fit)


def solve_camera(
    structure: Structure, uv_logits: Tensor, photo: Photo, settings: CupidSettings, focal: float | None
) -> SolvedCamera:
    """The photo's camera; never fails, the message says why there is none or why it should not be trusted."""
    left, _, right, _ = photo.box
    try:
        points, uv = camera_solver.pose_points(structure, uv_logits, settings.camera)
        locked = None if focal is None else focal / (right - left)
        camera = camera_solver.solve_camera(points, uv, settings.camera, locked)
    except (ValueError, np.linalg.LinAlgError) as error:
        logger.warning("no camera: %s", error)
        sentence = str(error) if isinstance(error, ValueError) else "The camera cannot be solved; try another seed."
        return SolvedCamera(None, None, None, sentence)
    intrinsics = uncrop_intrinsics(camera.intrinsics, photo.box)
    residual_px = camera.residual * (right - left) * photo.picture.original_size[0]
    if not (np.isfinite(intrinsics).all() and np.isfinite(camera.world_to_camera).all()):
        return SolvedCamera(None, None, None, "The camera cannot be solved from this result; try another seed.")
    message = "" if camera.trusted else (
        f"The camera is uncertain (about {residual_px:.0f} pixels off); check it or try another seed."
    )
    return SolvedCamera(camera, intrinsics, residual_px, message)


def given_camera(
    structure: Structure, uv_logits: Tensor, photo: Photo, settings: CupidSettings, known: KnownCamera
) -> SolvedCamera:
    """The known camera, with how far the sampled UV cube is from it and how well the sampled object fits the photo."""
    crop = Camera(known.of_crop(photo.box), known.world_to_camera, 0.0)
    points, uv = camera_solver.pose_points(structure, uv_logits, settings.camera)
    crop = replace(crop, residual=reprojection_error(points, uv, crop.intrinsics, crop.world_to_camera))
    left, _, right, _ = photo.box
    residual_px = crop.residual * (right - left) * photo.picture.original_size[0]
    resolution = uv_logits.shape[-1]
    centres = voxel_centres(structure.coords, resolution).cpu().numpy().astype(np.float64)
    outline = overlap(centres, crop, small_mask(photo.crop.image[..., 3] / 255.0), resolution)
    message = "" if outline >= TRUSTED_OUTLINE else (
        f"Under the known camera the object covers only {100 * outline:.0f} % of the photo's outline; "
        "check that the camera belongs to this photo and to the object's unit cube."
    )
    return SolvedCamera(crop, known.intrinsics, residual_px, message, outline)


def _decode(occupancy: Tensor, uv_logits: Tensor) -> Structure:
    try:
        return decode_structure(occupancy, uv_logits)
    except ValueError as error:
        raise MaquetteError("internal", str(error), next_step="retry") from error
