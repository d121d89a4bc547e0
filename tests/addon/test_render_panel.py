"""A selection is looked at from all sides and sent; its pictures arrive, are picked, shown, saved and lose nothing."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from PIL import Image

from .conftest import contract, make_undo_steps, module, pump_until

SIDE = 64  # pixels of a view: Blender renders it at once


@pytest.fixture(autouse=True)
def small_views(blender, monkeypatch):
    """Views of SIDE pixels."""
    monkeypatch.setitem(module("operators.rendering").SIZES, "mini", SIDE)


@pytest.fixture
def lamp(blender) -> bpy.types.Object:
    """Two meshes unlike from every side, both selected, turned and scaled; the active one is the lamp."""
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    mesh = bpy.data.meshes.new("Lamp")
    mesh.from_pydata([(0, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 3)], [],
                     [(0, 2, 1), (0, 1, 3), (1, 2, 3), (2, 0, 3)])  # fmt: skip
    foot = bpy.data.meshes.new("Foot")
    foot.from_pydata([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0), (0, 0, 0.5)], [],
                     [(3, 2, 1, 0), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)])  # fmt: skip
    items = [bpy.data.objects.new(data.name, data) for data in (mesh, foot)]
    items[0].location, items[0].rotation_euler, items[0].scale = (3.0, 1.0, 0.5), (0.1, 0.2, 0.9), (1.0, 1.0, 1.5)
    items[1].location = (3.4, 1.2, 0.2)
    for item in items:
        bpy.context.scene.collection.objects.link(item)
    select(*items)
    return items[0]


def select(*items: bpy.types.Object) -> None:
    layer = bpy.context.view_layer
    layer.update()
    for item in layer.objects:
        item.select_set(item in items, view_layer=layer)
    layer.objects.active = items[0] if items else None


def press(wait: bool = True, **settings) -> str:
    """Press Render Scene with the fake engine, whose pictures are the views themselves; returns the job's id."""
    module("properties").set_engines([("cube", "Cube", "")])
    panel = bpy.context.scene.maquette_render
    panel.engine, panel.steps, panel.views = "cube", 2, "4"
    panel.prompt = "on a beach\nat sunset "
    for name, value in settings.items():
        setattr(panel, name, value)
    assert bpy.ops.maquette.render_scene() == {"FINISHED"}
    job_id = store().all()[0].job_id
    if wait:
        pump_until(lambda: store().get(job_id).applied or store().get(job_id).state in ("failed", "cancelled"))
        assert store().get(job_id).applied, store().get(job_id).failure
    return job_id


def store():
    return module("runtime.session").get().open_folder()


def panel() -> bpy.types.PropertyGroup:
    return bpy.context.scene.maquette_render


def pictures() -> list[bpy.types.Image]:
    """The pictures of ours in the file."""
    return [image for image in bpy.data.images if image.get("maquette_picture")]


def test_what_is_sent(lamp):
    panel().negative = " people,\nsnow "
    job_id = press(seed=9, variants=3, image_guidance=1.5, focal_mode="LOCKED", focal_mm=72.0)
    record = store().get(job_id)
    assert (record.task, record.system, record.title) == ("render_picture", "cube", "Lamp")
    assert record.report["inputs"] == ["points", "views"] and sorted(record.more_inputs) == ["points", "views"]
    box = {name: record.parameters.pop(name) for name in ("bounds_min", "bounds_max")}
    assert record.parameters == {
        "prompt": "on a beach at sunset", "seed": 9, "steps": 2, "weights": "mini", "variants": 3,
        "negative": "people, snow", "image_guidance": 1.5, "focal": 2.0,
    }  # fmt: skip
    corners = np.array([item.matrix_world @ vertex.co for item in bpy.context.selected_objects
                        for vertex in item.data.vertices])  # fmt: skip
    assert box["bounds_min"] == pytest.approx(corners.min(axis=0), abs=1e-5)
    assert box["bounds_max"] == pytest.approx(corners.max(axis=0), abs=1e-5)
    for name in ("views", "points"):
        strip = np.array(Image.open(store().folder(job_id) / f"input_{name}.png"))
        assert strip.shape == (SIDE, 4 * SIDE, 3)
        filled = (strip.reshape(SIDE, 4, SIDE, 3) < 250).any(axis=-1).mean(axis=(0, 2))
        assert (filled > 0.05).all() and (filled < 0.9).all()
    assert [target["name"] for target in record.origin["targets"]] == ["Lamp", "Foot"]


def test_what_nobody_chose_is_left_to_the_weights(blender):
    rendering = module("operators.rendering")
    assert rendering.parameters_of(panel(), "x") == {
        "prompt": "x", "seed": 0, "steps": None, "weights": "mini", "variants": 2,
    }  # fmt: skip
    assert rendering.SIZES["published"] == 512


