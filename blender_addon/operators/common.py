"""The operators' border: a failure becomes a report in Blender's status bar and a line in the log."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import bpy

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
