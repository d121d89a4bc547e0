"""Who we are inside Blender: the root package, its folders and its preferences. The only user of `__package__`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import bpy

if TYPE_CHECKING:
    from .preferences import MaquettePreferences

VERSION = "0.1.0"  # equal to the manifest's; a packaging test compares them

ROOT_PACKAGE = (__package__ or "").rpartition(".")[0]
"""`bl_ext.<repository>.maquette`: what Blender calls the extension, and the preferences' `bl_idname`."""


def extension_folder() -> Path:
    """The installed extension: holds `backend/`, `wheels/` and the manifest. May be read-only."""
    return Path(__file__).parent.parent  # not resolved: `build.py develop` links this folder into an extension


def user_folder() -> Path:
    """The only place where Maquette writes unless the preferences name another one. Made when missing."""
    chosen = preferences().data_folder
    if chosen:
        return Path(bpy.path.abspath(chosen))
    return Path(bpy.utils.extension_path_user(ROOT_PACKAGE, create=True))


def preferences() -> MaquettePreferences:
    """The add-on's preferences."""
    return bpy.context.preferences.addons[ROOT_PACKAGE].preferences
