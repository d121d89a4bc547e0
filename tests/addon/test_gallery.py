"""Variants of a result, and a camera that is known: what is sent, what enters the scene, what stays."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from .conftest import make_undo_steps, module, pump_until


def made() -> bpy.types.Object:
    (item,) = (item for item in bpy.context.scene.objects if "maquette" in item)
    return item


def underside(item: bpy.types.Object) -> np.ndarray:
    """The middle of the underside in the world."""
    low, high = module("scene.importing").object_bounds(item)
    return np.array(item.matrix_world @ Matrix.Translation([*((low + high) / 2)[:2], low[2]])).T[3, :3]


@pytest.fixture
def variants(blender, generate):
    blender.settings.variants = 3
    return generate()


def test_a_gallery_is_asked_for_and_its_pictures_come_and_go(blender, variants):
    current = blender.session.get()
    record = current.store.get(variants)
    assert record.parameters["hypotheses"] == 3
    assert record.variants == ("hypothesis_0.png", "hypothesis_1.png", "hypothesis_2.png")
    assert all(current.thumbnails.has(variants, name) for name in (*record.variants, "result"))
    current.forget(variants)
    assert not current.thumbnails.has(variants, "result") and variants not in current.thumbnails._jobs


def test_one_answer_has_no_gallery(blender, generate):
    record = blender.session.get().store.get(generate())
    assert record.variants == () and "hypotheses" not in record.parameters


def test_a_click_puts_a_variant_in_place_of_the_one_before(blender, variants):
    item = made()
    meshes = len(bpy.data.meshes)
    height = item.dimensions.z
    item.matrix_world = Matrix.Translation((3.0, 1.0, 0.5)) @ Matrix.Rotation(0.7, 4, "Z") @ Matrix.Scale(2.0, 4)
    bpy.context.view_layer.update()
    before = underside(item)
    assert bpy.ops.maquette.apply_result(job_id=variants, variant=2, instead=True) == {"FINISHED"}
    bpy.context.view_layer.update()
    assert made() == item and len(bpy.data.meshes) == meshes
    assert item.dimensions.z == pytest.approx(2 * height / 3, rel=1e-4)
    assert underside(item) == pytest.approx(before, abs=1e-5)
    assert module("scene.provenance").read(item)["variant"] == 2
    camera = bpy.context.scene.camera.matrix_world
    assert camera.median_scale == pytest.approx(1.0, abs=1e-6)
    assert bpy.ops.maquette.apply_result(job_id=variants) == {"FINISHED"}  # Apply Again still adds one
    assert len([each for each in bpy.context.scene.objects if "maquette" in each]) == 2


def test_a_replaced_object_is_seen_as_in_the_picture(blender, variants):
    cameras, placement = module("scene.cameras"), module("scene.placement")
    item = made()
    item.matrix_world = Matrix.Translation((3.0, 1.0, 0.5)) @ Matrix.Rotation(0.7, 4, "Z") @ Matrix.Scale(2.0, 4)
    bpy.ops.maquette.apply_result(job_id=variants, variant=1, instead=True)
    bpy.context.view_layer.update()
    applying = module("operators.applying")
    record = blender.session.get().store.get(variants)
    solved = applying.load_result(blender.session.get().store, record, 1).camera
    scale = module("scene.provenance").read(item)["metres_per_unit"]
    world_to_camera, intrinsics = cameras.read_camera(bpy.context.scene.camera, solved.size)
    points = np.array([vertex.co for vertex in item.data.vertices])
    homogeneous = np.c_[points, np.ones(len(points))]
    seen = (world_to_camera @ np.array(item.matrix_world) @ homogeneous.T)[:3]
    wanted = (placement.scaled_camera(solved.world_to_camera, scale) @ homogeneous.T)[:3]
    first, second = intrinsics @ seen, solved.intrinsics @ wanted
    assert first[:2] / first[2] == pytest.approx(second[:2] / second[2], abs=1e-4)


def test_a_variant_is_one_undo_step(blender, variants):
    make_undo_steps()
    height = made().dimensions.z
    bpy.ops.maquette.apply_result("EXEC_DEFAULT", True, job_id=variants, variant=2, instead=True)
    bpy.context.view_layer.update()
    assert made().dimensions.z == pytest.approx(height / 3, rel=1e-4)
    bpy.ops.ed.undo()
    assert made().dimensions.z == pytest.approx(height, rel=1e-4)


@pytest.fixture
def match(blender, picture):
    module("properties").set_engines([("cube", "Cube", "")])
    settings = bpy.context.scene.maquette_match
    settings.image, settings.engine, settings.move, settings.size = str(picture), "cube", "KNOWN", 0.5
    bpy.context.scene.cursor.location = (0.3, -0.2, 0.4)
    return settings


def test_a_known_camera_stays_and_the_object_stands_at_the_cursor(blender, match):
    scene = bpy.context.scene
    bpy.context.view_layer.update()
    before = scene.camera.matrix_world.copy()
    lens = scene.camera.data.lens
    assert bpy.ops.maquette.match_photo() == {"FINISHED"}
    store = blender.session.get().store
    record = store.all()[0]
    pump_until(lambda: store.get(record.job_id).applied)
    sent = {name: np.array(value) for name, value in record.parameters["camera"].items()}
    assert scene.camera.matrix_world == before and scene.camera.data.lens == lens
    item = made()
    assert tuple(item.location) == pytest.approx((0.3, -0.2, 0.4)) and item.dimensions.x == pytest.approx(0.5)
    # A point of the cube is seen by the parameter where the scene's camera sees it in the world.
    point = np.array([0.4, -0.3, 0.2])
    world_to_camera, intrinsics = module("scene.cameras").read_camera(scene.camera, (64, 48))
    cube = intrinsics @ (sent["world_to_camera"] @ [*point, 1.0])[:3]
    world = intrinsics @ (world_to_camera @ [*(np.array([0.3, -0.2, 0.4]) + 0.5 * point), 1.0])[:3]
    assert cube[:2] / cube[2] == pytest.approx(world[:2] / world[2], abs=1e-6)
    assert sent["intrinsics"] == pytest.approx(intrinsics)
    assert record.parameters["focal"] is None
    match.move = "CAMERA"
    assert bpy.ops.maquette.restore_inputs(job_id=record.job_id) == {"FINISHED"}
    assert match.move == "KNOWN"


def test_a_cursor_behind_the_camera_is_told(blender, match):
    bpy.context.view_layer.update()
    camera = bpy.context.scene.camera
    bpy.context.scene.cursor.location = (camera.matrix_world @ Matrix.Translation((0, 0, 2))).translation
    with pytest.raises(RuntimeError, match="behind the camera"):
        bpy.ops.maquette.match_photo()
    camera.data.type = "ORTHO"
    with pytest.raises(RuntimeError, match="no perspective camera"):
        bpy.ops.maquette.match_photo()
