"""A mesh of the scene matched to a photo: what is sent, and that camera or mesh come to where the photo saw it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from mathutils import Matrix, Vector

from .conftest import contract, make_undo_steps, module, pump_until


@pytest.fixture
def statue(blender: SimpleNamespace) -> bpy.types.Object:
    """A scaled, turned, parented mesh with a modifier, selected and active; the scene's cube is gone."""
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    holder = bpy.data.objects.new("Holder", None)
    holder.location = (3.0, 1.0, 0.5)
    mesh = bpy.data.meshes.new("Statue")
    mesh.from_pydata([(0, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 3)], [],
                     [(0, 2, 1), (0, 1, 3), (1, 2, 3), (2, 0, 3)])  # fmt: skip
    statue = bpy.data.objects.new("Statue", mesh)
    statue.parent = holder
    statue.rotation_euler, statue.scale = (0.1, 0.2, 0.9), (2.0, 2.0, 2.0)
    statue.modifiers.new("More", "SUBSURF").subdivision_type = "SIMPLE"
    for item in (holder, statue):
        bpy.context.scene.collection.objects.link(item)
    bpy.context.view_layer.objects.active = statue
    statue.select_set(True)
    bpy.context.view_layer.update()
    return statue


def press(picture: Path, move: str = "CAMERA", wait: bool = True, **settings) -> str:
    """Choose Selected Mesh and press the button; returns the job's id."""
    module("properties").set_engines([("cube", "Cube", "")])
    match = bpy.context.scene.maquette_match
    match.subject, match.image, match.engine, match.move, match.steps = "SELECTED", str(picture), "cube", move, 2
    for name, value in settings.items():
        setattr(match, name, value)
    assert bpy.ops.maquette.match_mesh() == {"FINISHED"}
    store = module("runtime.session").get().store
    job_id = store.all()[0].job_id
    if wait:
        pump_until(lambda: store.get(job_id).applied or store.get(job_id).state in ("failed", "cancelled"))
        assert store.get(job_id).applied, store.get(job_id).failure
    return job_id


def answer(job_id: str) -> dict:
    return json.loads(module("runtime.session").get().store.artifact_path(job_id, "match.json").read_text())


def corners(item: bpy.types.Object) -> np.ndarray:
    bpy.context.view_layer.update()
    return np.array([item.matrix_world @ vertex.co for vertex in item.data.vertices])


def seen(points: np.ndarray) -> np.ndarray:
    """Where the scene's camera shows the points, in a picture of 64 x 48."""
    bpy.context.view_layer.update()
    matrix, intrinsics = module("scene.cameras").read_camera(bpy.context.scene.camera, (64, 48))
    return contract("frames").project(points, matrix, intrinsics)[0]


def wanted(job_id: str, points: np.ndarray) -> np.ndarray:
    match = answer(job_id)
    camera, intrinsics = np.array(match["world_to_camera"]), np.array(match["intrinsics"])
    return contract("frames").project(points, camera, intrinsics)[0]


def test_the_camera_comes_to_where_the_photo_saw_the_mesh(statue, picture):
    make_undo_steps()
    before = statue.matrix_world.copy()
    camera_before = bpy.context.scene.camera.matrix_world.copy()
    names = {item.name for item in bpy.data.objects}
    sent = corners(statue)
    job_id = press(picture)
    assert np.abs(seen(corners(statue)) - wanted(job_id, sent)).max() < 1e-4
    assert statue.matrix_world == before and {item.name for item in bpy.data.objects} == names
    assert bpy.context.view_layer.objects.active == statue and statue.select_get()
    camera = bpy.context.scene.camera
    assert camera.data.background_images[0].image.filepath.endswith("mug.png")
    assert (bpy.context.scene.render.resolution_x, bpy.context.scene.render.resolution_y) == (64, 48)
    match = answer(job_id)
    assert match["triangles"] == 4 * 3 * 2 and np.allclose(match["bounds"], [sent.min(0), sent.max(0)], atol=1e-5)
    bpy.ops.ed.undo()
    assert bpy.context.scene.camera.matrix_world == camera_before
    assert not bpy.context.scene.camera.data.show_background_images


def test_the_mesh_comes_before_the_camera_that_stays(statue, picture):
    camera = bpy.context.scene.camera
    camera.location, camera.data.lens = (6.0, -9.0, 4.0), 70.0
    camera.data.shift_x = 0.1  # the photo's middle is not where this camera's axis is
    bpy.context.view_layer.update()
    kept, sent, size = camera.matrix_world.copy(), corners(statue), statue.scale.copy()
    job_id = press(picture, "OBJECT")
    assert camera.matrix_world == kept and camera.data.lens == 70.0
    assert module("runtime.session").get().store.get(job_id).parameters["focal"] == pytest.approx(70 / 36, rel=1e-4)
    assert (Vector(statue.matrix_world.to_scale()) - size).length < 1e-5
    # The shift moves the whole object in depth's plane: its middle is exact, the rest nearly so.
    assert np.abs(seen(corners(statue)) - wanted(job_id, sent)).max() < 0.03
    camera.data.shift_x = 0.0
    again = press(picture, "OBJECT")
    sent = np.array(answer(again)["bounds"])
    assert np.abs(seen(corners(statue)).mean(0) - [0.5, 0.5]).max() < 0.15 and np.isfinite(sent).all()


def test_without_a_shift_the_moved_mesh_is_seen_exactly(statue, picture):
    sent = corners(statue)
    job_id = press(picture, "OBJECT")
    assert np.abs(seen(corners(statue)) - wanted(job_id, sent)).max() < 1e-4