def test_conditions_and_gallery_are_shown_and_go_with_the_job(lamp):
    job_id = press(variants=3)
    current = module("runtime.session").get()
    names = module("runtime.job_store").CONDITIONS
    shown = [name for name in names if current.thumbnails.has(job_id, name)]
    assert shown == [*names[:4], *names[8:12]]
    record = store().get(job_id)
    assert record.variants == ("picture-0.png", "picture-1.png", "picture-2.png")
    assert all(current.thumbnails.has(job_id, name) for name in (*record.variants, "result", "preview_left"))
    folder = store().folder(job_id)
    current.forget(job_id)
    pump_until(lambda: not folder.exists())
    assert not current.thumbnails.has(job_id, shown[0])


def test_the_thumbnails_are_there_after_a_restart(blender, lamp):
    job_id = press()
    blender.restart()
    current = module("runtime.session").get()
    assert current.thumbnails.has(job_id, "view-3.png") and current.thumbnails.has(job_id, "place-0.png")
    assert module("operators.picture_results").shown_record(bpy.context.scene).job_id == job_id


def test_the_picture_arrives_in_the_file_and_one_undo_takes_it_out(lamp):
    make_undo_steps()
    names = {item.name for item in bpy.data.objects}
    job_id = press(variants=2)
    (image,) = pictures()
    assert image.name == "Lamp Picture 1" and image.packed_file is not None and tuple(image.size) == (SIDE, SIDE)
    assert (panel().shown_job, panel().shown_variant) == (job_id, 0)
    assert {item.name for item in bpy.data.objects} == names
    bpy.ops.ed.undo()
    assert not pictures() and bpy.context.scene.maquette_render.shown_job == ""
    assert module("operators.picture_results").shown_record(bpy.context.scene).job_id == job_id


def test_a_click_picks_a_variant(lamp):
    job_id = press(variants=3)
    assert bpy.ops.maquette.apply_result(job_id=job_id, variant=2, instead=True) == {"FINISHED"}
    assert panel().shown_variant == 2
    assert sorted(image.name for image in pictures()) == ["Lamp Picture 1", "Lamp Picture 3"]
    assert bpy.ops.maquette.apply_result(job_id=job_id, variant=0, instead=True) == {"FINISHED"}
    assert panel().shown_variant == 0 and len(pictures()) == 2  # the same picture is not loaded twice


def test_the_picture_enters_an_editor_that_shows_nothing(lamp):
    area = next(area for area in bpy.context.window_manager.windows[0].screen.areas if area.type == "VIEW_3D")
    area.ui_type = "IMAGE_EDITOR"
    try:
        press()
        assert area.spaces.active.image == pictures()[0]
        own = bpy.data.images.new("Own", 4, 4)
        area.spaces.active.image = own
        assert bpy.ops.maquette.apply_result(job_id=panel().shown_job, variant=1) == {"FINISHED"}
        assert area.spaces.active.image == own  # the artist's own image is not pushed away
    finally:
        area.ui_type = "VIEW_3D"


def test_it_is_saved_with_its_text_and_its_point_map(lamp, tmp_path):
    job_id = press(prompt="ein Fass am Strand – Ölbild", negative="Möwen", variants=2, seed=5)
    bpy.ops.maquette.apply_result(job_id=job_id, variant=1, instead=True)
    path = tmp_path / "my picture"
    assert bpy.ops.maquette.save_picture(filepath=str(path)) == {"FINISHED"}
    saved = Image.open(tmp_path / "my picture.png")
    assert saved.text["prompt"] == "ein Fass am Strand – Ölbild" and saved.text["seed"] == "6"
    assert saved.text["negative"] == "Möwen"
    assert (tmp_path / "my picture.exr").read_bytes() == b"places"
    assert bpy.ops.maquette.save_picture(filepath=str(tmp_path / "b.png"), points=False) == {"FINISHED"}
    assert not (tmp_path / "b.exr").exists()
    with pytest.raises(RuntimeError, match="Choose another folder"):
        bpy.ops.maquette.save_picture(filepath=str(tmp_path / "gone" / "c.png"))
    with pytest.raises(RuntimeError, match="no file name"):
        bpy.ops.maquette.save_picture(filepath=str(tmp_path))
    assert module("operators.picture_results").file_name(bpy.context).endswith("Lamp Picture 2.png")


