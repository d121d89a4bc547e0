"""Objects of a photo before one camera: with a depth image, on a common ground, and when the objects disagree."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from backend.contract import frames
from backend.geometry.similarity import Similarity, fit_similarity_robust
from backend.rendering.rasterizer import rasterize
from backend.systems.cupid import scene_ground
from backend.systems.cupid.scene_depth import DepthMap
from backend.systems.cupid.scene_placement import place_objects
from backend.systems.cupid.scene_pose import SceneObject, reframed

SIZE = (320, 240)
FOCAL = 1.3
CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
FACES = np.array([
    [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4],
    [1, 5, 7], [1, 7, 3],
])  # fmt: skip
SIDES = np.array([[1.0, 0.7, 0.8], [0.6, 0.6, 1.0], [1.0, 0.5, 0.45]])  # of the boxes, in their own units
SCALES, YAWS = (0.9, 0.6, 1.1), (0.4, 1.9, -0.7)
SPOTS = ((-0.9, 0.3), (0.5, -0.5), (0.6, 1.1))
INTRINSICS = np.array([[FOCAL, 0, 0.5], [0, FOCAL * SIZE[0] / SIZE[1], 0.5], [0, 0, 1.0]])
WORLD_TO_CAMERA = frames.look_at(np.array([0.6, -4.2, 2.0]), np.array([0.0, 0.2, 0.2]))


def object_to_world(index: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = SCALES[index] * Rotation.from_euler("z", YAWS[index]).as_matrix()
    matrix[:3, 3] = (*SPOTS[index], SCALES[index] * SIDES[index, 2] / 2)
    return matrix


def truth(size: tuple[int, int] = SIZE) -> tuple[np.ndarray, list[np.ndarray]]:
    """Depth [H,W] of three boxes on a ground, and their visible masks."""
    parts = [WORLD_TO_CAMERA @ object_to_world(index) for index in range(3)]
    views = [rasterize(CORNERS * SIDES[i], FACES, pose, INTRINSICS, size) for i, pose in enumerate(parts)]
    ground = rasterize(CORNERS * (60.0, 60.0, 0.0), FACES[:4] * 0 + [[0, 4, 6], [0, 6, 2], [0, 4, 6], [0, 6, 2]],
                       WORLD_TO_CAMERA, INTRINSICS, size)  # fmt: skip
    layers = np.stack([np.where(view.mask, view.depth, np.inf) for view in (*views, ground)])
    nearest = layers.min(axis=0)
    masks = [layers[index] == nearest for index in range(3)]
    return np.where(np.isfinite(nearest), nearest, 0.0).astype(np.float32), [m & np.isfinite(nearest) for m in masks]


def objects(tilt: float = 0.0, thick: float = 1.0) -> list[SceneObject]:
    """What single-object runs would answer: each seen by a camera of its own that looks at it from an arbitrary size.

    tilt: degrees by which every pose is wrong; thick: factor on the depth of the boxes, seen from their front.
    """
    _, masks = truth()
    found = []
    for index, mask in enumerate(masks):
        pose = WORLD_TO_CAMERA @ object_to_world(index)
        pose[:3] /= SCALES[index]  # rigid: the object's unit is its cube
        own = np.diag([0.8, 0.8, 1.0]) @ INTRINSICS
        own[:2, 2] = 0.5
        pose[2, 3] *= 0.8  # a wider lens from nearer
        pose[:3, :3] = Rotation.from_rotvec(np.radians(tilt) * np.eye(3)[index]).as_matrix() @ pose[:3, :3]
        found.append(SceneObject(CORNERS * SIDES[index] * [1.0, thick, 1.0], FACES, pose, own, mask))
    return found


def errors(placed, free_scale: bool = False) -> np.ndarray:
    true = np.stack([(WORLD_TO_CAMERA @ object_to_world(index))[:3, 3] for index in range(3)])
    ours = np.stack([found.object_to_camera[:3, 3] for found in placed.placements])
    if free_scale:
        ours = ours * (ours * true).sum() / (ours**2).sum()
    return np.linalg.norm(ours - true, axis=1) / (np.array(SCALES) * SIDES.max(axis=1))


def test_a_robust_similarity_ignores_what_does_not_belong():
    rng = np.random.default_rng(3)
    source = rng.normal(size=(200, 3))
    true = Similarity(1.7, Rotation.from_rotvec([0.1, -0.2, 0.15]).as_matrix(), np.array([0.3, 2.0, 5.0]))
    target = true.apply(source) + rng.normal(0, 0.005, (200, 3))
    target[:60] += rng.uniform(1, 3, (60, 3))
    found = fit_similarity_robust(source, target, Similarity(1.5, np.eye(3), np.array([0.5, 2.2, 5.5])))
    assert found.scale == pytest.approx(1.7, rel=2e-3)
    assert np.abs(found.rotation - true.rotation).max() < 5e-3
    assert np.abs(found.matrix[:3, 3] - true.translation).max() < 0.02


def test_an_own_camera_is_retold_in_the_shared_one():
    item = objects()[0]
    pose = reframed(item, INTRINSICS)
    own, _ = frames.project(item.vertices, item.world_to_camera, item.intrinsics)
    shared, depth = frames.project(item.vertices, pose, INTRINSICS)
    assert np.abs(own - shared).max() < 0.03 and (depth > 0).all()
    assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("focal", [FOCAL, None])
def test_depth_puts_every_object_in_its_place(focal):
    depth, _ = truth()
    placed = place_objects(objects(tilt=6.0, thick=1.15), SIZE, focal, DepthMap(depth, None, "image"))
    assert placed.ground == "depth" and placed.focal_source == ("given" if focal else "ground")
    assert placed.intrinsics[0, 0] == pytest.approx(FOCAL, rel=0.02)
    assert [found.depth_source for found in placed.placements] == ["depth"] * 3
    assert errors(placed).max() < 0.12 and np.median(errors(placed)) < 0.08, errors(placed)
    up = placed.world_to_camera[:3, 2] @ WORLD_TO_CAMERA[:3, 2]
    assert up > np.cos(np.radians(3 if focal is None else 0.5)), "z is up"
    for found in placed.placements:
        world = np.linalg.inv(placed.world_to_camera) @ found.object_to_camera
        assert world[:3, 2] / np.linalg.norm(world[:3, 2]) == pytest.approx([0, 0, 1], abs=1e-6), "they stand upright"


@pytest.mark.parametrize(("noise", "within"), [(0.0, 0.015), (0.003, 0.06)])
def test_the_lens_is_told_by_depth_finer_than_surfaces_are_compared_at_and_by_noisy_depth(noise, within):
    size = (520, 390)
    depth, masks = truth(size)
    depth *= 1.0 + noise * np.random.default_rng(1).standard_normal(depth.shape).astype(np.float32)
    items = [dataclasses.replace(item, mask=mask) for item, mask in zip(objects(), masks, strict=True)]
    placed = place_objects(items, size, None, DepthMap(depth, None, "image"))
    assert placed.focal_source == "ground"
    assert placed.intrinsics[0, 0] == pytest.approx(FOCAL, rel=within)


def test_a_depth_of_another_unit_changes_the_size_and_nothing_else():
    depth, _ = truth()
    maps = (DepthMap(depth * unit, None, "image") for unit in (1.0, 3.28))
    metres, feet = (place_objects(objects(), SIZE, FOCAL, each) for each in maps)
    for a, b in zip(metres.placements, feet.placements, strict=True):
        assert np.allclose(3.28 * a.object_to_camera[:3], b.object_to_camera[:3], rtol=1e-4, atol=1e-4)


def test_the_priors_own_camera_is_taken():
    depth, _ = truth()
    placed = place_objects(objects(), SIZE, None, DepthMap(depth, INTRINSICS, "moge"))
    assert placed.focal_source == "depth" and np.array_equal(placed.intrinsics, INTRINSICS)


def test_an_object_without_depth_goes_onto_the_measured_ground_and_says_so():
    depth, masks = truth()
    depth[masks[1]] = 0.0
    placed = place_objects(objects(), SIZE, FOCAL, DepthMap(depth, None, "image"))
    assert [found.depth_source for found in placed.placements] == ["depth", "ground", "depth"]
    assert "guess" in placed.placements[1].message and placed.placements[0].message == ""
    assert errors(placed)[1] < 0.25


def test_without_depth_the_objects_stand_on_one_ground():
    placed = place_objects(objects(), SIZE, FOCAL, None)
    assert placed.ground == "objects" and "guess" in placed.message
    assert errors(placed, free_scale=True).max() < 0.25, errors(placed, free_scale=True)
    to_world = np.linalg.inv(placed.world_to_camera)
    lowest = [
        (to_world @ found.object_to_camera @ np.c_[CORNERS * SIDES[i], np.ones(8)].T)[2].min()
        for i, found in enumerate(placed.placements)
    ]
    assert np.allclose(lowest, 0.0, atol=1e-6), "undersides lie on z = 0"


def test_objects_that_disagree_get_one_size_each():
    items = objects()
    turned = [Rotation.from_euler("x", angle, degrees=True).as_matrix() for angle in (0, 90, -90)]
    wrong = []
    for item, turn in zip(items, turned, strict=True):
        pose = item.world_to_camera.copy()
        pose[:3, :3] = pose[:3, :3] @ turn
        wrong.append(SceneObject(item.vertices, item.faces, pose, item.intrinsics, item.mask))
    placed = place_objects(wrong, SIZE, FOCAL, None)
    assert placed.ground == "none" and {found.depth_source for found in placed.placements} == {"mask_size"}
    scales = [np.cbrt(np.linalg.det(found.object_to_camera[:3, :3])) for found in placed.placements]
    assert np.allclose(scales * SIDES.max(axis=1), 1.0), "all are one unit long"
    assert "same size" in placed.message


def test_a_wall_is_no_ground_and_noise_is_no_plane():
    rows = np.linspace(0, 1, 60)[:, None] * np.ones((60, 80))
    known = np.ones((60, 80), bool)
    assert scene_ground.find_ground(np.full((60, 80), 3.0, np.float32), known) is None
    noise = np.random.default_rng(0).uniform(1, 5, (60, 80)).astype(np.float32)
    assert scene_ground.find_ground(noise, known) is None
    found = scene_ground.find_ground((1.0 / (0.2 + 0.4 * rows)).astype(np.float32), known)
    assert found is not None and found.share > 0.99 and found.coefficients[1] == pytest.approx(0.4, rel=0.05)
    assert scene_ground.find_ground(noise, np.zeros((60, 80), bool)) is None
