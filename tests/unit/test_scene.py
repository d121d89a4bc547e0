"""Task photo_to_scene with tiny random networks: artifacts, failing objects, what a wrong request is told."""

import io
import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from backend.contract.errors import Cancelled, Failure, MaquetteError
from backend.contract.meshes import mesh_from_bytes
from backend.formats.images import encode_png
from backend.systems.base import Hooks
from backend.systems.cupid import scene
from backend.systems.cupid.pipeline import CupidSystem
from tests.unit.test_pipeline import Recorder, system_with, tiny_model

SIZE = (96, 72)
BOXES = ((6, 20, 34, 52), (44, 24, 60, 60), (68, 18, 90, 50))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def inputs(masks: int = 3, depth: bool = False) -> dict[str, bytes]:
    pixels = np.full((SIZE[1], SIZE[0], 3), (200, 205, 210), np.uint8)
    found = {}
    for index, (left, top, right, bottom) in enumerate(BOXES):
        pixels[top:bottom, left:right] = (180 - 60 * index, 60, 40 + 70 * index)
        mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        mask[top:bottom, left:right] = 255
        found[f"mask_{index}"] = encode_png(mask)
    found = {name: data for name, data in found.items() if int(name[5:]) < masks}
    if depth:
        stream = io.BytesIO()
        rows = np.linspace(0.1, 0.4, SIZE[1], dtype=np.float32)[:, None]
        np.save(stream, 1.0 / np.repeat(rows, SIZE[0], axis=1))
        found["depth"] = stream.getvalue()
    return {"image": encode_png(pixels), **found}


def run(given: dict[str, bytes], hooks: Hooks | None = None, system: CupidSystem | None = None, **parameters):
    result = (system or system_with(tiny_model())).run(scene.TASK, given, parameters, hooks or Hooks())
    return {artifact.name: artifact.data for artifact in result.artifacts}, result.report


@pytest.mark.parametrize("depth", [True, False])
def test_a_scene_has_every_object_its_camera_and_one_file(depth):
    hooks = Recorder()
    messages: list[str] = []
    hooks.on_message = messages.append
    artifacts, report = run(inputs(depth=depth), hooks)
    assert list(artifacts) == [
        "object_0.mesh", "object_1.mesh", "object_2.mesh", "scene.glb", "scene.json", "camera.json", "thumbnail.png",
        "report.json",
    ]  # fmt: skip
    data, camera = json.loads(artifacts["scene.json"]), json.loads(artifacts["camera.json"])
    assert [item["mask"] for item in data["objects"]] == [0, 1, 2] and data["failed"] == []
    assert camera["image_size"] == list(SIZE) and camera["world_to_camera"] == data["camera"]["world_to_camera"]
    loaded = trimesh.load(io.BytesIO(artifacts["scene.glb"]), file_type="glb")
    assert len(loaded.geometry) == 3
    world = np.array(data["camera"]["world_to_camera"])
    for index, item in enumerate(data["objects"]):
        matrix, mesh = np.array(item["object_to_world"]), mesh_from_bytes(artifacts[item["mesh"]])
        side = matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3]))
        assert np.allclose(side @ side.T, np.eye(3), atol=1e-8), "a similarity"
        middle = world @ matrix @ np.append((mesh.vertices.min(0) + mesh.vertices.max(0)) / 2, 1.0)
        pixel = np.array(camera["intrinsics"]) @ middle[:3]
        left, top, right, bottom = BOXES[index]
        assert left / SIZE[0] < pixel[0] / pixel[2] < right / SIZE[0] and middle[2] > 0, "it is where its mask is"
        node = loaded.graph[item["name"]][0]
        corner = mesh.vertices[0]
        assert np.allclose(  # glTF is y up
            (node @ np.array([corner[0], corner[2], -corner[1], 1.0]))[[0, 2, 1]] * [1, -1, 1],
            (matrix @ np.append(corner, 1.0))[:3], atol=1e-4,
        )  # fmt: skip
    assert report["depth"] == ("image" if depth else None) and report["masks"] == "given"
    assert ("guess" in report["message"]) is not depth or report["objects"][0]["depth_source"] != "depth"
    assert report["message"] in messages and any(text.startswith("Object 1: ") for text in messages)
    assert hooks.seen == ["prepare_image", "sample_structure", "solve_camera", "finish"]
    shown = np.asarray(Image.open(io.BytesIO(artifacts["thumbnail.png"])))
    assert shown.shape[2] == 4 and shown[..., 3].max() == 255


