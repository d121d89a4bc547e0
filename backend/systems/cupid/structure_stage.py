"""Stage 1 of a job: sample the structure, solve the camera, fit both to the silhouette (spec sections 3, 6, 7).

Where the configuration asks for several `hypotheses`, they are sampled in one batch, each with a camera of its own, and
the one with the photo's silhouette whose view the view reader expects (without a reader: that the others share) goes
on. Of several photos of the object each has a camera in every hypothesis.
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
from backend.geometry.pose import Camera
from backend.geometry.robust_pose import judge_camera
from backend.systems.base import Hooks
from backend.systems.cupid import camera_solver
from backend.systems.cupid.condition import Condition
from backend.systems.cupid.known_camera import KnownCamera, uv_latent
from backend.systems.cupid.model import CupidModel, CupidSettings
from backend.systems.cupid.photo import Photo
from backend.systems.cupid.request import Request
from backend.systems.cupid.silhouette_fit import SilhouetteFit, fit_silhouettes, overlap, small_outline
from backend.systems.cupid.structure_decode import MIN_ACTIVE, Structure, decode_structure, most_certain, voxel_centres
from backend.systems.cupid.structure_sampler import sample_structure
from backend.systems.cupid.view_reader import camera_directions

logger = logging.getLogger(__name__)

SAME_VIEW = np.radians(30)  # views this close count as agreeing
LEAST_LIKELY = 1e-3  # of a view, against knowing nothing: the reader errs too
TRUSTED_OUTLINE = 0.7  # IoU of the silhouettes below which a fitted camera should not be believed


@dataclass(frozen=True)
class SolvedCamera:
    """`crop` camera or None; `intrinsics` [3,3] of the full picture; `message` says what to think of it.

    `residual_px` is the solver's; `outline` the silhouettes' IoU under a camera that was fitted to the photo's, or
    that is known. Of several photos, one whose outline contradicts the first ones' does not agree.
    """

    crop: Camera | None
    intrinsics: np.ndarray | None
    residual_px: float | None
    message: str
    outline: float | None = None
    agrees: bool = True

    @property
    def trusted(self) -> bool:
        """A fitted or known camera is judged by the outline it leads to, any other by its residual."""
        if self.crop is None or not self.agrees:
            return False
        return self.crop.trusted if self.outline is None else self.outline >= TRUSTED_OUTLINE

    @property
    def inlier_share(self) -> float | None:
        """Share of the points that agree with the solved camera; None where there is none."""
        return None if self.crop is None else self.crop.inlier_share

    @property
    def world_to_camera(self) -> np.ndarray | None:
        return None if self.crop is None else self.crop.world_to_camera


@dataclass(frozen=True)
class Hypothesis:
    """One sampled object: its voxels in a grid of `resolution`, its camera, and their fit to the silhouette if any.

    `more` are the cameras of further photos.
    """

    structure: Structure
    resolution: int
    camera: SolvedCamera
    fit: SilhouetteFit | None
    more: tuple[SolvedCamera, ...] = ()

    @property
    def cameras(self) -> tuple[SolvedCamera, ...]:
        """The camera of every photo."""
        return (self.camera, *self.more)


def find_structure(
    networks: CupidModel,
    conditions: Sequence[Condition],
    photos: Sequence[Photo],
    generator: torch.Generator,
    request: Request,
    hooks: Hooks,
) -> Hypothesis:
    """Stages sample_structure and solve_camera from photos of one object, a condition each.

    Errors: `MaquetteError` if hardly any voxel is occupied.
    """
    found, logits = sample_hypotheses(networks, conditions, photos, generator, request, hooks)
    alphas = [photo.seen_alpha for photo in photos]
    best = ranking(found, alphas, read_views(networks, found, photos))[0]
    if not networks.settings.fit_silhouette:
        return found[best]
    return fitted(found[best], logits[best], alphas, photos, known_first=request.camera is not None)


def sample_hypotheses(
    networks: CupidModel,
    conditions: Sequence[Condition],
    photos: Sequence[Photo],
    generator: torch.Generator,
    request: Request,
    hooks: Hooks,
) -> tuple[list[Hypothesis], list[np.ndarray]]:
    """Every sample that took shape, its cameras as solved, and its logits of occupancy [R,R,R]: as `find_structure`."""
    hooks.stage("sample_structure")
    known = None if request.camera is None else uv_latent(networks, request.camera, photos[0].box)
    count = max(networks.settings.hypotheses, request.hypotheses)
    occupancy, uv_logits = sample_structure(networks, conditions, generator, request.steps, hooks, known, count)
    hooks.stage("solve_camera")
    found: list[Hypothesis] = []
    logits: list[np.ndarray] = []
    for item in range(len(occupancy)):
        hooks.check_cancelled()
        sampled = [(_decode(occupancy[item : item + 1], uv), uv) for uv in uv_logits[:, item : item + 1]]
        structure = sampled[0][0]
        if networks.has_stage_2:
            structure = most_certain(structure, occupancy[item : item + 1])
        if len(structure.coords) >= MIN_ACTIVE:
            cameras = tuple(
                given_camera(*each, photo, networks.settings, request.camera)
                if request.camera is not None and photo is photos[0]
                else solve_camera(*each, photo, networks.settings, same_lens(request.focal, photos[0], photo))
                for each, photo in zip(sampled, photos, strict=True)
            )
            found.append(Hypothesis(structure, occupancy.shape[-1], cameras[0], None, cameras[1:]))
            logits.append(occupancy[item, 0].cpu().numpy())
    if not found:
        raise MaquetteError(
            "bad_input",
            "No object took shape from this picture; try another seed or a picture that shows the object clearly.",
            detail=f"{len(occupancy)} tried", next_step="retry",
        )
    return found, logits


def ranking(
    found: Sequence[Hypothesis], alphas: Sequence[np.ndarray], likelihoods: np.ndarray | None = None
) -> list[int]:
    """The hypotheses, best first: those with the photos' outlines whose views the view reader expects.

    `likelihoods` [N] of the hypotheses are the reader's. Without one, it is those whose views many others with these
    outlines share: samples of a small network scatter, and the truth is where they gather. `alphas` [S,S] in [0,1] of
    each photo's crop.
    """
    solved = [i for i, hypothesis in enumerate(found) if any(camera.crop is not None for camera in hypothesis.cameras)]
    unsolved = [i for i in range(len(found)) if i not in solved]
    if len(found) == 1 or not solved:
        return [*solved, *unsolved]
    outline = np.array([silhouette_overlap(found[i], alphas) for i in solved])
    if likelihoods is None:
        apart = [_angles([found[i].cameras[photo] for i in solved]) for photo in range(len(alphas))]
        expected = np.exp(-np.mean([(angles / SAME_VIEW) ** 2 for angles in apart], axis=0)) @ outline
    else:
        expected = likelihoods[solved]
    order = np.argsort(-outline * expected, kind="stable")
    return [*(solved[i] for i in order), *unsolved]


def read_views(networks: CupidModel, found: Sequence[Hypothesis], photos: Sequence[Photo]) -> np.ndarray | None:
    """How likely the view reader takes the hypotheses' views to be [N], of several photos together (the geometric mean
    of those with a camera); None without a reader."""
    if "view_reader" not in networks.networks:
        return None
    logs = np.full((len(photos), len(found)), np.nan)
    for place, photo in enumerate(photos):
        solved = [i for i, one in enumerate(found) if one.cameras[place].crop is not None]
        if solved:
            eyes = camera_directions([found[i].cameras[place].world_to_camera for i in solved])
            read = networks["view_reader"].likelihoods(photo.encoder_input.to(networks.device), eyes)
            logs[place, solved] = np.log(np.maximum(read, LEAST_LIKELY))
    known = np.isfinite(logs)
    return np.exp(np.where(known, logs, 0.0).sum(0) / np.maximum(known.sum(0), 1))


def _angles(cameras: Sequence[SolvedCamera]) -> np.ndarray:
    """Angles [N,N] in radians between the cameras' rotations, half a turn where one is missing."""
    rotations = np.stack([np.eye(3) if one.crop is None else one.crop.world_to_camera[:3, :3] for one in cameras])
    cosine = (np.einsum("aij,bij->ab", rotations, rotations) - 1.0) / 2.0
    missing = np.array([one.crop is None for one in cameras])
    return np.where(missing[:, None] | missing, np.pi, np.arccos(cosine.clip(-1.0, 1.0)))


