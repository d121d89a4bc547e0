"""A picture thrown onto a mesh: seen through its camera it is the picture again, and nothing of the mesh is lost."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from .conftest import contract, module

SIDE = 64
EYE = np.array([1.6, -1.9, 1.4])  # near: the perspective is strong


@pytest.fixture
def crate(blender) -> bpy.types.Object:
    crate = bpy.data.objects["Cube"]
    crate.matrix_world = Matrix.Rotation(-0.1, 4, "Z") @ Matrix.Diagonal((0.6, 0.5, 0.4, 1.0))
    bpy.context.view_layer.update()
    return crate


@pytest.fixture
def camera() -> tuple[np.ndarray, np.ndarray]:
    """World to camera [4,4] and intrinsics [3,3]."""
    return contract("frames").look_at(EYE, np.zeros(3)), np.array([[1.1, 0, 0.52], [0, 1.1, 0.47], [0, 0, 1.0]])


def stripes(turned: bool = False) -> np.ndarray:
    """A smooth picture [S,S,3] uint8 whose every place has a colour of its own."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    picture = np.stack([rows, columns, 0.5 + 0.3 * np.sin(9 * rows)], axis=-1)
    return np.rint(255 * (picture[..., ::-1] if turned else picture)).astype(np.uint8)


def image_of(pixels: np.ndarray, name: str = "Picture") -> bpy.types.Image:
    return module("scene.importing").packed_image(name, module("scene.png").png_bytes(pixels))


def project(item: bpy.types.Object, camera, pixels=None, job: str = "job", others=()) -> str:
    picture = image_of(stripes() if pixels is None else pixels)
    return module("scene.projected_texture").project_picture(item, picture, job, *camera, others)


def indices(item: bpy.types.Object) -> list[int]:
    return [polygon.material_index for polygon in item.data.polygons]


def test_through_its_camera_the_mesh_shows_the_picture(crate, camera):
    assert project(crate, camera) == ""
    capture = module("scene.capture")
    view = capture.capture([crate], [capture.CaptureCamera(*camera, (SIDE, SIDE))], samples=16, threads=1)[0]
    inside = view.alpha > 0.999
    assert inside.sum() > 800
    off = np.abs(view.albedo[inside] * 255 - stripes()[inside])
    assert off.mean() < 2.0  # the pass is a little darker than the colour
    assert np.percentile(off, 99) < 4.5  # by the UV map alone it is 9: right at the corners and bent between them


def test_the_uv_map_holds_the_places_and_the_active_one_stays(crate, camera):
    assert crate.data.uv_layers.active.name == "UVMap"
    project(crate, camera)
    layers = crate.data.uv_layers
    assert [layer.name for layer in layers] == ["UVMap", "Picture"] and layers.active.name == "UVMap"
    assert layers["UVMap"].active_render
    places = np.array([crate.matrix_world @ crate.data.vertices[loop.vertex_index].co for loop in crate.data.loops])
    wanted = contract("frames").project(places, *camera)[0]
    uv = np.array([item.vector for item in layers["Picture"].uv])
    assert uv == pytest.approx(np.c_[wanted[:, 0], 1 - wanted[:, 1]], abs=1e-5)


def test_faces_that_are_not_seen_keep_what_they_have(crate, camera):
    second = bpy.data.materials.new("Second")
    crate.data.materials.append(second)
    for polygon in crate.data.polygons:
        polygon.material_index = polygon.index % 2
    before = indices(crate)
    project(crate, camera)
    now = indices(crate)
    seen = [number for number, index in enumerate(now) if index == 2]
    assert len(seen) == 3 and [slot.material.name for slot in crate.material_slots][:2] == ["Material", "Second"]
    assert all(now[number] == before[number] for number in range(6) if number not in seen)
    # Another variant of the same job takes its place; from the other side, the first sides get back what they had.
    assert project(crate, camera, stripes(turned=True)) == "" and indices(crate) == now
    assert len(crate.material_slots) == 3
    behind = contract("frames").look_at(-EYE, np.zeros(3)), camera[1]
    project(crate, behind)
    turned = indices(crate)
    assert all(turned[number] == before[number] for number in seen) and turned.count(2) == 3


def test_what_stands_in_front_hides_the_faces_behind(crate, camera):
    mesh = bpy.data.meshes.new("Board")
    mesh.from_pydata([(-3, 0, -3), (3, 0, -3), (3, 0, 3), (-3, 0, 3)], [], [(0, 1, 2, 3)])
    board = bpy.data.objects.new("Board", mesh)
    board.location = (0.8, -0.95, 0.7)
    bpy.context.scene.collection.objects.link(board)
    bpy.context.view_layer.update()
    with pytest.raises(contract("errors").MaquetteError, match="shows none of the faces"):
        project(crate, camera, others=[board])
    assert (
        len(crate.material_slots) == 1
        and len(crate.data.uv_layers) == 1
        and not crate.data.attributes.get("maquette_picture")
    )
    assert project(crate, camera) == ""  # without the board


def test_a_mesh_that_others_use_too_becomes_its_own(crate, camera):
    twin = bpy.data.objects.new("Twin", crate.data)
    bpy.context.scene.collection.objects.link(twin)
    project(crate, camera)
    assert twin.data != crate.data and len(twin.data.materials) == 1 and len(twin.data.uv_layers) == 1


def test_modifiers_that_bend_are_followed_and_others_are_told(crate, camera):
    crate.modifiers.new("Bend", "SIMPLE_DEFORM").angle = 0.6
    bpy.context.view_layer.update()
    assert project(crate, camera) == ""
    shape = crate.evaluated_get(bpy.context.evaluated_depsgraph_get())
    places = np.array([shape.matrix_world @ shape.data.vertices[loop.vertex_index].co for loop in crate.data.loops])
    uv = np.array([item.vector for item in crate.data.uv_layers["Picture"].uv])
    wanted = contract("frames").project(places, *camera)[0]
    assert uv == pytest.approx(np.c_[wanted[:, 0], 1 - wanted[:, 1]], abs=1e-4)
    crate.modifiers.new("More", "SUBSURF")
    bpy.context.view_layer.update()
    assert "without its modifiers" in project(crate, camera)


def test_a_mesh_without_material_and_uv_map_gets_both(crate, camera):
    crate.data.materials.clear()
    crate.data.uv_layers.remove(crate.data.uv_layers[0])
    assert project(crate, camera) == ""
    assert [slot.material.name if slot.material else None for slot in crate.material_slots] == [None, "Picture"]
    assert sorted(indices(crate)) == [0, 0, 0, 1, 1, 1]


def test_what_cannot_have_it_is_told(crate, camera):
    error = contract("errors").MaquetteError
    with pytest.raises(error, match="is no mesh. Convert it"):
        project(bpy.data.objects.new("Curve", bpy.data.curves.new("Curve", "CURVE")), camera)
    with pytest.raises(error, match="has no faces"):
        project(bpy.data.objects.new("Empty", bpy.data.meshes.new("Empty")), camera)
    away = contract("frames").look_at(EYE, 2 * EYE), camera[1]
    with pytest.raises(error, match="shows none of the faces"):
        project(crate, away)
    while len(crate.data.uv_layers) < 8:
        crate.data.uv_layers.new(name=f"More {len(crate.data.uv_layers)}")
    with pytest.raises(error, match="as many UV maps as it can have"):
        project(crate, camera)
