"""backend.data.render_objects in a real Blender process: a GLB becomes views, a bad file is reported and skipped."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from backend.contract import frames
from backend.data import blender


def write_box(path: Path, sides: tuple[float, float, float]) -> None:
    """A box GLB (y up) with the given sides, its middle at (5, 0, 0), flat green."""
    corners = np.array(np.meshgrid(*[[-0.5, 0.5]] * 3, indexing="ij"), dtype=np.float32).reshape(3, -1).T * sides
    corners = (corners + (5, 0, 0)).astype("<f4")
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    indices = np.array([(a, b, c, a, c, d) for a, b, c, d in quads], dtype="<u2").reshape(-1)
    blob = corners.tobytes() + indices.tobytes()
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [0.1, 0.6, 0.1, 1], "metallicFactor": 0}}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": 0}]}],
        "buffers": [{"byteLength": len(blob)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": corners.nbytes},
            {"buffer": 0, "byteOffset": corners.nbytes, "byteLength": indices.nbytes},
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3",
             "min": corners.min(axis=0).tolist(), "max": corners.max(axis=0).tolist()},
            {"bufferView": 1, "componentType": 5123, "count": len(indices), "type": "SCALAR"},
        ],
    }  # fmt: skip
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    blob += b"\0" * (-len(blob) % 4)
    total = 12 + 8 + len(text) + 8 + len(blob)
    path.write_bytes(
        struct.pack("<4sII", b"glTF", 2, total)
        + struct.pack("<I4s", len(text), b"JSON") + text
        + struct.pack("<I4s", len(blob), b"BIN\0") + blob
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[blender.RenderedObject]:
    """A tall box (twice as high as wide), a file that is no GLB, a missing file and a flat box."""
    folder = tmp_path_factory.mktemp("assets")
    write_box(folder / "tall.glb", (1.0, 2.0, 1.0))
    (folder / "broken.glb").write_bytes(b"glTF but not really")
    write_box(folder / "flat.glb", (3.0, 0.3, 3.0))
    names = ("tall", "broken", "missing", "flat")
    assets = [blender.Asset(name, folder / f"{name}.glb", seed) for seed, name in enumerate(names)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(blender.BLENDER_VARIABLE, sys.executable)
        return list(blender.render_assets(assets, blender.RenderOptions(views=4, size=48, samples=1)))


def test_bad_files_are_reported_and_the_rest_goes_on(results: list[blender.RenderedObject]) -> None:
    assert [(result.asset.id, bool(result.error)) for result in results] == [
        ("tall", False), ("broken", True), ("missing", True), ("flat", False)
    ]  # fmt: skip


def test_objects_are_z_up_centred_and_unit_sized(results: list[blender.RenderedObject]) -> None:
    for result, expected in ((results[0], (0.25, 0.25, 0.5)), (results[3], (0.5, 0.5, 0.05))):
        points = result.arrays["points"][result.arrays["mask"]]
        # Sampled points reach the faces that were seen; an edge is missed by at most two pixels.
        assert np.all(np.abs(points) <= np.array(expected) + 1e-3)
        assert np.allclose(np.abs(points).max(axis=0), expected, atol=0.03)


def test_cameras_belong_to_the_pictures(results: list[blender.RenderedObject]) -> None:
    arrays = results[0].arrays
    assert arrays["color"].shape == (4, 48, 48, 4) and arrays["normals"].dtype == np.int8
    for view in range(4):
        mask = arrays["mask"][view]
        uv, _ = frames.project(
            arrays["points"][view][mask], arrays["world_to_camera"][view], arrays["intrinsics"][view]
        )
        row, column = np.nonzero(mask)
        assert np.abs(uv * 48 - np.column_stack([column, row]) - 0.5).max() < 0.52
        # The picture was cut to the object: it fills 1 / 1.25 of the square along its longer side.
        extent = max(np.ptp(row), np.ptp(column)) + 1
        assert abs(extent - 48 / 1.25) <= 2
