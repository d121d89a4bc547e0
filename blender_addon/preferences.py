"""What belongs to the machine and not to a file: folders, the backend's Python, the device."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty

from .package import ROOT_PACKAGE


class MaquettePreferences(bpy.types.AddonPreferences):
    bl_idname = ROOT_PACKAGE

    data_folder: StringProperty(
        name="Data Folder",
        description="Where the backend, jobs and results are kept; empty means Blender's folder for this extension",
        subtype="DIR_PATH",
    )
    backend_python: StringProperty(
        name="Backend Python",
        description="An existing Python that has Maquette's requirements; empty means the one that Set Up makes",
        subtype="FILE_PATH",
    )
    wheel_folder: StringProperty(
        name="Offline Packages",
        description="A folder of wheels to install from instead of the internet",
        subtype="DIR_PATH",
    )
    model_source: StringProperty(
        name="Model Source",
        description="A web address that has the published weights under the same paths as huggingface.co; empty means "
        "huggingface.co itself",
    )
    device: EnumProperty(
        name="Device",
        description="What the networks run on",
        items=[
            ("auto", "Automatic", "The GPU if the backend finds one, else the processor"),
            ("cpu", "Processor", "Always the processor"),
            ("cuda", "NVIDIA GPU", "The first CUDA device"),
        ],
    )
    apply_automatically: BoolProperty(
        name="Put Results into the Scene",
        description="Apply a finished result as soon as it is safe; otherwise it waits in the job list",
        default=True,
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "data_folder")
        layout.prop(self, "backend_python")
        layout.prop(self, "wheel_folder")
        layout.prop(self, "model_source")
        layout.prop(self, "device")
        layout.prop(self, "apply_automatically")
        layout.label(text="Folders and device take effect when the backend starts the next time.", icon="INFO")


CLASSES = (MaquettePreferences,)
