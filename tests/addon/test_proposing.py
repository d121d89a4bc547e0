"""Propose Masks: the list that comes back, what stays in it, and what becomes of its names."""

from __future__ import annotations

import json
from pathlib import Path

import bpy
import numpy as np
import pytest
from PIL import Image

from .conftest import make_undo_steps, module, pump_until

PATIENCE = 120.0  # seconds: the first job also starts the backend
THIRDS = ((0, 21), (21, 42), (42, 64))  # columns of the fake engine's masks in a picture 64 pixels wide


@pytest.fixture
def settings(blender, picture):
    """The Compose panel with a photo and the fake engine."""
    module("properties").set_engines([("cube", "Cube", "")])
    settings = bpy.context.scene.maquette_compose
    settings.image, settings.engine = str(picture), "cube"
    return settings


@pytest.fixture
def propose(blender, settings):
    """Press Propose Masks; returns the job as it ended."""

    def press(wait: bool = True):
        assert bpy.ops.maquette.propose_masks() == {"FINISHED"}
        store = blender.session.get().store
        job_id = store.all()[0].job_id
        if wait:
            ended = ("failed", "cancelled")
            pump_until(lambda: store.get(job_id).applied or store.get(job_id).state in ended, PATIENCE)
        return store.get(job_id)

    return press


def panel():
    """The settings, fetched anew: undo and loading make old references useless."""
    return bpy.context.scene.maquette_compose


def columns(item) -> tuple[int, int]:
    """First and last column (not included) of what the mask covers."""
    values = np.array(item.painted.pixels[:]).reshape(48, 64, -1)[..., 0]
    covered = np.nonzero(values.min(axis=0) > 0.5)[0]
    return int(covered.min()), int(covered.max()) + 1


def test_the_masks_come_into_the_list_by_themselves(propose, settings):
    job = propose()
    assert job.applied == 1 and job.title == "mug masks" and job.report["inputs"] == ["image"], job
    assert [item.name for item in settings.masks] == ["Object 1", "Object 2", "Object 3"]
    assert [columns(item) for item in settings.masks] == list(THIRDS)
    assert settings.mask_index == 0 and all(item.proposed for item in settings.masks)
    assert all(item.painted.packed_file and module("scene.mask_images").is_mask_image(item.painted)
               for item in settings.masks)  # fmt: skip


def test_proposing_is_one_undo_step(propose):
    make_undo_steps()
    propose()
    assert len(panel().masks) == 3
    bpy.ops.ed.undo()
    assert len(panel().masks) == 0
    bpy.ops.ed.redo()
    assert len(panel().masks) == 3


def test_names_and_what_was_removed_reach_the_scene(blender, propose, settings, tmp_path):
    propose()
    settings.masks[2].name = "Lamp"
    settings.mask_index = 1
    assert bpy.ops.maquette.remove_object_mask() == {"FINISHED"}
    assert bpy.ops.maquette.generate_scene() == {"FINISHED"}
    store = blender.session.get().store
    job_id = store.all()[0].job_id
    pump_until(lambda: store.get(job_id).applied, PATIENCE)
    job = store.get(job_id)
    assert job.report["inputs"] == ["image", "mask_0", "mask_1"]
    assert job.parameters["names"] == ["Object 1", "Lamp"]
    assert [item.name for item in bpy.data.collections["Maquette mug"].objects if item.type == "MESH"] == [
        "Object 1", "Lamp"]  # fmt: skip
    sent = np.asarray(Image.open(job.more_inputs["mask_1"]))
    assert np.array_equal(np.nonzero(sent.min(axis=0) == 255)[0], np.arange(*THIRDS[2]))
    settings.masks.clear()
    assert bpy.ops.maquette.restore_inputs(job_id=job_id) == {"FINISHED"}
    assert [item.name for item in settings.masks] == ["Object 1", "Lamp"]


def test_proposing_again_leaves_the_artists_own_masks(propose, settings, picture):
    settings.masks.add().image = str(picture)
    propose()
    settings.masks[1].name = "Renamed"
    settings.mask_index = 3
    painting = module("operators.painting")
    painted = painting.image_to_paint(bpy.context.scene, "compose", "mask")
    assert painted == settings.masks[3].painted and not settings.masks[3].proposed
    propose()
    assert [item.proposed for item in settings.masks] == [False, False, True, True, True]
    assert settings.masks[0].image == str(picture) and settings.masks[1].painted == painted
    assert [item.name for item in settings.masks][2:] == ["Object 1", "Object 2", "Object 3"]


def test_a_full_list_takes_as_many_as_there_is_room_for(propose, settings):
    for _ in range(11):
        settings.masks.add()
    job = propose()
    assert job.applied == 1 and len(settings.masks) == 12 and settings.masks[11].name == "Object 1"