def silhouette_overlap(hypothesis: Hypothesis, alphas: Sequence[np.ndarray]) -> float:
    """Mean IoU of the voxels' silhouettes, as solved, and `alphas` [S,S]; 0 for a photo without a camera."""
    points = voxel_centres(hypothesis.structure.coords, hypothesis.resolution).cpu().numpy().astype(np.float64)
    return float(np.mean([
        0.0 if camera.crop is None else overlap(points, camera.crop, small_outline(alpha), hypothesis.resolution)
        for camera, alpha in zip(hypothesis.cameras, alphas, strict=True)
    ]))  # fmt: skip


def same_lens(focal: float | None, first: Photo, other: Photo) -> float | None:
    """The known `focal` of the `first` photo in widths of another one that was taken through the same lens."""
    if focal is None or other is first:
        return focal
    (width, height), (other_width, other_height) = first.picture.original_size, other.picture.original_size
    return focal * width / max(width, height) * max(other_width, other_height) / other_width


def fitted(
    hypothesis: Hypothesis,
    logits: np.ndarray,
    alphas: Sequence[np.ndarray],
    photos: Sequence[Photo],
    known_first: bool = False,
) -> Hypothesis:
    """Voxels and cameras brought into line with the crops' `alphas`; unchanged where that fails. `logits` [R,R,R].

    Nothing is fitted unless the first photo has a camera; where that is known, it stays.
    """
    solved = [i for i, camera in enumerate(hypothesis.cameras) if camera.crop is not None]
    if hypothesis.camera.crop is None:
        return hypothesis
    crops = [camera.crop for camera in hypothesis.cameras if camera.crop is not None]
    try:
        fits = fit_silhouettes(logits, crops, [alphas[i] for i in solved], known_first)
    except ValueError as error:
        logger.info("no fit to the silhouette: %s", error)
        return hypothesis
    coords = torch.from_numpy(np.pad(np.argwhere(fits[0].occupied), ((0, 0), (1, 0)))).int()
    structure = replace(hypothesis.structure, coords=coords.to(hypothesis.structure.coords.device))
    cameras = list(hypothesis.cameras)
    for i, fit in zip(solved, fits, strict=True):
        cameras[i] = cameras[i] if known_first and i == 0 else _moved(cameras[i], fit, photos[i])
    return replace(hypothesis, structure=structure, camera=cameras[0], fit=fits[0], more=tuple(cameras[1:]))


