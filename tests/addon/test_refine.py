"""A mesh of the scene is looked at, sent, and comes back beside its object or in its place; everything else stays."""

from __future__ import annotations

import math
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from .conftest import contract, make_undo_steps, module, pump_until


@pytest.fixture(autouse=True)
def small_pictures(blender, monkeypatch):
    """Tiles of 32 pixels, which Blender renders at once."""
    capture = module("scene.bundle_capture")
    whole = capture.render_tiles
    monkeypatch.setattr(capture, "render_tiles", lambda *views: whole(*views, size=32, threads=1))


@pytest.fixture
def statue(blender: SimpleNamespace) -> bpy.types.Object:
    """A mesh unlike from every side: scaled, turned, a child, with a modifier, a constraint and three materials."""
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    holder = bpy.data.objects.new("Holder", None)
    holder.location, holder.rotation_euler = (3.0, 1.0, 0.5), (0.0, 0.0, 0.4)
    mesh = bpy.data.meshes.new("Marble")
    mesh.from_pydata([(0, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 3)], [],
                     [(0, 2, 1), (0, 1, 3), (1, 2, 3), (2, 0, 3)])  # fmt: skip
    for name in ("Skin", "Cloth", "Gold"):
        mesh.materials.append(bpy.data.materials.new(name))
    statue = bpy.data.objects.new("OldStatue_01", mesh)
    statue.parent = holder
    statue.rotation_euler, statue.scale = (0.1, 0.2, 0.9), (2.0, 1.0, 1.5)
    statue.modifiers.new("More", "SUBSURF").subdivision_type = "SIMPLE"
    statue.constraints.new("LIMIT_SCALE")
    home = bpy.data.collections.new("Museum")
    bpy.context.scene.collection.children.link(home)
    for item in (holder, statue):
        home.objects.link(item)
    select(statue)
    return statue


def select(*items: bpy.types.Object) -> None:
    layer = bpy.context.view_layer
    layer.update()
    for item in layer.objects:
        item.select_set(item in items, view_layer=layer)
    layer.objects.active = items[0] if items else None


def press(wait: bool = True, **settings) -> str:
    """Press the Refine panel's button with the fake engine, which gives the mesh back as it was sent."""
    module("properties").set_engines([("cube", "Cube", "")])
    refine = bpy.context.scene.maquette_refine
    refine.engine, refine.steps = "cube", 2
    for name, value in settings.items():
        setattr(refine, name, value)
    assert bpy.ops.maquette.refine() == {"FINISHED"}
    job_id = store().all()[0].job_id
    if wait:
        pump_until(lambda: store().get(job_id).applied or store().get(job_id).state in ("failed", "cancelled"))
        assert store().get(job_id).applied, store().get(job_id).failure
    return job_id


def store():
    return module("runtime.session").get().open_folder()


def evaluated(item: bpy.types.Object) -> np.ndarray:
    """World positions of the item as it is shown, in order."""
    bpy.context.view_layer.update()
    shown = item.evaluated_get(bpy.context.evaluated_depsgraph_get())
    return ordered([shown.matrix_world @ vertex.co for vertex in shown.data.vertices])


def ordered(points) -> np.ndarray:
    points = np.array(points)
    return points[np.lexsort(np.round(points, 4).T)]


def sent_mesh(job_id: str):
    data = (store().folder(job_id) / "input_mesh.mesh").read_bytes()
    return contract("meshes").mesh_from_bytes(data)


def test_what_is_sent(statue):
    job_id = press(prompt="left from an edit", enhance_strength=0.3, seed=9, triangles=700)
    record = store().get(job_id)
    assert (record.task, record.system, record.title) == ("refine_mesh", "cube", "OldStatue_01")
    assert record.parameters == {
        "prompt": "", "strength": 0.3, "seed": 9, "steps": 2, "weights": "mini", "triangles": 700,
    }  # fmt: skip
    assert record.report["inputs"] == ["bundle", "mesh"] and sorted(record.more_inputs) == ["bundle", "mesh"]
    mesh = sent_mesh(job_id)
    assert len(mesh.faces) == 24 and len(mesh.vertices) == 14  # evaluated; triangles share their vertices
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    assert (high - low).max() == pytest.approx(1.0, abs=1e-5) and (high + low) / 2 == pytest.approx([0, 0, 0], abs=1e-5)
    assert low.min() >= -0.5 - 1e-5 and high.max() <= 0.5 + 1e-5
    from PIL import Image

    assert Image.open(store().folder(job_id) / "input_bundle.png").size == (128, 64)
    current = module("runtime.session").get()
    assert len(current.thumbnails.halves(job_id, "preview.png")) == 2


