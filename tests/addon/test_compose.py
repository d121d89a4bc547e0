"""A scene from one photo in Blender: the panel's settings become a job, its result one collection and one undo step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view
from PIL import Image

from tests.addon.conftest import make_undo_steps, module, pump_until

PATIENCE = 120.0  # seconds: the first job also starts the backend


@pytest.fixture
def masks(tmp_path: Path) -> list[Path]:
    """Two mask files for the picture of 64 x 48 pixels."""
    paths = []
    for number, box in enumerate([(4, 4, 24, 40), (36, 10, 60, 44)]):
        mask = Image.new("L", (64, 48), 0)
        mask.paste(255, box)
        paths.append(tmp_path / f"object {number}.png")
        mask.save(paths[-1])
    return paths


@pytest.fixture
def compose(blender: SimpleNamespace, picture: Path, masks: list[Path]) -> Callable[..., object]:
    """Press Generate Scene with the fake engine; returns the job as it ended."""

    def press(depth: Path | None = None) -> object:
        module("properties").set_engines([("cube", "Cube", "")])
        settings = bpy.context.scene.maquette_compose
        settings.image, settings.engine, settings.size = str(picture), "cube", 6.0
        settings.depth = str(depth or "")
        if not settings.masks:
            module("operators.compose").add_masks(settings, masks)
        assert bpy.ops.maquette.generate_scene() == {"FINISHED"}
        store = blender.session.get().store
        job_id = store.all()[0].job_id
        pump_until(lambda: store.get(job_id).applied or store.get(job_id).state in ("failed", "cancelled"), PATIENCE)
        return store.get(job_id)

    return press


def test_everything_stands_in_one_collection_before_the_photos_camera(compose, picture):
    before = {item.name for item in bpy.data.objects}
    job = compose()
    assert job.applied == 1 and job.report["inputs"] == ["image", "mask_0", "mask_1"], job
    collection = bpy.data.collections["Maquette mug"]
    assert collection.name in bpy.context.scene.collection.children
    boxes = [item for item in collection.objects if item.type == "MESH"]
    assert [item.name for item in boxes] == ["Object 1", "Object 2"]
    assert {item.name for item in bpy.data.objects} - before == {item.name for item in collection.objects}
    camera = bpy.context.scene.camera
    assert camera.name in collection.objects
    assert [Path(item.image.filepath).name for item in camera.data.background_images] == [picture.name]
    bpy.context.view_layer.update()
    corners = np.array([item.matrix_world @ vertex.co for item in boxes for vertex in item.data.vertices])
    assert np.ptp(corners, axis=0).max() == pytest.approx(6.0, abs=1e-4), "the size of the whole"
    assert corners[:, 2].min() == pytest.approx(0.0, abs=1e-5), "the ground is where the cursor is"
    assert [tuple(item.scale) for item in boxes] == [pytest.approx((1, 1, 1), abs=1e-5)] * 2
    sides = [max(item.dimensions) for item in boxes]
    assert sides[1] == pytest.approx(2 * sides[0], rel=1e-4)


def test_the_camera_sees_the_objects_where_the_photo_did(compose):
    compose()
    scene = bpy.context.scene
    bpy.context.view_layer.update()
    seen = world_to_camera_view(scene, scene.camera, bpy.data.objects["Object 2"].matrix_world.translation)
    # The fake camera stands at (1, -6, 2) and looks at (1, 0, 0.3); the second box is at (2, 0, 0.6).
    cameras, frames = module("scene.cameras"), module("scene.compose").frames
    stored = module("runtime.session").get().store
    path = stored.artifact_path(stored.all()[0].job_id, "camera.json")
    solved = cameras.solved_camera_from_json(json.loads(path.read_text()))
    uv, _ = frames.project(np.array([[2.0, 0.0, 0.6]]), solved.world_to_camera, solved.intrinsics)
    assert (seen.x, 1.0 - seen.y) == pytest.approx(tuple(uv[0]), abs=1e-3)


def test_a_scene_is_one_undo_step(compose):
    make_undo_steps()
    before = {item.name for item in bpy.data.objects}
    compose()
    assert "Maquette mug" in bpy.data.collections
    bpy.ops.ed.undo()
    assert "Maquette mug" not in bpy.data.collections
    assert {item.name for item in bpy.data.objects} == before


def test_a_depth_image_goes_along(compose, tmp_path):
    depth = tmp_path / "depth.npy"
    np.save(depth, np.ones((48, 64), np.float32))
    assert compose(depth).report["inputs"] == ["depth", "image", "mask_0", "mask_1"]


def test_a_painted_image_is_a_mask(blender, picture):
    compose = module("operators.compose")
    settings = bpy.context.scene.maquette_compose
    settings.image = str(picture)
    assert bpy.ops.maquette.add_painted_mask() == {"FINISHED"}
    image = bpy.data.images.new("painted", 64, 48)
    pixels = np.zeros((48, 64, 4), np.float32)
    pixels[8:20, 10:30] = 1.0  # rows from below
    image.pixels.foreach_set(pixels.ravel())
    settings.masks[0].painted = image
    inputs = compose.mask_inputs(settings, "0" * 32)
    mask = np.asarray(Image.open(inputs["mask_0"]))
    assert mask.shape == (48, 64) and mask[28:40, 10:30].min() == 255 and mask.sum() == 255 * 12 * 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda settings: settings.masks.add(), "Mask 3 in the list is empty"),
        (lambda settings: setattr(settings, "depth", "/nowhere/depth.exr"), "was not found"),
        (lambda settings: setattr(settings, "depth", "/nowhere/depth.jpg"), "must be an EXR"),
        (lambda settings: [settings.masks.add() for _ in range(11)], "12 can be used"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(blender, picture, masks, change, words):
    compose = module("operators.compose")
    settings = bpy.context.scene.maquette_compose
    settings.image = str(picture)
    compose.add_masks(settings, masks)
    change(settings)
    with pytest.raises(RuntimeError, match=words):
        bpy.ops.maquette.generate_scene()


def test_the_inputs_come_back_into_the_panel(compose, masks, blender):
    job = compose()
    settings = bpy.context.scene.maquette_compose
    settings.masks.clear()
    settings.image, settings.size = "", 1.0
    assert bpy.ops.maquette.restore_inputs(job_id=job.job_id) == {"FINISHED"}
    assert [Path(item.image) for item in settings.masks] == masks and settings.size == pytest.approx(6.0)


def test_masks_come_and_go(blender, masks):
    settings = bpy.context.scene.maquette_compose
    names = [{"name": path.name} for path in masks]
    assert bpy.ops.maquette.add_masks(directory=str(masks[0].parent), files=names) == {"FINISHED"}
    assert [Path(item.image) for item in settings.masks] == masks and settings.mask_index == 1
    assert bpy.ops.maquette.remove_object_mask() == {"FINISHED"}
    assert [Path(item.image) for item in settings.masks] == masks[:1] and settings.mask_index == 0
