"""The Models panel: which weights are there; of the others what they are, how large, under which licence."""

from __future__ import annotations

import bpy

from ...backend.contract.models import ModelInfo
from ..operators import models as model_operators
from ..runtime import session
from ..runtime.backend_process import State
from ..runtime.model_manager import ModelManager
from . import widgets


class MAQUETTE_PT_models(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Models"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return session.get().snapshot.state not in (State.ABSENT, State.INSTALLING)

    def draw_header_preset(self, context: bpy.types.Context) -> None:
        self.layout.operator("maquette.refresh_models", text="", icon="FILE_REFRESH", emboss=False)

    def draw(self, context: bpy.types.Context) -> None:
        layout, manager = self.layout, session.get().models
        if not manager.models:
            layout.label(text="Looking" if manager.running else "Press Refresh to see what there is.")
        elif not model_operators.may_download():
            widgets.sentence(layout, context, model_operators.OFFLINE, "INFO")
        needed = {name for model in manager.models for name in model.needs}
        for model in manager.models:
            if model.id not in needed:
                _draw_model(layout.box(), context, manager, model)
        if manager.failure is not None:
            box = layout.box()
            widgets.sentence(box, context, manager.failure.message, "ERROR")
            if manager.failure.code in ("internal", "offline"):
                box.operator("maquette.copy_report")


def draw_choice(column: bpy.types.UILayout, settings: bpy.types.PropertyGroup, engine: str) -> None:
    """The choice of weights, once there is one for the engine: its published ones are listed by its name."""
    if session.get().models.installed(engine) or settings.weights != "mini":
        column.prop(settings, "weights")


def _draw_model(box: bpy.types.UILayout, context: bpy.types.Context, manager: ModelManager, model: ModelInfo) -> None:
    here = model.state == "installed"
    row = box.row()
    row.label(text=model.title, icon="CHECKMARK" if here else "NONE")
    if here:
        row.label(text=model.licence)
        row.operator("maquette.remove_model", text="", icon="TRASH", emboss=False).model_id = model.id
    if manager.action in ("install", "import") and manager.target == model.id:
        row = box.row(align=True)
        row.progress(factor=manager.fraction, text=manager.message)
        row.operator("maquette.cancel_model", text="", icon="CANCEL")
        return
    if here:
        if not model.package_ready:
            widgets.sentence(box, context, f"Also needs the package {model.package} in the backend's Python.", "INFO")
        return
    widgets.sentence(box, context, model.purpose + ".")
    if model.state == "by_hand":
        box.operator("wm.url_open", text=f"Open Page ({model.licence})", icon="URL").url = model.licence_url
        return
    column = box.column(align=True)
    for part in manager.with_needs(model):
        column.label(text=f"{part.title}: {model_operators.size_text(part.bytes)}, {part.licence}", icon="DOT")
    row = box.row(align=True)
    row.enabled = not manager.running or manager.action == "list"
    install = row.row(align=True)
    install.enabled = model_operators.may_download()
    install.operator("maquette.install_model", text="Install", icon="IMPORT").model_id = model.id
    row.operator("maquette.import_model", text="", icon="FILE_FOLDER").model_id = model.id


CLASSES = (MAQUETTE_PT_models,)
