"""Masks painted in Blender: the image, what of it is sent, the photo over it, and the editor that comes and goes."""

from __future__ import annotations

import io

import bpy
import numpy as np
import pytest
from PIL import Image, ImageOps

from .conftest import contract, make_undo_steps, module, pump_until


def paint(image, box: tuple[int, int, int, int]) -> None:
    """White in the box (left, top, right, bottom) of the picture as seen."""
    width, height = image.size
    values = np.zeros((height, width, 4), np.float32)
    values[..., 3] = 1.0
    left, top, right, bottom = box
    values[top:bottom, left:right, :3] = 1.0
    image.pixels.foreach_set(values[::-1].ravel())
    image.update()


def to_paint(settings, kind: str):
    """The image to paint in, as the button gets it."""
    return module("operators.mask_files").mask_to_paint(settings, kind)


@pytest.fixture
def settings(blender, picture):
    blender.settings.image = str(picture)
    return blender.settings


def test_a_mask_image_has_the_pictures_size_and_is_found_again(settings, picture, tmp_path):
    masks = module("scene.mask_images")
    image = to_paint(settings, "occluder")
    assert tuple(image.size) == (64, 48) and settings.occluder_image == image and masks.is_mask_image(image)
    assert to_paint(settings, "occluder") == image and settings.mask_image is None
    assert masks.painted_mask(settings, "occluder") is None  # nothing is painted yet
    other = tmp_path / "other.png"
    Image.new("RGB", (4000, 1000)).save(other)
    settings.image = str(other)
    assert tuple(to_paint(settings, "occluder").size) == (2048, 512)


def test_a_png_holds_exactly_what_is_painted(settings):
    masks = module("scene.mask_images")
    paint(to_paint(settings, "mask"), (5, 10, 20, 40))
    painted = masks.painted_mask(settings, "mask")
    back = np.asarray(Image.open(io.BytesIO(masks.mask_png(painted))))
    expected = np.zeros((48, 64), np.uint8)
    expected[10:40, 5:20] = 255
    assert np.array_equal(back, expected)


def test_painted_masks_go_with_the_job_and_come_back(blender, generate, settings, picture):
    for kind in ("mask", "occluder"):
        paint(to_paint(settings, kind), (5, 10, 20, 40))
    settings.mask = "/nowhere/chosen.png"  # what is painted comes before a file
    job_id = generate()
    store = blender.session.get().store
    assert store.get(job_id).report["inputs"] == ["image", "mask", "occluder"]
    assert np.asarray(Image.open(store.folder(job_id) / "input_occluder.png")).sum() == 255 * 15 * 30
    again = module("operators.requesting").retry_job(job_id)
    pump_until(lambda: store.get(again.job_id).downloaded)
    assert store.get(again.job_id).report["inputs"] == ["image", "mask", "occluder"]
    assert bpy.ops.maquette.restore_inputs(job_id=job_id) == {"FINISHED"}
    assert settings.occluder_image is None and settings.occluder.endswith("input_occluder.png")


def test_an_occluder_may_be_a_file(blender, generate, settings, picture):
    settings.occluder = str(picture)
    assert blender.session.get().store.get(generate()).report["inputs"] == ["image", "occluder"]
    settings.occluder = "/nowhere/hand.png"
    with pytest.raises(RuntimeError, match="hand.png"):
        generate()


def test_a_mask_of_another_picture_is_not_sent(blender, generate, settings, tmp_path):
    paint(to_paint(settings, "occluder"), (0, 0, 9, 9))
    other = tmp_path / "other.png"
    Image.new("RGB", (30, 20)).save(other)
    store = blender.session.get().store
    before = set(store.root.iterdir())
    with pytest.raises(RuntimeError, match="belongs to another picture"):
        generate(other)
    assert set(store.root.iterdir()) == before  # no folder is left behind
    assert bpy.ops.maquette.remove_painted(target="create", kind="occluder") == {"FINISHED"}
    assert store.get(generate(other)).report["inputs"] == ["image"]


def test_a_job_that_cannot_be_sent_leaves_nothing_behind(blender, generate, settings, monkeypatch):
    errors, store = contract("errors"), blender.session.get().store
    paint(to_paint(settings, "occluder"), (0, 0, 9, 9))

    def refuse(self):
        raise errors.MaquetteError("model_missing", "The backend is not set up yet. Press Set Up first.")

    before = set(store.root.iterdir())
    monkeypatch.setattr(module("runtime.session").Session, "start_backend", refuse)
    with pytest.raises(RuntimeError, match="Press Set Up first"):
        generate()
    assert set(store.root.iterdir()) == before


