"""The system "refany3d": views of a mesh and a sentence become pictures of it, each with its point map and camera."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from backend.contract.errors import MaquetteError
from backend.contract.messages import SystemInfo
from backend.formats import exr
from backend.formats.images import encode_png
from backend.nn.devices import best_device, peak_mib
from backend.systems.base import ArtifactData, Hooks, RunResult
from backend.systems.refany3d import networks as loading
from backend.systems.refany3d.camera_from_points import PictureCamera, no_camera, solve_picture
from backend.systems.refany3d.config import Settings
from backend.systems.refany3d.encoding import black_tokens, condition_tokens
from backend.systems.refany3d.kv_cache import INDEPENDENT_WEIGHTS
from backend.systems.refany3d.networks import RefAny3DNetworks, load_networks
from backend.systems.refany3d.request import Request, parse_request, png_with_text, read_conditions
from backend.systems.refany3d.sampler import (
    Conditions,
    Painted,
    SampleSettings,
    generate,
    side_by_side,
    velocity_of,
    words_guidance,
)
from backend.systems.refany3d.surface_dots import WORST, Surface, miss, surface_of

TASK = "render_picture"
STAGES = ("prepare", "encode_conditions", "sample", "solve_camera", "finish")
NARROW = "The small weights know game props in simple scenes; expect less of anything else."
"""What an artist should know of mini whatever was asked."""
NO_POINTS = "These weights paint no point map, so the picture has no camera; choose others."
TRIES_APART = 1_000_003  # so far apart are the seeds of a picture's tries; torch's CPU noise has seeds of 32 bits
LEAST_BETWEEN_PREVIEWS = 4
"""Steps: showing one costs mini as much as a step."""
THUMBNAIL = 256
"""Pixels of the thumbnail's longer side at most."""


@dataclass(frozen=True)
class Solved:
    """A painted picture, its camera, and how far it is from the object under that (`surface_dots.miss`)."""

    painted: Painted
    camera: PictureCamera
    miss: float


class RefAny3DSystem:
    """The system "refany3d" (see `backend.systems.base.System`)."""

    name = "refany3d"
    title = "RefAny3D"
    tasks = (TASK,)
    stages = STAGES

    def __init__(self, device: str | None = None) -> None:
        self.device = device or os.environ.get("MAQUETTE_DEVICE") or str(best_device())
        self._loaded: tuple[tuple[Any, ...], RefAny3DNetworks] | None = None

    def info(self) -> SystemInfo:
        """Ready when mini's weights are there."""
        try:
            loading.folder_parts(loading.MINI_FOLDER)
            note = ""
        except MaquetteError as error:
            note = str(error)
        return SystemInfo(self.name, self.title, self.tasks, self.stages, not note, note, "MIT")

    def run(self, task: str, inputs: dict[str, bytes], parameters: dict[str, Any], hooks: Hooks) -> RunResult:
        """Task render_picture. inputs: views and points, strips of as many squares. Errors: `MaquetteError`."""
        if task not in self.tasks:
            raise MaquetteError("bad_input", f"RefAny3D cannot do {task!r}; choose {TASK}.")
        request = parse_request(parameters)
        hooks.stage("prepare")
        read_conditions(inputs, 64)  # what cannot be used is refused before anything is loaded
        networks = self.networks(request)
        return render(networks, inputs, request, hooks)

    def networks(self, request: Request) -> RefAny3DNetworks:
        """The networks for a request; kept until other ones are asked for. Errors: `MaquetteError`."""
        seed = request.seed if request.weights == loading.RANDOM else 0
        key = (request.weights, request.config, request.base, seed, request.profile)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # the memory is needed for the new ones
            loaded = load_networks(request.weights, request.config, request.base, self.device, seed, request.profile)
            self._loaded = (key, loaded)
        return self._loaded[1]


def render(networks: RefAny3DNetworks, inputs: dict[str, bytes], request: Request, hooks: Hooks) -> RunResult:
    """Pictures, point maps and cameras of a job. Errors: `MaquetteError`, `Cancelled`."""
    own = networks.settings
    views, points = read_conditions(inputs, own.size)
    settings = settings_of(networks, request)
    told = networks.features([request.prompt.strip(), request.negative.strip()])
    hooks.stage("encode_conditions")
    tokens = condition_tokens(networks.vae, views, points).to(networks.device)
    given = Conditions(tokens, black_tokens(networks.vae, own.size).to(networks.device), own.size)
    hooks.stage("sample")
    shared = velocity_of(networks, told, given, settings) if own.independent else None
    tries = tries_of(own)
    seeds = [seed_of(request, variant, attempt) for variant in range(request.variants) for attempt in range(tries)]
    painted = []
    for number, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        first, count = number * settings.steps, len(seeds) * settings.steps
        painted.append(generate(networks, told, given, settings, generator, hooks, first, count, shared))
        hooks.preview(side_by_side(painted[-1].picture, painted[-1].points))
    hooks.stage("solve_camera")
    surface = surface_of(views, points, request.bounds)
    solved = [
        Solved(each, *camera_of(each, request, surface, seed)) for each, seed in zip(painted, seeds, strict=True)
    ]
    starts = range(0, len(solved), tries)
    best = [min(solved[start : start + tries], key=lambda each: each.miss) for start in starts]
    hooks.stage("finish")
    return _result(networks, settings, best, len(views), request, hooks)


