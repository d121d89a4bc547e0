"""A mesh put into its picture: a job's folder made by hand, whose point map Blender renders and the backend's own
solver reads, so that the camera must come back where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from pathlib import Path

import bpy
import numpy as np
import pytest
from mathutils import Matrix, Vector

from .conftest import ROOT, contract, make_undo_steps, module

SIDE = 96
EYES = ((3.5, -3.0, 2.6), (-2.5, -3.5, 1.8))  # of the cameras that took the variants, around the crate
FOCAL = 1.4


@pytest.fixture
def crate(blender) -> bpy.types.Object:
    """A cube, a little turned, somewhere in the scene, with a material of its own and a UV map."""
    crate = bpy.data.objects["Cube"]
    crate.name = "Crate"
    crate.matrix_world = Matrix.Translation((1.0, 2.0, 1.5)) @ Matrix.Rotation(0.3, 4, "Z") @ Matrix.Scale(0.8, 4)
    bpy.context.scene.render.engine = "CYCLES"
    bpy.context.scene.cycles.samples = 1
    bpy.context.view_layer.update()
    return crate


def middle(item: bpy.types.Object) -> np.ndarray:
    return np.array(item.matrix_world.translation)


def known_camera(item: bpy.types.Object, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    frames = contract("frames")
    pose = frames.look_at(middle(item) + EYES[number], middle(item) + (0.1, 0.05, -0.1))
    return pose, np.array([[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1.0]])


def rendered(item: bpy.types.Object, number: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The picture [S,S,3] under a sun from the left, on green, and the places [S,S,3] of the pixels' middles in the
    world, NaN where the object is not. Blender renders both."""
    capture, reference = module("scene.capture"), module("scene.reference_capture")
    pose, intrinsics = known_camera(item, number)
    camera = capture.CaptureCamera(pose, intrinsics, (SIDE, SIDE))
    with capture.scratch_scene([item], 1, 1) as (scene, holder, rig):
        reference._configure(scene)
        capture.place_camera(holder, scene.render, camera)
        rig.set(capture.Lighting(seed=1))
        rig._set_sky((1.0, 1.0, 1.0), 0.3)
        for sun in rig.suns:
            sun.data.energy = 0.0
        rig.suns[0].data.energy, rig.suns[0].data.angle = 2.0, 0.0
        rig.suns[0].matrix_world = SUN.to_track_quat("Z", "Y").to_matrix().to_4x4()
        scene.render.filepath = str(folder / "places.exr")
        bpy.ops.render.render(write_still=True, scene=scene.name)
        channels = module("scene.exr").read_exr(folder / "places.exr")
        layer = scene.view_layers[0].name
    color = capture.pass_array(channels, layer, "color", "RGBA")
    places = capture.pass_array(channels, layer, "points", "XYZ")
    mask = color[..., 3:] > 0.5
    return np.where(mask, capture.linear_to_srgb(color[..., :3]), (0.1, 0.5, 0.2)), np.where(mask, places, np.nan)


SUN = Vector((0.2, -0.8, 0.7)).normalized()  # towards it
SOLVE = """
import json, sys, numpy as np
from backend.systems.refany3d.camera_from_points import solve_picture
from backend.systems.refany3d.point_maps import Bounds
with np.load(sys.argv[1]) as sent:
    bounds = Bounds(*sent["bounds"])
    print(json.dumps([solve_picture(values, bounds).to_json() for values in sent["maps"]]))
"""
_solved: dict[bytes, tuple[list[np.ndarray], list[dict]]] = {}


