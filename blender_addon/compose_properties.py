"""The Compose panel's settings on a scene: one photo, a mask for each object, depth if there is any."""

from __future__ import annotations

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from .engines import SCENE, items_for
from .properties import PLACEMENTS, ResultSettings


class MaquetteObjectMask(bpy.types.PropertyGroup):
    """One object of the photo: a mask file, or an image of this .blend file."""

    name: StringProperty(name="Name", description="What the object is called in the scene", maxlen=63)
    image: StringProperty(name="Mask", description="White where this object is, black elsewhere", subtype="FILE_PATH")
    proposed: BoolProperty(name="Proposed", description="Comes from Propose Masks, which replaces it")
    painted: PointerProperty(
        name="Painted", type=bpy.types.Image, description="An image of this file that is white where this object is"
    )


class MaquetteComposeSettings(ResultSettings, bpy.types.PropertyGroup):
    image: StringProperty(name="Picture", description="A photo that shows several objects", subtype="FILE_PATH")
    masks: CollectionProperty(type=MaquetteObjectMask)
    mask_index: IntProperty(name="Object")
    depth: StringProperty(
        name="Depth",
        description="How far everything is: an EXR, a 16-bit PNG in millimetres or an .npy file of this photo; "
        "without it the distances are a guess",
        subtype="FILE_PATH",
    )
    engine: EnumProperty(name="Engine", description="The system that makes the objects", items=items_for(SCENE))
    seed: IntProperty(
        name="Seed", description="The same seed and picture give the same scene", default=0, min=0, max=2**31 - 1
    )
    size: FloatProperty(
        name="Size",
        description="Length of the longest side of everything together",
        default=3.0,
        min=0.001,
        soft_max=100.0,
        subtype="DISTANCE",
        unit="LENGTH",
    )
    placement: EnumProperty(name="Place", description="Where the middle of the scene is put", items=PLACEMENTS)
    focal_mode: EnumProperty(
        name="Focal Length",
        items=[
            ("FREE", "Free", "Find the focal length from the picture, or take a usual one"),
            ("LOCKED", "Locked", "Use the focal length below"),
        ],
    )
    focal_mm: FloatProperty(
        name="Focal Length",
        description="In millimetres on a sensor 36 mm wide along the picture's longer side",
        default=40.0,
        min=1.0,
        max=5000.0,
        subtype="DISTANCE_CAMERA",
    )


CLASSES = (MaquetteObjectMask, MaquetteComposeSettings)


def attach() -> None:
    """Put the settings on every scene."""
    bpy.types.Scene.maquette_compose = PointerProperty(type=MaquetteComposeSettings)


def detach() -> None:
    """Take the settings off again; values in files are kept by Blender."""
    del bpy.types.Scene.maquette_compose