def test_a_mesh_that_moved_meanwhile_takes_its_camera_along(statue, picture):
    sent = corners(statue)
    job_id = press(picture, seed=99, wait=False)
    store = module("runtime.session").get().store
    statue.name = "Renamed"
    statue.matrix_world = Matrix.Translation((5, 5, 5)) @ Matrix.Rotation(1.0, 4, "Z") @ Matrix.Scale(0.5, 4) \
        @ statue.matrix_world
    pump_until(lambda: store.get(job_id).applied)
    assert np.abs(seen(corners(statue)) - wanted(job_id, sent)).max() < 1e-4


def test_a_mesh_that_is_gone_is_told_and_the_result_is_kept(statue, picture):
    job_id = press(picture, seed=99, wait=False)
    store = module("runtime.session").get().store
    copy = statue.copy()
    bpy.context.scene.collection.objects.unlink(statue)
    statue.name, copy.name = "Elsewhere", "Statue"  # another object of that name is not it
    bpy.context.scene.collection.objects.link(copy)
    pump_until(lambda: store.get(job_id).waiting)
    assert '"Statue" is not in this scene any more' in store.get(job_id).waiting
    with pytest.raises(RuntimeError, match="Undo its removal"):
        bpy.ops.maquette.apply_result(job_id=job_id)
    assert store.get(job_id).state == "done" and not store.get(job_id).applied
    bpy.context.scene.collection.objects.link(statue)
    assert bpy.ops.maquette.apply_result(job_id=job_id) == {"FINISHED"} and store.get(job_id).applied == 1


def test_a_stretched_mesh_is_told(statue, picture):
    job_id = press(picture, seed=99, wait=False)
    store = module("runtime.session").get().store
    statue.scale = (2.0, 4.0, 2.0)
    bpy.context.view_layer.update()
    pump_until(lambda: store.get(job_id).waiting)
    assert "stretched" in store.get(job_id).waiting


def test_instances_and_colours_are_sent(statue, picture):
    for name, color in (("Red", (1.0, 0.0, 0.0, 1.0)), ("Painted", None)):
        material = bpy.data.materials.new(name)
        module("scene.compat").use_material_nodes(material)
        shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
        if color:
            shader.inputs["Base Color"].default_value = color
        else:
            image = bpy.data.images.new("Green", 512, 512)
            image.pixels.foreach_set(np.tile(np.array([0.0, 1.0, 0.0, 1.0], np.float32), 512 * 512))
            source = material.node_tree.nodes.new("ShaderNodeTexImage")
            source.image = image
            material.node_tree.links.new(source.outputs["Color"], shader.inputs["Base Color"])
        statue.data.materials.append(material)
    statue.data.uv_layers.new()
    statue.data.polygons[0].material_index = 1
    collection = bpy.data.collections.new("Library")
    part = bpy.data.objects.new("Part", bpy.data.meshes.new("Part"))
    part.data.from_pydata([(0, 0, 0), (1, 0, 0), (0, 1, 1)], [], [(0, 1, 2)])
    collection.objects.link(part)
    instance = bpy.data.objects.new("Instance", None)
    instance.instance_type, instance.instance_collection = "COLLECTION", collection
    instance.location = (20.0, 0.0, 0.0)
    bpy.context.scene.collection.objects.link(instance)
    instance.select_set(True)
    images, meshes = len(bpy.data.images), len(bpy.data.meshes)
    match = answer(press(picture))
    assert match["triangles"] == 24 + 1 and match["bounds"][1][0] == pytest.approx(21.0)
    assert {tuple(color) for color in match["colors"]} == {(255, 0, 0), (0, 255, 0), (180, 180, 180)}
    # The photo behind the camera is the one picture that came.
    assert (len(bpy.data.images), len(bpy.data.meshes)) == (images + 1, meshes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda statue: statue.select_set(False), "No mesh is selected"),
        (lambda statue: statue.data.clear_geometry(), "have no faces"),
        (lambda statue: setattr(statue.data.vertices[0], "co", (math.nan, 0, 0)), "not finite"),
        (lambda statue: setattr(bpy.context.scene.maquette_match, "move", "KNOWN"), "Choose what moves"),
        (lambda statue: setattr(bpy.context.scene.maquette_match, "image", ""), "No picture is chosen"),
        (lambda statue: setattr(bpy.context.scene.maquette_match, "occluder", "hand.png"), "nothing hides it"),
    ],
)
def test_a_wrong_choice_is_told_at_once(statue, picture, change, sentence):
    match = bpy.context.scene.maquette_match
    match.subject, match.image, match.engine = "SELECTED", str(picture), "cupid"
    change(statue)
    bpy.context.view_layer.update()
    with pytest.raises(RuntimeError, match=sentence):
        bpy.ops.maquette.match_mesh()
    assert module("runtime.session").get().open_folder().all() == []


def test_what_was_matched_can_be_restored_and_sent_again(statue, picture):
    job_id = press(picture, seed=5)
    match = bpy.context.scene.maquette_match
    match.subject, match.seed, match.image = "NEW", 0, ""
    assert bpy.ops.maquette.restore_inputs(job_id=job_id) == {"FINISHED"}
    assert (match.subject, match.seed, match.image) == ("SELECTED", 5, str(picture))
    assert bpy.ops.maquette.retry_job(job_id=job_id) == {"FINISHED"}
    store = module("runtime.session").get().store
    again = store.all()[0].job_id
    pump_until(lambda: store.get(again).applied)
    assert again != job_id and answer(again)["triangles"] == answer(job_id)["triangles"]
