"""What RefAny3D is asked in its evaluation: unseen objects, two sentences each, and the pictures that come of it.

Sentences are made as those of the training scenes are, from the object's caption and the seed, with nothing beside the
object, so that all of a sentence can be judged. The same objects, sentences and seeds for any weights.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.contract.errors import MaquetteError
from backend.data.prepare import AssetRow, object_seed, read_assets
from backend.data.reference_words import SceneWords, caption, draw_words
from backend.evaluation.refany3d_measures import Subject, subject_of
from backend.formats import exr
from backend.formats.glb_reader import GlbError, read_glb
from backend.formats.images import decode_image
from backend.systems import picture_command
from backend.systems.base import Hooks
from backend.systems.refany3d.camera_from_points import PictureCamera
from backend.systems.refany3d.condition_views import ConditionViews, azimuths, draw_conditions
from backend.systems.refany3d.pipeline import TASK, RefAny3DSystem
from backend.systems.refany3d.request import Request

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """One picture that is asked for."""

    row: AssetRow
    words: SceneWords
    prompt: str
    seed: int


@dataclass(frozen=True)
class Picture:
    """One that came. picture [S,S,3], points [S,S,3] or None where the weights have no point maps, in [0,1]; seconds by
    the clock and of the processor, which others do not make longer."""

    picture: np.ndarray
    points: np.ndarray | None
    camera: PictureCamera
    seconds: float
    processor_seconds: float


def choose_cases(assets: Path, split: str, limit: int | None, prompts: int, seed: int) -> list[Case]:
    """`prompts` cases for each of `limit` objects in an order of `seed`: all first sentences, then all second ones.

    Errors: FileNotFoundError without any.
    """
    rows = [row for row in read_assets(assets) if split == "all" or row.split == split]
    np.random.default_rng(seed).shuffle(rows)  # type: ignore[arg-type]
    if not rows:
        raise FileNotFoundError(f"{assets} holds no object of the split {split!r}; choose another --split.")
    return [make_case(row, number, seed) for number in range(prompts) for row in rows[:limit]]


def make_case(row: AssetRow, number: int, seed: int) -> Case:
    """The `number`th sentence of an object."""
    own = object_seed(f"{row.id}/{number}", seed)
    words = dataclasses.replace(draw_words(np.random.default_rng(own)), neighbours=0)
    return Case(row, words, caption(row.caption, words), own % 2**31)


class Painter:
    """Paints the pictures of cases with one set of weights; the views of an object are drawn as the weights want them
    and kept until another object is asked for."""

    def __init__(self, system: RefAny3DSystem, weights: str, config: str, steps: int | None = None) -> None:
        self.system = system
        self.parameters = {"weights": weights, "config": config, "steps": steps}
        self.settings = system.networks(Request(**self.parameters, prompt="-")).settings  # type: ignore[arg-type]
        self._kept: tuple[str, Subject, ConditionViews] | None = None

    def object(self, row: AssetRow) -> tuple[Subject, ConditionViews]:
        """The mesh and its views. Errors: `MaquetteError` bad_input for a file without a surface."""
        if self._kept is None or self._kept[0] != row.id:
            try:
                parts = read_glb(row.path.read_bytes())
                drawn = draw_conditions(parts, self.settings.size, azimuths(self.settings.views))
                self._kept = (row.id, subject_of(parts), drawn)
            except (OSError, GlbError, ValueError) as error:
                raise MaquetteError("bad_input", f"The object {row.id} cannot be used. {error}") from error
        return self._kept[1], self._kept[2]

    def paint(self, case: Case, variants: int = 1) -> list[Picture]:
        """Pictures of a case through the job that the extension sends, seeds one after the other.

        Errors: `MaquetteError`.
        """
        _, drawn = self.object(case.row)
        asked: dict[str, Any] = {"prompt": case.prompt, "seed": case.seed, "variants": variants}
        asked |= self.parameters | picture_command.bounds_parameters(drawn)
        started, worked = time.perf_counter(), time.process_time()
        result = self.system.run(TASK, picture_command.picture_inputs(drawn), asked, Hooks())
        seconds, work = ((now - then) / variants for now, then in (
            (time.perf_counter(), started), (time.process_time(), worked)
        ))  # fmt: skip
        data = {artifact.name: artifact.data for artifact in result.artifacts}
        found = []
        for number, variant in enumerate(result.report["variants"]):
            shown = decode_image(data[f"picture-{number}.png"]).rgba[..., :3].astype(np.float32) / 255.0
            planes = exr.read_exr(data[f"points-{number}.exr"]) if f"points-{number}.exr" in data else None
            points = None if planes is None else np.dstack([planes[name] for name in "RGB"]).clip(0.0, 1.0)
            found.append(Picture(shown, points, read_camera(variant["camera"]), seconds, work))
        return found


def read_camera(told: dict) -> PictureCamera:
    """The camera of a job's report."""
    matrix, lens = (None if told[name] is None else np.array(told[name]) for name in ("world_to_camera", "intrinsics"))
    return PictureCamera(matrix, lens, told["residual_px"], told["inliers"], told["reason"])


def viewpoints(pictures: Sequence[Picture], subject: Subject) -> np.ndarray:
    """Unit directions [N,3] from the object to the cameras that were found."""
    eyes = [
        -picture.camera.world_to_camera[:3, :3].T @ picture.camera.world_to_camera[:3, 3] - subject.bounds.centre
        for picture in pictures
        if picture.camera.world_to_camera is not None
    ]
    return np.stack([eye / max(float(np.linalg.norm(eye)), 1e-12) for eye in eyes]) if eyes else np.zeros((0, 3))


def mean_angle(directions: np.ndarray) -> float | None:
    """Mean angle in degrees between all pairs of unit `directions` [N,3]; None for fewer than two."""
    if len(directions) < 2:
        return None
    first, second = np.triu_indices(len(directions), 1)
    cosines = (directions[first] * directions[second]).sum(axis=1).clip(-1.0, 1.0)
    return float(np.degrees(np.arccos(cosines)).mean())