def pictures_and_cameras(
    item: bpy.types.Object, bounds: np.ndarray, folder: Path
) -> tuple[list[np.ndarray], list[dict]]:
    """A picture an eye, and its camera as the backend solves it; `bounds` [2,3] is the box. Done once for a place."""
    key = bounds.round(6).tobytes()
    if key not in _solved:
        shots = [rendered(item, number, folder) for number in range(len(EYES))]
        maps = [contract("reference_views").encode_points(places, *bounds) for _, places in shots]
        np.savez(folder / "maps.npz", bounds=bounds, maps=np.where(np.isnan(maps), 1.0, maps))
        python = os.environ["MAQUETTE_BACKEND_PYTHON"]  # Blender's own has no scipy
        done = subprocess.run(
            [python, "-c", SOLVE, str(folder / "maps.npz")], cwd=ROOT, check=True, capture_output=True, text=True
        )
        _solved[key] = [picture for picture, _ in shots], json.loads(done.stdout)
    return _solved[key]


def make_job(items: list[bpy.types.Object], tmp_path: Path, **camera) -> str:
    """A finished job of one picture an eye; `camera` changes what its report says. Returns its id."""
    store = module("runtime.session").get().open_folder()
    records, intent, run = module("runtime.job_store"), module("runtime.intent"), module("runtime.session").BLENDER_RUN
    scene, job_id = bpy.context.scene, uuid.uuid4().hex
    corners = np.array([item.matrix_world @ Vector(corner) for item in items for corner in item.bound_box])
    bounds = np.stack([corners.min(axis=0), corners.max(axis=0)])
    folder = store.folder(job_id)
    folder.mkdir(parents=True)
    variants, files = [], []
    for number, (picture, solved) in enumerate(zip(*pictures_and_cameras(items[0], bounds, tmp_path), strict=True)):
        variants.append({"seed": number, "camera": solved | camera})
        png = module("scene.png").png_bytes(np.rint(picture * 255).astype(np.uint8))
        (folder / f"picture-{number}.png").write_bytes(png)
        files.append(contract("messages").Artifact(f"picture-{number}.png", "0" * 64, len(png), "image/png"))
    targets = tuple(
        intent.MatchTarget(
            run, scene.session_uid, item.session_uid, item.name,
            tuple(np.array(item.matrix_world, np.float64).ravel().tolist()),
        ) for item in items
    )  # fmt: skip
    origin = intent.intent_to_json(intent.ApplyIntent(run, scene.session_uid, scene.name, move="NONE", targets=targets))
    parameters = {"prompt": "x", "seed": 0, "bounds_min": bounds[0].tolist(), "bounds_max": bounds[1].tolist()}
    store.put(records.JobRecord(
        job_id, "Crate", "cube", "render_picture", parameters, json.loads(json.dumps(origin)), "", time.time(),
        state="done", downloaded=True, applied=1, artifacts=tuple(files), report={"variants": variants},
    ))  # fmt: skip
    scene.maquette_render.shown_job, scene.maquette_render.shown_variant = job_id, 0
    return job_id


def settings(**changes) -> bpy.types.PropertyGroup:
    """The panel, with everything beside the camera left out."""
    panel = bpy.context.scene.maquette_render
    panel.ground = panel.light = panel.compositing = False
    for name, value in changes.items():
        setattr(panel, name, value)
    return panel


def put() -> str:
    """Press the button; what it has to say."""
    bpy.context.view_layer.update()
    return module("operators.picture_results").put_into_picture(bpy.context)


def camera_now() -> tuple[np.ndarray, np.ndarray]:
    bpy.context.view_layer.update()
    return module("scene.cameras").read_camera(bpy.context.scene.camera, (SIDE, SIDE))


def seen(item: bpy.types.Object) -> np.ndarray:
    """Where the scene's camera sees the corners [8,2] of the item."""
    bpy.context.view_layer.update()
    corners = np.array([item.matrix_world @ Vector(corner) for corner in item.bound_box])
    return contract("frames").project(corners, *camera_now())[0]


