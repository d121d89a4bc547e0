"""The fit to the photo's silhouette finds a camera that was pushed away and completes a shape with holes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from backend.contract.frames import look_at
from backend.formats.images import Picture
from backend.geometry.pose import Camera, rotation_from_vector
from backend.systems.cupid.photo import Photo
from backend.systems.cupid.silhouette_fit import (
    SIZE,
    fit_silhouette,
    moved_camera,
    overlap,
    silhouette,
    small_outline,
)
from backend.systems.cupid.structure_decode import Structure
from backend.systems.cupid.structure_stage import Hypothesis, SolvedCamera, fitted, ranking
from backend.systems.cutout.crop import Crop
from backend.systems.cutout.masking import Cutout

RESOLUTION = 32


def chair() -> np.ndarray:
    """A shape without symmetry [32,32,32]: seat, back, one long leg."""
    occupied = np.zeros((RESOLUTION,) * 3, bool)
    occupied[6:26, 6:26, 14:17] = True
    occupied[6:9, 6:26, 14:30] = True
    occupied[22:26, 6:10, 2:14] = True
    return occupied


def camera(shift: float = 0.0) -> Camera:
    intrinsics = np.array([[1.4, 0.0, 0.5 + shift], [0.0, 1.4, 0.5 - shift], [0.0, 0.0, 1.0]])
    return Camera(intrinsics, look_at(np.array([1.4, -1.3, 0.9]), np.zeros(3)), 0.0)


def photo_alpha(occupied: np.ndarray) -> np.ndarray:
    points = (np.argwhere(occupied) + 0.5) / RESOLUTION - 0.5
    return silhouette(points, camera(), RESOLUTION).astype(np.float32)


def turned(by: float) -> Camera:
    """The camera turned, shifted and moved away."""
    true = camera(0.04)
    matrix = true.world_to_camera.copy()
    matrix[:3, :3] = rotation_from_vector(np.radians([0.4 * by, by, -0.3 * by])) @ matrix[:3, :3]
    matrix[2, 3] *= 1.12
    return Camera(true.intrinsics, matrix, 0.0)


def angle(a: Camera, b: Camera) -> float:
    both = a.world_to_camera[:3, :3] @ b.world_to_camera[:3, :3].T
    return float(np.degrees(np.arccos(np.clip((np.trace(both) - 1) / 2, -1, 1))))


def test_a_wrong_camera_comes_back() -> None:
    occupied = chair()
    wrong = turned(8.0)
    fit = fit_silhouette(np.where(occupied, 4.0, -6.0), wrong, photo_alpha(occupied))
    assert fit.iou_solved < 0.8 and fit.iou_moved > 0.93
    assert angle(fit.camera, camera()) < 0.5 * angle(wrong, camera())
    assert fit.camera.intrinsics[0, 0] == wrong.intrinsics[0, 0]


def test_the_shape_takes_the_silhouette() -> None:
    true = chair()
    guess = np.where(true, 3.0, -6.0)
    guess[6:9, 18:26, 22:30] = -1.0  # a corner of the back is missing
    guess[10:16, 10:16, 17:27] = 1.0  # and something stands on the seat
    fit = fit_silhouette(guess, camera(), photo_alpha(true))
    assert fit.iou_reshaped > max(fit.iou_moved, 0.93)
    corner = (slice(6, 9), slice(18, 26), slice(22, 30))
    assert fit.occupied[corner].mean() > 0.25 and not (guess > 0)[corner].any()


def test_a_hole_in_the_surface_is_closed() -> None:
    box = np.zeros((RESOLUTION,) * 3, bool)
    box[8:24, 8:24, 8:24] = True
    shell = box & ~ndimage.binary_erosion(box)
    torn = shell.copy()
    torn[8, 13:17, 13:17] = False
    fit = fit_silhouette(np.where(torn, 4.0, -9.0), camera(), photo_alpha(shell))
    filled = ndimage.binary_fill_holes(fit.occupied)
    assert filled[16, 16, 16] and not ndimage.binary_fill_holes(torn)[16, 16, 16]
    assert (filled & box).sum() / (filled | box).sum() > 0.9


def test_a_hopeless_camera_leaves_the_voxels_alone() -> None:
    occupied = chair()
    away = Camera(camera().intrinsics, look_at(np.array([0.0, 0.0, 3.0]), np.array([0.0, 9.0, 3.0])), 0.0)
    fit = fit_silhouette(np.where(occupied, 4.0, -6.0), away, photo_alpha(occupied))
    assert np.array_equal(fit.occupied, occupied) and fit.iou_solved == 0.0


def test_nothing_to_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to fit"):
        fit_silhouette(np.full((8, 8, 8), -1.0), camera(), np.ones((SIZE, SIZE)))
    with pytest.raises(ValueError, match="nothing to fit"):
        fit_silhouette(np.ones((8, 8, 8)), camera(), np.zeros((SIZE, SIZE)))


def test_steps_turn_about_the_object() -> None:
    stepped = moved_camera(camera(), np.array([0.5, 0.2, 0.1, 0.0, 0.0, 0.0]))
    assert np.allclose(stepped.world_to_camera[:3, 3], camera().world_to_camera[:3, 3])
    everything = small_outline(np.ones((SIZE, SIZE)))
    assert 0.0 < overlap(np.zeros((1, 3)), stepped, everything, RESOLUTION) < 0.05


def covered(alpha: np.ndarray, columns: slice) -> np.ndarray:
    """The alpha behind an occluder over some columns."""
    hidden = alpha.copy()
    hidden[:, columns] = np.nan
    return hidden


def test_what_is_hidden_is_neither_object_nor_empty() -> None:
    occupied = chair()
    alpha = photo_alpha(occupied)
    seen = np.flatnonzero(alpha.any(axis=0))
    hidden = slice(seen[0], seen[0] + len(seen) // 3)
    outline = small_outline(covered(alpha, hidden))
    assert outline.cut and not small_outline(alpha).cut
    assert not outline.mask[:, hidden].any() and not outline.known[:, hidden].any()
    points = (np.argwhere(occupied) + 0.5) / RESOLUTION - 0.5
    assert overlap(points, camera(), outline, RESOLUTION) == 1.0  # the part behind the occluder costs nothing
    fit = fit_silhouette(np.where(occupied, 4.0, -6.0), camera(), covered(alpha, hidden))
    empty = fit_silhouette(np.where(occupied, 4.0, -6.0), camera(), np.nan_to_num(covered(alpha, hidden)))
    solid = ndimage.binary_fill_holes(fit.occupied)
    assert (solid & occupied).sum() / (solid | occupied).sum() > 0.85
    assert empty.occupied.sum() < 0.8 * fit.occupied.sum()  # taken for empty, it would have been cut off
    assert angle(fit.camera, camera()) < 3.0


def test_a_wrong_camera_comes_back_behind_an_occluder() -> None:
    occupied = chair()
    alpha = photo_alpha(occupied)
    seen = np.flatnonzero(alpha.any(axis=0))
    wrong = turned(6.0)
    fit = fit_silhouette(
        np.where(occupied, 4.0, -6.0), wrong, covered(alpha, slice(seen[0], seen[0] + len(seen) // 4))
    )
    assert fit.iou_moved > max(fit.iou_solved, 0.9)
    assert angle(fit.camera, camera()) < 0.7 * angle(wrong, camera())


def test_what_lies_behind_the_camera_is_not_seen() -> None:
    inside = Camera(camera().intrinsics, look_at(np.array([0.0, 0.0, 0.1]), np.array([0.0, 1.0, 0.1])), 0.0)
    ahead, behind = np.array([[0.0, 0.4, 0.1]]), np.array([[0.0, -0.4, 0.1]])
    assert silhouette(ahead, inside, RESOLUTION).any() and not silhouette(behind, inside, RESOLUTION).any()


def hypothesis(view: Camera, occupied: np.ndarray) -> Hypothesis:
    coords = torch.from_numpy(np.pad(np.argwhere(occupied), ((0, 0), (1, 0)))).int()
    structure = Structure(coords, coords, torch.zeros(len(coords), 2))
    return Hypothesis(structure, RESOLUTION, SolvedCamera(view, view.intrinsics, 1.0, ""), None)


def whole_picture() -> Photo:
    """A photo whose crop is the whole picture."""
    rgba = np.zeros((SIZE, SIZE, 4), np.uint8)
    picture = Picture(rgba, (SIZE, SIZE), False)
    crop = Crop(rgba, (0, 0, SIZE, SIZE), 1.0, 0.0, 0.0)
    cutout = Cutout(rgba[..., 3], "alpha", "")
    return Photo(picture, cutout, rgba, crop, torch.zeros(1), torch.zeros(1))


def test_the_view_that_others_share_goes_on() -> None:
    occupied = chair()
    alpha = photo_alpha(occupied)
    backwards = Camera(camera().intrinsics, look_at(np.array([-1.4, 1.3, 0.9]), np.zeros(3)), 0.0)
    lost = replace(hypothesis(camera(), occupied), camera=SolvedCamera(None, None, None, "no camera"))
    views = [lost, hypothesis(backwards, occupied), hypothesis(turned(6.0), occupied), hypothesis(camera(), occupied)]
    assert ranking(views, [alpha])[0] == 3
    assert ranking(views[:1], [alpha]) == [0] and ranking([lost, views[1]], [alpha]) == [1, 0]
    shown = fitted(views[3], np.where(occupied, 4.0, -6.0), [alpha], [whole_picture()])
    assert shown.camera.trusted and shown.camera.message == "" and shown.camera.outline > 0.93
    half = np.where(np.indices(alpha.shape)[1] < SIZE // 3, 1.0, 0.0)  # some other outline
    wrong = fitted(views[3], np.where(occupied, 4.0, -6.0), [half], [whole_picture()])
    assert not wrong.camera.trusted and "outlines overlap" in wrong.camera.message
    silent = np.zeros((SIZE, SIZE))  # nothing to fit: left as it is
    assert fitted(views[3], np.where(occupied, 4.0, -6.0), [silent], [whole_picture()]) is views[3]
