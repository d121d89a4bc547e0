"""What is to happen with a job's result: where it goes and whether camera or object moves. Plain JSON in a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...backend.contract.messages import from_json, require, to_json

PLACEMENTS = ("CURSOR", "GROUND", "ORIGIN")
MOVES = ("NONE", "CAMERA", "OBJECT", "KNOWN")  # KNOWN: camera and place are given, nothing moves


@dataclass(frozen=True)
class MatchTarget:
    """An object of the scene that was sent to be matched or refined, and its world matrix then (16 numbers by row).

    `uid` is its `session_uid`, which holds in this `blender` run while the scene with `scene_uid` is open.
    """

    blender: str
    scene_uid: int
    uid: int
    name: str
    matrix: tuple[float, ...]

    def __post_init__(self) -> None:
        require(len(self.matrix) == 16, "matrix", "sixteen numbers")


@dataclass(frozen=True)
class ApplyIntent:
    """Sizes in metres, `cursor` in world coordinates at the time of the request.

    `blender` is a number of this run of Blender and `scene_uid` the scene's `session_uid` in it: together they name the
    scene although it may be renamed, and no scene at all once another file was opened. `targets` are the objects that
    a result belongs to. `offset` moves the result from the place it would have, in a row of several. A mesh that was
    sent stood in the world where `cube_to_world` (16 numbers, row by row) puts the cube it was brought into; with
    `replace` its object gets the result.
    """

    blender: str
    scene_uid: int
    scene_name: str
    size: float = 1.0
    placement: str = "CURSOR"
    cursor: tuple[float, ...] = (0.0, 0.0, 0.0)
    move: str = "CAMERA"
    show_background: bool = True
    set_render_size: bool = True
    targets: tuple[MatchTarget, ...] = ()
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    cube_to_world: tuple[float, ...] = ()
    replace: bool = False

    def __post_init__(self) -> None:
        require(self.placement in PLACEMENTS, "placement", "one of " + ", ".join(PLACEMENTS))
        require(self.move in MOVES, "move", "one of " + ", ".join(MOVES))
        require(len(self.cursor) == 3, "cursor", "three numbers")
        require(len(self.offset) == 3, "offset", "three numbers")
        require(len(self.cube_to_world) in (0, 16), "cube_to_world", "sixteen numbers or none")


def intent_to_json(intent: ApplyIntent) -> dict[str, Any]:
    """The intent as plain JSON values."""
    return to_json(intent)


def intent_from_json(data: dict[str, Any]) -> ApplyIntent:
    """The intent in a job's origin. Errors: `MessageError`."""
    return from_json(ApplyIntent, data)