def test_the_camera_comes_back_where_it_was(crate, tmp_path):
    make_undo_steps()
    make_job([crate], tmp_path)
    settings()
    before, old = crate.matrix_world.copy(), bpy.context.scene.camera
    old_place = old.matrix_world.copy()
    bpy.context.scene.render.resolution_x = 1920
    assert bpy.ops.maquette.put_into_picture("EXEC_DEFAULT", True) == {"FINISHED"}
    pose, intrinsics = known_camera(crate)
    found, lens = camera_now()
    assert np.abs(found - pose).max() < 1e-3 and np.abs(lens - intrinsics).max() < 1e-3
    scene = bpy.context.scene
    camera = scene.camera
    assert camera.name == "Crate Picture Camera" and crate.matrix_world == before
    assert old.name in scene.objects and old.matrix_world == old_place  # the artist's own camera stays
    assert (scene.render.resolution_x, scene.render.resolution_y) == (SIDE, SIDE)
    (background,) = camera.data.background_images
    assert background.image.packed_file is not None and camera.data.show_background_images
    bpy.ops.ed.undo()
    scene = bpy.context.scene
    assert "Crate Picture Camera" not in bpy.data.objects and scene.camera.name == "Camera"
    assert scene.render.resolution_x == 1920


def test_an_object_that_was_moved_takes_the_camera_along(crate, tmp_path):
    make_job([crate], tmp_path)
    settings()
    put()
    wanted = seen(crate)
    crate.matrix_world = (
        Matrix.Translation((5, -3, 2)) @ Matrix.Rotation(1.1, 4, "X") @ Matrix.Scale(3.0, 4) @ crate.matrix_world
    )
    crate.name = "Renamed"
    bpy.context.view_layer.update()
    kept = crate.matrix_world.copy()
    put()
    assert seen(crate) == pytest.approx(wanted, abs=1e-4) and crate.matrix_world == kept
    assert len([item for item in bpy.data.objects if item.type == "CAMERA"]) == 2


def test_a_variant_that_is_picked_moves_the_same_camera(crate, tmp_path):
    job_id = make_job([crate], tmp_path)
    settings(ground=True)
    put()
    names = {item.name for item in bpy.data.objects}
    settings(light=True)  # what is not there already is not added by a click
    assert bpy.ops.maquette.apply_result(job_id=job_id, variant=1, instead=True) == {"FINISHED"}
    assert {item.name for item in bpy.data.objects} == names
    pose, _ = known_camera(crate, 1)
    assert np.abs(camera_now()[0] - pose).max() < 1e-3
    (background,) = bpy.context.scene.camera.data.background_images
    assert background.image.name == "Crate Picture 2"


def test_without_the_pictures_size_the_frame_stays_and_the_object_is_seen_in_place(crate, tmp_path):
    make_job([crate], tmp_path)
    settings(set_render_size=False)
    render = bpy.context.scene.render
    render.resolution_x, render.resolution_y = 192, 96
    put()
    assert (render.resolution_x, render.resolution_y) == (192, 96)
    wide, lens = module("scene.cameras").read_camera(bpy.context.scene.camera, (192, 96))
    corners = np.array([crate.matrix_world @ Vector(corner) for corner in crate.bound_box])
    frames = contract("frames")
    uv, wanted = frames.project(corners, wide, lens)[0], frames.project(corners, *known_camera(crate))[0]
    assert uv == pytest.approx(np.c_[0.25 + wanted[:, 0] / 2, wanted[:, 1]], abs=1e-3)


def test_a_camera_that_is_not_trusted_is_told_in_words_and_in_the_panel(crate, tmp_path):
    job_id = make_job([crate], tmp_path, trusted=False, reason="The camera is uncertain: it is far off.")
    settings()
    assert put() == "The camera is uncertain: it is far off."
    store = module("runtime.session").get().store
    words, warning = module("operators.applying_picture").camera_words(store.get(job_id), 0)
    assert words.startswith("Camera: ") and "px off" in words and words.endswith("% agree")
    assert warning == "The camera is uncertain: it is far off."


