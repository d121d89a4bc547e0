"""What the Create panel says about the finished mesh reaches the job, and comes back with Restore Inputs."""

from __future__ import annotations

import bpy

from .conftest import module


def test_untouched_settings_ask_for_nothing(blender):
    assert module("operators.requesting").finish_parameters(bpy.context.scene.maquette_create) == {}


def test_wishes_are_sent_in_the_backends_terms(blender):
    settings = bpy.context.scene.maquette_create
    settings.triangles, settings.texture_size, settings.pivot = 5000, "2048", "base"
    settings.normal_map = settings.splats = True
    found = module("operators.requesting").finish_parameters(settings)
    assert found == {"triangles": 5000, "texture_size": 2048, "normal_map": True, "pivot": "base", "splats": True}
    settings.triangles = 7  # fewer than the backend takes
    assert module("operators.requesting").finish_parameters(settings)["triangles"] == 100
    settings.triangles = 0  # without a budget there is nothing for a normal map to hold
    assert "normal_map" not in module("operators.requesting").finish_parameters(settings)


def test_they_come_back_from_a_result(blender):
    settings = bpy.context.scene.maquette_create
    parameters = {"seed": 3, "triangles": 800, "texture_size": 512, "normal_map": True, "splats": True,
                  "pivot": "centre"}  # fmt: skip
    origin = {"blender": "x", "scene_uid": 1, "scene_name": "Scene"}
    module("operators.requesting").restore_inputs(
        bpy.context.scene, {"parameters": parameters, "origin": origin, "panel": "create"}
    )
    assert (settings.triangles, settings.texture_size, settings.pivot) == (800, "512", "centre")
    assert settings.normal_map and settings.splats
    module("operators.requesting").restore_inputs(
        bpy.context.scene, {"parameters": {"seed": 3}, "origin": origin, "panel": "create"}
    )
    assert module("operators.requesting").finish_parameters(settings) == {}