def test_the_result_stands_beside_the_object_which_stays(statue):
    make_undo_steps()
    before, place = evaluated(statue), statue.matrix_world.copy()
    names = {item.name for item in bpy.data.objects}
    job_id = press(destination="BESIDE")
    (made,) = (item for item in bpy.context.scene.objects if item.name not in names)
    assert made.name == "OldStatue_01 Refined" and module("scene.provenance").read(made)["job_id"] == job_id
    shown = evaluated(made)
    shift = shown.mean(axis=0) - before.mean(axis=0)
    assert np.abs(shown - shift - before).max() < 1e-4  # same size, same turn
    width = np.ptp(before[:, 0])
    assert shift == pytest.approx([1.2 * width, 0, 0], abs=1e-4)
    assert tuple(made.scale) == pytest.approx((1, 1, 1), abs=1e-5) and [c.name for c in made.users_collection] == [
        "Museum"
    ]
    assert statue.matrix_world == place and statue.data.name == "Marble" and statue.modifiers[0].show_viewport
    assert bpy.context.view_layer.objects.active == statue and statue.select_get() and not made.select_get()
    bpy.ops.ed.undo()
    assert {item.name for item in bpy.data.objects} == names


def test_the_result_takes_the_objects_place(statue):
    make_undo_steps()
    before, place = evaluated(statue), statue.matrix_world.copy()
    children = {item.name for item in bpy.data.objects}
    statue.material_slots[1].link = "OBJECT"
    press(destination="REPLACE")
    statue = bpy.data.objects["OldStatue_01"]
    assert {item.name for item in bpy.data.objects} == children and statue.matrix_world == place
    assert statue.parent.name == "Holder" and [item.type for item in statue.constraints] == ["LIMIT_SCALE"]
    assert [item.name for item in statue.users_collection] == ["Museum"]
    assert np.abs(evaluated(statue) - before).max() < 1e-4  # as it was shown, modifiers and all
    assert not statue.modifiers[0].show_viewport and not statue.modifiers[0].show_render
    assert statue.data.name == "Marble" and len(statue.data.vertices) == 14
    names = [slot.material.name if slot.material else None for slot in statue.material_slots]
    assert names[0] == "OldStatue_01" and names[2] == "Gold" and len(names) == 3
    original = bpy.data.meshes["Marble Original"]
    assert original.use_fake_user and len(original.vertices) == 4 and original.materials[0].name == "Skin"
    assert statue.material_slots[0].link == "DATA" and all(item.material_index == 0 for item in statue.data.polygons)
    bpy.ops.ed.undo()
    statue = bpy.data.objects["OldStatue_01"]
    assert len(statue.data.vertices) == 4 and statue.modifiers[0].show_viewport
    assert statue.data.name == "Marble" and "Marble Original" not in bpy.data.meshes


def test_applied_again_it_keeps_one_original(statue):
    job_id = press(destination="REPLACE")
    meshes = sorted(mesh.name for mesh in bpy.data.meshes)
    assert bpy.ops.maquette.apply_result(job_id=job_id) == {"FINISHED"}
    assert sorted(mesh.name for mesh in bpy.data.meshes) == meshes


def test_another_user_of_the_mesh_keeps_it(statue):
    twin = bpy.data.objects.new("Twin", statue.data)
    bpy.context.scene.collection.objects.link(twin)
    select(statue)
    press(destination="REPLACE")
    assert twin.data.name == "Marble" and len(twin.data.vertices) == 4 and not twin.data.use_fake_user
    assert statue.data.name == "Marble.001" and len(statue.data.vertices) == 14


