"""Fewer triangles for the same shape: quadric edge collapse (Garland and Heckbert 1997) by a kept library."""

from __future__ import annotations

import fast_simplification
import numpy as np

from backend.geometry.mesh_repair import repair

# How fast the allowed error grows from round to round: 7 is the library's own, less is more exact and takes longer.
# Tried from the exact to the quick until the budget is met.
AGGRESSIVENESS = (3.0, 7.0)
REACHED = 1.02  # of the budget counts as reached: closing the last holes may add a few triangles


def simplify(vertices: np.ndarray, faces: np.ndarray, triangles: int) -> tuple[np.ndarray, np.ndarray]:
    """The mesh [V,3], [F,3] with about `triangles` faces or fewer, repaired again. A mesh that has no more stays.

    Returns vertices [V',3] float64 and faces [F',3] int64.
    """
    if len(faces) <= triangles:
        return np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    result = None
    for aggressiveness in AGGRESSIVENESS:
        points, kept = fast_simplification.simplify(
            np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int32),
            target_count=triangles, agg=aggressiveness,
        )  # fmt: skip
        result = repair(points, kept)
        if len(result.faces) <= REACHED * triangles:
            break
    assert result is not None
    return result.vertices, result.faces
