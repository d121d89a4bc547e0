"""Camera and voxels fitted to the photo's silhouette, for networks too small to be exact (not in the paper).

What stage 1 of mini answers is a likely shape and a camera near the right one; the photo's alpha is a measurement. Two
steps bring them together: the camera turns and shifts a little until the voxels' silhouette lies on the photo's, then
the most likely shape with exactly that silhouette is taken: voxels seen outside are dropped, every ray inside that
meets no voxel gets the one that the network holds most likely, and gaps in the surface are closed. The focal length
stays. With several photos of the object each camera is fitted to its own, and the shape takes all outlines whose camera
can be believed: what is left is within their visual hull.

What an occluder hides is neither object nor empty: there, silhouettes are not compared and no voxel is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.optimize import minimize

from backend.geometry import pose
from backend.geometry.pose import Camera

SIZE = 96  # pixels of the compared silhouettes
GROW, SHRINK = 0.62, 0.48  # voxels: centres grow until they touch, then shrink to the surface (see `silhouette`)
ADDED = 0.35  # voxels: how far from the middle of an added voxel its rays count as met
BLURS = (4.0, 1.5)  # pixels; from coarse to fine
STEPS = np.array([np.radians(8), np.radians(8), np.radians(8), 0.05, 0.05, 0.1])  # one unit of each unknown
PRIOR = 0.004  # cost of one unit, squared; silhouettes that differ entirely cost about 1
EVALUATIONS = 260  # of the cost, a blur
OUTSIDE = 0.6  # voxels of the picture: a voxel seen this far outside the silhouette is dropped
LEAST_IOU = 0.2  # below it the camera shows the object somewhere else, and no voxel is touched
BELIEVED_IOU = 0.7  # from which on the camera of a further photo may take voxels away
COVERED = 0.97  # of every silhouette is still filled by the visual hull of views that belong together: with cameras
# 15 degrees off in three of four cases, 45 degrees off in four of ten (16 validation objects)
ATTACHED = 2.0  # logits that a voxel's distance from the shape, in voxels, weighs when rays are filled: no crumbs
CLOSED = 3  # voxels: gaps in the surface up to about twice as wide are closed
KEPT_SHARE = 0.3  # of the voxels; if carving would leave less, the shape is left as it is


@dataclass(frozen=True)
class SilhouetteFit:
    """The fitted ``camera`` and ``occupied`` [R,R,R]; IoU of the voxels' silhouette as solved, moved, and reshaped.

    Of several photos, a view that contradicts the first ones does not agree.
    """

    camera: Camera
    occupied: np.ndarray
    iou_solved: float
    iou_moved: float
    iou_reshaped: float
    agrees: bool = True


@dataclass(frozen=True)
class Outline:
    """The object's silhouette in the photo as it is compared: ``mask`` [SIZE,SIZE] where the object is seen, ``known``
    [SIZE,SIZE] where nothing hides whether it is there."""

    mask: np.ndarray
    known: np.ndarray

    @property
    def size(self) -> int:
        """Pixels a side."""
        return len(self.mask)

    @property
    def cut(self) -> bool:
        """Whether the object may go on where it is hidden: its silhouette touches what is not known."""
        return bool((ndimage.binary_dilation(self.mask, iterations=2) & ~self.known).any())


def fit_silhouette(logits: np.ndarray, camera: Camera, alpha: np.ndarray) -> SilhouetteFit:
    """Fit to the crop's ``alpha`` [S,S] in [0,1], NaN where hidden. ``logits`` [R,R,R] of occupancy, ``camera`` of the
    crop.

    Raises ValueError when no voxel is occupied or the alpha is empty.
    """
    return fit_silhouettes(logits, [camera], [alpha])[0]


def fit_silhouettes(
    logits: np.ndarray, cameras: Sequence[Camera], alphas: Sequence[np.ndarray], known_first: bool = False
) -> list[SilhouetteFit]:
    """The same for several photos of one object: a fit for each, all with the one shape in ``occupied``.

    The camera of the first photo reshapes it from ``LEAST_IOU`` on, those of further photos from ``BELIEVED_IOU`` on.
    With ``known_first`` that of the first photo stays where it is.
    """
    outlines = [small_outline(alpha) for alpha in alphas]
    occupied = logits > 0
    if not occupied.any() or not all(outline.mask.any() for outline in outlines):
        raise ValueError("There is nothing to fit; the object or its silhouette is empty.")
    resolution = logits.shape[0]
    points = (np.argwhere(occupied) + 0.5) / resolution - 0.5
    found: list[tuple[Camera, float, float]] = []
    carving: dict[int, tuple[Camera, Outline]] = {}
    for index, (camera, outline) in enumerate(zip(cameras, outlines, strict=True)):
        solved = overlap(points, camera, outline, resolution)
        better = camera if known_first and index == 0 else _move(points, camera, outline, resolution)
        moved = overlap(points, better, outline, resolution)
        if moved < solved:
            moved, better = solved, camera
        if moved < LEAST_IOU:
            moved, better = solved, camera
        elif index == 0 or moved >= BELIEVED_IOU:
            carving[index] = better, outline
        found.append((better, solved, moved))
    reshaped, agreeing = _reshape(logits, list(carving.values()))
    contrary = {index for index, agrees in zip(carving, agreeing, strict=True) if not agrees and index > 0}
    points = (np.argwhere(reshaped) + 0.5) / resolution - 0.5
    return [
        SilhouetteFit(
            camera, reshaped, solved, moved, overlap(points, camera, outline, resolution), index not in contrary
        )
        for index, ((camera, solved, moved), outline) in enumerate(zip(found, outlines, strict=True))
    ]


def small_outline(alpha: np.ndarray) -> Outline:
    """``alpha`` [S,S] in [0,1], NaN where hidden, as the outline that silhouettes are compared with."""

    def small(values: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(values.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BOX))

    alpha = np.asarray(alpha, np.float32)
    known = small(np.isfinite(alpha)) > 0.5
    return Outline((small(np.nan_to_num(alpha)) >= 0.5) & known, known)


def silhouette(points: np.ndarray, camera: Camera, resolution: int, size: int = SIZE) -> np.ndarray:
    """Mask [size,size] of the surface inside the voxels at ``points`` [N,3] with sides of 1/``resolution``.

    Voxels touch the surface anywhere, so on average their outer halves lie outside of it. With these widths the
    silhouettes of true voxels and of true objects have a median IoU of 0.93 (40 validation objects).
    """
    columns, rows, seen = _pixels(points, camera, size)
    shown = np.zeros((size, size), bool)
    shown[rows[seen], columns[seen]] = True
    voxel = _voxel_pixels(camera, resolution, size)
    grown = ndimage.binary_dilation(shown, _disc(GROW * voxel))
    return np.asarray(ndimage.binary_erosion(grown, _disc(SHRINK * voxel)))


def overlap(points: np.ndarray, camera: Camera, outline: Outline, resolution: int) -> float:
    """IoU of the voxels' silhouette and the photo's, where that is known."""
    shown = silhouette(points, camera, resolution, outline.size) & outline.known
    return float((shown & outline.mask).sum() / max((shown | outline.mask).sum(), 1))


def moved_camera(camera: Camera, step: np.ndarray) -> Camera:
    """``camera`` changed by ``step`` [6] in units of ``STEPS``: turn about the object, principal point, depth."""
    change = np.asarray(step) * STEPS
    world_to_camera = camera.world_to_camera.copy()
    world_to_camera[:3, :3] = pose.rotation_from_vector(change[:3]) @ world_to_camera[:3, :3]
    world_to_camera[:3, 3] *= np.exp(change[5])
    intrinsics = camera.intrinsics.copy()
    intrinsics[:2, 2] += change[3:5]
    return replace(camera, intrinsics=intrinsics, world_to_camera=world_to_camera)


def _pixels(points: np.ndarray, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column and row [N] of ``points`` [N,3], 0 where not seen, and which are before the camera and in the picture."""
    depth = points @ camera.world_to_camera[2, :3] + camera.world_to_camera[2, 3]
    cells = np.floor(pose.project(points, camera.intrinsics, camera.world_to_camera) * size)
    seen = (depth > 0) & np.isfinite(cells).all(1) & (cells >= 0).all(1) & (cells < size).all(1)
    columns, rows = np.where(seen[:, None], cells, 0).astype(int).T
    return columns, rows, seen


