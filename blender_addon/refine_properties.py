"""The Refine panel's settings on a scene: what is wanted of the selected mesh, and where the result goes."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from .engines import REFINE, items_for
from .properties import EngineSettings, MeshSettings
from .text_properties import LONGEST_PROMPT


class MaquetteRefineSettings(EngineSettings, MeshSettings, bpy.types.PropertyGroup):
    purpose: EnumProperty(
        name="Purpose",
        items=[
            ("ENHANCE", "Enhance", "The same object, with more detail in shape and colour"),
            ("EDIT", "Edit", "The object as a sentence says, with this one's outline"),
        ],
    )
    prompt: StringProperty(
        name="Text",
        description="What the result shows, in a few plain English words",
        maxlen=LONGEST_PROMPT,
    )
    enhance_strength: FloatProperty(
        name="Strength",
        description="How much may change: 0 keeps the mesh's own look, 1 looks at its outline hardly at all",
        default=0.5,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    edit_strength: FloatProperty(
        name="Strength",
        description="How much may change: 0 keeps the mesh's own look, 1 looks at its outline hardly at all",
        default=0.9,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
    )
    destination: EnumProperty(
        name="Result",
        items=[
            ("BESIDE", "Beside", "A new object beside the selected one, which stays as it is"),
            (
                "REPLACE",
                "In Its Place",
                "The selected object gets the new mesh and keeps its name, place, parent and constraints; the mesh it "
                "had is kept in the file",
            ),
        ],
    )
    engine: EnumProperty(name="Engine", description="The system that makes the mesh", items=items_for(REFINE))
    seed: IntProperty(
        name="Seed", description="The same seed, mesh and text give the same result", default=0, min=0, max=2**31 - 1
    )


CLASSES = (MaquetteRefineSettings,)


def attach() -> None:
    """Put the settings on every scene."""
    bpy.types.Scene.maquette_refine = PointerProperty(type=MaquetteRefineSettings)


def detach() -> None:
    """Take the settings off again; values in files are kept by Blender."""
    del bpy.types.Scene.maquette_refine
