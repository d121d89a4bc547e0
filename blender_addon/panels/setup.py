"""The set-up card: what is missing and one button; gone when all is well."""

from __future__ import annotations

import bpy

from ..runtime import session
from ..runtime.backend_process import State
from . import widgets

_TITLES = {
    State.ABSENT: "Not set up yet",
    State.INSTALLING: "Setting up",
    State.STOPPED: "Backend: starts with the first job",
    State.STARTING: "Backend: starting",
    State.READY: "Backend: ready",
    State.BUSY: "Backend: working",
    State.STOPPING: "Backend: stopping",
    State.CRASHED: "Backend: stopped unexpectedly",
}


class MAQUETTE_PT_setup(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Maquette"
    bl_options = {"HIDE_HEADER"}

    def draw(self, context: bpy.types.Context) -> None:
        snapshot = session.get().snapshot
        layout = self.layout
        if snapshot.state is State.ABSENT:
            _draw_card(layout.box(), context)
        elif snapshot.state is State.INSTALLING:
            box = layout.box()
            box.label(text="Setting up", icon="IMPORT")
            box.progress(factor=snapshot.install_fraction, text="")
            widgets.sentence(box, context, snapshot.install_message)
        else:
            row = layout.row()
            named = snapshot.device not in ("", "auto") and snapshot.state is not State.STOPPED
            device = f" ({snapshot.device})" if named else ""
            row.label(text=_TITLES[snapshot.state] + device)
            if snapshot.state in (State.READY, State.BUSY):
                row.operator("maquette.stop_backend", text="", icon="QUIT", emboss=False)
            elif snapshot.state in (State.STOPPED, State.CRASHED):
                row.operator("maquette.start_backend", text="", icon="PLAY", emboss=False)
        if snapshot.trouble:
            box = layout.box()
            widgets.sentence(box, context, snapshot.trouble, "ERROR")
            row = box.row(align=True)
            widgets.next_step_button(row, snapshot.next_step)
            row.operator("maquette.copy_report")


def _draw_card(box: bpy.types.UILayout, context: bpy.types.Context) -> None:
    box.label(text="Welcome to Maquette", icon="INFO")
    widgets.sentence(
        box,
        context,
        "A picture becomes an object, and the camera stands where the picture was taken. The networks run in a Python "
        "of their own, which has to be made once: about 1 GB in Maquette's folder. Blender is not changed.",
    )
    offline = not bpy.app.online_access and not session.get().install_plan().wheel_folder
    if offline:
        widgets.sentence(box, context, "Blender may not go online. Allow it, or name a folder of packages.", "ERROR")
        box.operator("preferences.addon_show", text="Open Preferences").module = context_package()
    row = box.row()
    row.enabled = not offline
    row.scale_y = 1.4
    row.operator("maquette.set_up", icon="IMPORT")


def context_package() -> str:
    """The name under which Blender lists the extension."""
    from .. import package

    return package.ROOT_PACKAGE


CLASSES = (MAQUETTE_PT_setup,)