def _voxel_pixels(camera: Camera, resolution: int, size: int) -> float:
    """Side of a voxel in the middle of the object, in pixels."""
    depth = max(float(camera.world_to_camera[2, 3]), 1e-3)
    return float(camera.intrinsics[0, 0]) * size / depth / resolution


def _disc(radius: float) -> np.ndarray:
    """Structuring element of a disc, `radius` in pixels; a single pixel at least."""
    radius = min(radius, SIZE / 12)
    reach = int(radius + 0.5)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(rows**2 + columns**2 <= (radius + 0.25) ** 2) | ((rows == 0) & (columns == 0))


def _move(points: np.ndarray, camera: Camera, outline: Outline, resolution: int) -> Camera:
    """The camera near ``camera`` whose silhouette fits best: box onto box first, then all unknowns, coarse to fine."""
    mask = outline.mask
    if not outline.cut:  # else nobody knows how far the box reaches
        camera = _fit_box(points, camera, mask, resolution)
    step = np.zeros(len(STEPS))
    for blur in BLURS:
        target = ndimage.gaussian_filter(mask.astype(np.float32), blur)
        scale = float((target**2).sum())

        def cost(step: np.ndarray, target: np.ndarray = target, scale: float = scale, blur: float = blur) -> float:
            shown = silhouette(points, moved_camera(camera, step), resolution, len(mask)) & outline.known
            difference = ndimage.gaussian_filter(shown.astype(np.float32), blur) - target
            return float((difference**2).sum()) / scale + PRIOR * float((step**2).sum())

        found = minimize(cost, step, method="Powell", options={"maxfev": EVALUATIONS, "xtol": 0.02, "ftol": 1e-4})
        if found.fun < cost(step):
            step = found.x
    return moved_camera(camera, step)


