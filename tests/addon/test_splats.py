"""Splats in Blender: a file becomes points that geometry nodes draw as ellipsoids, quickly enough to work with."""

from __future__ import annotations

import time
from pathlib import Path

import bpy
import numpy as np
import pytest

from .conftest import contract, module


def ball(count: int):
    """Flat splats on a ball of radius 0.4, coloured by place."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    rotations = np.tile([1.0, 0.0, 0.0, 0.0], (count, 1))
    arrays = (0.4 * points, np.tile([0.01, 0.02, 0.005], (count, 1)), rotations, (points + 1) / 2, np.full(count, 0.9))
    return contract("splats").Splats(*(values.astype(np.float32) for values in arrays))


def drawn(item: bpy.types.Object) -> tuple[np.ndarray, bpy.types.Mesh]:
    """The vertices that the render engines get, and their mesh."""
    mesh = item.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    corners = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", corners)
    return corners.reshape(-1, 3), mesh


def test_points_carry_everything_and_ellipsoids_are_drawn(blender):
    splats = ball(50)
    item = module("scene.splats").add_splats(bpy.context.scene, "ball", splats, 2.0)
    assert len(item.data.vertices) == 50 and len(item.data.polygons) == 0
    corners, mesh = drawn(item)
    assert len(corners) == 50 * 12 and len(mesh.polygons) == 50 * 20
    each = corners.reshape(50, 12, 3)
    assert np.abs(each.mean(axis=1) - splats.positions * 2).max() < 1e-4
    reach = np.ptp(each, axis=1).mean(axis=0) / 2
    assert np.allclose(reach / reach[2], [2, 4, 1], rtol=0.2)  # sizes of the splats, in their axes
    colors = np.empty(len(mesh.vertices) * 4, np.float32)
    mesh.attributes["Color"].data.foreach_get("color", colors)
    linear = np.where(splats.colors <= 0.04045, splats.colors / 12.92, ((splats.colors + 0.055) / 1.055) ** 2.4)
    assert np.allclose(colors.reshape(50, 12, 4)[:, 5, :3], linear, atol=1e-4)
    assert {mesh.materials[face.material_index].name for face in mesh.polygons} == {"Maquette Splats"}


def test_haze_is_left_out(blender):
    splats = ball(40)
    splats.opacities[:30] = 0.05
    corners, _ = drawn(module("scene.splats").add_splats(bpy.context.scene, "ball", splats))
    assert len(corners) == 10 * 12


def test_a_file_is_imported_with_one_operator(blender, tmp_path: Path):
    path = tmp_path / "thing.ply"
    path.write_bytes(contract("splats").splats_to_ply(ball(30)))
    assert bpy.ops.maquette.import_splats(filepath=str(path), scale=3.0) == {"FINISHED"}
    item = bpy.context.object
    assert item.name.startswith("thing") and len(item.data.vertices) == 30
    assert np.isclose(max(abs(value) for corner in item.data.vertices for value in corner.co), 1.2, atol=0.05)
    path.write_bytes(b"ply\nformat ascii 1.0\n")
    with pytest.raises(RuntimeError, match="Choose another file"):
        bpy.ops.maquette.import_splats(filepath=str(path))


def test_fifty_thousand_splats_stay_responsive(blender):
    splats = ball(50_000)
    started = time.process_time()
    item = module("scene.splats").add_splats(bpy.context.scene, "ball", splats)
    added = time.process_time()
    corners, _ = drawn(item)
    assert len(corners) == 600_000
    assert added - started < 0.5 and time.process_time() - added < 2.0  # 0.01 and 0.2 s on an idle core


def test_splats_of_a_result_stand_in_its_meshs_place(blender):
    meshes = contract("meshes")
    corners = (np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3) * 0.4).astype(np.float32)
    mesh = meshes.MeshData(corners, np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7]], np.int32))
    apply = module("scene.apply")
    result = apply.Result("box", mesh, None, {}, 2.0, "ORIGIN", (0.0, 0.0, 0.0), "NONE", False, None,
                          pivot="base", splats=ball(20))  # fmt: skip
    made, message = apply.apply_result(bpy.context.scene, result)
    bpy.context.view_layer.update()
    (child,) = made.children
    assert made.hide_render and made.hide_get() and not child.hide_get() and "outliner" in message
    scale = 2.0 / 0.4
    low, high = np.array([vertex.co for vertex in made.data.vertices]).min(0), corners.max(0) * scale
    assert np.allclose(low, [-1, -1, 0], atol=1e-5)  # the origin is in the middle of the underside
    assert np.allclose(made.matrix_world.translation, [0, 0, -1], atol=1e-5)
    centre = np.array(child.matrix_world.translation)  # where the object cube's own middle is
    assert np.allclose(centre, -high / 2, atol=1e-5)
