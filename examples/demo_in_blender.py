"""The part of the demo that runs inside Blender: install the zip, press Generate 3D, render what came back.

Usage: ``<python with bpy> demo_in_blender.py JOB.json`` or ``blender --background --python demo_in_blender.py -- JOB``.
The job's keys are `demo.blender_job`'s. News go to standard output as lines ``MAQUETTE {json}`` with a key `event`:
say (text), object (what is known of one result), failed (text), done. Everything else that is printed is Blender's own.
Blender ends when its standard input does, so that it never outlives the demo; the backend ends with Blender.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
import numpy as np

# isort: split
# Blender's own modules can be found only once bpy is there.
import addon_utils

MODULE = "bl_ext.user_default.maquette"
SPACING = 3.0  # metres between two objects of one metre
PATIENCE = 600.0  # seconds for one object; more means that something hangs
RESTART_PATIENCE = 40.0  # the extension starts a backend that crashed again, the third time after 30 seconds
TICK = 0.02
RENDER_SIZE = ("resolution_x", "resolution_y", "pixel_aspect_x", "pixel_aspect_y")  # what the extension sets
TURNTABLE_VIEWS = 8
TURNTABLE_ELEVATION = math.radians(20.0)
TURNTABLE_DISTANCE = 4.0  # in radii of the object: far enough for a calm perspective
TURNTABLE_FILL = 0.46  # how far from the middle of the picture, in picture widths, the widest view may reach


class DemoError(Exception):
    """Something failed; the text is one sentence for the person at the keyboard."""


def tell(event: str, **fields: Any) -> None:
    """One line of news for the demo outside."""
    sys.stdout.write("\nMAQUETTE " + json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """Leave at once when the demo outside is gone: the end of our input tells it on every system."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def extension(name: str) -> types.ModuleType:
    """A module of the installed extension."""
    return importlib.import_module(f"{MODULE}.{name}")


def install(archive: str, python: str, data: str) -> None:
    """Install the zip through Blender's own operator and point the extension at the backend's Python."""
    if not addon_utils.check("bl_pkg")[1]:  # the module form of Blender starts without its extension system
        addon_utils.enable("bl_pkg", default_set=False)
    bpy.ops.extensions.package_install_files(filepath=archive, repo="user_default", enable_on_install=True)
    if MODULE not in bpy.context.preferences.addons:
        raise DemoError(f"Blender did not install {Path(archive).name}; its own lines in the log say why.")
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.backend_python, preferences.data_folder = python, data


def empty_scene() -> bpy.types.Scene:
    """The scene without the cube, lamp and camera that Blender starts with; white light and true colours."""
    bpy.data.batch_remove([*bpy.data.objects, *bpy.data.meshes, *bpy.data.lights, *bpy.data.cameras])
    scene = bpy.context.scene
    world = scene.world = bpy.data.worlds.new("White")
    if not world.node_tree:
        world.use_nodes = True
    sky = next(node for node in world.node_tree.nodes if node.type == "BACKGROUND")
    sky.inputs["Color"].default_value, sky.inputs["Strength"].default_value = (1.0, 1.0, 1.0, 1.0), 1.0
    scene.render.engine = "CYCLES"
    scene.cycles.use_denoising = False  # plain white light has hardly any noise, and some Blenders lack the denoiser
    scene.render.film_transparent = True
    scene.view_settings.view_transform = "Standard"
    return scene


def generate(scene: bpy.types.Scene, picture: dict[str, Any], index: int) -> dict[str, Any]:
    """Press Generate 3D and wait until the object stands in the scene; returns what is known of it.

    The scene has no camera before, so the extension makes one for this picture. Errors: DemoError.
    """
    session, pump = extension("blender_addon.runtime.session").get(), extension("blender_addon.runtime.pump")
    scene.camera = None
    scene.cursor.location = (SPACING * index, 0.0, 0.0)
    settings = scene.maquette_create
    settings.image, settings.mask, settings.seed = picture["image"], picture["mask"], picture["seed"]
    started = time.monotonic()
    try:
        bpy.ops.maquette.generate()
    except RuntimeError as error:  # how Blender passes on an operator's error report
        raise DemoError(f"{picture['name']}: {error}") from error
    job_id = session.store.all()[0].job_id
    crashed = extension("blender_addon.runtime.backend_process").State.CRASHED
    wait_until(lambda: session.store.get(job_id), session, pump.tick, crashed, picture["name"])
    total = time.monotonic() - started
    record = session.store.get(job_id)
    (made,) = [item for item in scene.objects if "maquette" in item and item["maquette"]["job_id"] == job_id]
    made.name = picture["name"]
    if scene.camera is not None:
        scene.camera.name = scene.camera.data.name = f"{picture['name']} camera"
    return {
        "name": picture["name"],
        "total_seconds": round(total, 2),
        "report": record.report,
        "folder": str(session.store.folder(job_id)),
        "camera": scene.camera.name if scene.camera is not None else "",
        "peak_mib": {
            "blender": peak_mib(os.getpid()),
            "backend": peak_mib(session.process.pid),
            "worker": record.report.get("peak_mib"),
        },
    }