def test_shape_keys_stay_with_the_original(statue):
    statue.modifiers.clear()
    statue.shape_key_add(name="Basis")
    statue.shape_key_add(name="Tall").data[3].co.z = 5.0
    statue.data.shape_keys.key_blocks["Tall"].value = 1.0
    before = evaluated(statue)
    press(destination="REPLACE")
    assert np.abs(evaluated(statue) - before).max() < 1e-4 and statue.data.shape_keys is None
    assert len(bpy.data.meshes["Marble Original"].shape_keys.key_blocks) == 2


@pytest.mark.parametrize("destination", ["BESIDE", "REPLACE"])
def test_an_object_that_was_moved_takes_the_result_along(statue, destination):
    before = evaluated(statue)
    job_id = press(wait=False, seed=99, destination=destination)
    holder = bpy.data.objects["Holder"]
    move = Matrix.Translation((5, 5, 5)) @ Matrix.Rotation(1.0, 4, "Z") @ Matrix.Scale(0.5, 4)
    holder.matrix_world = move @ holder.matrix_world
    statue.name = "Renamed"
    pump_until(lambda: store().get(job_id).applied)
    moved = ordered(before @ np.array(move)[:3, :3].T + np.array(move)[:3, 3])
    made = statue if destination == "REPLACE" else bpy.data.objects["OldStatue_01 Refined"]
    shown = evaluated(made)
    assert np.abs(shown - shown.mean(axis=0) - moved + moved.mean(axis=0)).max() < 1e-4
    if destination == "REPLACE":
        assert np.abs(shown - moved).max() < 1e-4


@pytest.mark.parametrize("destination", ["BESIDE", "REPLACE"])
def test_an_object_that_is_gone_is_told_and_the_result_stands_in_its_place(statue, destination):
    before = evaluated(statue)
    job_id = press(wait=False, seed=99, destination=destination)
    bpy.data.objects.remove(statue)
    pump_until(lambda: store().get(job_id).applied)
    made = bpy.data.objects["OldStatue_01 Refined"]
    assert np.abs(evaluated(made) - before).max() < 1e-4


def test_a_mirrored_object_keeps_its_outside_outside(statue):
    statue.scale.x = -2.0
    select(statue)
    before = evaluated(statue)
    press(destination="REPLACE")
    assert np.abs(evaluated(statue) - before).max() < 1e-4
    centre = sum((vertex.co for vertex in statue.data.vertices), start=statue.data.vertices[0].co * 0) / 14
    assert all((polygon.center - centre).dot(polygon.normal) > 0 for polygon in statue.data.polygons)


def test_edit_needs_a_text_and_has_a_strength_of_its_own(statue):
    with pytest.raises(RuntimeError, match="There is no text.*choose Enhance"):
        press(purpose="EDIT", prompt=" ")
    job_id = press(purpose="EDIT", prompt="a red statue", edit_strength=0.8)
    assert store().get(job_id).parameters["prompt"] == "a red statue"
    assert store().get(job_id).parameters["strength"] == pytest.approx(0.8)
    plain = press(purpose="ENHANCE", enhance_strength=0.3)
    refine = bpy.context.scene.maquette_refine
    refine.prompt, refine.seed, refine.destination, refine.edit_strength = "", 3, "REPLACE", 0.5
    assert bpy.ops.maquette.restore_inputs(job_id=job_id) == {"FINISHED"}
    assert (refine.purpose, refine.prompt, refine.seed, refine.destination) == ("EDIT", "a red statue", 0, "BESIDE")
    assert (refine.edit_strength, refine.enhance_strength) == pytest.approx((0.8, 0.3))
    assert bpy.ops.maquette.restore_inputs(job_id=plain) == {"FINISHED"}
    assert (refine.purpose, refine.prompt) == ("ENHANCE", "a red statue")  # a text stays for the next edit
    assert (refine.edit_strength, refine.enhance_strength) == pytest.approx((0.8, 0.3))


def test_it_can_be_sent_again_after_the_object_changed(statue):
    job_id = press()
    statue.data.clear_geometry()
    assert bpy.ops.maquette.retry_job(job_id=job_id) == {"FINISHED"}
    again = store().all()[0].job_id
    pump_until(lambda: store().get(again).applied)
    assert again != job_id and np.array_equal(sent_mesh(again).vertices, sent_mesh(job_id).vertices)


def scale_to_nothing(statue):
    statue.scale.z = 0.0


