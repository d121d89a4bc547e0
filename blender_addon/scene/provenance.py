"""What a result was made from, stored on the object so that it travels with the file."""

from __future__ import annotations

import json
from typing import Any

import bpy

KEY = "maquette"


def store(target: bpy.types.Object, provenance: dict[str, Any]) -> None:
    """Put the record on the object: readable single values, and everything as JSON under `request`."""
    simple = {key: value for key, value in provenance.items() if isinstance(value, str | int | float) and value != ""}
    target[KEY] = simple | {"request": json.dumps(provenance, sort_keys=True)}


def made_from(scene: bpy.types.Scene, job_id: str) -> list[bpy.types.Object]:
    """The objects with a mesh in the scene that are results of the job."""
    return [item for item in scene.objects if item.type == "MESH" and (read(item) or {}).get("job_id") == job_id]


def read(target: bpy.types.Object | None) -> dict[str, Any] | None:
    """The record on the object, or None for an object that is not ours or whose record was damaged."""
    group = target.get(KEY) if target is not None else None
    try:
        data = json.loads(group["request"])
    except (TypeError, KeyError, ValueError):
        return None
    return data if isinstance(data, dict) else None