def _fit_box(points: np.ndarray, camera: Camera, mask: np.ndarray, resolution: int) -> Camera:
    """Depth and principal point changed so that the silhouettes' bounding boxes have one size and centre."""
    for _ in range(2):
        shown = silhouette(points, _shrunk(camera), resolution, len(mask))
        if not shown.any():
            return camera
        (centre, extent), (wanted_centre, wanted_extent) = _box(shown), _box(mask)
        grow = float(np.clip(wanted_extent / (extent * 2), 0.25, 4.0))
        middle = camera.intrinsics[:2, 2]
        centre = middle + (centre - 0.5) * 2  # where the box lies in the picture that `_shrunk` halved
        world_to_camera, intrinsics = camera.world_to_camera.copy(), camera.intrinsics.copy()
        world_to_camera[:3, 3] /= grow
        intrinsics[:2, 2] = wanted_centre - (centre - middle) * grow
        camera = replace(camera, intrinsics=intrinsics, world_to_camera=world_to_camera)
    return camera


def _shrunk(camera: Camera) -> Camera:
    """The view twice as wide, principal point in the middle, so that nothing of the object is cut off."""
    intrinsics = camera.intrinsics.copy()
    intrinsics[:2, :2] /= 2
    intrinsics[:2, 2] = 0.5
    return replace(camera, intrinsics=intrinsics)


