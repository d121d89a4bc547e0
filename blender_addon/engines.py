"""Which engines there are for each kind of work: the built-in ones, and whatever else the backend names."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import bpy

PHOTO, TEXT, SCENE, MATCH, REFINE = "image_to_3d", "text_to_3d", "photo_to_scene", "match_mesh", "refine_mesh"
RENDER = "render_picture"
CUPID = ("cupid", "CUPID", "A photo becomes an object together with the photo's camera")
KISS = ("kiss3dgen", "Kiss3DGen", "A sentence, a photo or a mesh becomes an object, by way of pictures from four sides")
REFANY = ("refany3d", "RefAny3D", "Pictures of a mesh in the surroundings that a sentence says, true to the mesh")
# The first of each is what a setting that nobody touched means.
BUILT_IN = {PHOTO: (CUPID, KISS), TEXT: (KISS,), SCENE: (CUPID,), MATCH: (CUPID,), REFINE: (KISS,),
            RENDER: (REFANY,)}  # fmt: skip

Item = tuple[str, str, str, int]
_items: dict[str, list[Item]] = {}  # by task; Blender needs the strings of a dynamic enum kept alive


def set_engines(engines: Sequence[tuple[str, str, str]], tasks: Mapping[str, Sequence[str]] | None = None) -> None:
    """Offer the engines (name, title, description) that the backend named, after the built-in ones.

    `tasks` are the kinds of work by engine; one that is not named there is offered for all.
    """
    for task, built_in in BUILT_IN.items():
        able = [engine for engine in engines if task in (tasks or {}).get(engine[0], BUILT_IN)]
        merged = {name: (name, title, text) for name, title, text in [*built_in, *able]}
        # The number is what a .blend file keeps, so it may not depend on the order. A setting nobody touched is 0,
        # which is the first built-in engine; with another number the menu would be empty.
        _items[task] = [
            (*item, 0 if name == built_in[0][0] else zlib.crc32(name.encode()) & 0x7FFFFFFF)
            for name, item in merged.items()
        ]


def engines_for(task: str) -> list[Item]:
    """The engines on offer for a kind of work."""
    return _items.get(task, [])


def items_for(task: str) -> Callable[[object, bpy.types.Context | None], list[Item]]:
    """An enum's callback that gives the engines for a kind of work."""
    return lambda _self, _context: engines_for(task)
