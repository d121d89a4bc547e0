"""Meshes on the wire: exact round trips, and damaged bytes are refused."""

import numpy as np
import pytest

from backend.contract.meshes import MAGIC, MeshData, MeshError, mesh_from_bytes, mesh_to_bytes


def mesh(**changes: object) -> MeshData:
    random = np.random.default_rng(0)
    parts = {
        "vertices": random.normal(size=(5, 3)).astype(np.float32),
        "faces": np.array([[0, 1, 2], [2, 3, 4]], np.int32),
        "uvs": random.uniform(size=(6, 2)).astype(np.float32),
        "colors": random.integers(0, 256, (5, 4)).astype(np.uint8),
        "texture": b"\x89PNG and more",
        "normal_map": b"\x89PNG of normals",
    }
    return MeshData(**(parts | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{}, {"uvs": None}, {"colors": None, "texture": b"", "normal_map": b""}])
def test_round_trip(changes: dict) -> None:
    before = mesh(**changes)
    after = mesh_from_bytes(mesh_to_bytes(before))
    for name in ("vertices", "faces", "uvs", "colors"):
        a, b = getattr(before, name), getattr(after, name)
        assert (a is None and b is None) or np.array_equal(a, b)
    assert (after.texture, after.normal_map) == (before.texture, before.normal_map)


def test_an_empty_mesh_is_a_mesh() -> None:
    empty = MeshData(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    assert len(mesh_from_bytes(mesh_to_bytes(empty)).faces) == 0


@pytest.mark.parametrize("cut", [0, 7, 15, 40, 100])
def test_cut_bytes_are_refused(cut: int) -> None:
    with pytest.raises(MeshError):
        mesh_from_bytes(mesh_to_bytes(mesh())[:cut])


@pytest.mark.parametrize(
    "header", [b'{"vertices": 3}', b'{"vertices": -1, "faces": 0}', b"[]", b'{"vertices": 0, "faces": 0, "code": 1}']
)
def test_foreign_headers_are_refused(header: bytes) -> None:
    with pytest.raises(MeshError):
        mesh_from_bytes(MAGIC + len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    "changes",
    [
        {"faces": np.array([[0, 1, 9]], np.int32)},
        {"uvs": np.zeros((2, 2), np.float32)},
        {"colors": np.zeros((4, 4), np.uint8)},
        {"vertices": np.full((5, 3), np.nan, np.float32)},
    ],
)
def test_impossible_meshes_are_refused(changes: dict) -> None:
    with pytest.raises(MeshError):
        mesh(**changes)
