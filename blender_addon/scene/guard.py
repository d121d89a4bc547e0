"""When it is safe to change the scene, and keeping what the artist had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import bpy

from . import compat

_MODE_NAMES = {
    "EDIT": "Edit Mode",
    "SCULPT": "Sculpt Mode",
    "PAINT": "painting",
    "POSE": "Pose Mode",
    "PARTICLE": "Particle Edit",
}
# Operators that hold the mouse while they change data. Others (a screencast, a viewer) run for hours and do no harm.
_HOLDING = ("TRANSFORM_", "MESH_", "SCULPT_", "PAINT_", "VIEW3D_OT_", "OBJECT_", "CURVE_", "POSE_", "GPENCIL_", "UV_")


def waiting_reason() -> str:
    """Why a result may not enter a scene right now, as a sentence; empty when it may.

    In Edit Mode Blender keeps undo steps of the edited data alone, so a change elsewhere could not be undone.
    """
    if is_rendering():
        return "The result waits until the render is finished."
    mode = bpy.context.mode
    if mode != "OBJECT":
        name = next((text for key, text in _MODE_NAMES.items() if key in mode), "this mode")
        return f"The result waits until you leave {name}."
    if any(name.startswith(_HOLDING) for name in compat.modal_operator_names()):
        return "The result waits until the running tool is finished."
    return ""


def is_rendering() -> bool:
    """Whether a render is running in the background."""
    return bpy.app.is_job_running("RENDER")


@contextlib.contextmanager
def preserved(context: bpy.types.Context) -> Iterator[None]:
    """Keep selection, active object and units as they are, whatever the body does. Names, not references, are kept."""
    layer = context.view_layer
    selected = {item.name for item in layer.objects if item.select_get(view_layer=layer)}
    active = layer.objects.active.name if layer.objects.active else ""
    units = context.scene.unit_settings
    kept = (units.system, units.scale_length, units.length_unit)
    try:
        yield
    finally:
        for item in layer.objects:
            if item.select_get(view_layer=layer) != (item.name in selected):
                item.select_set(item.name in selected, view_layer=layer)
        layer.objects.active = layer.objects.get(active) if active else None
        if (units.system, units.scale_length, units.length_unit) != kept:
            units.system, units.scale_length, units.length_unit = kept
