"""Start meshes without weights: the visual hull of the four masks, hollowed out by the views' normals; a ball.

The hull is the largest body with the bundle's outlines: a grid of signed distances, the least over the views. Four
views around leave it too full (a ball becomes a rounded box), so depths integrated from the normals (`view_depth.py`)
are cut away, but nowhere so far that an outline would shrink. All in the bundle frame; closed, facing outward.
"""

from __future__ import annotations

import logging
from itertools import combinations

import numpy as np
import torch
from scipy import ndimage

from backend.contract.errors import MaquetteError
from backend.geometry.dual_marching_cubes import DEFORM, SDF, WEIGHTS, extract_mesh
from backend.rendering.rasterizer import Raster, rasterize
from backend.systems.kiss3dgen.bundle import (
    AZIMUTHS,
    FOV,
    FRAME_SCALE,
    RADIUS,
    Bundle,
    from_bundle_frame,
    on_white,
    view_axes,
    view_cameras,
)
from backend.systems.kiss3dgen.view_depth import carried_out, integrate

logger = logging.getLogger(__name__)

Surface = tuple[np.ndarray, np.ndarray]
"""vertices [N,3] float32 in the bundle frame, faces [F,3] int64."""

EXTENT = 2.0  # side of the grid's cube; objects lie within 1.8
GRID = 64
FINER = 2  # times as fine a grid for thin parts
LEAST_SHARE = 0.2  # of a pixel that a thin part covers to be one
THIN = 0.15  # cells by which a thin part outlives the smoothing
FINE = 256  # pixels of a side to which small masks are enlarged before distances are measured
DEPTH_SIZE = 96  # pixels of a side at which normals are integrated
LEAST_MASK = 4  # pixels: fewer are no object
GOOD_COVERAGE = 0.9  # of every mask by the hull: below it the masks disagree
SMOOTHING = 0.6  # cells
CARVE_SLACK = 0.004  # units that a depth may be too far back
FACING_LEAST = 0.2  # least cosine by which a depth difference counts as distance

NO_OBJECT = "The views show no object; try another seed or a plainer description."