def one_line(statue):
    statue.modifiers.clear()
    statue.data.clear_geometry()
    statue.data.from_pydata([(0, 0, 0), (1, 0, 0), (2, 0, 0)], [], [(0, 1, 2)])


def replace_text(statue):
    bpy.context.scene.maquette_refine.destination = "REPLACE"
    text = bpy.data.objects.new("Sign", bpy.data.curves.new("Sign", "FONT"))
    text.data.body = "Maquette"
    bpy.context.scene.collection.objects.link(text)
    select(text)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda statue: select(), "Nothing is selected"),
        (lambda statue: select(bpy.data.objects["Camera"]), "is a camera"),
        (lambda statue: select(bpy.data.objects["Light"]), "is a light"),
        (lambda statue: select(bpy.data.objects["Holder"]), "is an empty"),
        (lambda statue: statue.data.clear_geometry(), "have no faces"),
        (one_line, "has no surface"),
        (scale_to_nothing, "scaled to nothing"),
        (lambda statue: setattr(statue.data.vertices[0], "co", (math.nan, 0, 0)), "not finite"),
        (lambda statue: setattr(statue, "hide_render", True), "hidden from renders"),
        (lambda statue: setattr(statue, "visible_camera", False), "cannot be seen in renders"),
        (lambda statue: bpy.ops.object.mode_set(mode="EDIT"), "Switch to Object Mode"),
        (replace_text, "Convert it to a mesh"),
    ],
)
def test_a_wrong_choice_is_told_at_once(statue, change, sentence):
    bpy.context.scene.maquette_refine.engine = "kiss3dgen"
    change(statue)
    bpy.context.view_layer.update()
    with pytest.raises(RuntimeError, match=sentence):
        bpy.ops.maquette.refine()
    assert store().all() == [] and module("operators.refining").progress() == ("", 0)
    if bpy.context.mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")


def test_a_huge_mesh_is_told(statue, monkeypatch):
    monkeypatch.setattr(module("operators.refining"), "MOST_TRIANGLES", 20)
    with pytest.raises(RuntimeError, match="more than 20 triangles. Give it a Decimate modifier"):
        bpy.ops.maquette.refine()


def test_a_text_object_and_instances_can_be_refined_beside(statue):
    holder = bpy.data.objects["Holder"]
    holder.instance_type, holder.instance_collection = "COLLECTION", bpy.data.collections.new("Library")
    part = bpy.data.objects.new("Part", statue.data)
    holder.instance_collection.objects.link(part)
    select(holder)
    job_id = press(destination="BESIDE")
    assert store().get(job_id).title == "Holder" and len(sent_mesh(job_id).faces) == 4


def test_one_view_a_tick_and_cancelled_in_between(statue):
    refining = module("operators.refining")
    before = {name: len(getattr(bpy.data, name)) for name in ("scenes", "objects", "meshes", "images", "worlds")}
    refining.begin(bpy.context)
    assert refining.progress() == ("OldStatue_01", 0)
    assert refining.advance() is not None and refining.progress() == ("OldStatue_01", 1)
    assert {name: len(getattr(bpy.data, name)) for name in before} == before  # nothing is left between two views
    contract_error = module("operators.common").MaquetteError
    with pytest.raises(contract_error, match="is being looked at"):
        refining.begin(bpy.context)
    bpy.ops.object.mode_set(mode="EDIT")
    assert refining.advance() == module("operators.looking_timer").WAIT_SECONDS and refining.progress()[1] == 1  # later
    bpy.ops.object.mode_set(mode="OBJECT")
    assert bpy.ops.maquette.cancel_refine() == {"FINISHED"}
    assert refining.advance() is None and refining.progress() == ("", 0) and store().all() == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda statue: bpy.data.objects.remove(statue), "went away"),
        (lambda statue: setattr(statue, "location", (9, 9, 9)), "was moved"),
        (lambda statue: bpy.ops.wm.read_homefile(use_factory_startup=True), "went away"),
    ],
)
def test_a_change_in_between_is_told(statue, change, sentence):
    refining = module("operators.refining")
    refining.begin(bpy.context)
    refining.advance()
    change(statue)
    bpy.context.view_layer.update()
    assert refining.advance() is None
    assert sentence in refining.trouble() and refining.progress() == ("", 0) and store().all() == []
