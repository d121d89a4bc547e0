"""Runs inside a Blender with a window: paint what hides the object over its photo, make it, see the hidden part.

Usage: ``blender --python drive_occluder.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`, `photo` and
`occluder`: the mask that is painted); it receives screenshots, the backend's data and ``seen.json``. A stroke is drawn
with Blender's brush, the rest is put into the same image. Blender quits by itself.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import FOLDER, PLAN, addon, screenshot, seen, view_area, wait, window  # noqa: E402

JOB_SECONDS = 200.0  # as in drive_window, on a machine that does something else beside


def region_of(area: bpy.types.Area) -> bpy.types.Region:
    """Where an editor draws."""
    return next(region for region in area.regions if region.type == "WINDOW")


def press(name: str, area: bpy.types.Area, **options: object) -> None:
    """Press one of our buttons in an editor."""
    with bpy.context.temp_override(window=window(), area=area, region=region_of(area)):
        getattr(bpy.ops.maquette, name)("EXEC_DEFAULT", True, **options)


def draw_stroke(area: bpy.types.Area) -> None:
    """A stroke of the brush across the middle of the editor."""
    region = region_of(area)
    points = [(region.width * (0.4 + 0.02 * step), region.height * 0.5) for step in range(11)]
    stroke = [
        {"name": "", "location": (0, 0, 0), "mouse": point, "mouse_event": point, "pressure": 1.0, "size": 30.0,
         "pen_flip": False, "x_tilt": 0.0, "y_tilt": 0.0, "time": 0.05 * index, "is_start": index == 0}
        for index, point in enumerate(points)
    ]  # fmt: skip
    known = set(bpy.types.OperatorStrokeElement.bl_rna.properties.keys())  # 5.x has fewer
    stroke = [{name: value for name, value in point.items() if name in known} for point in stroke]
    with bpy.context.temp_override(window=window(), area=area, region=region):
        bpy.ops.paint.image_paint(stroke=stroke)


def paint_all(image: bpy.types.Image) -> None:
    """What a person would paint with many strokes: the mask of the plan."""
    mask = bpy.data.images.load(PLAN["occluder"])
    values = np.empty(mask.size[0] * mask.size[1] * 4, np.float32)
    mask.pixels.foreach_get(values)
    image.pixels.foreach_set(values)
    image.update()
    bpy.data.images.remove(mask)


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    driving.install()
    for thing in [thing for thing in window().scene.objects if thing.type == "MESH"]:
        bpy.data.objects.remove(thing)
    view_area().spaces.active.show_region_ui = True
    yield from wait(1.0)
    next(region for region in view_area().regions if region.type == "UI").active_panel_category = "Maquette"
    driving.set_up()
    masks = addon("scene.mask_images")
    folder = Path(bpy.app.tempdir).with_name("Pictures")
    folder.mkdir(exist_ok=True)
    photo = Path(shutil.copy(PLAN["photo"], folder))
    settings = window().scene.maquette_create
    settings.image = str(photo)
    seen["editors"] = [area.ui_type for area in window().screen.areas]
    area = view_area()
    press("paint_mask", area, target="create", kind="occluder")
    yield from wait(2.5)
    seen["painting"] = {"editor": area.ui_type, "mode": area.spaces.active.ui_mode,
                        "image": list(area.spaces.active.image.size)}  # fmt: skip
    seen["painting"]["brush"] = addon("scene.paint_view").has_brush(window().scene)
    if seen["painting"]["brush"]:
        draw_stroke(area)
    yield from wait(1.0)
    painted = masks.painted_mask(settings, "occluder")
    seen["painting"]["stroke"] = 0 if painted is None else int(painted.sum())
    paint_all(settings.occluder_image)
    yield from wait(2.0)
    screenshot("occluder_paint.png")
    press("finish_painting", area)
    yield from wait(1.5)
    seen["after"] = [area.ui_type for area in window().screen.areas]
    seen["painted"] = int(masks.painted_mask(settings, "occluder").sum())
    bpy.ops.wm.save_as_mainfile(filepath=str(FOLDER / "painted.blend"), copy=True)
    settings.seed = 42
    started = time.monotonic()
    job = driving.press_generate(photo, "cupid")
    yield from wait(JOB_SECONDS, until=driving.ended(job))
    yield from wait(0.5)
    seen["job"] = {
        "state": job().state, "failure": str(job().failure), "message": job().message,
        "seconds": round(time.monotonic() - started, 1), "inputs": sorted({"image", *job().more_inputs}),
        "mask_iou": job().report.get("mask_iou"),
    }  # fmt: skip
    seen["made"] = [thing.name for thing in window().scene.objects if thing.type == "MESH"]
    driving.look_through_the_camera()
    yield from wait(3.0)
    screenshot("occluder.png")
    with bpy.data.libraries.load(str(FOLDER / "painted.blend")) as (source, target):
        target.images = [name for name in source.images if name.endswith("occluder")]
    values = np.empty(len(target.images[0].pixels), np.float32)
    target.images[0].pixels.foreach_get(values)
    seen["saved"] = int((values[::4] >= 0.5).sum())


driving.run(steps)
