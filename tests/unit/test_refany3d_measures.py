"""What the measures of painted pictures say of known answers: the truth, a wrong pose, nothing at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import trimesh

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.evaluation import refany3d_measures as measures
from backend.evaluation.refany3d_matches import count_matches, find_features
from backend.rendering.image_metrics import mask_iou
from backend.systems.refany3d.camera_from_points import solve_picture
from backend.systems.refany3d.point_maps import foreground

SIZE = 128
LENS = np.array([[1.5, 0.0, 0.5], [0.0, 1.5, 0.5], [0.0, 0.0, 1.0]])


def patchwork() -> measures.Subject:
    """A box of 30 x 18 x 12 with spots of colour, away from the origin; its sides are unlike."""
    box = trimesh.creation.box((30, 18, 12)).subdivide().subdivide().subdivide()
    rng = np.random.default_rng(3)
    colors = rng.integers(30, 226, (len(box.vertices), 4)).astype(np.uint8)
    mesh = MeshData(np.float32(box.vertices + [3, -1, 7]), np.int32(box.faces), colors=colors)
    return measures.subject_of([mesh])


def camera(
    subject: measures.Subject, azimuth: float = 0.7, elevation: float = 0.4, distance: float = 2.3
) -> np.ndarray:
    e, a = elevation, azimuth
    away = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    centre = subject.bounds.centre
    return look_at(centre + distance * subject.bounds.longest * away, centre + [1.0, 0.5, -1.0])


def in_light(drawing: measures.Drawing, seed: int = 0) -> np.ndarray:
    """The drawing as a picture: in warm light, before a busy background."""
    backdrop = np.random.default_rng(seed).uniform(0, 1, (SIZE, SIZE, 3))
    return measures.composite(backdrop, drawing.color * [0.8, 0.7, 0.5] + [0.1, 0.05, 0.02], drawing.mask)


@pytest.fixture(scope="module")
def subject() -> measures.Subject:
    return patchwork()


@pytest.fixture(scope="module")
def true(subject: measures.Subject) -> measures.Drawing:
    return measures.draw(subject, camera(subject), LENS, SIZE)


def test_the_truth_scores_best(subject: measures.Subject, true: measures.Drawing) -> None:
    picture, points = in_light(true), np.rint(true.points * 255) / 255
    found = solve_picture(points, subject.bounds)
    assert found.trusted and found.world_to_camera is not None and found.intrinsics is not None
    drawing = measures.draw(subject, found.world_to_camera, found.intrinsics, SIZE)
    score = measures.score(picture, points, drawing, subject.bounds)
    assert score["pointmap_error"] < 0.005 and score["silhouette_iou"] > 0.98
    assert score["masked_psnr"] > 28 and score["masked_ssim"] > 0.9
    matches = count_matches(find_features(picture, foreground(points)), find_features(drawing.color, drawing.mask))
    assert matches > 50


def test_a_random_pose_is_clearly_worse(subject: measures.Subject, true: measures.Drawing) -> None:
    picture = in_light(true)
    features = find_features(picture, true.mask)
    scores = []
    for seed in range(4):
        matrix = measures.random_camera(subject, true.points, 1.5, np.random.default_rng(seed))
        drawing = measures.draw(subject, matrix, LENS, SIZE)
        score = measures.score(picture, true.points, drawing, subject.bounds)
        scores.append([*score.values(), count_matches(features, find_features(drawing.color, drawing.mask))])
    error, overlap, psnr, ssim, inside, matches = np.mean(scores, axis=0)
    assert error > 0.15 and overlap < 0.9 and psnr < 20 and ssim < 0.5 and inside < 20 and matches < 10


def test_the_random_pose_is_as_large_and_in_the_same_place(subject: measures.Subject, true: measures.Drawing) -> None:
    def box(mask: np.ndarray) -> tuple[np.ndarray, float]:
        places = np.argwhere(mask)
        low, high = places.min(axis=0), places.max(axis=0) + 1
        return (low + high) / 2, float((high - low).max())

    centre, longer = box(true.mask)
    matrices = [measures.random_camera(subject, true.points, 1.5, np.random.default_rng(seed)) for seed in range(6)]
    for matrix in matrices:
        found, size = box(measures.draw(subject, matrix, LENS, SIZE).mask)
        assert np.abs(found - centre).max() < 6 and abs(size - longer) < 8
    eyes = np.stack([-matrix[:3, :3].T @ matrix[:3, 3] for matrix in matrices]) - subject.bounds.centre
    directions = np.arctan2(eyes[:, 1], eyes[:, 0])
    assert np.ptp(directions) > 1.0  # from all around
    nothing = measures.random_camera(subject, None, 1.5, np.random.default_rng(0))
    assert 0.5 * SIZE < box(measures.draw(subject, nothing, LENS, SIZE).mask)[1] < 0.8 * SIZE


def test_an_error_of_places_is_told_in_lengths_of_the_object(subject: measures.Subject, true: measures.Drawing) -> None:
    moved = true.points.copy()
    inside = true.mask & (true.points[..., :2] < 0.85).all(axis=-1)  # no place leaves the box
    moved[inside, 0] += 0.1  # along the longest side
    flawed = dataclasses.replace(true, mask=inside)
    assert measures.pointmap_error(moved, flawed, subject.bounds) == pytest.approx(0.1, abs=1e-6)
    moved[inside, 0] -= 0.1
    moved[inside, 1] += 0.1  # up: 12 of 30
    assert measures.pointmap_error(moved, flawed, subject.bounds) == pytest.approx(0.04, abs=1e-6)
    white = np.ones_like(moved)
    assert measures.score(in_light(true), white, true, subject.bounds)["pointmap_error"] == 1.0
    assert mask_iou(foreground(white), true.mask) == 0.0


def test_light_does_not_count_and_another_object_does(true: measures.Drawing) -> None:
    def scores(picture: np.ndarray, drawing: measures.Drawing = true) -> tuple[float, float, float]:
        told = (picture, true.points, drawing)
        return measures.masked_psnr(*told), measures.inside_psnr(picture, drawing), measures.masked_ssim(*told)

    bright, dark = in_light(true), measures.composite(in_light(true), true.color * 0.3, true.mask)
    assert min(scores(each)[1] for each in (bright, dark)) > 50
    assert min(scores(each)[0] for each in (bright, dark)) > 35  # the corner that is coded white is lost
    negative = measures.composite(bright, 1.0 - true.color, true.mask)
    assert max(scores(negative)[:2]) < 20  # gains below zero are no light
    shuffled = bright.copy()
    shuffled[true.mask] = np.random.default_rng(1).permutation(bright[true.mask])
    assert max(scores(shuffled)[:2]) < 20 and scores(shuffled)[2] < 0.3
    assert scores(bright, dataclasses.replace(true, mask=np.zeros_like(true.mask))) == (0.0, 0.0, 0.0)


def test_the_background_around_the_object_does_not_count(true: measures.Drawing) -> None:
    first, second = in_light(true, 0), in_light(true, 1)
    assert measures.inside_psnr(first, true) == measures.inside_psnr(second, true)
    scores = [measures.masked_psnr(each, true.points, true) for each in (first, second)]
    assert scores[0] == pytest.approx(scores[1], abs=0.5) and min(scores) > 40
    assert measures.masked_ssim(second, true.points, true) > 0.99
    assert count_matches(find_features(first, true.mask), find_features(second, true.mask)) > 50


def test_a_mesh_beside_the_painted_object_is_no_likeness(true: measures.Drawing) -> None:
    """The ground is as even as a mesh that no gain is given: over the mesh's own silhouette they are alike."""
    picture = measures.composite(np.full((SIZE, SIZE, 3), 0.9), in_light(true), true.mask)
    aside = measures.Drawing(*(np.roll(part, SIZE // 2, axis=1) for part in (true.color, true.points, true.mask)))
    apart = dataclasses.replace(aside, mask=aside.mask & ~true.mask)
    assert measures.inside_psnr(picture, apart) > 50 > 20 > measures.masked_psnr(picture, true.points, apart)
    half = dataclasses.replace(true, mask=true.mask & (np.arange(SIZE) < SIZE // 2))
    assert measures.inside_psnr(picture, half) > 50 > 20 > measures.masked_psnr(picture, true.points, half)


def test_matches_fall_with_the_angle_and_chance_gives_none(subject: measures.Subject, true: measures.Drawing) -> None:
    features = find_features(in_light(true), true.mask)
    found = []
    for angle in (0.0, 0.15, 1.5, 3.0):
        turned = measures.draw(subject, camera(subject, 0.7 + angle), LENS, SIZE)
        found.append(count_matches(features, find_features(turned.color, turned.mask)))
    assert found[0] > found[1] > max(found[2:]) and found[1] > 10 and max(found[2:]) < 8
    rng = np.random.default_rng(0)
    everywhere = np.ones((SIZE, SIZE), bool)
    noise = [find_features(rng.uniform(0, 1, (SIZE, SIZE, 3)), everywhere) for _ in range(3)]
    assert all(count_matches(features, each) == 0 for each in noise) and len(noise[0].places) > 50
    mirrored = find_features(in_light(true)[:, ::-1], true.mask[:, ::-1])
    assert count_matches(features, mirrored) < 0.2 * found[0]
    plain = find_features(np.full((SIZE, SIZE, 3), 0.5), everywhere)
    assert len(plain.places) == 0 and count_matches(plain, features) == 0
    assert len(find_features(in_light(true), np.zeros((SIZE, SIZE), bool)).places) == 0


def test_features_lie_where_things_are(true: measures.Drawing) -> None:
    picture = np.full((SIZE, SIZE, 3), 0.2)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    spots = np.array([[30, 40], [80, 100], [100, 30]])
    for row, column in spots:
        picture += np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 18.0)[..., None] * 0.6
    features = find_features(picture, np.ones((SIZE, SIZE), bool))
    for row, column in spots:
        away = np.linalg.norm(features.places * SIZE - 0.5 - [column, row], axis=1)
        assert away.min() < 0.6
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1.0, atol=0.2)