def test_what_is_painted_is_saved_with_the_file(settings, tmp_path):
    masks = module("scene.mask_images")
    paint(to_paint(settings, "occluder"), (5, 10, 20, 40))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "scene.blend"))
    back = bpy.context.scene.maquette_create
    assert masks.painted_mask(back, "occluder").sum() == 15 * 30
    assert to_paint(back, "occluder") == back.occluder_image


def test_painting_takes_an_editor_and_gives_it_back(settings):
    paint_view = module("scene.paint_view")
    window = bpy.context.window_manager.windows[0]
    before = [area.ui_type for area in window.screen.areas]
    view = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    image = to_paint(settings, "mask")
    color = paint_view._brush_color(window.scene)
    editor = paint_view.enter(window, view, image)
    assert editor == view and view.type == "IMAGE_EDITOR"
    assert view.spaces.active.image == image and view.spaces.active.ui_mode == "PAINT"
    assert paint_view.enter(window, view, image) == view  # pressed twice
    paint_view.choose_color(window.scene, erase=True)
    assert paint_view.erases(window.scene) or paint_view._brush_color(window.scene) is None
    assert paint_view.leave(window) and not paint_view.leave(window)
    assert [area.ui_type for area in window.screen.areas] == before
    assert paint_view._brush_color(window.scene) == pytest.approx(color) or color is None


def test_an_editor_that_was_there_shows_its_image_again(settings):
    paint_view = module("scene.paint_view")
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type != "VIEW_3D")
    before = area.ui_type
    area.ui_type = "IMAGE_EDITOR"
    area.spaces.active.image = shown = bpy.data.images.new("Texture", 8, 8)
    paint_view.enter(window, None, to_paint(settings, "occluder"))
    assert area.spaces.active.image == settings.occluder_image
    paint_view.leave(window)
    assert area.type == "IMAGE_EDITOR" and area.spaces.active.image == shown and area.spaces.active.ui_mode == "VIEW"
    area.ui_type = before


def test_no_picture_no_painting(blender):
    blender.settings.image = ""
    with pytest.raises(RuntimeError, match="Choose a picture first"):
        bpy.ops.maquette.paint_mask(target="create", kind="mask")
    with pytest.raises(contract("errors").MaquetteError):
        to_paint(blender.settings, "mask")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_lies_upright_over_its_mask(addon_enabled, orientation):
    corners = module("scene.paint_view").photo_corners(orientation)
    stored = Image.fromarray(np.array([[10, 20], [30, 40]], np.uint8))  # one value a corner
    exif = Image.Exif()
    exif[274] = orientation
    data = io.BytesIO()
    stored.save(data, "TIFF", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(data)))
    flipped = np.asarray(stored)[::-1]  # texture coordinates run upwards
    seen = [flipped[int(v), int(u)] for u, v in corners]
    assert seen == [shown[1, 0], shown[1, 1], shown[0, 1], shown[0, 0]]


def press_paint(window: bpy.types.Window) -> bpy.types.Area:
    """Press the brush beside the occluder's field."""
    view = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    region = next(region for region in view.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, area=view, region=region):
        assert bpy.ops.maquette.paint_mask(target="create", kind="occluder") == {"FINISHED"}
    return view


def test_undo_while_painting_leaves_a_way_back(settings):
    make_undo_steps()
    paint_view = module("scene.paint_view")
    window = bpy.context.window_manager.windows[0]
    view = press_paint(window)
    assert view.type == "IMAGE_EDITOR" and settings.occluder_image is not None
    bpy.ops.ed.undo()
    assert bpy.context.scene.maquette_create.occluder_image is None
    window = bpy.context.window_manager.windows[0]
    assert paint_view.leave(window) and "VIEW_3D" in [area.type for area in window.screen.areas]
    assert not paint_view.leave(window)


def test_a_file_saved_while_painting_opens_and_can_be_left(settings, tmp_path):
    paint_view, masks = module("scene.paint_view"), module("scene.mask_images")
    window = bpy.context.window_manager.windows[0]
    press_paint(window)
    paint(settings.occluder_image, (5, 10, 20, 40))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "painting.blend"))
    paint_view.leave(window)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "painting.blend"), load_ui=True)
    window = bpy.context.window_manager.windows[0]
    assert masks.painted_mask(bpy.context.scene.maquette_create, "occluder").sum() == 15 * 30
    paint_view.leave(window)  # whether the window came with the file depends on Blender; there is a way back either way
    assert "VIEW_3D" in [area.type for area in window.screen.areas] and paint_view.KEPT not in window.screen
