"""Register, unregister, register: nothing is left behind and Blender has nothing to complain about."""

from __future__ import annotations

import addon_utils
import bpy

from .conftest import MODULE, module


def our_types() -> list[str]:
    return sorted(name for name in dir(bpy.types) if name.startswith(("MAQUETTE_", "Maquette")))


def test_register_unregister_register_is_silent(blender, capfd):
    before = our_types()
    assert len(before) > 15
    addon_utils.disable(MODULE)
    assert our_types() == []
    assert not hasattr(bpy.types.Scene, "maquette_create")
    assert addon_utils.enable(MODULE) is not None
    assert our_types() == before
    output = capfd.readouterr()
    complaints = [line for line in (output.out + output.err).splitlines() if line.strip()]
    assert complaints == []
    blender.restart()


def test_no_policy_violation_is_reported(blender):
    warnings = getattr(addon_utils, "_extensions_warnings", {})
    assert not warnings.get(MODULE)


def test_every_panel_and_operator_says_what_it_does(blender):
    for cls in module("registration").CLASSES:
        if issubclass(cls, bpy.types.Operator):
            assert cls.bl_description and cls.bl_label
            assert not cls.bl_description.endswith(".")
        if issubclass(cls, bpy.types.Panel):
            assert cls.bl_category == "Maquette"


def test_preferences_belong_to_the_root_package(blender):
    chosen = bpy.context.preferences.addons[MODULE].preferences
    assert isinstance(chosen, module("preferences").MaquettePreferences)
    assert module("package").ROOT_PACKAGE == MODULE


def test_the_pump_is_a_timer_while_registered(blender):
    pump = module("runtime.pump")
    assert bpy.app.timers.is_registered(pump.tick)
    pump.stop()
    assert not bpy.app.timers.is_registered(pump.tick)
    pump.start()


def test_a_dropped_picture_is_ours(blender):
    handler = bpy.types.MAQUETTE_FH_picture
    assert handler.bl_import_operator == "maquette.drop_picture"
    assert ".png" in handler.bl_file_extensions
