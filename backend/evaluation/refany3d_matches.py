"""How many local features two pictures of an object share: corners, histograms of gradients, one affine map for all.

Stands where the publication counts the matches of a trained matcher (GIM): the same question, asked with older means.
Features are after Lowe, "Distinctive image features from scale-invariant keypoints" (IJCV 2004): extrema of the
difference of Gaussians, described by 4 x 4 histograms of 8 directions, partners that choose each other and are clearly
nearer than the next. Objects stand upright in both pictures, so no direction is taken out. A match counts when it
follows the affine map on which most agree (RANSAC). LEAST_MATCHES or fewer count as none: in 138 pairs of a scene's
picture and a render of another object there were never more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

UPSAMPLE = 2  # pictures of mini are small
SIGMAS = tuple(1.6 * 2 ** (step / 3) for step in range(9))  # of the enlarged picture: from 1.6 to 10 pixels
LEAST_CONTRAST = 0.02  # of a difference of Gaussians, in standard deviations of the object's greys
LEAST_SPREAD = 0.02  # standard deviation of greys in [0,1] that is taken for noise
MOST_EDGE = 10.0  # ratio of curvatures, as published: beyond it a place slides along an edge
MOST_FEATURES = 400
CELLS, CELL_SIGMAS, SAMPLES, DIRECTIONS = 4, 3.0, 4, 8
CLIPPED = 0.2  # of a descriptor's length, as published: one strong edge is not all
RATIO = 0.85  # to the second nearest
TRIES = 400
AGREES = 0.04  # of the picture's side: off by no more under the affine map; a solid is not a plane
SCALES = (0.4, 2.5)  # of the affine map
MOST_SHEAR = 3.0  # ratio of its two scales
LEAST_MATCHES = 4  # three points always lie on some affine map


@dataclass(frozen=True)
class Features:
    """Of one picture: places [N,2] in [0,1] (x, y), descriptors [N,128] of length 1."""

    places: np.ndarray
    descriptors: np.ndarray


def find_features(picture: np.ndarray, mask: np.ndarray) -> Features:
    """Features of `picture` [S,S,3] in [0,1] where `mask` [S,S] bool is; around it the picture counts as its mean,
    so that the outline before different backgrounds is no different."""
    grey = np.asarray(picture, np.float64) @ [0.299, 0.587, 0.114]
    if not mask.any():
        return Features(np.zeros((0, 2)), np.zeros((0, CELLS * CELLS * DIRECTIONS)))
    grey = np.where(mask, (grey - grey[mask].mean()) / max(float(grey[mask].std()), LEAST_SPREAD), 0.0)
    large = ndimage.zoom(grey, UPSAMPLE, order=1, grid_mode=True, mode="nearest")
    inside = np.repeat(np.repeat(mask, UPSAMPLE, axis=0), UPSAMPLE, axis=1)
    blurred = np.stack([ndimage.gaussian_filter(large, sigma) for sigma in SIGMAS])
    spots = _extrema(np.diff(blurred, axis=0), inside)
    if not len(spots):
        return Features(np.zeros((0, 2)), np.zeros((0, CELLS * CELLS * DIRECTIONS)))
    places = (spots[:, [2, 1]] + 0.5) / large.shape[0]
    return Features(places, _describe(blurred, spots))


def count_matches(first: Features, second: Features, seed: int = 0) -> int:
    """How many features of two pictures are each other's partners and agree on one affine map; 0 for chance."""
    pairs = _partners(first.descriptors, second.descriptors)
    if len(pairs) <= LEAST_MATCHES:
        return 0
    source, target = first.places[pairs[:, 0]], second.places[pairs[:, 1]]
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(len(pairs))[:3] for _ in range(TRIES)])
    corners = np.concatenate([source[chosen], np.ones((TRIES, 3, 1))], axis=2)
    solvable = np.abs(np.linalg.det(corners)) > 1e-4  # not three in a row
    if not solvable.any():
        return 0
    maps = np.linalg.solve(corners[solvable], target[chosen[solvable]])  # [M,3,2]
    scales = np.linalg.svd(maps[:, :2], compute_uv=False)
    usual = (scales[:, 1] > SCALES[0]) & (scales[:, 0] < SCALES[1]) & (scales[:, 0] < MOST_SHEAR * scales[:, 1])
    usual &= np.linalg.det(maps[:, :2]) > 0  # an object is never seen in a mirror
    if not usual.any():
        return 0
    moved = np.einsum("nk,mkc->mnc", np.column_stack([source, np.ones(len(source))]), maps[usual])
    agree = (np.linalg.norm(moved - target, axis=2) < AGREES).sum(axis=1)
    most = int(agree.max())
    return most if most > LEAST_MATCHES else 0


