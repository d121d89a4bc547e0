"""Find a Blender that runs Python scripts, and render GLB files with it in a separate process.

The backend never imports Blender's modules; it starts a process that does.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

BLENDER_VARIABLE = "MAQUETTE_BLENDER"
_ROOT = Path(__file__).resolve().parents[2]
_SCRIPT = Path(__file__).with_name("render_objects.py")
SCENE_SCRIPT = Path(__file__).with_name("render_reference.py")
_OBJECT_TIMEOUT_S = 180.0  # an object takes well under a second; longer means that Blender hangs
_START_TIMEOUT_S = 120.0
_CRASHED = "Blender stopped or hung on this object."


class BlenderNotFound(RuntimeError):
    """No Blender was found to render with."""


@dataclass(frozen=True)
class Asset:
    """One GLB file to render: its id, path and the seed of its views and lights."""

    id: str
    path: Path
    seed: int


@dataclass(frozen=True)
class RenderOptions:
    """Views an object, size in pixels, Cycles samples a pixel.

    tight: each picture is cut to the object; else it shows the unit cube. random_light: sun and sky by seed, or white.
    bundle: the four fixed views of a bundle (`backend.contract.bundle_views`) instead of `views` random ones.
    """

    views: int = 8
    bundle: bool = False
    size: int = 128
    samples: int = 4
    tight: bool = True
    random_light: bool = True
    threads: int = 1


@dataclass(frozen=True)
class SceneOptions:
    """For SCENE_SCRIPT: scenes an object, size in pixels, Cycles samples a pixel (denoised).

    neighbours: GLB files that may stand beside the object.
    """

    neighbours: tuple[str, ...] = ()
    scenes: int = 2
    size: int = 128
    samples: int = 8
    threads: int = 1


@dataclass(frozen=True)
class RenderedObject:
    """V views of one object. ``error`` tells why there are none (arrays is then empty).

    arrays: color uint8 [V, H, W, 4] sRGB, straight alpha; albedo uint8 [V, H, W, 3] sRGB; normals int8 [V, H, W, 3]
    (x 127);     points float32 [V, H, W, 3] object space; mask bool [V, H, W]; world_to_camera float32 [V, 4, 4];
    intrinsics float32 [V, 3, 3]; fov float32 [V]; normalise float32 [4, 4]: imported (z up) to unit cube.
    """

    asset: Asset
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    error: str = ""


def find_blender(script: Path = _SCRIPT) -> list[str]:
    """The start of the command line that runs `script` in Blender's Python.

    Order: MAQUETTE_BLENDER (a python with bpy, or a blender executable), a ``.venv-bpy-*`` in the project, ``blender``
    on the path. Raises BlenderNotFound.
    """
    named = os.environ.get(BLENDER_VARIABLE)
    if named:
        found = shutil.which(named)
        if not found:
            raise BlenderNotFound(f"{BLENDER_VARIABLE} names {named}, no program; set it to a Blender executable.")
        return _command(found, script)
    names = ("bin/python", "Scripts/python.exe")
    local = [folder / name for folder in sorted(_ROOT.glob(".venv-bpy-*")) for name in names]
    local = [path for path in local if path.exists()]
    preferred = [path for path in local if "4.5" in str(path)] or local
    if preferred:
        return _command(str(preferred[-1]), script)
    found = shutil.which("blender")
    if found:
        return _command(found, script)
    raise BlenderNotFound(
        f"No Blender was found; install Blender 4.2 or newer, or set {BLENDER_VARIABLE} to its executable."
    )


def _command(executable: str, script: Path) -> list[str]:
    if Path(executable).name.lower().startswith("blender"):
        return [executable, "--background", "--factory-startup", "--python", str(script), "--"]
    return [executable, str(script)]


def _start(
    assets: Sequence[Asset], options: RenderOptions | SceneOptions, folder: Path, script: Path
) -> subprocess.Popen[str]:
    objects = [
        {"id": asset.id, "path": str(Path(asset.path).resolve()), "seed": asset.seed, "file": f"{index}.npz"}
        for index, asset in enumerate(assets)
    ]
    job = folder / "job.json"
    job.write_text(json.dumps({"objects": objects, "out": str(folder), **asdict(options)}), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / "blender.log").open("wb") as errors:
        command = [*find_blender(script), str(job)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace", env=environment
        )


def _events(process: subprocess.Popen[str]) -> Iterator[dict | None]:
    """The script's events in order; None once when it says nothing for too long; ends with the process's output."""
    lines: queue.Queue[str | None] = queue.Queue()

    def pump() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    timeout = _START_TIMEOUT_S
    while True:
        try:
            line = lines.get(timeout=timeout)
        except queue.Empty:
            yield None
            return
        if line is None:
            return
        if line.startswith("MAQUETTE "):
            timeout = _OBJECT_TIMEOUT_S
            yield json.loads(line[len("MAQUETTE ") :])


def _render_some(
    assets: Sequence[Asset], options: RenderOptions | SceneOptions, folder: Path, script: Path
) -> Iterator[RenderedObject]:
    """Results of one Blender process, in order, until it ends, hangs or crashes; the last then names the culprit."""
    process = _start(assets, options, folder, script)
    index, current = -1, None
    try:
        for event in _events(process):
            if event is None:
                break
            if event["event"] == "start":
                index, current = index + 1, assets[index + 1]
            elif event["event"] == "failed" and current is not None:
                yield RenderedObject(current, error=event["message"])
                current = None
            elif current is not None:
                path = folder / f"{index}.npz"
                with np.load(path) as stored:
                    arrays = {name: stored[name] for name in stored.files}
                path.unlink()
                yield RenderedObject(current, arrays)
                current = None
    finally:
        process.kill()
        status = process.wait()
    if current is not None:
        log.info("Blender ended with %s: %s", status, (folder / "blender.log").read_text(errors="replace")[-2000:])
        yield RenderedObject(current, error=_CRASHED)
    elif index < 0:
        tail = (folder / "blender.log").read_text(errors="replace").strip().splitlines()[-1:]
        detail = f" Its last line: {tail[0]}" if tail else ""
        raise RuntimeError(f"Blender did not start rendering; check that {find_blender()[0]} works.{detail}")


def render_assets(
    assets: Sequence[Asset], options: RenderOptions | SceneOptions = RenderOptions(), script: Path = _SCRIPT
) -> Iterator[RenderedObject]:
    """Render GLB files with Blender, one result an asset, in order. A bad file gives a result with ``error``.

    script: the program for Blender, told `options`; the arrays are what it writes.
    An object on which Blender crashes is tried once more in a fresh process. Raises BlenderNotFound, and RuntimeError
    when Blender does not start at all.
    """
    remaining = list(assets)
    retried: set[str] = set()
    while remaining:
        with tempfile.TemporaryDirectory(prefix="maquette-render-") as name:
            for result in _render_some(tuple(remaining), options, Path(name), script):
                if result.error == _CRASHED and result.asset.id not in retried:
                    retried.add(result.asset.id)
                    log.warning("Blender stopped on object %s; trying once more", result.asset.id)
                    break
                if result.error:
                    log.warning("object %s was skipped: %s", result.asset.id, result.error)
                remaining.pop(0)
                yield result
