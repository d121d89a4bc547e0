"""The Render panel's settings on a scene: which picture of the selection is wanted, and what is done with one."""

from __future__ import annotations

import math

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from .engines import RENDER, items_for
from .properties import EngineSettings
from .text_properties import LONGEST_PROMPT


class MaquetteRenderSettings(EngineSettings, bpy.types.PropertyGroup):
    prompt: StringProperty(
        name="Text",
        description='What the picture shows, in a few plain English words: "a barrel on wet cobblestones at night"',
        maxlen=LONGEST_PROMPT,
    )
    negative: StringProperty(
        name="Negative",
        description='What the picture should not show, in a few plain English words: "people, snow"',
        maxlen=LONGEST_PROMPT,
    )
    engine: EnumProperty(name="Engine", description="The system that makes the picture", items=items_for(RENDER))
    seed: IntProperty(
        name="Seed",
        description="The same seed, selection and text give the same picture; each variant counts one further",
        default=0,
        min=0,
        max=2**31 - 1,
    )
    variants: IntProperty(name="Variants", description="How many different pictures to make", default=2, min=1, max=8)
    image_guidance: FloatProperty(
        name="True to the Mesh",
        description="How strictly the picture keeps to the mesh. 1 is quickest and freest; 0 is what the weights were "
        "made for",
        default=0.0,
        min=0.0,
        max=10.0,
    )
    guidance: FloatProperty(
        name="True to the Text",
        description="How strictly the picture keeps to the text; 0 is what the weights were made for",
        default=0.0,
        min=0.0,
        max=10.0,
    )
    focal_mode: EnumProperty(
        name="Picture's Lens",
        items=[
            ("FREE", "Free", "Find the focal length from the picture"),
            ("LOCKED", "Locked", "Take it that the picture has the focal length below"),
        ],
    )
    focal_mm: FloatProperty(
        name="Focal Length",
        description="In millimetres on a sensor 36 mm wide",
        default=50.0,
        min=7.5,
        max=700.0,
        subtype="DISTANCE_CAMERA",
    )
    views: EnumProperty(
        name="Views",
        description="From how many sides the mesh is shown to the engine; fewer are quicker and keep less to it",
        items=[(str(count), str(count), f"{count} views around the selection") for count in (4, 6, 8)],
        default="8",
    )
    elevation: FloatProperty(
        name="Elevation",
        description="How far above the horizon the mesh is looked at from",
        default=0.0,
        min=math.radians(-60.0),
        max=math.radians(60.0),
        subtype="ANGLE",
    )
    evenly_spaced: BoolProperty(
        name="Even Gaps",
        description="Eight views stand 45 degrees apart, instead of 42 as the published weights know them",
    )
    show_conditions: BoolProperty(
        name="What the Engine Sees", description="Show the views of the mesh and its places as colours"
    )
    shown_job: StringProperty(name="Picture's Job", options={"HIDDEN"})
    shown_variant: IntProperty(name="Picture's Variant", min=0, options={"HIDDEN"})
    set_render_size: BoolProperty(
        name="Sets Render Size",
        description="Give the render the picture's width and height, so that frame and picture agree",
        default=True,
    )
    ground: BoolProperty(
        name="Shadow Catcher",
        description="A plane under the mesh that shows nothing but shadows in renders by Cycles",
        default=True,
    )
    light: BoolProperty(
        name="Light", description="A sun that shines from where the picture's light comes from", default=True
    )
    compositing: BoolProperty(
        name="Render over the Picture",
        description="Renders stand on the picture: transparent background, view transform Standard, compositing "
        "nodes. Compositing nodes of your own are left alone",
        default=True,
    )


CLASSES = (MaquetteRenderSettings,)


def attach() -> None:
    """Put the settings on every scene."""
    bpy.types.Scene.maquette_render = PointerProperty(type=MaquetteRenderSettings)


def detach() -> None:
    """Take the settings off again; values in files are kept by Blender."""
    del bpy.types.Scene.maquette_render