def test_without_masks_they_are_proposed_and_handed_over():
    artifacts, report = run(inputs(masks=0))
    assert report["masks"] == "proposed" and len(report["objects"]) == 3
    proposed = np.asarray(Image.open(io.BytesIO(artifacts["mask_1.png"])))
    left, top, right, bottom = BOXES[1]
    assert proposed[(top + bottom) // 2, (left + right) // 2] == 255 and proposed[2, 2] == 0


def test_a_failing_object_does_not_lose_the_others(monkeypatch):
    real, calls = scene.make_object, []

    def make(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise MaquetteError("bad_input", "No object took shape from this picture; try another seed.")
        return real(*arguments)

    monkeypatch.setattr(scene, "make_object", make)
    artifacts, report = run(inputs())
    assert [item["mask"] for item in report["objects"]] == [0, 2] and "object_2.mesh" not in artifacts
    assert report["failed"] == [
        {"name": "Object 2", "mask": 1, "message": "No object took shape from this picture; try another seed."}
    ]
    assert [item["name"] for item in report["objects"]] == ["Object 1", "Object 3"]


def test_objects_are_called_as_asked():
    artifacts, report = run(inputs(), names=["Lamp", ""])
    assert [item["name"] for item in report["objects"]] == ["Lamp", "Object 2", "Object 3"]
    assert "Lamp" in trimesh.load(io.BytesIO(artifacts["scene.glb"]), file_type="glb").graph.nodes


def test_when_all_fail_the_first_reason_is_told(monkeypatch):
    def make(*arguments):
        raise MaquetteError("bad_input", "Nothing.", "detail", "retry")

    monkeypatch.setattr(scene, "make_object", make)
    with pytest.raises(MaquetteError, match="Nothing") as caught:
        run(inputs())
    assert caught.value.failure == Failure("bad_input", "Nothing.", "detail", "retry")


def test_a_cancel_stops_between_the_steps_of_an_object():
    with pytest.raises(Cancelled):
        run(inputs(), Recorder(cancel_after=3))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "one picture"),
        ({**inputs(1), "mask_99x": b""}, "one picture"),
        ({**inputs(1), "depth": b"no depth"}, "depth image cannot be read"),
        ({**inputs(1), **{f"mask_{index}": inputs()["mask_0"] for index in range(13)}}, "12 objects"),
    ],
)
def test_a_wrong_request_is_told(given, words):
    with pytest.raises(MaquetteError, match=words) as caught:
        run(given)
    assert caught.value.code == "bad_input"


def test_the_command_writes_the_scene(tmp_path, monkeypatch):
    from backend.systems import command, registry

    monkeypatch.setattr(registry, "get_system", lambda name: system_with(tiny_model()))
    files = inputs(2, depth=True)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    arguments = ["--task", scene.TASK, "--image", str(tmp_path / "image"), "--mask", str(tmp_path / "mask_0"),
                 "--mask", str(tmp_path / "mask_1"), "--depth", str(tmp_path / "depth"), "--out", str(tmp_path / "out"),
                 "--steps", "1"]  # fmt: skip
    assert command.main(arguments) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"scene.glb", "scene.json", "object_0.mesh", "object_1.mesh", "overlay.png", "report.json"}
    overlay = np.asarray(Image.open(tmp_path / "out" / "overlay.png"))
    assert overlay.shape[:2] == (SIZE[1], 2 * SIZE[0])