def _extrema(differences: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Places [N,3] (scale, row, column) where the differences of Gaussians [L,H,W] are greater, or less, than all
    around, in space and scale, and curved both ways; the strongest first."""
    strength = np.abs(differences)
    peaks = (differences == ndimage.maximum_filter(differences, 3)) | (
        differences == ndimage.minimum_filter(differences, 3)
    )
    peaks &= (strength > LEAST_CONTRAST) & inside[None]
    peaks[[0, -1]] = False
    spots = np.argwhere(peaks)
    border = 2
    height, width = inside.shape
    kept = (spots[:, 1:] >= border).all(axis=1) & (spots[:, 1] < height - border) & (spots[:, 2] < width - border)
    spots = spots[kept]
    level, row, column = spots.T

    def at(rows: int, columns: int) -> np.ndarray:
        return np.asarray(differences[level, row + rows, column + columns])

    xx, yy = at(0, 1) + at(0, -1) - 2 * at(0, 0), at(1, 0) + at(-1, 0) - 2 * at(0, 0)
    xy = (at(1, 1) + at(-1, -1) - at(1, -1) - at(-1, 1)) / 4
    trace, determinant = xx + yy, xx * yy - xy * xy
    round_enough = (determinant > 0) & (trace**2 * MOST_EDGE < (MOST_EDGE + 1) ** 2 * determinant)
    order = np.argsort(-strength[tuple(spots.T)] * round_enough, kind="stable")
    return np.asarray(spots[order[: min(MOST_FEATURES, int(round_enough.sum()))]])


def _describe(blurred: np.ndarray, spots: np.ndarray) -> np.ndarray:
    """Descriptors [N,128] of `spots` [N,3]: gradients of the blurred picture [L,H,W] of their scale around them."""
    rows, columns = np.gradient(blurred, axis=(1, 2))
    count = CELLS * SAMPLES
    steps = (np.arange(count) + 0.5) / SAMPLES - CELLS / 2  # in cells
    sigma = np.array(SIGMAS)[spots[:, 0]]
    offset = steps[None] * (CELL_SIGMAS * sigma)[:, None]  # [N,count]
    y = spots[:, 1, None, None] + offset[:, :, None] + np.zeros((1, 1, count))
    x = spots[:, 2, None, None] + offset[:, None, :] + np.zeros((1, count, 1))
    level = np.broadcast_to(spots[:, 0, None, None], y.shape)
    places = np.stack([level, y, x]).reshape(3, -1)
    down, right = (
        ndimage.map_coordinates(part, places, order=1, mode="nearest").reshape(y.shape) for part in (rows, columns)
    )
    weight = np.exp(-(steps[:, None] ** 2 + steps[None] ** 2) / (2 * (CELLS / 2) ** 2)) * np.hypot(down, right)
    turn = np.arctan2(down, right) / (2 * np.pi) * DIRECTIONS % DIRECTIONS
    lower = np.floor(turn).astype(int)
    share = turn - lower
    cell = np.arange(count) // SAMPLES
    cells = (cell[:, None] * CELLS + cell[None])[None] + np.arange(len(spots))[:, None, None] * CELLS**2
    size = len(spots) * CELLS**2 * DIRECTIONS
    histogram = np.zeros(size)
    for direction, part in ((lower % DIRECTIONS, 1 - share), ((lower + 1) % DIRECTIONS, share)):
        histogram += np.bincount((cells * DIRECTIONS + direction).ravel(), (weight * part).ravel(), size)
    descriptors = histogram.reshape(len(spots), -1)
    for most in (CLIPPED, np.inf):
        descriptors = descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-12)
        descriptors = np.minimum(descriptors, most)
    return np.asarray(descriptors)


def _partners(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pairs [M,2] of rows that are each other's nearest, the first's clearly nearer than its next."""
    if len(first) < 2 or len(second) < 2:
        return np.zeros((0, 2), int)
    distances, nearest = cKDTree(second).query(first, k=2)
    _, back = cKDTree(first).query(second)
    rows = np.flatnonzero((distances[:, 0] < RATIO * distances[:, 1]) & (back[nearest[:, 0]] == np.arange(len(first))))
    return np.column_stack([rows, nearest[rows, 0]])
