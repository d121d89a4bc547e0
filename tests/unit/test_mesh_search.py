"""The view of a known mesh in a rendered picture: found from nothing, by outline and colours."""

import numpy as np
import pytest
import trimesh

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.geometry.pose import Camera
from backend.geometry.surface_sampling import SurfacePoints, sample_surface
from backend.rendering.views import render_mesh
from backend.systems.cupid.contour_fit import fit_contour, outline_of
from backend.systems.cupid.mesh_search import Guess, Picture, angle_between, find_views, symmetry
from backend.systems.cupid.mesh_view import MeshView, overlap, project, silhouette, view_of_camera

from .test_registration import lorry

SIZE = 128
FOCAL = 1.7


def colored_lorry() -> MeshData:
    shape = lorry()
    shape.unmerge_vertices()
    vertices = np.asarray(shape.vertices, np.float64)
    vertices = (vertices - (vertices.min(0) + vertices.max(0)) / 2) / np.ptp(vertices, axis=0).max()
    colors = np.where(vertices[:, :1] < -0.15, [200, 60, 40, 255], [60, 90, 190, 255]).astype(np.uint8)
    return MeshData(vertices.astype(np.float32), np.asarray(shape.faces, np.int32), None, colors)


def shuffled(mesh: MeshData, count: int = 12_000) -> SurfacePoints:
    sampled = sample_surface(mesh, count)
    order = np.random.default_rng(0).permutation(count)
    return SurfacePoints(sampled.points[order], sampled.normals[order], sampled.colors[order])


def picture_of(mesh: MeshData, world_to_camera: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    view = render_mesh(mesh, world_to_camera, intrinsics, (SIZE, SIZE))
    shade = 0.6 + 0.4 * view.normal[..., 2:].clip(0)
    return (np.dstack([view.color * shade, view.alpha]).clip(0, 1) * 255).astype(np.uint8)


def camera_at(azimuth: float, elevation: float, distance: float = 2.2) -> tuple[np.ndarray, np.ndarray]:
    a, e = np.radians([azimuth, elevation])
    eye = distance * np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    intrinsics = np.array([[FOCAL, 0, 0.52], [0, FOCAL, 0.49], [0, 0, 1.0]])
    return look_at(eye, np.zeros(3)), intrinsics


@pytest.mark.parametrize(("azimuth", "elevation"), [(200, 25), (65, 50)])
def test_the_view_is_found_without_a_guess(azimuth, elevation):
    mesh = colored_lorry()
    world_to_camera, intrinsics = camera_at(azimuth, elevation)
    rgba = picture_of(mesh, world_to_camera, intrinsics)
    best = find_views(shuffled(mesh), Picture(rgba))[0]
    found = best.view.camera()
    assert np.degrees(angle_between(found.world_to_camera[:3, :3], world_to_camera[:3, :3])) < 3.0
    assert found.intrinsics[0, 0] == pytest.approx(FOCAL, rel=0.15)
    shown = render_mesh(mesh, found.world_to_camera, found.intrinsics, (SIZE, SIZE))
    assert overlap(shown.mask, rgba[..., 3] >= 128) > 0.95 and best.origin == "search" and best.color > 0.5


def test_the_middle_of_the_whole_photo_and_a_locked_focal_length_are_kept():
    mesh = colored_lorry()
    # The crop is the left part of a photo whose axis passes far to its right.
    principal, focal = np.array([1.3, 0.4]), 2.4
    truth = MeshView(camera_at(200, 25)[0][:3, :3], np.array([0.5, 0.5]), focal / 3.0, 3.0, principal)
    camera = truth.camera()
    rgba = picture_of(mesh, camera.world_to_camera, camera.intrinsics)
    found = find_views(shuffled(mesh), Picture(rgba, principal, focal))[0].view.camera()
    assert found.intrinsics[0, 0] == pytest.approx(focal) and found.intrinsics[:2, 2] == pytest.approx(principal)
    assert np.degrees(angle_between(found.world_to_camera[:3, :3], camera.world_to_camera[:3, :3])) < 3.0
    assert found.world_to_camera[:3, 3] == pytest.approx(camera.world_to_camera[:3, 3], rel=0.05)


def test_colours_tell_two_ends_apart_and_a_guess_is_remembered():
    shape = trimesh.creation.box(extents=(1, 0.4, 0.25)).subdivide().subdivide()
    vertices = np.asarray(shape.vertices, np.float32)
    colors = np.where(vertices[:, :1] > 0, [220, 40, 40, 255], [40, 60, 220, 255]).astype(np.uint8)
    mesh = MeshData(vertices, np.asarray(shape.faces, np.int32), None, colors)
    assert symmetry(shuffled(mesh).points) == 2
    for azimuth in (120, 300):
        world_to_camera, intrinsics = camera_at(azimuth, 30)
        picture = Picture(picture_of(mesh, world_to_camera, intrinsics))
        best = find_views(shuffled(mesh), picture)[0].view.camera()
        assert np.degrees(angle_between(best.world_to_camera[:3, :3], world_to_camera[:3, :3])) < 5.0
    guess = Guess(view_of_camera(Camera(intrinsics, world_to_camera, 0.0), None), "cupid")
    assert find_views(shuffled(mesh), picture, [guess])[0].origin in ("cupid", "search")


def test_a_view_is_what_its_camera_shows():
    world_to_camera, intrinsics = camera_at(30, 40)
    world_to_camera[:3, 3] += [0.2, -0.1, 0.0]
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    seen = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    wanted = (seen @ intrinsics.T)[:, :2] / seen[:, 2:]
    view = view_of_camera(Camera(intrinsics, world_to_camera, 0.0), intrinsics[:2, 2])
    assert np.abs(project(points, view)[0] - wanted).max() < 1e-9


def test_a_disturbed_view_is_pulled_back_onto_the_outline():
    mesh = colored_lorry()
    world_to_camera, intrinsics = camera_at(200, 25)
    outline = outline_of(picture_of(mesh, world_to_camera, intrinsics)[..., 3] >= 128)
    points = shuffled(mesh).points
    truth = view_of_camera(Camera(intrinsics, world_to_camera, 0.0), None)
    start = truth.moved(np.array([0.1, -0.12, 0.08, 0.03, -0.02, 0.1, 0.2]))
    fitted = fit_contour(points, start, outline, 25)
    assert overlap(silhouette(project(points, start)[0], SIZE), outline.mask) < 0.85
    assert overlap(silhouette(project(points, fitted)[0], SIZE), outline.mask) > 0.95
    assert np.degrees(angle_between(fitted.rotation, truth.rotation)) < 2.0
    with pytest.raises(ValueError, match="empty"):
        outline_of(np.zeros((8, 8), bool))