def _box(mask: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre [2] (u, v) and longer side of the true pixels, in picture sizes."""
    rows, columns = np.nonzero(mask)
    low = np.array([columns.min(), rows.min()])
    high = np.array([columns.max() + 1, rows.max() + 1])
    return (low + high) / 2 / len(mask), float((high - low).max()) / len(mask)


@dataclass(frozen=True)
class _SeenGrid:
    """All voxels of a grid in one view: column and row [N] in it, which are in the picture, a voxel's pixels."""

    camera: Camera
    outline: Outline
    columns: np.ndarray
    rows: np.ndarray
    seen: np.ndarray
    voxel: float

    @classmethod
    def of(cls, points: np.ndarray, camera: Camera, outline: Outline, resolution: int) -> _SeenGrid:
        size = outline.size
        return cls(camera, outline, *_pixels(points, camera, size), _voxel_pixels(camera, resolution, size))

    def allowed(self) -> np.ndarray:
        """Which voxels [N] do not show outside of the silhouette."""
        empty = ~self.outline.mask & self.outline.known
        outside = ndimage.distance_transform_edt(empty)[self.rows, self.columns]
        return np.asarray(self.seen & (outside <= OUTSIDE * self.voxel))

    def covered(self, points: np.ndarray) -> float:
        """The share of the silhouette in which something of the voxels at ``points`` [N,3] is seen."""
        resolution = round(len(self.seen) ** (1 / 3))
        shown = silhouette(points, self.camera, resolution, self.outline.size)
        return float((shown & self.outline.mask).sum() / max(self.outline.mask.sum(), 1))


def _reshape(logits: np.ndarray, views: Sequence[tuple[Camera, Outline]]) -> tuple[np.ndarray, list[bool]]:
    """The most likely occupancy whose silhouettes are those of ``views``, and which of these were used.

    A view is left out that takes too much, or whose hull with those before it leaves holes in a silhouette.
    """
    points = (np.argwhere(np.ones_like(logits, bool)) + 0.5) / logits.shape[0] - 0.5
    likely = logits.reshape(-1)
    allowed, used, agreeing = np.ones(len(points), bool), [], []
    for camera, outline in views:
        view = _SeenGrid.of(points, camera, outline, logits.shape[0])
        both = allowed & view.allowed()
        enough = ((likely > 0) & both).sum() >= KEPT_SHARE * (likely > 0).sum()
        agreeing.append(
            bool(enough and (not used or all(each.covered(points[both]) >= COVERED for each in (*used, view))))
        )
        if agreeing[-1]:
            allowed, used = both, [*used, view]
    if not used:
        return logits > 0, agreeing
    kept = (likely > 0) & allowed
    for view in used:
        _fill_rays(kept, allowed, logits, points, view)
    return _closed_shell(kept.reshape(logits.shape), allowed.reshape(logits.shape)), agreeing


def _fill_rays(
    kept: np.ndarray, allowed: np.ndarray, logits: np.ndarray, points: np.ndarray, view: _SeenGrid
) -> None:
    """Add to ``kept`` [N] the likeliest allowed voxel on every ray of the view's mask that meets none."""
    mask, size, rows, columns = view.outline.mask, view.outline.size, view.rows, view.columns
    missing = mask & ~silhouette(points[kept], view.camera, logits.shape[0], size)
    candidates = np.flatnonzero(allowed & view.seen & mask[rows, columns] & ~kept)
    away = ndimage.distance_transform_edt(~kept.reshape(logits.shape)).reshape(-1)
    wanted = logits.reshape(-1)[candidates] - ATTACHED * away[candidates]
    candidates = candidates[np.argsort(-wanted, kind="stable")]
    pixels = rows[candidates] * size + columns[candidates]
    first = np.unique(pixels, return_index=True)[1]  # the likeliest voxel behind each pixel
    meets = _disc(ADDED * view.voxel)
    reach = meets.shape[0] // 2
    padded = np.pad(missing, reach)
    for index in candidates[np.sort(first)]:
        row, column = rows[index], columns[index]
        window = padded[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
        if (window & meets).any():
            kept[index] = True
            window[meets] = False


def _closed_shell(occupied: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The surface voxels of `occupied` [R,R,R] with its gaps closed and its inside filled, within `allowed`."""
    reach = int(CLOSED)
    grid = np.mgrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1]
    ball = (grid**2).sum(0) <= (CLOSED + 0.5) ** 2
    around = 2 * reach + 1
    grown = ndimage.binary_fill_holes(ndimage.binary_dilation(np.pad(occupied, around), ball))
    inner = (slice(around, -around),) * 3
    solid = occupied | (np.asarray(ndimage.binary_erosion(grown, ball))[inner] & allowed)
    return np.asarray(solid & ~ndimage.binary_erosion(solid))