def test_restored_and_sent_again(lamp):
    job_id = press(variants=3, seed=4, guidance=2.5, negative="snow", focal_mode="LOCKED", focal_mm=72.0)
    panel().prompt, panel().seed, panel().variants, panel().guidance, panel().negative = "", 0, 1, 0.0, "x"
    panel().focal_mode, panel().focal_mm = "FREE", 50.0
    assert bpy.ops.maquette.restore_inputs(job_id=job_id) == {"FINISHED"}
    assert (panel().prompt, panel().seed, panel().variants, panel().guidance) == ("on a beach at sunset", 4, 3, 2.5)
    assert panel().negative == "snow"
    assert (panel().focal_mode, panel().focal_mm) == ("LOCKED", pytest.approx(72.0))
    lamp.data.clear_geometry()
    assert bpy.ops.maquette.retry_job(job_id=job_id) == {"FINISHED"}
    again = store().all()[0].job_id
    pump_until(lambda: store().get(again).applied)
    assert again != job_id and store().get(again).variants == store().get(job_id).variants
    thumbnails = module("runtime.session").get().thumbnails
    assert thumbnails.has(again, "view-3.png") and thumbnails.has(again, "place-3.png")


def clear(*items):
    for item in items:
        item.data.clear_geometry()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda lamp: select(), "Nothing is selected"),
        (lambda lamp: select(bpy.data.objects["Camera"]), "is a camera"),
        (lambda lamp: clear(lamp, bpy.data.objects["Foot"]), "has no faces"),
        (lambda lamp: setattr(panel(), "prompt", " \n "), "There is no text"),
        (lambda lamp: bpy.ops.object.mode_set(mode="EDIT"), "Switch to Object Mode"),
        (lambda lamp: [setattr(bpy.data.objects[name], "hide_render", True) for name in ("Lamp", "Foot")], "hidden"),
    ],
)
def test_a_wrong_choice_is_told_at_once(lamp, change, sentence):
    panel().prompt = "on a beach"
    change(lamp)
    bpy.context.view_layer.update()
    with pytest.raises(RuntimeError, match=sentence):
        bpy.ops.maquette.render_scene()
    assert store().all() == [] and module("operators.rendering").progress() == ("", 0, 0)
    if bpy.context.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")


def test_one_view_a_tick_and_cancelled_in_between(lamp):
    rendering = module("operators.rendering")
    panel().prompt, panel().views = "on a beach", "4"
    before = {name: len(getattr(bpy.data, name)) for name in ("scenes", "objects", "meshes", "images", "materials")}
    job_id = rendering.begin(bpy.context).job_id
    assert rendering.progress() == ("Lamp", 0, 4) and rendering.looked_at() == job_id
    assert rendering.advance() is not None and rendering.progress() == ("Lamp", 1, 4)
    assert {name: len(getattr(bpy.data, name)) for name in before} == before  # nothing is left between two views
    thumbnails = module("runtime.session").get().thumbnails
    assert thumbnails.has(job_id, "view-0.png") and thumbnails.has(job_id, "place-0.png")
    with pytest.raises(contract("errors").MaquetteError, match="is being looked at"):
        rendering.begin(bpy.context)
    bpy.ops.object.mode_set(mode="EDIT")
    assert (
        rendering.advance() == module("operators.looking_timer").WAIT_SECONDS and rendering.progress()[1] == 1
    )  # later
    bpy.ops.object.mode_set(mode="OBJECT")
    assert bpy.ops.maquette.cancel_render() == {"FINISHED"}
    assert rendering.advance() is None and rendering.progress() == ("", 0, 0) and store().all() == []
    assert not store().folder(job_id).exists() and not thumbnails.has(job_id, "view-0.png")


def test_another_file_ends_it(lamp):
    rendering = module("operators.rendering")
    panel().prompt = "on a beach"
    job_id = rendering.begin(bpy.context).job_id
    rendering.advance()
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    assert rendering.advance() is None
    assert "went away" in rendering.trouble() and store().all() == [] and not store().folder(job_id).exists()


@pytest.mark.parametrize("name", ["open_picture", "picture_behind_camera", "project_picture", "put_into_picture"])
def test_without_a_picture_it_is_told(blender, name):
    with pytest.raises(RuntimeError, match="There is no picture yet"):
        getattr(bpy.ops.maquette, name)()


def test_a_picture_whose_file_is_gone_is_told(lamp):
    job_id = press()
    (store().folder(job_id) / "picture-0.png").unlink()
    with pytest.raises(RuntimeError, match="missing or damaged. Press Retry"):
        bpy.ops.maquette.picture_behind_camera()


def test_the_camera_stays_where_the_picture_is_put_behind_it(lamp):
    job_id = press()
    camera = bpy.context.scene.camera
    before = camera.matrix_world.copy()
    assert bpy.ops.maquette.picture_behind_camera() == {"FINISHED"}
    (background,) = camera.data.background_images
    assert background.image == pictures()[0] and camera.data.show_background_images
    bpy.ops.maquette.apply_result(job_id=job_id, variant=1, instead=True)
    assert bpy.ops.maquette.picture_behind_camera() == {"FINISHED"}
    assert len(camera.data.background_images) == 1 and camera.matrix_world == before
    assert camera.data.background_images[0].image.name == "Lamp Picture 2"
