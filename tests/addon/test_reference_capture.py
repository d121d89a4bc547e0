"""RefAny3D's recorded frames of the published renderer, rendered here by Blender."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.golden import refany3d_meshes

from .conftest import module


@pytest.mark.parametrize("case", refany3d_meshes.CASES)
def test_published_frames(blender: SimpleNamespace, case: str) -> None:
    golden = refany3d_meshes.recorded()
    found = refany3d_meshes.replay(golden, case, module)
    assert set(found) == ({"points", "colors"} if f"{case}_rgb" in golden else {"points"})
    for overlap, levels in found.values():
        assert overlap >= refany3d_meshes.LEAST_IOU and levels <= refany3d_meshes.MOST_LEVELS