def _moved(camera: SolvedCamera, fit: SilhouetteFit, photo: Photo) -> SolvedCamera:
    """The camera after its fit."""
    message = ""
    if fit.iou_moved < TRUSTED_OUTLINE:
        share = f"{100 * fit.iou_moved:.0f} %"
        message = f"The camera is uncertain (the outlines overlap by {share}); check it or try another seed."
    elif not fit.agrees:
        message = "The camera is uncertain (the outline contradicts the other photos'); check it or try another seed."
    intrinsics = uncrop_intrinsics(fit.camera.intrinsics, photo.box)
    return SolvedCamera(fit.camera, intrinsics, camera.residual_px, message, fit.iou_moved, fit.agrees)


def solve_camera(
    structure: Structure, uv_logits: Tensor, photo: Photo, settings: CupidSettings, focal: float | None
) -> SolvedCamera:
    """The photo's camera; never fails, the message says why there is none or why it should not be trusted."""
    left, top, right, bottom = photo.box
    try:
        sampled = camera_solver.correspondences(structure, uv_logits, settings.camera)
        locked = None if focal is None else focal / (right - left)
        middle = (0.5 - left) / (right - left), (0.5 - top) / (bottom - top)  # of the picture, in the crop
        camera = camera_solver.solve_camera(sampled, settings.camera, locked, middle)
    except (ValueError, np.linalg.LinAlgError) as error:
        logger.warning("no camera: %s", error)
        sentence = str(error) if isinstance(error, ValueError) else "The camera cannot be solved; try another seed."
        return SolvedCamera(None, None, None, sentence)
    intrinsics = uncrop_intrinsics(camera.intrinsics, photo.box)
    residual_px = camera.residual * (right - left) * photo.picture.original_size[0]
    if not (np.isfinite(intrinsics).all() and np.isfinite(camera.world_to_camera).all()):
        return SolvedCamera(None, None, None, "The camera cannot be solved from this result; try another seed.")
    return SolvedCamera(camera, intrinsics, residual_px, camera.doubt)


def given_camera(
    structure: Structure, uv_logits: Tensor, photo: Photo, settings: CupidSettings, known: KnownCamera
) -> SolvedCamera:
    """The known camera, with how far the sampled UV cube is from it and how well the sampled object fits the photo."""
    sampled = camera_solver.correspondences(structure, uv_logits, settings.camera)
    crop = judge_camera(sampled.points, sampled.uv, known.of_crop(photo.box), known.world_to_camera)
    left, _, right, _ = photo.box
    residual_px = crop.residual * (right - left) * photo.picture.original_size[0]
    resolution = uv_logits.shape[-1]
    centres = voxel_centres(structure.coords, resolution).cpu().numpy().astype(np.float64)
    outline = overlap(centres, crop, small_outline(photo.seen_alpha), resolution)
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
