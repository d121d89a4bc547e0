"""From the button to the object, against the real backend process with a fake engine."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
import uuid

import bpy
import numpy as np
import pytest

from .conftest import contract, make_undo_steps, module, pump_until


def made_objects() -> list[bpy.types.Object]:
    return [item for item in bpy.data.objects if "maquette" in item]


def test_a_picture_becomes_an_object_seen_as_in_the_picture(blender, generate):
    units = bpy.context.scene.unit_settings
    units.scale_length = 0.5
    active, selected = bpy.context.active_object.name, [item.name for item in bpy.context.selected_objects]
    bpy.context.scene.cursor.location = (1.0, 2.0, 0.5)
    blender.settings.size = 3.0
    job_id = generate()
    (made,) = made_objects()
    assert made.name == "mug"
    assert max(made.dimensions) == pytest.approx(3.0, abs=1e-5)
    corners = np.array([made.matrix_world @ vertex.co for vertex in made.data.vertices])
    assert corners[:, 2].min() == pytest.approx(0.5, abs=1e-5)
    assert (corners[:, :2].max(0) + corners[:, :2].min(0)) / 2 == pytest.approx([1.0, 2.0], abs=1e-5)

    frames = contract("frames")
    camera = bpy.context.scene.camera
    bpy.context.view_layer.update()
    matrix, intrinsics = module("scene.cameras").read_camera(camera, (64, 48))
    seen, _ = frames.project(corners, matrix, intrinsics)
    solved = json.loads(blender.session.get().store.artifact_path(job_id, "camera.json").read_text())
    mesh_bytes = blender.session.get().store.artifact_path(job_id, "asset.mesh").read_bytes()
    original = contract("meshes").mesh_from_bytes(mesh_bytes).vertices
    wanted, _ = frames.project(original, np.array(solved["world_to_camera"]), np.array(solved["intrinsics"]))
    assert np.abs(seen - wanted).max() < 1e-4  # of the picture's width: float32 matrices
    render = bpy.context.scene.render
    assert (render.resolution_x, render.resolution_y) == (64, 48)
    assert camera.data.background_images[0].image.filepath.endswith("mug.png")
    assert bpy.context.active_object.name == active
    assert [item.name for item in bpy.context.selected_objects] == selected
    assert units.scale_length == 0.5 and bpy.context.mode == "OBJECT"


def test_where_it_came_from_is_stored_and_restored(blender, generate):
    job_id = generate(seed=7)
    (made,) = made_objects()
    stored = made["maquette"]
    assert (stored["system"], stored["seed"], stored["weights"], stored["job_id"]) == ("cube", 7, "mini", job_id)
    request = module("scene.provenance").read(made)
    assert request["parameters"]["steps"] == 2 and len(request["image_sha256"]) == 64
    settings = bpy.context.scene.maquette_create
    settings.seed, settings.image = 0, ""
    bpy.context.view_layer.objects.active = made
    assert bpy.ops.maquette.restore_inputs() == {"FINISHED"}
    assert settings.seed == 7 and settings.image.endswith("mug.png")


def test_a_result_is_one_undo_step(blender, generate):
    make_undo_steps()
    camera_before = bpy.context.scene.camera.matrix_world.copy()
    size_before = bpy.context.scene.render.resolution_x
    generate()
    assert len(made_objects()) == 1
    bpy.ops.ed.undo()
    assert made_objects() == []
    assert bpy.context.scene.camera.matrix_world == camera_before
    assert bpy.context.scene.render.resolution_x == size_before
    bpy.ops.ed.redo()
    assert len(made_objects()) == 1
    job_id = blender.session.get().store.all()[0].job_id
    module("runtime.pump").tick()
    assert len(made_objects()) == 1  # undone and redone, but not applied twice
    assert bpy.ops.maquette.apply_result("EXEC_DEFAULT", True, job_id=job_id) == {"FINISHED"}
    assert len(made_objects()) == 2


def test_in_edit_mode_the_result_waits(blender, generate):
    bpy.context.view_layer.objects.active = bpy.data.objects["Cube"]
    bpy.ops.object.mode_set(mode="EDIT")
    job_id = generate(wait=False)
    store = blender.session.get().store
    pump_until(lambda: store.get(job_id).waiting)
    assert "Edit Mode" in store.get(job_id).waiting
    assert made_objects() == [] and bpy.context.mode == "EDIT_MESH"
    with pytest.raises(RuntimeError, match="Edit Mode"):
        bpy.ops.maquette.apply_result(job_id=job_id)
    bpy.ops.object.mode_set(mode="OBJECT")
    pump_until(lambda: store.get(job_id).applied)
    assert len(made_objects()) == 1 and store.get(job_id).waiting == ""


def test_while_rendering_the_result_waits(blender, generate, monkeypatch):
    guard = module("scene.guard")
    monkeypatch.setattr(guard, "is_rendering", lambda: True)
    job_id = generate(wait=False)
    store = blender.session.get().store
    pump_until(lambda: store.get(job_id).waiting)
    assert "render" in store.get(job_id).waiting and made_objects() == []
    monkeypatch.undo()
    pump_until(lambda: store.get(job_id).applied)


def test_another_file_does_not_get_the_result_unasked(blender, generate):
    job_id = generate(seed=99, wait=False)
    store = blender.session.get().store
    pump_until(lambda: store.get(job_id).state == "running")
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    pump_until(lambda: store.get(job_id).waiting)
    assert "another file" in store.get(job_id).waiting and made_objects() == []
    assert bpy.ops.maquette.apply_result(job_id=job_id) == {"FINISHED"}
    assert len(made_objects()) == 1


def test_deleted_camera_and_objects_do_no_harm(blender, generate):
    job_id = generate(seed=99, wait=False)
    store = blender.session.get().store
    pump_until(lambda: store.get(job_id).state == "running")
    for item in list(bpy.data.objects):
        bpy.data.objects.remove(item)
    pump_until(lambda: store.get(job_id).applied)
    assert bpy.context.scene.camera.name == "Maquette Camera"
    bpy.data.objects.remove(made_objects()[0])
    assert bpy.ops.maquette.apply_result(job_id=job_id) == {"FINISHED"}


def test_an_unsolved_camera_still_gives_the_object(blender, generate):
    camera = bpy.context.scene.camera.matrix_world.copy()
    generate(seed=13)
    assert len(made_objects()) == 1
    assert bpy.context.scene.camera.matrix_world == camera


def test_results_survive_a_restart(blender, generate):
    blender.bpy.context.preferences.addons["bl_ext.user_default.maquette"].preferences.apply_automatically = False
    job_id = generate(wait=False)
    pump_until(lambda: blender.session.get().store.get(job_id).downloaded)
    blender.bpy.context.preferences.addons["bl_ext.user_default.maquette"].preferences.apply_automatically = True
    blender.restart()
    record = blender.session.get().store.get(job_id)
    assert record.state == "done" and record.applied == 0
    assert bpy.ops.maquette.apply_result(job_id=job_id) == {"FINISHED"}
    assert blender.session.get().store.get(job_id).applied == 1


def test_a_running_job_shows_its_work(blender, generate):
    job_id = generate(seed=99, steps=60, wait=False)
    current = blender.session.get()
    pump_until(lambda: current.thumbnails.has(job_id, "preview"))  # a module gives every icon the number 0
    assert current.store.get(job_id).state == "running"
    path = current.store.artifact_path(job_id, "preview.png")
    first = path.read_bytes()
    pump_until(lambda: path.read_bytes() != first)  # the next picture takes its place


def test_progress_is_not_written_to_the_disk(blender, generate, monkeypatch):
    store = blender.session.get().store
    written, write = [], store._write
    monkeypatch.setattr(store, "_write", lambda record: (written.append(record.state), write(record)))
    generate(steps=40)
    assert len(written) < 12 and "done" in written  # a job of 40 steps wrote more than 40 times before


def test_backend_killed_between_done_and_apply(blender, generate):
    bpy.context.view_layer.objects.active = bpy.data.objects["Cube"]
    bpy.ops.object.mode_set(mode="EDIT")
    job_id = generate(wait=False)
    current = blender.session.get()
    pump_until(lambda: current.store.get(job_id).waiting)
    os.kill(current.process.pid, signal.SIGKILL)
    pump_until(lambda: not current.process.answering)
    assert current.store.get(job_id).state == "done"
    bpy.ops.object.mode_set(mode="OBJECT")
    pump_until(lambda: current.store.get(job_id).applied)
    assert len(made_objects()) == 1
    pump_until(lambda: current.process.answering)  # comes back by itself; the next test meets a live one


def test_two_blenders_at_once_work_beside_each_other(blender, generate):
    first = generate()
    wanted = blender.session.get().store.get(first)
    other = blender.session.Session(lambda record: "")
    try:
        store = other.open_folder()
        assert store.root.parent.name == "data-2" and store.all() == []
        record = dataclasses.replace(wanted, job_id=uuid.uuid4().hex, state="sending", downloaded=False, applied=0)
        other.submit(record)
        end = time.monotonic() + 30.0
        while not store.get(record.job_id).downloaded and time.monotonic() < end:
            other.advance(time.perf_counter() + 0.01)
            module("runtime.pump").tick()
            time.sleep(0.02)
        assert store.artifact_path(record.job_id, "asset.mesh").is_file()
        assert other.process.port != blender.session.get().process.port
        assert [item.job_id for item in blender.session.get().store.all()] == [first]
    finally:
        other.close()


def test_cancel_reaches_the_worker(blender, generate):
    job_id = generate(seed=99, steps=60, wait=False)
    store = blender.session.get().store
    pump_until(lambda: store.get(job_id).stage == "build")
    assert bpy.ops.maquette.cancel_job(job_id=job_id) == {"FINISHED"}
    pump_until(lambda: store.get(job_id).state == "cancelled", 5.0)


def test_backend_killed_in_a_job_then_retry(blender, generate):
    job_id = generate(seed=99, steps=60, wait=False)
    current = blender.session.get()
    pump_until(lambda: current.store.get(job_id).stage == "build")
    os.kill(current.process.pid, signal.SIGKILL)
    pump_until(lambda: current.store.get(job_id).state == "failed")
    record = current.store.get(job_id)
    assert record.failure.code == "internal" and "Retry" in record.failure.message
    assert module("operators.report").build_report().count(job_id[:8]) == 1
    bpy.context.scene.maquette_create.seed = 1
    pump_until(lambda: current.process.answering)  # comes back by itself after a second
    quick = generate(steps=1)
    assert current.store.get(quick).applied == 1
    assert bpy.ops.maquette.retry_job(job_id=quick) == {"FINISHED"}
    again = current.store.all()[0].job_id
    assert again != quick
    pump_until(lambda: current.store.get(again).applied)


def test_a_broken_picture_gives_one_sentence(blender, generate, tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    job_id = generate(path)
    record = blender.session.get().store.get(job_id)
    assert record.state == "failed" and record.failure.code == "bad_input"
    assert made_objects() == []


def test_match_moves_the_object_and_leaves_the_camera(blender, generate, picture):
    generate()  # makes the engine known and warms the backend
    camera = bpy.context.scene.camera
    camera.location = (4.0, -3.0, 2.0)
    bpy.context.view_layer.update()
    before = camera.matrix_world.copy()
    settings = bpy.context.scene.maquette_match
    settings.image, settings.engine, settings.move, settings.steps = str(picture), "cube", "OBJECT", 1
    assert bpy.ops.maquette.match_photo() == {"FINISHED"}
    store = blender.session.get().store
    job_id = store.all()[0].job_id
    assert store.get(job_id).parameters["focal"] == pytest.approx(camera.data.lens / 36, rel=1e-4)
    pump_until(lambda: store.get(job_id).applied)
    assert camera.matrix_world == before
    made = max(made_objects(), key=lambda item: item.name)
    matrix, _ = module("scene.cameras").read_camera(camera, (64, 48))
    scale = made["maquette"]["metres_per_unit"]
    solved = json.loads(store.artifact_path(job_id, "camera.json").read_text())
    wanted = module("scene.placement").scaled_camera(np.array(solved["world_to_camera"]), scale)
    assert np.abs(matrix @ np.array(made.matrix_world) - wanted).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("", b"", "No picture is chosen"),
        ("gone.png", None, "was not found"),
        ("folder", None, "is a folder"),
        ("empty.png", b"", "is empty"),
        ("text.png", b"this is no picture", "is not a picture"),
    ],
)
def test_a_wrong_choice_is_told_at_once(blender, tmp_path, name, content, sentence):
    path = tmp_path / (name or "none")
    if name == "folder":
        path.mkdir()
    elif content is not None and name:
        path.write_bytes(content)
    blender.settings.image = str(path) if name else ""
    with pytest.raises(RuntimeError, match=sentence):
        bpy.ops.maquette.generate()
    assert blender.session.get().store.all() == []


def test_a_full_disk_is_told_and_nothing_is_half_kept(blender, picture, monkeypatch):
    def no_space(record):
        raise OSError(28, "No space left on device")

    store = blender.session.get().store
    monkeypatch.setattr(store, "_write", no_space)
    blender.settings.image = str(picture)
    with pytest.raises(RuntimeError, match="Free some space"):
        bpy.ops.maquette.generate()
    assert store.all() == []


def test_a_dropped_picture_starts_a_job(blender, generate, picture):
    generate()
    blender.settings.image = ""
    assert bpy.ops.maquette.drop_picture(filepath=str(picture)) == {"FINISHED"}
    store = blender.session.get().store
    job_id = store.all()[0].job_id
    pump_until(lambda: store.get(job_id).applied)
    assert len(made_objects()) == 2


def test_a_result_whose_files_are_gone_is_told(blender, generate):
    job_id = generate()
    blender.session.get().store.artifact_path(job_id, "asset.mesh").write_bytes(b"MAQMESH1cut")
    with pytest.raises(RuntimeError, match="missing or damaged"):
        bpy.ops.maquette.apply_result(job_id=job_id)
    assert len(made_objects()) == 1


def test_a_camera_that_cannot_be_read_does_not_stop_the_timer(blender, generate, monkeypatch):
    applying = module("operators.applying")

    def unreadable(data):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(applying, "solved_camera_from_json", unreadable)
    job_id = generate(wait=False)
    store = blender.session.get().store
    pump_until(lambda: store.get(job_id).waiting)
    assert "cannot be read" in store.get(job_id).waiting and blender.session.get().results == {}
    monkeypatch.undo()
    assert bpy.ops.maquette.apply_result(job_id=job_id) == {"FINISHED"}


def test_a_mask_goes_with_the_picture(blender, generate, picture, tmp_path):
    blender.settings.mask = str(tmp_path / "gone.png")
    with pytest.raises(RuntimeError, match="gone.png"):
        generate()
    blender.settings.mask = str(picture)
    job_id = generate()
    record = blender.session.get().store.get(job_id)
    assert record.report["inputs"] == ["image", "mask"]
    blender.settings.mask = ""
    assert bpy.ops.maquette.restore_inputs(job_id=job_id) == {"FINISHED"}
    assert blender.settings.mask == str(picture)