@pytest.mark.parametrize("name", ["put_into_picture", "project_picture"])
def test_without_a_camera_nothing_happens(crate, tmp_path, name):
    job_id = make_job([crate], tmp_path, world_to_camera=None, intrinsics=None, trusted=False, reason="It is flat.")
    objects = {item.name for item in bpy.data.objects}
    with pytest.raises(RuntimeError, match="No camera fits this picture. Choose another variant"):
        getattr(bpy.ops.maquette, name)()
    assert {item.name for item in bpy.data.objects} == objects
    store = module("runtime.session").get().store
    assert module("operators.applying_picture").camera_words(store.get(job_id), 0) == ("", "It is flat.")


def test_a_variant_without_a_camera_is_shown_and_the_camera_stays(crate, tmp_path):
    job_id = make_job([crate], tmp_path)
    settings()
    put()
    before = bpy.context.scene.camera.matrix_world.copy()
    record = module("runtime.session").get().store.get(job_id)
    record.report["variants"][1]["camera"] = {"world_to_camera": None, "intrinsics": None, "reason": "It is flat."}
    message = module("operators.applying").apply_job(bpy.context, job_id, 1, True)
    assert message.startswith("No camera fits this picture")
    assert bpy.context.scene.maquette_render.shown_variant == 1 and bpy.context.scene.camera.matrix_world == before


def test_numbers_that_are_none_are_told(crate, tmp_path):
    make_job([crate], tmp_path, world_to_camera=[[float("nan")] * 4] * 4)
    with pytest.raises(RuntimeError, match="cannot be read"):
        bpy.ops.maquette.put_into_picture()


def test_an_object_that_was_stretched_or_is_gone_is_told(crate, tmp_path):
    make_job([crate], tmp_path)
    settings(ground=True, light=True)
    crate.scale.z *= 2
    bpy.context.view_layer.update()
    with pytest.raises(RuntimeError, match="stretched or mirrored"):
        bpy.ops.maquette.put_into_picture()
    crate.scale.z /= 2
    bpy.context.view_layer.update()
    pose = known_camera(crate)[0]
    bpy.data.objects.remove(crate)
    said = put()
    assert "not in this scene any more" in said and "light is a guess" in said
    assert np.abs(camera_now()[0] - pose).max() < 1e-3


def test_one_of_several_that_is_gone_is_told(crate, tmp_path):
    other = bpy.data.objects.new("Other", crate.data)
    other.matrix_world = crate.matrix_world @ Matrix.Translation((0, 0, -0.1))
    bpy.context.scene.collection.objects.link(other)
    bpy.context.view_layer.update()
    pose = known_camera(crate)[0]
    make_job([crate, other], tmp_path)
    settings()
    bpy.data.objects.remove(crate)
    assert put() == "Some of the objects are not in this scene any more."
    assert np.abs(camera_now()[0] - pose).max() < 1e-3


def test_ground_and_light_stand_where_they_belong(crate, tmp_path):
    make_job([crate], tmp_path)
    settings(ground=True, light=True)
    assert put() == ""
    ground, light = bpy.data.objects["Shadow Catcher"], bpy.data.objects["Picture Light"]
    bpy.context.view_layer.update()
    lowest = min((crate.matrix_world @ vertex.co).z for vertex in crate.data.vertices)
    assert ground.is_shadow_catcher and ground.matrix_world.translation.z == pytest.approx(lowest, abs=1e-5)
    assert ground.dimensions.x > 8 * crate.dimensions.x
    towards = light.matrix_world.to_3x3() @ Vector((0, 0, 1))
    assert towards.angle(SUN) < np.radians(15) and light.data.type == "SUN"
    assert light.data.energy == pytest.approx(2.0, rel=0.3)  # the sun that the picture was rendered with
    put()
    assert len([item for item in bpy.data.objects if item.name.startswith(("Shadow", "Picture Light"))]) == 2