def wait_until(
    record: Callable[[], Any], session: Any, tick: Callable[[], object], crashed: object, name: str
) -> None:
    """Let the extension work, as its timer would in a window, until the result was applied. Errors: DemoError."""
    end, alive = time.monotonic() + PATIENCE, time.monotonic()
    while not record().applied:
        tick()
        now = record()
        alive = time.monotonic() if session.process.state is not crashed else alive
        if now.state in ("failed", "cancelled"):
            raise DemoError(f"{name}: {now.failure.message if now.failure else 'the job was cancelled.'}")
        if now.waiting:
            raise DemoError(f"{name}: {now.waiting}")
        if time.monotonic() - alive > RESTART_PATIENCE:
            raise DemoError(f"{session.process.message} {session.process.log_tail(3)}")
        if time.monotonic() > end:
            raise DemoError(f"{name}: no result after {PATIENCE:.0f} seconds; the backend's log says how far it came.")
        time.sleep(TICK)


def peak_mib(pid: int) -> float | None:
    """The most memory that a process of this machine has held, in MiB; None where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((round(int(line.split()[1]) / 2**10, 1) for line in lines if line.startswith("VmHWM:")), None)


def render_through_camera(scene: bpy.types.Scene, name: str, camera: str, target: Path, samples: int) -> None:
    """Render the one object through the camera that was solved for it, as F12 does; a PNG with transparency."""
    for item in scene.objects:
        item.hide_render = item.type == "MESH" and item.name != name
    scene.camera = bpy.data.objects[camera]
    scene.cycles.samples = samples
    image = scene.render.image_settings
    image.file_format, image.color_mode, image.color_depth = "PNG", "RGBA", "8"
    scene.render.filepath = str(target)
    bpy.ops.render.render(write_still=True)
    for item in scene.objects:
        item.hide_render = False


def turntable(made: bpy.types.Object, camera: str, side: int, samples: int) -> np.ndarray:
    """Views all around the object [8, side, side, 4] uint8, the first one from the picture's side, all of one lens."""
    capture, frames = extension("blender_addon.scene.capture"), extension("backend.contract.frames")
    points = np.array([made.matrix_world @ vertex.co for vertex in made.data.vertices])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    distance = TURNTABLE_DISTANCE * float(np.linalg.norm(points - middle, axis=1).max())
    seen_from = np.array(bpy.data.objects[camera].matrix_world.translation) - middle if camera else (0.5, -1.0)
    flat, poses, reach = math.cos(TURNTABLE_ELEVATION), [], 1e-6
    for step in range(TURNTABLE_VIEWS):
        turn = math.atan2(seen_from[1], seen_from[0]) + 2 * math.pi * step / TURNTABLE_VIEWS
        direction = np.array([flat * math.cos(turn), flat * math.sin(turn), math.sin(TURNTABLE_ELEVATION)])
        poses.append(frames.look_at(middle + distance * direction, middle))
        reach = max(reach, float(np.abs(frames.project(points, poses[-1], np.eye(3))[0]).max()))
    focal = TURNTABLE_FILL / reach
    intrinsics = np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
    shots = capture.capture(
        [made], [capture.CaptureCamera(pose, intrinsics, (side, side)) for pose in poses], samples=samples
    )
    return np.stack([np.rint(255 * np.dstack([shot.color, shot.alpha])).astype(np.uint8) for shot in shots])


def save(path: Path) -> None:
    """Write the .blend file: every picture inside, seen through the camera when it is opened, no backup beside it."""
    for area in (area for screen in bpy.data.screens for area in screen.areas if area.type == "VIEW_3D"):
        area.spaces.active.shading.type = "MATERIAL"
        area.spaces.active.region_3d.view_perspective = "CAMERA"
    for image in bpy.data.images:
        if image.source == "FILE" and not image.packed_file:
            image.pack()
    bpy.context.preferences.filepaths.save_version = 0
    bpy.ops.wm.save_as_mainfile(filepath=str(path), compress=True)


def make_all(job: dict[str, Any]) -> None:
    """The demo. Errors: DemoError."""
    tell("say", text=f"Blender {bpy.app.version_string} installs {Path(job['zip']).name}.")
    install(job["zip"], job["python"], job["data"])
    scene = empty_scene()
    shown = []
    for index, picture in enumerate(job["pictures"]):
        tell("say", text=f"{picture['name']}: generating{'' if index else ', with a backend that has to start first'}.")
        result = generate(scene, picture, index)
        tell("say", text=f"{picture['name']}: in the scene after {result['total_seconds']:.1f} seconds.")
        shown.append((result, {key: getattr(scene.render, key) for key in RENDER_SIZE}))
    # Backwards: the file is saved with the first object's camera and render size.
    for result, render_size in reversed(shown):
        name, camera = result["name"], result["camera"]
        tell("say", text=f"{name}: rendering.")
        views = turntable(bpy.data.objects[name], camera, job["turntable_side"], job["samples"])
        np.save(Path(job["work"]) / f"{name}_turntable.npy", views)
        if camera:
            for key, value in render_size.items():
                setattr(scene.render, key, value)
            render_through_camera(scene, name, camera, Path(job["work"]) / f"{name}_render.png", job["samples"])
    save(Path(job["blend"]))
    for result, _ in shown:
        tell("object", **result)
    tell("done", blender=bpy.app.version_string)


def main() -> None:
    """Run the job that the last argument names and end Blender: with status 0, or 1 after a failure."""
    end_with_parent()
    status = 1
    try:
        make_all(json.loads(Path(sys.argv[-1]).read_text(encoding="utf-8")))
        status = 0
    except DemoError as error:
        tell("failed", text=str(error))
    except BaseException:  # the border of this script; the demo outside keeps what is printed
        traceback.print_exc()
    finally:
        if MODULE in bpy.context.preferences.addons:
            addon_utils.disable(MODULE)  # ends the backend before Blender ends
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # Blender's own way out waits for ever for the thread that reads our input


if __name__ == "__main__":
    main()
