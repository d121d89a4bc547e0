"""Models: install published weights after their licences were accepted, take them from a folder, remove them."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import BoolProperty, StringProperty

from ...backend.contract.errors import MaquetteError
from ...backend.contract.models import ModelInfo
from .. import package
from ..runtime import session
from ..runtime.model_manager import PUBLISHED, ModelManager, ModelPlace
from .common import reports_failures

DIALOG_WIDTH = 420
OFFLINE = "Blender may not go online. Allow online access in the preferences' System tab, or import from a folder."


def manager() -> ModelManager:
    """The session's models."""
    return session.get().models


def model_place() -> ModelPlace:
    """Who installs and where to. Errors: `MaquetteError` while the backend is not set up."""
    place = session.get().model_place()
    if place is None:
        raise MaquetteError("model_missing", "The backend is not set up yet. Press Set Up first.", next_step="set_up")
    return place


def known_model(model_id: str) -> ModelInfo:
    """The model's entry. Errors: `MaquetteError` when the list does not have it (yet)."""
    model = manager().find(model_id)
    if model is None:
        raise MaquetteError("bad_input", "The list of models is not there yet. Refresh it and try again.")
    return model


def licences_of(model: ModelInfo) -> tuple[str, ...]:
    """The licences of the model and of what it needs."""
    parts = [part for part in map(manager().find, (*model.needs, model.id)) if part is not None]
    return tuple(dict.fromkeys(part.licence for part in parts))


def install(model_id: str, accepted: bool) -> None:
    """Begin to download. Errors: `MaquetteError` licence_required, offline, or while something else is under way."""
    model = known_model(model_id)
    _require_licence(model, accepted)
    if not may_download():
        raise MaquetteError("offline", OFFLINE)
    manager().install(model_place(), model_id, licences_of(model))


def may_download() -> bool:
    """Whether Blender may go online, or the artist has named a source of their own."""
    return bpy.app.online_access or bool(package.preferences().model_source.strip())


def import_folder(model_id: str, folder: Path, accepted: bool) -> None:
    """Begin to take the files from `folder`. Errors: as `install`, and when there is no such folder."""
    model = known_model(model_id)
    _require_licence(model, accepted)
    if not folder.is_dir():
        raise MaquetteError("bad_input", "This folder does not exist. Choose the one with the published files.")
    manager().import_from(model_place(), model_id, folder, licences_of(model))


def size_text(count: int) -> str:
    """Bytes for an artist: "6.8 GB", "176 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 1):.0f} MB"


def _require_licence(model: ModelInfo, accepted: bool) -> None:
    if not accepted:
        names = " and ".join(licences_of(model))
        raise MaquetteError("licence_required", f"{model.title} is under {names}. Read and accept the terms first.")


class _ModelOperator:
    model_id: StringProperty(name="Model", default=PUBLISHED, options={"HIDDEN", "SKIP_SAVE"})


class MAQUETTE_OT_install_model(_ModelOperator, bpy.types.Operator):
    bl_idname = "maquette.install_model"
    bl_label = "Install Weights"
    bl_description = "Download published weights into Maquette's folder, after you have accepted their licence"

    accept: BoolProperty(
        name="I Accept These Licences",
        description="You have read the licences and use the weights under their terms",
        options={"SKIP_SAVE"},
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if manager().find(self.model_id) is None:
            return self.execute(context)
        return context.window_manager.invoke_props_dialog(self, width=DIALOG_WIDTH, confirm_text="Install")

    def draw(self, context: bpy.types.Context) -> None:
        draw_terms(self.layout, known_model(self.model_id))
        self.layout.prop(self, "accept")

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        install(self.model_id, self.accept)
        return {"FINISHED"}


class MAQUETTE_OT_import_model(_ModelOperator, bpy.types.Operator):
    bl_idname = "maquette.import_model"
    bl_label = "Import from Folder"
    bl_description = "Take the published files from a folder on this computer, after checking them"

    directory: StringProperty(subtype="DIR_PATH", options={"SKIP_SAVE"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})
    accept: BoolProperty(
        name="I Accept These Licences",
        description="You have read the licences and use the weights under their terms",
        options={"SKIP_SAVE"},
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def draw(self, context: bpy.types.Context) -> None:
        model = manager().find(self.model_id)
        if model is not None:
            draw_terms(self.layout, model)
        self.layout.prop(self, "accept")

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        import_folder(self.model_id, Path(bpy.path.abspath(self.directory)), self.accept)
        return {"FINISHED"}


class MAQUETTE_OT_cancel_model(bpy.types.Operator):
    bl_idname = "maquette.cancel_model"
    bl_label = "Cancel"
    bl_description = "Stop; what arrived is kept, and the next install goes on there"

    def execute(self, context: bpy.types.Context) -> set[str]:
        manager().cancel()
        return {"FINISHED"}


class MAQUETTE_OT_remove_model(_ModelOperator, bpy.types.Operator):
    bl_idname = "maquette.remove_model"
    bl_label = "Remove Weights"
    bl_description = "Delete the files of these weights from Maquette's folder"

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event)

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        manager().remove(model_place(), known_model(self.model_id).id)
        return {"FINISHED"}


class MAQUETTE_OT_refresh_models(bpy.types.Operator):
    bl_idname = "maquette.refresh_models"
    bl_label = "Refresh"
    bl_description = "Look again at what is installed"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        manager().refresh(model_place())
        return {"FINISHED"}


def draw_terms(layout: bpy.types.UILayout, model: ModelInfo) -> None:
    """What would be installed: from where, how large, under which licence."""
    for part in manager().with_needs(model) or [model]:
        row = layout.split(factor=0.7)
        column = row.column(align=True)
        column.label(text=f"{part.title}, {size_text(part.bytes)}")
        source = column.row()
        source.active = False
        source.label(text=part.source.partition("@")[0])
        row.operator("wm.url_open", text=part.licence, icon="URL").url = part.licence_url
    if model.memory:
        kinds = {"full": "all at once", "half": "in half precision", "offload": "a stage at a time"}
        parts = [f"{model.memory[name]:g} GiB {text}" for name, text in kinds.items() if name in model.memory]
        layout.label(text="Memory: " + ", ".join(parts))


CLASSES = (
    MAQUETTE_OT_install_model,
    MAQUETTE_OT_import_model,
    MAQUETTE_OT_cancel_model,
    MAQUETTE_OT_remove_model,
    MAQUETTE_OT_refresh_models,
)
