"""Runs inside Blender: install a zip through Blender's own operator, then register and unregister again.

Usage: ``<python with bpy> install_in_blender.py ZIP`` or ``blender -b --python install_in_blender.py -- ZIP``.
The last line of standard output is JSON with what was found; a failure leaves a traceback and a non-zero status.
"""

from __future__ import annotations

import json
import sys

import bpy

# isort: split
# Blender's own modules can be found only once bpy is there.
import addon_utils

MODULE = "bl_ext.user_default.maquette"


def registered_names() -> list[str]:
    """The Blender classes of ours that exist now (operators and panels), by their identifiers."""
    names = [name for name in dir(bpy.types) if name.startswith("MAQUETTE_")]
    return sorted(names + [f"maquette.{name}" for name in dir(bpy.ops.maquette)])


def main() -> None:
    """Install, then switch off and on twice, and report the classes seen at each step."""
    if not addon_utils.check("bl_pkg")[1]:  # the module form of Blender starts without its extension system
        addon_utils.enable("bl_pkg", default_set=False)
    before = registered_names()
    bpy.ops.extensions.package_install_files(filepath=sys.argv[-1], repo="user_default", enable_on_install=True)
    seen = {"version": bpy.app.version_string, "before": before, "on": [registered_names()], "off": []}
    seen["enabled"] = MODULE in bpy.context.preferences.addons
    seen["loaded"] = list(addon_utils.check(MODULE))
    for _ in range(2):
        addon_utils.disable(MODULE, default_set=True)
        seen["off"].append(registered_names())
        addon_utils.enable(MODULE, default_set=True)
        seen["on"].append(registered_names())
    seen["warnings"] = policy_warnings()
    sys.stdout.write("\n" + json.dumps(seen) + "\n")


def policy_warnings() -> list[str]:
    """What Blender's preferences would show below the extension as a policy violation."""
    # The function's name is private, and the same in 4.2 to 5.0; another name must fail here, not pass in silence.
    warnings = addon_utils._extensions_warnings_get()
    return [str(line) for name, lines in warnings.items() if "maquette" in name for line in lines]


if __name__ == "__main__":
    main()
