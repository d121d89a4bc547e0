"""Stage 1 of a job: sample the structure, solve the camera, fit both to the silhouette (spec sections 3, 6, 7).

Where the configuration asks for several `hypotheses`, they are sampled in one batch, each with a camera of its own, and
the one that the others and the photo's silhouette agree with most goes on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from backend.contract.errors import MaquetteError
from backend.contract.frames import uncrop_intrinsics
from backend.systems.base import Hooks
from backend.systems.cupid import camera_solver
from backend.systems.cupid.flow_sampler import denormalise, sample_flow, with_steps
from backend.systems.cupid.image_encoder import SPECIAL_TOKENS
from backend.systems.cupid.model import CupidModel, CupidSettings
from backend.systems.cupid.occlusion import token_weights
from backend.systems.cupid.photo import Photo
from backend.systems.cupid.pose import Camera
from backend.systems.cupid.silhouette_fit import SilhouetteFit, fit_silhouette, overlap, small_mask
from backend.systems.cupid.structure_decode import MIN_ACTIVE, Structure, decode_structure, voxel_centres

logger = logging.getLogger(__name__)

SAME_VIEW = np.radians(30)  # views this close count as agreeing
TRUSTED_OUTLINE = 0.7  # IoU of the silhouettes below which a fitted camera should not be believed
LATENT_CHANNELS = 8  # the first half of the structure latent is occupancy, the second the UV cube


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
        """A fitted camera is judged by the outline it leads to, any other by its residual."""
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


@dataclass(frozen=True)
class Condition:
    """What the flows see of one photo: `tokens` [1,M,C] and their visibility `weights` [1,M] (spec 8; None: all)."""

    tokens: Tensor
    weights: Tensor | None = None

    def repeated(self, count: int) -> Condition:
        """The same for each of `count` samples."""
        weights = None if self.weights is None else self.weights.expand(count, -1)
        return Condition(self.tokens.expand(count, -1, -1), weights)

    def empty(self) -> Condition:
        """The null condition: all zeros, nothing weighted."""
        return Condition(torch.zeros_like(self.tokens))


def encode_photo(networks: CupidModel, photo: Photo) -> Condition:
    """Stage encode_image: the tokens of the picture and, behind an occluder, how much of each patch is visible."""
    tokens = networks["image_encoder"](photo.encoder_input.to(networks.device))
    if photo.occluder is None:
        return Condition(tokens)
    occluder = torch.from_numpy(photo.occluder)[None, None].to(tokens.device)
    patches = math.isqrt(tokens.shape[1] - SPECIAL_TOKENS)
    return Condition(tokens, token_weights(occluder, patches, SPECIAL_TOKENS))


def find_structure(
    networks: CupidModel,
    condition: Condition,
    photo: Photo,
    generator: torch.Generator,
    steps: int | None,
    focal: float | None,
    hooks: Hooks,
) -> Hypothesis:
    """Stages sample_structure and solve_camera. Errors: `MaquetteError` if hardly any voxel is occupied."""
    hooks.stage("sample_structure")
    occupancy, uv_logits = sample_structure(networks, condition, generator, steps, hooks)
    hooks.stage("solve_camera")
    alpha = photo.crop.image[..., 3] / 255.0
    found: list[Hypothesis] = []
    logits: list[np.ndarray] = []
    for item in range(len(occupancy)):
        hooks.check_cancelled()
        each = occupancy[item : item + 1], uv_logits[item : item + 1]
        structure = _decode(*each)
        if len(structure.coords) >= MIN_ACTIVE:
            camera = solve_camera(structure, each[1], photo, networks.settings, focal)
            found.append(Hypothesis(structure, occupancy.shape[-1], camera, None))
            logits.append(each[0][0, 0].cpu().numpy())
    if not found:
        raise MaquetteError(
            "bad_input",
            "No object took shape from this picture; try another seed or a picture that shows the object clearly.",
            detail=f"{len(occupancy)} tried", next_step="retry",
        )
    best = best_hypothesis(found, alpha)
    return fitted(found[best], logits[best], alpha, photo) if networks.settings.fit_silhouette else found[best]


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


def sample_structure(
    networks: CupidModel, condition: Condition, generator: torch.Generator, steps: int | None, hooks: Hooks
) -> tuple[Tensor, Tensor]:
    """Logits of occupancy [N,1,R,R,R] and UV cube [N,3,R,R,R] of N hypotheses."""
    flow, settings = networks["structure_flow"], networks.settings
    side, count = flow.resolution, settings.hypotheses
    noise = torch.randn((count, flow.in_channels, side, side, side), generator=generator).to(networks.device)
    shown = condition.repeated(count)

    def velocity(x: Tensor, t: Tensor, seen: Condition) -> Tensor:
        answer: Tensor = flow(x, t, seen.tokens, seen.weights)
        return answer

    sampler = with_steps(settings.structure_sampler, steps)
    sampled = sample_flow(
        velocity, noise, shown, shown.empty(), sampler, on_step=lambda i, n, _: hooks.step(i, n)
    ).samples
    latent = denormalise(sampled, settings.structure_normalization)
    occupancy = networks["ss_dec"](latent[:, :LATENT_CHANNELS])
    uv_logits = networks["uv_dec"](latent[:, LATENT_CHANNELS:])
    return occupancy.float(), uv_logits.float()


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


def _decode(occupancy: Tensor, uv_logits: Tensor) -> Structure:
    try:
        return decode_structure(occupancy, uv_logits)
    except ValueError as error:
        raise MaquetteError("internal", str(error), next_step="retry") from error