def settings_of(networks: RefAny3DNetworks, request: Request) -> SampleSettings:
    """How pictures are sampled: what the request says, else what the weights are made for."""
    own = networks.settings
    chosen = SampleSettings(
        steps=request.steps or own.steps,
        guidance=request.guidance or own.guidance,
        image_guidance=request.image_guidance or own.image_guidance,
        masked_black=request.masked_black,
        dynamic=own.dynamic,
        condition_guidance=own.condition_guidance,
        negative=bool(request.negative.strip()),
    )
    return replace(chosen, preview_every=max(LEAST_BETWEEN_PREVIEWS, chosen.steps // 6))


def tries_of(own: Settings) -> int:
    """How many pictures are painted of a seed; without a point map nothing tells which is best."""
    return own.tries if own.points else 1


def seed_of(request: Request, variant: int, attempt: int = 0) -> int:
    """The seed of a variant: one after the other, so that each can be made again alone; its further tries are apart."""
    return (request.seed + variant + attempt * TRIES_APART) % 2**63


def camera_of(painted: Painted, request: Request, surface: Surface, seed: int) -> tuple[PictureCamera, float]:
    """The camera that a picture's point map belongs to, and how far the picture is from the object under it."""
    if painted.points is None:
        return no_camera(NO_POINTS), WORST
    bounds, focal = request.bounds, request.focal or None
    picture = painted.picture
    camera = solve_picture(painted.points, bounds, focal, seed=seed % 2**32, picture=picture, surface=surface)
    if camera.world_to_camera is None or camera.intrinsics is None:
        return camera, WORST
    return camera, miss(surface, picture, painted.points, bounds, camera.world_to_camera, camera.intrinsics)


def _result(
    networks: RefAny3DNetworks,
    settings: SampleSettings,
    solved: list[Solved],
    views: int,
    request: Request,
    hooks: Hooks,
) -> RunResult:
    artifacts: list[ArtifactData] = []
    prompt, negative = request.prompt.strip(), request.negative.strip()
    painted, cameras = [each.painted for each in solved], [each.camera for each in solved]
    for variant, each in enumerate(painted):
        said = {"prompt": prompt, "seed": str(seed_of(request, variant)), "software": "Maquette RefAny3D"}
        said |= {"negative": negative} if negative else {}
        artifacts.append(ArtifactData(f"picture-{variant}.png", png_with_text(each.picture, said), "image/png"))
        if each.points is not None:
            planes = dict(zip("RGB", np.moveaxis(each.points, 2, 0), strict=True))
            artifacts += [
                ArtifactData(f"points-{variant}.png", encode_png(each.points), "image/png"),
                ArtifactData(f"points-{variant}.exr", exr.write_exr(planes), exr.MEDIA_TYPE),
            ]
    notes = [NARROW] if request.weights == "mini" else []
    if not any(camera.trusted for camera in cameras):
        notes.append(cameras[0].reason)
    for note in notes:
        hooks.message(note)
    hooks.finish()
    words = words_guidance(networks, settings)
    report: dict[str, Any] = {
        "system": RefAny3DSystem.name,
        "task": TASK,
        "prompt": prompt,
        "negative": negative,
        "seed": request.seed,
        "steps": settings.steps,
        "guidance": settings.guidance if networks.transformer.guided else words if words != 1.0 else None,
        "negative_guidance": words if negative else None,
        "image_guidance": settings.image_guidance,
        "weights": request.weights,
        "model": INDEPENDENT_WEIGHTS if networks.settings.independent else RefAny3DSystem.name,
        "config": request.config,
        "base": request.base if request.weights == loading.PUBLISHED else "",
        "size": networks.settings.size,
        "views": views,
        "bounds_min": list(request.bounds_min),
        "bounds_max": list(request.bounds_max),
        "tries": tries_of(networks.settings),
        "variants": [
            {"seed": seed_of(request, variant), "camera": each.camera.to_json(), "miss": round(each.miss, 4)}
            for variant, each in enumerate(solved)
        ],
        "notes": notes,
        "peak_mib": peak_mib(),
        "seconds": {name: round(value, 4) for name, value in hooks.seconds.items()},
    }
    artifacts.append(ArtifactData("thumbnail.png", _thumbnail(painted[0].picture), "image/png"))
    artifacts.append(ArtifactData("report.json", json.dumps(report, indent=1).encode(), "application/json"))
    return RunResult(tuple(artifacts), report)


def _thumbnail(picture: np.ndarray) -> bytes:
    side = picture.shape[0]
    factor = max(1, side // THUMBNAIL)
    kept = side // factor * factor
    shrunk = picture[:kept, :kept].reshape(kept // factor, factor, kept // factor, factor, 3).mean(axis=(1, 3))
    return encode_png(shrunk)
