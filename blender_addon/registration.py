"""The one ordered list of what the add-on adds to Blender; removal runs through it backwards."""

from __future__ import annotations

import bpy

from . import compose_properties, preferences, properties, refine_properties, render_properties
from .operators import compose as compose_operators
from .operators import create as create_operators
from .operators import jobs as job_operators
from .operators import match as match_operators
from .operators import models as model_operators
from .operators import painting as painting_operators
from .operators import photos as photo_operators
from .operators import proposing as proposing_operators
from .operators import refine as refine_operators
from .operators import refining, render_scene, rendering
from .operators import report as report_operators
from .operators import setup as setup_operators
from .operators import splats as splat_operators
from .operators import text as text_operators
from .panels import compose as compose_panels
from .panels import create as create_panels
from .panels import jobs as job_panels
from .panels import match as match_panels
from .panels import models as model_panels
from .panels import painting as painting_panels
from .panels import photos as photo_panels
from .panels import refine as refine_panels
from .panels import render as render_panels
from .panels import setup as setup_panels
from .runtime import pump, session

CLASSES = (
    *preferences.CLASSES,
    *properties.CLASSES,
    *compose_properties.CLASSES,
    *refine_properties.CLASSES,
    *render_properties.CLASSES,
    *create_operators.CLASSES,
    *text_operators.CLASSES,
    *photo_operators.CLASSES,
    *match_operators.CLASSES,
    *painting_operators.CLASSES,
    *compose_operators.CLASSES,
    *proposing_operators.CLASSES,
    *refine_operators.CLASSES,
    *render_scene.CLASSES,
    *job_operators.CLASSES,
    *setup_operators.CLASSES,
    *model_operators.CLASSES,
    *report_operators.CLASSES,
    *splat_operators.CLASSES,
    *setup_panels.CLASSES,
    *create_panels.CLASSES,
    *photo_panels.CLASSES,
    *match_panels.CLASSES,
    *painting_panels.CLASSES,
    *compose_panels.CLASSES,
    *refine_panels.CLASSES,
    *render_panels.CLASSES,
    *job_panels.CLASSES,
    *model_panels.CLASSES,
)


def register() -> None:
    """Add everything and start listening for results."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    properties.attach()
    splat_operators.attach()
    painting_panels.attach()
    compose_properties.attach()
    refine_properties.attach()
    render_properties.attach()
    session.open_session(job_operators.apply_from_timer)
    pump.start()


def unregister() -> None:
    """Stop the pump and the backend, then remove everything in the opposite order."""
    rendering.stop()
    refining.stop()
    pump.stop()
    session.close_session()
    render_properties.detach()
    refine_properties.detach()
    compose_properties.detach()
    painting_panels.detach()
    splat_operators.detach()
    properties.detach()
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
