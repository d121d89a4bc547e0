"""Several photos of one object: the list in the panel, what is sent, and a camera for each photo in the scene."""

from __future__ import annotations

import json
from pathlib import Path

import bpy
import numpy as np
import pytest
from PIL import Image

from .conftest import contract, make_undo_steps, module, pump_until
from .test_painting import paint

SIZES = {"front": (64, 48), "side": (48, 64), "back": (80, 40)}


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """Pictures of different shapes by name."""
    paths = {}
    for name, size in SIZES.items():
        paths[name] = tmp_path / f"{name}.png"
        Image.new("RGB", size, (180, 90, 40)).save(paths[name])
    return paths


@pytest.fixture
def three(blender, generate, photos):
    """Fill in the list of photos; returns a function that presses Generate and gives the job's id."""

    def press(**options) -> str:
        add(photos["side"], photos["back"])
        bpy.context.scene.maquette_create.photos[1].mask = str(photos["front"])
        return generate(photos["front"], **options)

    return press


def add(*paths: Path) -> None:
    files = [{"name": path.name} for path in paths]
    assert bpy.ops.maquette.add_photos(directory=str(paths[0].parent), files=files) == {"FINISHED"}


def cameras() -> dict[str, bpy.types.Object]:
    return {item.name: item for item in bpy.data.objects if item.type == "CAMERA"}


def test_photos_come_into_the_list_and_leave_it(blender, photos):
    settings = bpy.context.scene.maquette_create
    assert not bpy.ops.maquette.remove_photo.poll()
    add(photos["side"], photos["back"])
    assert [Path(photo.image).name for photo in settings.photos] == ["side.png", "back.png"]
    assert settings.photo_index == 1
    assert bpy.ops.maquette.remove_photo() == {"FINISHED"}
    assert [Path(photo.image).name for photo in settings.photos] == ["side.png"] and settings.photo_index == 0
    with pytest.raises(RuntimeError, match="No photo is chosen"):
        bpy.ops.maquette.add_photos(directory=str(photos["side"].parent))
    for _ in range(4):
        add(photos["side"], photos["back"])
    assert len(settings.photos) == module("operators.photos").MOST_PHOTOS - 1


def test_a_photo_that_is_none_is_named_before_anything_is_sent(blender, photos, tmp_path):
    settings, photo_list = bpy.context.scene.maquette_create, module("operators.photos")
    settings.photos.add()
    failure = contract("errors").MaquetteError
    with pytest.raises(failure, match="Photo 2 in the list is empty"):
        photo_list.checked_photos(settings)
    settings.photos[0].image = str(tmp_path / "gone.png")
    with pytest.raises(failure, match=r'picture "gone.png" was not found'):
        photo_list.checked_photos(settings)
    settings.photos[0].image, settings.photos[0].mask = str(photos["side"]), str(tmp_path)
    with pytest.raises(failure, match="is a folder"):
        photo_list.checked_photos(settings)
    for _ in range(8):
        settings.photos.add().image = str(photos["side"])
    with pytest.raises(failure, match="8 can be used"):
        photo_list.checked_photos(settings)


def test_every_photo_has_a_mask_and_an_occluder_painted_or_chosen(blender, generate, photos):
    settings, painting = bpy.context.scene.maquette_create, module("operators.painting")
    with pytest.raises(RuntimeError, match="no further photo"):
        bpy.ops.maquette.paint_mask(target="photo", kind="occluder")
    add(photos["side"], photos["back"])
    settings.photos[0].occluder = str(photos["front"])
    image = painting.image_to_paint(bpy.context.scene, "photo", "occluder")
    assert tuple(image.size) == SIZES["back"] and settings.photos[1].occluder_image == image
    paint(image, (5, 10, 20, 30))
    paint(painting.image_to_paint(bpy.context.scene, "photo", "mask"), (0, 0, 40, 40))
    store, job_id = blender.session.get().store, generate(photos["front"])
    assert store.get(job_id).report["inputs"] == ["image", "image_1", "image_2", "mask_2", "occluder_1", "occluder_2"]
    assert np.asarray(Image.open(store.folder(job_id) / "input_occluder_2.png")).sum() == 255 * 15 * 20
    settings.photos.clear()
    assert bpy.ops.maquette.restore_inputs(job_id=job_id) == {"FINISHED"}
    assert [Path(photo.occluder).name for photo in settings.photos] == ["front.png", "input_occluder_2.png"]
    assert settings.photos[1].occluder_image is None and Path(settings.photos[1].mask).name == "input_mask_2.png"


def test_what_is_painted_over_another_photo_is_not_sent(blender, generate, photos):
    settings, painting = bpy.context.scene.maquette_create, module("operators.painting")
    add(photos["side"])
    paint(painting.image_to_paint(bpy.context.scene, "photo", "occluder"), (5, 10, 20, 30))
    settings.photos[0].image = str(photos["back"])
    store = blender.session.get().store
    before = set(store.root.iterdir())
    with pytest.raises(RuntimeError, match="Photo 2: The painted occluder belongs to another picture"):
        generate(photos["front"])
    assert set(store.root.iterdir()) == before
    assert bpy.ops.maquette.remove_painted(target="photo", kind="occluder") == {"FINISHED"}
    assert store.get(generate(photos["front"])).report["inputs"] == ["image", "image_1"]


