"""Import Splats: a PLY file of Gaussian splats, ours or another program's, as an object."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import FloatProperty, StringProperty

from ...backend.contract.errors import MaquetteError
from ...backend.contract.splats import SplatError, splats_from_ply
from ..scene import splats
from .common import reports_failures


def import_splats(scene: bpy.types.Scene, path: Path, scale: float = 1.0) -> bpy.types.Object:
    """The splats in the file as an object at the 3D cursor. Errors: `MaquetteError` with one sentence."""
    try:
        found = splats_from_ply(path.read_bytes())
    except OSError as error:
        raise MaquetteError("bad_input", f"{path.name} cannot be read. Choose another file.", str(error)) from error
    except SplatError as error:
        raise MaquetteError("bad_input", str(error)) from error
    made = splats.add_splats(scene, path.stem, found, scale)
    made.location = scene.cursor.location
    return made


class MAQUETTE_OT_import_splats(bpy.types.Operator):
    bl_idname = "maquette.import_splats"
    bl_label = "Import Splats (.ply)"
    bl_description = "Show a file of Gaussian splats as an object"
    bl_options = {"REGISTER", "UNDO"}

    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_glob: StringProperty(default="*.ply", options={"HIDDEN"})
    scale: FloatProperty(name="Scale", description="Metres a unit of the file", default=1.0, min=1e-4, soft_max=100.0)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        made = import_splats(context.scene, Path(bpy.path.abspath(self.filepath)), self.scale)
        for item in context.selected_objects:
            item.select_set(False)
        made.select_set(True)
        context.view_layer.objects.active = made
        return {"FINISHED"}


def menu_entry(menu: bpy.types.Menu, _context: bpy.types.Context) -> None:
    """The entry in File > Import."""
    menu.layout.operator(MAQUETTE_OT_import_splats.bl_idname, text="Gaussian Splats (.ply)")


CLASSES = (MAQUETTE_OT_import_splats,)


def attach() -> None:
    """Put the entry into File > Import."""
    bpy.types.TOPBAR_MT_file_import.append(menu_entry)


def detach() -> None:
    """Take it out again."""
    bpy.types.TOPBAR_MT_file_import.remove(menu_entry)
