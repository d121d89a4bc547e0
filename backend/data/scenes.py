"""Test scenes: photos of several objects on a ground, rendered with Blender in a separate process."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import blender

log = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("render_scenes.py")
SCENE_SECONDS = 900.0  # a scene takes some ten seconds on a busy machine; far longer means that Blender hangs


@dataclass(frozen=True)
class SceneJob:
    """A scene to render: its id, the GLB files that stand in it, and the seed of layout, camera and light."""

    id: str
    paths: tuple[Path, ...]
    seed: int


@dataclass(frozen=True)
class RenderedScene:
    """A photo of K objects with the truth.

    color uint8 [H,W,3] sRGB; masks bool [K,H,W] of what is visible, whole_masks bool [K,H,W] as if nothing stood in
    front; depth float32 [H,W] along the camera's z (0: none); world_to_camera [4,4], world z up with the ground at
    z = 0; intrinsics [3,3]; object_to_world [K,4,4] similarities from unit cubes; bounds [K,2,3] in these.
    """

    id: str
    color: np.ndarray
    masks: np.ndarray
    whole_masks: np.ndarray
    depth: np.ndarray
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    object_to_world: np.ndarray
    bounds: np.ndarray

    @property
    def centres(self) -> np.ndarray:
        """Centres [K,3] of the objects' boxes in the camera's frame."""
        middle = self.bounds.mean(axis=1)
        world = np.einsum("kij,kj->ki", self.object_to_world[:, :3, :3], middle) + self.object_to_world[:, :3, 3]
        return world @ self.world_to_camera[:3, :3].T + self.world_to_camera[:3, 3]

    @property
    def sizes(self) -> np.ndarray:
        """Longest sides [K] of the objects' boxes."""
        scale = np.cbrt(np.linalg.det(self.object_to_world[:, :3, :3]))
        return scale * np.ptp(self.bounds, axis=1).max(axis=1)


def random_jobs(objects: Sequence[tuple[str, Path]], count: int, seed: int, each: int = 3) -> list[SceneJob]:
    """`count` scenes of `each` different objects (id, path), chosen at random by `seed`."""
    rng = np.random.default_rng(seed)
    jobs = []
    for number in range(count):
        chosen = rng.choice(len(objects), each, replace=False)
        paths = tuple(objects[index][1] for index in chosen)
        jobs.append(SceneJob(f"scene {number}", paths, int(rng.integers(2**31))))
    return jobs


def render_scenes(
    jobs: Sequence[SceneJob],
    wanted: int | None = None,
    size: tuple[int, int] = (512, 384),
    samples: int = 24,
    threads: int = 1,
) -> Iterator[RenderedScene]:
    """Render scenes in order until `wanted` are there; one that cannot be rendered is logged and left out.

    Raises BlenderNotFound, and RuntimeError when Blender renders none of them.
    """
    with tempfile.TemporaryDirectory(prefix="maquette-scenes-") as name:
        folder = Path(name)
        scenes = [
            {"id": job.id, "paths": [str(Path(path).resolve()) for path in job.paths], "seed": job.seed,
             "file": f"{index}.npz"}
            for index, job in enumerate(jobs)
        ]  # fmt: skip
        width, height = size
        content = {"scenes": scenes, "out": name, "width": width, "height": height, "samples": samples,
                   "threads": threads, "wanted": len(jobs) if wanted is None else wanted}  # fmt: skip
        (folder / "job.json").write_text(json.dumps(content), encoding="utf-8")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [*blender.find_blender(SCRIPT), str(folder / "job.json")]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment,
            timeout=SCENE_SECONDS * (len(jobs) + 1),
        )  # fmt: skip
        for line in done.stdout.splitlines():
            event = json.loads(line[len("MAQUETTE ") :]) if line.startswith("MAQUETTE ") else {}
            if event.get("event") == "failed":
                log.warning("%s is left out: %s", event["id"], event["message"])
        found = [(job, folder / f"{index}.npz") for index, job in enumerate(jobs)]
        if not any(path.exists() for _, path in found):
            raise RuntimeError(f"Blender rendered no scene; its last words: {(done.stdout + done.stderr)[-800:]}")
        for job, path in found:
            if path.exists():
                with np.load(path) as stored:
                    yield RenderedScene(job.id, **{key: stored[key] for key in stored.files})
