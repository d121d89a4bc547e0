"""The inputs that belong to a file: one settings group on the scene for Create and one for Match Photo."""

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

from .engines import MATCH, PHOTO, items_for, set_engines
from .text_properties import TextSettings

PLACEMENTS = [
    ("CURSOR", "3D Cursor", "The middle of the underside stands on the 3D cursor"),
    ("GROUND", "On the Ground", "Below or above the 3D cursor, standing on the plane z = 0"),
    ("ORIGIN", "World Origin", "The object's centre is the world origin"),
]
WEIGHTS = [
    ("mini", "Small", "Ship with Maquette and run on any processor in about a minute"),
    ("published", "Published", "Finer by far, and slow without a graphics card; installed under Models"),
]


# What 0 steps are, by engine and weights.
USUAL_STEPS = {
    ("cupid", "mini"): 12, ("cupid", "published"): 25, ("kiss3dgen", "mini"): 12, ("kiss3dgen", "published"): 20,
    ("refany3d", "mini"): 12, ("refany3d", "published"): 28,
}  # fmt: skip


class EngineSettings:
    """How an engine works, whatever it makes."""

    weights: EnumProperty(
        name="Weights",
        description="What the engine has learned: its small weights or the published ones",
        items=WEIGHTS,
    )
    steps: IntProperty(
        name="Steps",
        description="More steps take longer and give cleaner results; 0 takes as many as the weights were made for",
        default=0,
        min=0,
        max=100,
    )


class ResultSettings(EngineSettings):
    """What every job asks for that starts from a photo."""

    show_background: BoolProperty(
        name="Behind the Camera", description="Show the picture as the camera's background", default=True
    )
    set_render_size: BoolProperty(
        name="Sets Render Size",
        description="Give the render the picture's width and height, so that frame and picture agree",
        default=True,
    )


class MeshSettings:
    """How a made mesh is finished."""

    triangles: IntProperty(
        name="Triangles",
        description="Simplify the mesh to about this many triangles; 0 leaves them as made",
        default=0,
        min=0,
        max=2_000_000,
    )
    texture_size: EnumProperty(
        name="Texture",
        description="Width and height of the texture",
        items=[(str(size), f"{size} px", f"{size} x {size} pixels") for size in (512, 1024, 2048, 4096)],
        default="1024",
    )
    normal_map: BoolProperty(
        name="Normal Map",
        description="Bake the shading of the detailed mesh for the simplified one; needs a number of triangles",
    )


class _JobSettings(ResultSettings):
    """What both ways of making an object ask for."""

    image: StringProperty(name="Picture", description="The photo or drawing to start from", subtype="FILE_PATH")
    mask: StringProperty(
        name="Mask",
        description="White where the object is; needed when the picture has no transparency and a busy background",
        subtype="FILE_PATH",
    )
    mask_image: PointerProperty(
        name="Painted Mask", description="The object, painted over the picture", type=bpy.types.Image
    )
    occluder: StringProperty(
        name="Occluder",
        description="White where something stands in front of the object; the hidden part is completed behind it",
        subtype="FILE_PATH",
    )
    occluder_image: PointerProperty(
        name="Painted Occluder", description="What hides the object, painted over the picture", type=bpy.types.Image
    )
    seed: IntProperty(
        name="Seed", description="The same seed and picture give the same object", default=0, min=0, max=2**31 - 1
    )
    size: FloatProperty(
        name="Size",
        description="Length of the object's longest side",
        default=1.0,
        min=0.001,
        soft_max=10.0,
        subtype="DISTANCE",
        unit="LENGTH",
    )
    placement: EnumProperty(name="Place", description="Where the object is put", items=PLACEMENTS)


class MaquettePhoto(bpy.types.PropertyGroup):
    """A further photo of the object."""

    image: StringProperty(
        name="Picture", description="A photo of the same object from another side", subtype="FILE_PATH"
    )
    mask: StringProperty(
        name="Mask", description="White where the object is in this photo", subtype="FILE_PATH"
    )
    mask_image: PointerProperty(
        name="Painted Mask", description="The object, painted over this photo", type=bpy.types.Image
    )
    occluder: StringProperty(
        name="Occluder",
        description="White where something stands in front of the object in this photo",
        subtype="FILE_PATH",
    )
    occluder_image: PointerProperty(
        name="Painted Occluder", description="What hides the object, painted over this photo", type=bpy.types.Image
    )


class MaquetteCreateSettings(TextSettings, MeshSettings, _JobSettings, bpy.types.PropertyGroup):
    engine: EnumProperty(name="Engine", description="The system that makes the object", items=items_for(PHOTO))
    photos: CollectionProperty(type=MaquettePhoto)
    photo_index: IntProperty(name="Photo")
    variants: IntProperty(
        name="Variants",
        description="How many different answers to show: alike where the picture shows the object, not behind it",
        default=1,
        min=1,
        max=8,
    )
    pivot: EnumProperty(
        name="Origin",
        description="Where the object has its origin",
        items=[
            ("cube", "As Made", "The middle of the cube the object was made in"),
            ("base", "Underside", "The middle of the underside, for things that stand"),
            ("centre", "Centre", "The middle of the object's box"),
        ],
    )
    splats: BoolProperty(name="Splats", description="Also make Gaussian splats, shown in the object's place")
    match_camera: BoolProperty(
        name="Match the Picture",
        description="Move the scene's camera to where the picture was taken; several photos get a camera each",
        default=True,
    )


class MaquetteMatchSettings(_JobSettings, bpy.types.PropertyGroup):
    engine: EnumProperty(name="Engine", description="The system that makes the object", items=items_for(MATCH))
    subject: EnumProperty(
        name="Match",
        items=[
            ("NEW", "New Object", "Make the photo's object, and bring camera and object together"),
            ("SELECTED", "Selected Mesh", "Bring camera and selected mesh together as the photo shows such an object"),
        ],
    )
    focal_mode: EnumProperty(
        name="Focal Length",
        items=[
            ("FREE", "Free", "Find the focal length from the picture"),
            ("LOCKED", "Locked", "Use the focal length below"),
        ],
    )
    focal_mm: FloatProperty(
        name="Focal Length",
        description="In millimetres on a sensor 36 mm wide along the picture's longer side",
        default=50.0,
        min=1.0,
        max=5000.0,
        subtype="DISTANCE_CAMERA",
    )
    move: EnumProperty(
        name="Move",
        items=[
            ("CAMERA", "Camera", "Put the object in its place and move the camera to where the picture was taken"),
            ("OBJECT", "Object", "Leave the camera where it is and move the object in front of it"),
            (
                "KNOWN",
                "Nothing",
                "The scene's camera took the photo, and the object's middle is at the 3D cursor: both stay, and the "
                "shape is made for them",
            ),
        ],
    )


CLASSES = (MaquettePhoto, MaquetteCreateSettings, MaquetteMatchSettings)


def attach() -> None:
    """Put the settings on every scene."""
    set_engines([])
    bpy.types.Scene.maquette_create = PointerProperty(type=MaquetteCreateSettings)
    bpy.types.Scene.maquette_match = PointerProperty(type=MaquetteMatchSettings)


def detach() -> None:
    """Take the settings off again; values in files are kept by Blender."""
    del bpy.types.Scene.maquette_match
    del bpy.types.Scene.maquette_create