def test_light_that_a_picture_does_not_tell_is_a_guess(blender):
    light = module("scene.picture_light")
    normals = np.random.default_rng(0).normal(size=(40, 40, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    pose = contract("frames").look_at(np.array([0.0, -4.0, 0.5]), np.zeros(3))
    even = light.estimated_light(
        np.full((40, 40, 3), 0.6), np.ones((40, 40, 3)), normals, np.ones((40, 40), bool), pose
    )
    assert even.guessed and even.direction @ (0, -1, 0) > 0.3 and even.direction[2] > 0.3
    below = np.clip(0.1 + 0.8 * np.maximum(normals @ (0.6, 0.0, -0.8), 0), 0, 1)
    shaded = np.repeat(module("scene.capture").linear_to_srgb(below)[..., None], 3, axis=-1)
    found = light.estimated_light(shaded, np.ones((40, 40, 3)), normals, np.ones((40, 40), bool), pose)
    assert not found.guessed and found.direction[2] == pytest.approx(np.sin(np.radians(10))) and found.sun > 0.7


def render_result(tmp_path: Path) -> np.ndarray:
    """The scene as F12 renders it [S,S,3], 0 to 255."""
    from PIL import Image

    render = bpy.context.scene.render
    render.image_settings.file_format, render.filepath = "PNG", str(tmp_path / "out.png")
    bpy.ops.render.render(write_still=True)
    return np.array(Image.open(tmp_path / "out.png").convert("RGB")).astype(int)


def test_a_render_stands_on_the_picture(crate, tmp_path):
    job_id = make_job([crate], tmp_path)
    settings(compositing=True)
    assert put() == ""
    out = render_result(tmp_path)
    from PIL import Image

    picture = np.array(Image.open(module("runtime.session").get().store.folder(job_id) / "picture-0.png")).astype(int)
    assert np.abs(out[:6] - picture[:6]).max() <= 2  # around the object it is the picture itself
    crate.hide_render = True
    assert np.abs(render_result(tmp_path) - picture).max() <= 2


def test_compositing_nodes_of_the_artist_stay(crate, tmp_path):
    make_job([crate], tmp_path)
    scene = bpy.context.scene
    if bpy.app.version < (5, 0):
        scene.use_nodes = True
        tree = scene.node_tree
    else:
        tree = scene.compositing_node_group = bpy.data.node_groups.new("Own", "CompositorNodeTree")
    tree.nodes.new("CompositorNodeBlur")
    count = len(tree.nodes)
    settings(compositing=True)
    assert "compositing nodes of its own" in put()
    assert len(tree.nodes) == count and not scene.render.film_transparent


def test_the_picture_is_thrown_onto_the_mesh_as_one_undo_step(crate, tmp_path):
    make_undo_steps()
    make_job([crate], tmp_path)
    material = crate.material_slots[0].material.name
    assert bpy.ops.maquette.project_picture("EXEC_DEFAULT", True) == {"FINISHED"}
    crate = bpy.data.objects["Crate"]
    assert [slot.material.name for slot in crate.material_slots] == [material, "Crate Picture 1"]
    indices = [polygon.material_index for polygon in crate.data.polygons]
    assert sorted(indices) == [0, 0, 0, 1, 1, 1]  # a cube shows three sides
    bpy.ops.ed.undo()
    crate = bpy.data.objects["Crate"]
    assert len(crate.material_slots) == 1 and [layer.name for layer in crate.data.uv_layers] == ["UVMap"]


def test_an_object_that_is_scaled_flat_has_its_camera_too(crate, tmp_path):
    flat = bpy.data.objects.new("Flat", crate.data)
    flat.matrix_world = crate.matrix_world @ Matrix.Diagonal((1.0, 1.0, 0.0, 1.0))
    bpy.context.scene.collection.objects.link(flat)
    bpy.context.view_layer.update()
    job_id = make_job([crate], tmp_path)
    store = module("runtime.session").get().store
    record = store.get(job_id)
    record.origin["targets"][0] |= {
        "uid": flat.session_uid, "name": "Flat", "matrix": np.array(flat.matrix_world).ravel().tolist(),
    }  # fmt: skip
    settings()
    assert put() == "" and np.abs(camera_now()[0] - known_camera(crate)[0]).max() < 1e-3
