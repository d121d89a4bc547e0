"""The overlay of `generate` shows where the object is, and where it is not."""

import io
import json

import numpy as np
from PIL import Image

from backend.contract import frames
from backend.contract.meshes import MeshData, mesh_to_bytes
from backend.systems.base import ArtifactData, RunResult
from backend.systems.command import overlay, write_result

BOX = MeshData(
    np.array([[x, y, z] for x in (-0.2, 0.2) for y in (-0.2, 0.2) for z in (-0.2, 0.2)], np.float32),
    np.array(
        [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4]],
        np.int32,
    ),
    colors=np.full((8, 4), (0, 200, 0, 255), np.uint8),
)


def picture() -> bytes:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[16:48, 16:48] = (220, 20, 20, 255)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def halves(eye: tuple[float, float, float] | None, target: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    matrix = None if eye is None else frames.look_at(np.array(eye), np.array(target)).tolist()
    camera = {"world_to_camera": matrix, "intrinsics": [[1.5, 0, 0.5], [0, 1.5, 0.5], [0, 0, 1]]}
    both = np.asarray(Image.open(io.BytesIO(overlay(picture(), BOX, camera))).convert("RGB")).astype(int)
    return both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]


def test_the_object_is_drawn_over_a_ghost_of_the_picture() -> None:
    shown, drawn = halves((0.0, -2.0, 0.0), (0.0, 0.0, 0.0))
    middle = drawn.shape[0] // 2
    assert shown[middle, middle, 0] > 200 and drawn[middle, middle, 1] > 2 * drawn[middle, middle, 0]


def test_a_miss_or_no_camera_leaves_a_grey_ghost_not_the_picture() -> None:
    for eye, target in (((0.0, -2.0, 0.0), (0.0, -4.0, 0.0)), (None, (0.0, 0.0, 0.0))):
        _, drawn = halves(eye, target)
        assert np.ptp(drawn, axis=-1).max() <= 1, "nothing of the picture's colour may pass for a result"
        assert drawn.min() > 150


def test_further_hypotheses_are_written_as_glb_with_their_pictures(tmp_path) -> None:
    camera = json.dumps({"world_to_camera": None, "intrinsics": None}).encode()
    box = mesh_to_bytes(BOX)
    files = {
        "asset.mesh": box, "asset.glb": b"glb", "camera.json": camera,
        "hypothesis_0.mesh": box, "hypothesis_0.png": b"png", "hypothesis_0.json": b"{}",
    }  # fmt: skip
    result = RunResult(tuple(ArtifactData(name, data, "application/octet-stream") for name, data in files.items()))
    write_result(result, [picture()], tmp_path / "out")
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert written["hypothesis_0.glb"][:4] == b"glTF" and written["hypothesis_0.png"] == b"png"
    assert set(written) == {"asset.glb", "camera.json", "overlay.png", *(f"hypothesis_0.{end}" for end in (
        "glb", "png", "json"))}
