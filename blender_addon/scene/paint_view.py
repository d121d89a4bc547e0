"""Painting a mask in the window: an Image Editor in paint mode with a white brush, the photo seen through the mask.

What the artist had before (editor, image, mode, colour of the brush) is kept on the screen, which undo leaves alone and
the file saves, and comes back with `leave`.
"""

from __future__ import annotations

import logging
from typing import Any

import bpy
import gpu
from gpu_extras.batch import batch_for_shader

from . import mask_images

logger = logging.getLogger(__name__)

KEPT = "maquette_painting"  # property of a screen: what `leave` brings back
TAB = "Maquette"  # `widgets.CATEGORY`, which panels know
PHOTO_ALPHA = 0.6  # of the photo over the mask: paint shows through it clearly, and so does the photo
WHITE, BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
# Where the displayed picture's corners (left bottom, right bottom, right top, left top) lie in the stored one, by EXIF
# orientation: Blender shows pictures as they are stored.
_CORNERS = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
_TURNED = {1: (0, 1, 2, 3), 2: (1, 0, 3, 2), 3: (2, 3, 0, 1), 4: (3, 2, 1, 0),
           5: (2, 1, 0, 3), 6: (1, 2, 3, 0), 7: (0, 3, 2, 1), 8: (3, 0, 1, 2)}  # fmt: skip

_handle: Any = None


def enter(window: bpy.types.Window, area: bpy.types.Area | None, image: bpy.types.Image) -> bpy.types.Area | None:
    """Show `image` for painting: in an Image Editor of the window, else in `area`, else in the largest one.

    Returns the editor, None without a window.
    """
    if window is None:
        return None
    screen = window.screen
    areas = list(screen.areas)
    if not areas:
        return None
    editors = [each for each in areas if each.type == "IMAGE_EDITOR" and each.ui_type == "IMAGE_EDITOR"]
    chosen = next((each for each in editors if each.spaces.active.image is image), None)
    chosen = chosen or (editors[0] if editors else area) or max(areas, key=lambda each: each.width * each.height)
    if KEPT not in screen:
        space = chosen.spaces.active
        editor = chosen in editors
        shown = space.image if editor else None
        screen[KEPT] = {
            "area": areas.index(chosen),
            "type": chosen.ui_type,
            "mode": space.ui_mode if editor else "VIEW",
            "image": shown.name if shown is not None and not mask_images.is_mask_image(shown) else "",
            "color": list(_brush_color(window.scene) or WHITE),
        }
    chosen.ui_type = "IMAGE_EDITOR"
    space = chosen.spaces.active
    space.image = image
    space.ui_mode = "PAINT"
    space.show_region_ui = True
    _set_brush_color(window.scene, WHITE)
    _fit_view(window, chosen)
    return chosen


def leave(window: bpy.types.Window) -> bool:
    """Bring back what was there before `enter` and keep what was painted; whether there was anything to leave."""
    mask_images.keep_painted()
    screen = window.screen
    kept = screen.get(KEPT)
    if kept is None:
        return False
    kept = kept.to_dict()
    del screen[KEPT]
    _set_brush_color(window.scene, tuple(kept["color"]))
    areas = list(screen.areas)
    area = areas[kept["area"]] if kept["area"] < len(areas) else None
    if area is None or area.type != "IMAGE_EDITOR":  # the artist has changed the layout since
        return True
    space = area.spaces.active
    space.ui_mode = kept["mode"]
    space.image = bpy.data.images.get(kept["image"]) if kept["image"] else None
    area.ui_type = kept["type"]
    return True


def choose_color(scene: bpy.types.Scene, erase: bool) -> None:
    """Paint white from now on, or erase with black."""
    _set_brush_color(scene, BLACK if erase else WHITE)


def erases(scene: bpy.types.Scene) -> bool:
    """Whether the brush paints black."""
    color = _brush_color(scene)
    return color is not None and sum(color) < 1.5


def has_brush(scene: bpy.types.Scene) -> bool:
    """Whether there is a brush to paint with: some packages of Blender leave the files of its brushes out."""
    return scene.tool_settings.image_paint.brush is not None


def is_painting(context: bpy.types.Context) -> bool:
    """Whether the Image Editor of the context was opened to paint a mask."""
    screen = context.screen
    return screen is not None and KEPT in screen


def start_showing() -> None:
    """Have every Image Editor that paints a mask show the photo over it."""
    global _handle
    if _handle is None and not bpy.app.background:
        _handle = bpy.types.SpaceImageEditor.draw_handler_add(_draw, (), "WINDOW", "POST_VIEW")


def stop_showing() -> None:
    """The opposite of `start_showing`."""
    global _handle
    if _handle is not None:
        bpy.types.SpaceImageEditor.draw_handler_remove(_handle, "WINDOW")
        _handle = None


def photo_corners(orientation: int) -> list[tuple[float, float]]:
    """Where the displayed picture's corners, from the lower left counter-clockwise, lie in the stored picture."""
    return [_CORNERS[index] for index in _TURNED.get(orientation, _TURNED[1])]


def _draw() -> None:
    """Draw the photo over the mask, in the editor's own coordinates, which run from 0 to 1."""
    space = bpy.context.space_data
    image = space.image
    if not mask_images.is_mask_image(image) or space.ui_mode != "PAINT":
        return
    picture = image.get(mask_images.PICTURE)
    if picture is None or not picture.size[0]:
        return
    texture = gpu.texture.from_image(picture)
    shader = gpu.shader.from_builtin("IMAGE_COLOR")
    corners = photo_corners(image.get(mask_images.ORIENTATION, 1))
    batch = batch_for_shader(shader, "TRI_FAN", {"pos": _CORNERS, "texCoord": corners})
    gpu.state.blend_set("ALPHA")
    shader.bind()
    shader.uniform_sampler("image", texture)
    shader.uniform_float("color", (1.0, 1.0, 1.0, PHOTO_ALPHA))
    batch.draw(shader)
    gpu.state.blend_set("NONE")


def _fit_view(window: bpy.types.Window, area: bpy.types.Area) -> None:
    """Show the whole picture and our tab beside it. Both are there only after a redraw, so this waits for one."""

    def fit() -> None:
        region = next((each for each in area.regions if each.type == "WINDOW"), None)
        if region is None or area.type != "IMAGE_EDITOR":
            return
        with bpy.context.temp_override(window=window, area=area, region=region):
            if bpy.ops.image.view_all.poll():
                bpy.ops.image.view_all(fit_view=True)
        sidebar = next((each for each in area.regions if each.type == "UI"), None)
        if sidebar is not None and sidebar.active_panel_category not in ("", "UNSUPPORTED"):
            sidebar.active_panel_category = TAB
            area.tag_redraw()

    if not bpy.app.background:
        bpy.app.timers.register(fit, first_interval=0.3)


def _paint_settings(scene: bpy.types.Scene) -> tuple[Any, Any]:
    """The settings of image painting and the unified ones, which belong to each mode from 5.0 on."""
    paint = scene.tool_settings.image_paint
    return paint, getattr(paint, "unified_paint_settings", None) or scene.tool_settings.unified_paint_settings


def _brush_color(scene: bpy.types.Scene) -> tuple[float, ...] | None:
    paint, unified = _paint_settings(scene)
    if unified.use_unified_color:
        return tuple(unified.color)
    return tuple(paint.brush.color) if paint.brush is not None else None


def _set_brush_color(scene: bpy.types.Scene, color: tuple[float, ...]) -> None:
    paint, unified = _paint_settings(scene)
    if unified.use_unified_color:
        unified.color = color
    elif paint.brush is not None:
        paint.brush.color = color
