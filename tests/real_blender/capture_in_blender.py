"""Runs inside Blender: the recorded frames of RefAny3D's renderer again, by the add-on's capture. Prints one JSON line.

blender --background --python capture_in_blender.py -- CHECKOUT
"""

from __future__ import annotations

import importlib
import json
import sys
import types

import bpy


def main(root: str) -> None:
    """Import the add-on from the checkout `root` as it is in an extension, below a root package, and replay."""
    package = types.ModuleType("maquette_checkout")
    package.__path__ = [root]
    sys.modules[package.__name__] = package
    sys.path.insert(0, root)
    meshes = importlib.import_module("tests.golden.refany3d_meshes")
    golden = meshes.recorded()

    def modules(name: str) -> types.ModuleType:
        return importlib.import_module(f"maquette_checkout.blender_addon.{name}")

    found = {case: meshes.replay(golden, case, modules) for case in meshes.CASES}
    sys.stdout.write("\n" + json.dumps({"version": bpy.app.version_string, "found": found}) + "\n")


main(sys.argv[sys.argv.index("--") + 1])
