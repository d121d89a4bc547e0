"""What operators share: a failure becomes a report in Blender's status bar and a line in the log; choosing files."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import bpy
from bpy.props import BoolProperty, CollectionProperty, StringProperty

from ...backend.contract.errors import MaquetteError

logger = logging.getLogger(__name__)

Execute = Callable[[bpy.types.Operator, bpy.types.Context], set[str]]


def reports_failures(execute: Execute) -> Execute:
    """Turn a `MaquetteError` into an error report and CANCELLED. Anything else is a defect and surfaces."""

    @functools.wraps(execute)
    def wrapper(operator: bpy.types.Operator, context: bpy.types.Context) -> set[str]:
        try:
            return execute(operator, context)
        except MaquetteError as error:
            logger.warning("%s: %s %s", operator.bl_idname, error, error.failure.detail)
            operator.report({"ERROR"}, str(error))
            return {"CANCELLED"}

    return wrapper


class ChoosesPictures:
    """An operator that asks for picture files, several at once."""

    directory: StringProperty(subtype="DIR_PATH", options={"SKIP_SAVE", "HIDDEN"})
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"SKIP_SAVE", "HIDDEN"})
    filter_image: BoolProperty(default=True, options={"HIDDEN"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def chosen(self, what: str) -> list[Path]:
        """The files. Errors: `MaquetteError` when there is none of `what`."""
        paths = [Path(self.directory) / file.name for file in self.files if file.name]
        if not paths:
            raise MaquetteError("bad_input", f"No {what} is chosen. Choose one or more.")
        return paths