def ball(radius: float = 0.6, subdivisions: int = 3) -> Surface:
    """An icosphere: 20 * 4^subdivisions faces."""
    golden = (1 + 5**0.5) / 2
    signs = [(a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    corners = np.array([np.roll((0.0, a, b), shift) for shift in range(3) for a, b in signs])
    distance = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    near = distance < 2.1  # edges of an icosahedron of these corners are 2 long
    faces = np.array(
        [f for f in combinations(range(12), 3) if near[f[0], f[1]] and near[f[1], f[2]] and near[f[0], f[2]]]
    )
    vertices = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    inward = np.einsum("fi,fi->f", vertices[faces[:, 0]], np.cross(vertices[faces[:, 1]], vertices[faces[:, 2]])) < 0
    faces[inward] = faces[inward, ::-1]
    for _ in range(subdivisions):
        edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        unique, place = np.unique(edges, axis=0, return_inverse=True)
        middle = vertices[unique].mean(axis=1)
        m = place.reshape(-1, 3) + len(vertices)
        vertices = np.concatenate([vertices, middle / np.linalg.norm(middle, axis=1, keepdims=True)])
        faces = np.concatenate([
            np.stack([faces[:, 0], m[:, 0], m[:, 2]], axis=1), np.stack([faces[:, 1], m[:, 1], m[:, 0]], axis=1),
            np.stack([faces[:, 2], m[:, 2], m[:, 1]], axis=1), m,
        ])  # fmt: skip
    return (radius * vertices).astype(np.float32), faces.astype(np.int64)


def start_mesh(bundle: Bundle, radius: float = RADIUS, grid: int = GRID) -> Surface:
    """The carved hull of a bundle whose views were taken at `radius`; parts too thin for the grid take a finer one.

    Errors: `MaquetteError` where the masks are empty, or have no common body even when one of them is left out.
    """
    small = with_thin_parts(resized(bundle, DEPTH_SIZE))
    hull, views = consistent_hull(small.mask, radius, grid)
    surface = extract(hull)
    drawn = draw(surface, small.size, radius)
    if shown(drawn, small.mask, views) < GOOD_COVERAGE:
        finer, finer_views = consistent_hull(small.mask, radius, FINER * grid)
        other = extract(finer)
        again = draw(other, small.size, radius)
        if shown(again, small.mask, finer_views) > shown(drawn, small.mask, views):
            hull, views, surface, drawn = finer, finer_views, other, again
    depths = [
        integrate(small.normals[view], small.mask[view], drawn[view].depth) if view in views else None
        for view in range(len(AZIMUTHS))
    ]
    carved = np.minimum(hull, carving(depths, radius, len(hull) - 1))
    carved = restored(carved, hull, small.mask, views, radius)
    carved_surface = extract(carved)
    return carved_surface if len(carved_surface[1]) else surface


def with_thin_parts(bundle: Bundle) -> Bundle:
    """The bundle with what is thinner than a pixel made as wide as one: a pixel counts by the share that it covers of
    the fullest one beside it."""
    around = ndimage.maximum_filter(bundle.mask, size=(1, 3, 3))
    mask = np.where(around >= LEAST_SHARE, bundle.mask / np.maximum(around, LEAST_SHARE), bundle.mask).clip(0.0, 1.0)
    wider = (mask > bundle.mask)[..., None]
    share = bundle.mask.clip(LEAST_SHARE / 2, 1.0)[..., None]
    rgb, normals = (
        np.where(wider, on_white(((tiles - (1.0 - share)) / share).clip(0.0, 1.0), mask), tiles).astype(np.float32)
        for tiles in (bundle.rgb, bundle.normals)
    )
    return Bundle(rgb, normals, mask.astype(np.float32))


def shown(drawn: list[Raster], mask: np.ndarray, views: tuple[int, ...]) -> float:
    """The least share of a mask [V,S,S] that a surface, drawn at its size, covers."""
    shares = []
    for view in views:
        wanted = mask[view] >= 0.5
        shares.append(float((drawn[view].mask & wanted).sum() / max(wanted.sum(), 1)))
    return min(shares)


def consistent_hull(mask: np.ndarray, radius: float = RADIUS, grid: int = GRID) -> tuple[np.ndarray, tuple[int, ...]]:
    """The hull's signed distances [G+1,G+1,G+1] (positive inside) and the views it is made of.

    Empty masks are left out. Where the rest disagree (the hull fills less than GOOD_COVERAGE of one of them), one more
    is left out if that helps.
    """
    usable = tuple(view for view in range(len(mask)) if (mask[view] >= 0.5).sum() >= LEAST_MASK)
    if not {0, 2} & set(usable) or not {1, 3} & set(usable):
        raise MaquetteError("bad_input", NO_OBJECT, f"views with a mask: {list(usable)}")
    distances = {view: view_distances(mask[view], AZIMUTHS[view], radius, grid) for view in usable}
    choices = [usable] + [
        chosen for chosen in combinations(usable, len(usable) - 1) if {0, 2} & set(chosen) and {1, 3} & set(chosen)
    ]
    best, best_field, best_views = -1.0, None, usable
    for chosen in choices:
        field = np.minimum.reduce([distances[view] for view in chosen])
        covered = coverage(field > 0, mask, chosen, radius)
        score = min(covered.values())
        logger.debug("hull of views %s covers %s", chosen, covered)
        if score > best + 1e-6:
            best, best_field, best_views = score, field, chosen
        if best >= GOOD_COVERAGE:
            break
    if best_field is None or not (best_field > 0).any():
        raise MaquetteError("bad_input", NO_OBJECT, "the four outlines have no common body")
    if best_views != usable:
        logger.info("outlines disagree: the hull is made of views %s", best_views)
    return best_field, best_views


def grid_points(grid: int) -> np.ndarray:
    """The grid's vertices [(G+1)^3,3] float32."""
    axis = (np.arange(grid + 1, dtype=np.float32) / grid - 0.5) * EXTENT
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def in_view(points: np.ndarray, azimuth: float, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Places uv [N,2] in a view (v down, in [0,1] within the picture) and depths [N] of points [N,3]."""
    left, up, towards = (points @ view_axes(azimuth).T.astype(np.float32)).T
    depth = radius - towards
    scale = 0.5 / np.tan(np.radians(FOV / 2)) / depth
    return np.stack([0.5 - left * scale, 0.5 - up * scale], axis=1), depth


def view_distances(mask: np.ndarray, azimuth: float, radius: float, grid: int) -> np.ndarray:
    """Distance [G+1,G+1,G+1] of the grid's vertices from the outline of one view, positive inside, in bundle units."""
    factor = max(1, FINE // len(mask))
    fine = ndimage.zoom(np.asarray(mask, np.float32), factor, order=1, grid_mode=True, mode="nearest") >= 0.5
    pixels = ndimage.distance_transform_edt(fine) - ndimage.distance_transform_edt(~fine)
    pixels = pixels - np.where(fine, 0.5, -0.5)  # from pixel centres to the border between pixels
    uv, depth = in_view(grid_points(grid), azimuth, radius)
    found = sample(pixels.astype(np.float32), uv)
    unit = depth * (2 * np.tan(np.radians(FOV / 2)) / len(fine))  # of a pixel at this depth
    return (found * unit).reshape((grid + 1,) * 3)


def sample(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear values [N] of an image [S,S] at places uv [N,2]; outside, the nearest inside."""
    size = len(image)
    return np.asarray(ndimage.map_coordinates(image, (uv[:, ::-1] * size - 0.5).T, order=1, mode="nearest"))


def coverage(inside: np.ndarray, mask: np.ndarray, views: tuple[int, ...], radius: float) -> dict[int, float]:
    """Which share of each mask the grid vertices that are `inside` [G+1,...] cover, by view."""
    points = grid_points(len(inside) - 1)[inside.ravel()]
    shares = {}
    for view in views:
        wanted = mask[view] >= 0.5
        covered = footprint(points, AZIMUTHS[view], radius, len(wanted))
        shares[view] = float((covered & wanted).sum() / max(wanted.sum(), 1))
    return shares


def footprint(points: np.ndarray, azimuth: float, radius: float, size: int) -> np.ndarray:
    """Pixels [size,size] bool of a view that points [N,3] of a grid reach, their neighbours with them."""
    coarse = min(size, 64)  # cells wider than the grid's spacing, so that a solid leaves no gaps
    hit = np.zeros((coarse, coarse), bool)
    if len(points):
        uv, _ = in_view(points, azimuth, radius)
        column, row = np.floor(uv * coarse).astype(np.int64).clip(0, coarse - 1).T
        hit[row, column] = True
    hit = ndimage.binary_dilation(hit, np.ones((3, 3)))
    index = np.arange(size) * coarse // size
    return np.asarray(hit[np.ix_(index, index)])


def carving(depths: list[np.ndarray | None], radius: float, grid: int) -> np.ndarray:
    """Signed distances [G+1,G+1,G+1] from the surfaces that the views' `depths` [S,S] (inf: none) show: negative before
    one of them."""
    points = grid_points(grid)
    field = np.full(len(points), np.inf, np.float32)
    for depth, azimuth in zip(depths, AZIMUTHS, strict=True):
        if depth is None or not np.isfinite(depth).any():
            continue
        uv, own = in_view(points, azimuth, radius)
        filled = carried_out(depth)
        pitch = filled * (2 * np.tan(np.radians(FOV / 2)) / len(filled))
        down, along = np.gradient(filled)
        cosine = (1.0 / np.sqrt(1.0 + (down / pitch) ** 2 + (along / pitch) ** 2)).clip(FACING_LEAST)
        behind = own - sample(filled, uv) + CARVE_SLACK
        field = np.minimum(field, (behind * sample(cosine, uv)).astype(np.float32))
    return field.reshape((grid + 1,) * 3)


def restored(
    carved: np.ndarray, hull: np.ndarray, mask: np.ndarray, views: tuple[int, ...], radius: float
) -> np.ndarray:
    """The carved field, with the hull back wherever a pixel of a mask lost all that covered it."""
    points = grid_points(len(carved) - 1)
    lost = np.zeros(len(points), bool)
    for view in views:
        size = len(mask[view])
        hull_there = footprint(points[hull.ravel() > 0], AZIMUTHS[view], radius, size)
        still = footprint(points[carved.ravel() > 0], AZIMUTHS[view], radius, size)
        gone = ndimage.binary_dilation(hull_there & ~still & (mask[view] >= 0.5), np.ones((3, 3)), iterations=2)
        if gone.any():
            uv, _ = in_view(points, AZIMUTHS[view], radius)
            column, row = np.floor(uv * size).astype(np.int64).clip(0, size - 1).T
            lost |= gone[row, column]
    return np.where(lost.reshape(carved.shape), hull, carved)


def extract(field: np.ndarray) -> Surface:
    """The closed surface where a smoothed field [G+1,G+1,G+1] (positive inside) is zero."""
    grid = len(field) - 1
    limit = 3 * EXTENT / grid
    sharp = field.clip(-limit, limit).astype(np.float32)
    field = ndimage.gaussian_filter(sharp, SMOOTHING)
    field = np.where(sharp > 0, np.maximum(field, np.minimum(sharp, THIN * EXTENT / grid)), field)
    for axis in range(3):
        edge = np.moveaxis(field, axis, 0)
        edge[0] = np.minimum(edge[0], -1e-3)
        edge[-1] = np.minimum(edge[-1], -1e-3)
    corners = np.stack([np.array([n & 1, n >> 1 & 1, n >> 2 & 1]) for n in range(8)])
    count = np.zeros((grid,) * 3, np.uint8)
    inside = field > 0
    for x, y, z in corners:
        count += inside[x : x + grid, y : y + grid, z : z + grid]
    cubes = np.argwhere((count > 0) & (count < 8))
    if not len(cubes):
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64)
    features = np.zeros((len(cubes), SDF + DEFORM + WEIGHTS), np.float32)
    # The extraction takes 1 / resolution off every distance: a bias of its networks.
    features[:, :SDF] = np.stack([-field[tuple((cubes + corner).T)] for corner in corners], axis=1) + 1.0 / grid
    with torch.no_grad():
        mesh = extract_mesh(torch.from_numpy(cubes), torch.from_numpy(features), grid, False, False)
    return mesh.vertices.numpy().astype(np.float32) * np.float32(EXTENT), mesh.faces.numpy()


def draw(surface: Surface, size: int, radius: float = RADIUS) -> list[Raster]:
    """A surface of the bundle frame as the four cameras see it; depth in bundle units, 0 where it is not."""
    cameras, intrinsics = view_cameras(radius)
    vertices, faces = surface
    drawn = [rasterize(from_bundle_frame(vertices), faces, camera, intrinsics, (size, size)) for camera in cameras]
    return [Raster(raster.face, raster.barycentric, raster.depth * np.float32(FRAME_SCALE)) for raster in drawn]


def resized(bundle: Bundle, size: int) -> Bundle:
    """The bundle at tiles of `size` pixels or its own size, whichever is smaller; areas are averaged."""
    if size >= bundle.size:
        return bundle
    rows = np.floor(np.arange(size + 1) * bundle.size / size).astype(int)

    def shrink(tiles: np.ndarray) -> np.ndarray:
        total = np.add.reduceat(np.add.reduceat(tiles, rows[:-1], axis=1), rows[:-1], axis=2)
        heights = np.diff(rows).astype(np.float32)
        area = (heights[:, None] * heights[None])[None]
        return np.asarray(total / (area[..., None] if tiles.ndim == 4 else area), np.float32)

    return Bundle(shrink(bundle.rgb), shrink(bundle.normals), shrink(bundle.mask))