def test_every_photo_gets_a_camera_that_sees_the_object_as_it_does(blender, three):
    scene, before = bpy.context.scene, cameras()
    own = {name: item.matrix_world.copy() for name, item in before.items()}
    active = bpy.context.active_object.name
    scene.cursor.location = (1.0, 2.0, 0.5)
    job_id = three()
    store = blender.session.get().store
    assert store.get(job_id).report["inputs"] == ["image", "image_1", "image_2", "mask_2"]
    found = cameras()
    assert set(found) - set(before) == {"front Camera", "side Camera", "back Camera"}
    assert scene.camera.name == "front Camera" and bpy.context.active_object.name == active
    assert all(found[name].matrix_world == matrix for name, matrix in own.items())
    assert (scene.render.resolution_x, scene.render.resolution_y) == SIZES["front"]
    (made,) = [item for item in bpy.data.objects if "maquette" in item]
    bpy.context.view_layer.update()
    corners = np.array([made.matrix_world @ vertex.co for vertex in made.data.vertices])
    mesh = contract("meshes").mesh_from_bytes(store.artifact_path(job_id, "asset.mesh").read_bytes())
    frames = contract("frames")
    for number, name in enumerate(SIZES):
        ending = f"_{number}" if number else ""
        solved = json.loads(store.artifact_path(job_id, f"camera{ending}.json").read_text())
        uv, _ = frames.project(mesh.vertices, np.array(solved["world_to_camera"]), np.array(solved["intrinsics"]))
        camera = found[f"{name} Camera"]
        matrix, intrinsics = module("scene.cameras").read_camera(camera, SIZES["front"])
        seen, _ = frames.project(corners, matrix, intrinsics)
        assert np.abs(seen - in_frame(uv, SIZES[name], SIZES["front"])).max() < 1e-4, name
        (background,) = camera.data.background_images
        assert background.image.filepath.endswith(f"{name}.png") and background.frame_method == "FIT"
        assert camera.data.show_background_images


def in_frame(uv: np.ndarray, picture: tuple[int, int], frame: tuple[int, int]) -> np.ndarray:
    """Places [N,2] in a picture as places in a frame that it is fitted into, in the middle."""
    scale = min(frame[0] / picture[0], frame[1] / picture[1])
    shown = np.array(picture) * scale / frame
    return 0.5 + (uv - 0.5) * shown


def test_three_photos_are_one_undo_step(blender, three):
    make_undo_steps()
    before, size = set(cameras()), bpy.context.scene.render.resolution_x
    camera = bpy.context.scene.camera.name
    three()
    assert len(cameras()) == len(before) + 3
    bpy.ops.ed.undo()
    assert set(cameras()) == before and not [item for item in bpy.data.objects if "maquette" in item]
    assert bpy.context.scene.camera.name == camera and bpy.context.scene.render.resolution_x == size
    bpy.ops.ed.redo()
    assert len(cameras()) == len(before) + 3 and bpy.context.scene.camera.name == "front Camera"


def test_a_variant_takes_the_cameras_of_the_one_before(blender, three):
    bpy.context.scene.maquette_create.variants = 2
    job_id = three()
    names = set(cameras())
    own = bpy.context.scene.camera
    bpy.context.scene.camera = bpy.data.objects["Camera"]  # the artist looks through another one meanwhile
    elsewhere = bpy.context.scene.camera.matrix_world.copy()
    cameras()["side Camera"].location = (9.0, 9.0, 9.0)
    bpy.data.objects.remove(cameras()["back Camera"])
    assert bpy.ops.maquette.apply_result(job_id=job_id, variant=1, instead=True) == {"FINISHED"}
    assert set(cameras()) == names and bpy.context.scene.camera == own
    assert bpy.data.objects["Camera"].matrix_world == elsewhere
    assert max(abs(value) for value in cameras()["side Camera"].location) < 8.0
    assert bpy.ops.maquette.apply_result(job_id=job_id) == {"FINISHED"}  # Apply Again adds a second set
    assert len(cameras()) == len(names) + 3


def test_without_matching_only_the_object_comes(blender, three):
    bpy.context.scene.maquette_create.match_camera = False
    before = set(cameras())
    three()
    assert set(cameras()) == before and [item for item in bpy.data.objects if "maquette" in item]


def test_an_unsolved_first_camera_leaves_the_others(blender, three):
    own = bpy.context.scene.camera.name
    three(seed=13)
    assert bpy.context.scene.camera.name == own
    assert {"side Camera", "back Camera"} <= set(cameras()) and "front Camera" not in cameras()


def test_the_photos_come_back_with_the_inputs_and_on_retry(blender, three, photos):
    job_id = three()
    settings = bpy.context.scene.maquette_create
    settings.photos.clear()
    assert bpy.ops.maquette.restore_inputs(job_id=job_id) == {"FINISHED"}
    assert [(Path(photo.image).name, bool(photo.mask)) for photo in settings.photos] == [
        ("side.png", False), ("back.png", True)]  # fmt: skip
    photos["side"].unlink()  # our copy is still there
    assert bpy.ops.maquette.retry_job(job_id=job_id) == {"FINISHED"}
    store = blender.session.get().store
    again = store.all()[0]
    assert again.job_id != job_id
    pump_until(lambda: store.get(again.job_id).applied)
    assert store.get(again.job_id).report["inputs"] == ["image", "image_1", "image_2", "mask_2"]