def test_the_masks_of_another_photo_wait(blender, propose, settings, picture, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (30, 20)).save(other)
    job = propose(wait=False)
    settings.image = str(other)
    store = blender.session.get().store
    pump_until(lambda: store.get(job.job_id).waiting, PATIENCE)
    assert "shows another photo" in store.get(job.job_id).waiting and not len(settings.masks)
    settings.image = str(picture)
    assert bpy.ops.maquette.apply_result(job_id=job.job_id) == {"FINISHED"}
    assert len(settings.masks) == 3
    settings.image = str(other)
    with pytest.raises(RuntimeError, match="belongs to another picture"):
        bpy.ops.maquette.generate_scene()
    assert bpy.ops.maquette.restore_inputs(job_id=job.job_id) == {"FINISHED"}
    assert settings.image == str(picture) and len(settings.masks) == 3


def test_the_panel_finds_the_proposal_for_its_photo(blender, propose, settings, tmp_path):
    proposing, store = module("operators.proposing"), blender.session.get().store
    assert proposing.newest(store.all(), settings) is None
    job = propose()
    assert proposing.newest(store.all(), settings).job_id == job.job_id
    assert blender.session.get().thumbnails.has(job.job_id, "result")
    settings.image = str(tmp_path / "other.png")
    assert proposing.newest(store.all(), settings) is None
    with pytest.raises(RuntimeError, match="was not found"):
        bpy.ops.maquette.propose_masks()


def test_proposed_masks_outlive_their_job_and_are_saved(blender, propose, settings, tmp_path):
    job = propose()
    blender.session.get().forget(job.job_id)
    pump_until(lambda: not blender.session.get().store.folder(job.job_id).exists())
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "scene.blend"))
    assert [(item.name, columns(item)) for item in panel().masks] == [
        ("Object 1", THIRDS[0]), ("Object 2", THIRDS[1]), ("Object 3", THIRDS[2])]  # fmt: skip


def test_a_mask_of_the_list_is_painted(blender, settings, picture):
    painting = module("operators.painting")
    with pytest.raises(RuntimeError, match="no mask to paint"):
        bpy.ops.maquette.paint_mask(target="compose", kind="mask")
    assert bpy.ops.maquette.add_painted_mask() == {"FINISHED"}
    image = painting.image_to_paint(bpy.context.scene, "compose", "mask")
    assert tuple(image.size) == (64, 48) and settings.masks[0].painted == image
    settings.masks[0].painted = bpy.data.images.new("texture", 8, 8)
    with pytest.raises(RuntimeError, match="was not made over this photo"):
        bpy.ops.maquette.paint_mask(target="compose", kind="mask")


def test_weights_and_steps_of_a_scene(blender, settings, picture, tmp_path):
    compose, requesting = module("operators.compose"), module("operators.requesting")
    mask = tmp_path / "mask.png"
    Image.new("L", (64, 48), 255).save(mask)
    compose.add_masks(settings, [mask])
    scene = bpy.context.scene
    record = compose.compose_job(scene)
    assert record.parameters == {"seed": 0, "steps": None, "weights": "mini", "focal": None}
    settings.weights, settings.steps = "published", 40
    record = compose.compose_job(scene)
    assert record.parameters["weights"] == "published" and record.parameters["steps"] == 40
    settings.weights, settings.steps = "mini", 0
    requesting.restore_inputs(scene, requesting.provenance_of(record))
    assert settings.weights == "published" and settings.steps == 40
    for item in blender.session.get().store.all():
        blender.session.get().cancel(item.job_id)


def test_no_number_of_steps_is_the_engines_own(blender, generate):
    store, create = blender.session.get().store, bpy.context.scene.maquette_create
    assert create.steps == bpy.context.scene.maquette_match.steps == panel().steps == 0
    job_id = generate(steps=0)
    assert store.get(job_id).parameters["steps"] is None and store.get(job_id).report["steps"] == 3
    create.steps = 9
    assert bpy.ops.maquette.restore_inputs(job_id=job_id) == {"FINISHED"}
    assert create.steps == 0


@pytest.mark.parametrize(("weights", "config"), [("mini", "mini"), ("published", "full")])
def test_the_panel_says_how_many_steps_the_weights_take(addon_enabled, weights, config):
    root = Path(__file__).resolve().parents[2]
    sampler = json.loads((root / "backend/systems/cupid/configs" / f"{config}.json").read_text())["sampler"]
    usual = module("properties").USUAL_STEPS["cupid", weights]
    assert sampler["structure"]["steps"] == sampler["latent"]["steps"] == usual
