"""An object as a bundle picture: brought into the cube, seen from four sides, its colours above and its normals below.

The object stays where it is: the cameras go to it. Colours are those of the surface, without light, because what is
made from the picture becomes a texture, and a texture must hold no light.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import bpy
import numpy as np

from ...backend.contract import bundle_views
from . import capture
from .png import png_bytes

TILE = 512  # pixels a side, as published
SAMPLES = 4  # a pixel: colours and normals have no noise, only edges
VIEWS = len(bundle_views.AZIMUTHS_DEGREES)
UP_WEIGHT = 10.0  # an object's own axes count as long as it leans less than some 50 degrees
BLACK, BRIGHT = 0.15, 0.43  # sRGB; no base colour, and more light than a plain surface's shine reflects


def cube_frame(points: np.ndarray, matrix_world: np.ndarray) -> np.ndarray:
    """`cube_to_world` [4,4], a similarity: where the cube lies that world `points` [N,3] just fill along their longest
    side. The cube's axes are those of the object with `matrix_world` [4,4], the one nearest to the world's up as z.
    """
    axes = upright_axes(np.asarray(matrix_world, np.float64)[:3, :3])
    turned = np.asarray(points, np.float64) @ axes
    low, high = turned.min(axis=0), turned.max(axis=0)
    matrix = np.eye(4)
    matrix[:3, :3] = axes * max(float((high - low).max()), 1e-12)
    matrix[:3, 3] = axes @ ((low + high) / 2)
    return matrix


def upright_axes(linear: np.ndarray) -> np.ndarray:
    """A rotation [3,3] whose columns are axes of an object with the linear part [3,3] of its matrix, one of them up.

    Meshes from other programs often have y up and stand upright by a quarter turn; they are seen upright too.
    """
    first, _, second = np.linalg.svd(linear)
    rotation = first @ second  # the nearest rotation to a matrix with scale and shear
    if np.linalg.det(rotation) < 0:
        rotation[:, 0] *= -1.0  # mirrored by its scale
    choices = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            turn = np.eye(3)[:, order] * signs
            if np.linalg.det(turn) > 0:
                choices.append((UP_WEIGHT * (rotation @ turn)[2, 2] + np.trace(turn), turn))
    return rotation @ max(choices, key=lambda choice: choice[0])[1]


def to_cube(points: np.ndarray, cube_to_world: np.ndarray) -> np.ndarray:
    """World points [N,3] in the cube, float32."""
    world_to_cube = np.linalg.inv(cube_to_world)
    return (np.asarray(points, np.float64) @ world_to_cube[:3, :3].T + world_to_cube[:3, 3]).astype(np.float32)


def world_camera(index: int, cube_to_world: np.ndarray, size: int = TILE) -> capture.CaptureCamera:
    """The camera of tile `index` around an object whose cube lies at `cube_to_world` [4,4] in the world."""
    view = bundle_views.bundle_cameras()[index]
    side = float(np.cbrt(np.linalg.det(cube_to_world[:3, :3])))
    matrix = np.eye(4)
    matrix[:3, :3] = view[:3, :3] @ (cube_to_world[:3, :3] / side).T
    matrix[:3, 3] = side * view[:3, 3] - matrix[:3, :3] @ cube_to_world[:3, 3]
    distance = side * bundle_views.DISTANCE
    return capture.CaptureCamera(
        matrix, bundle_views.bundle_intrinsics(), (size, size), clip=(distance / 100.0, distance * 100.0)
    )


def render_tiles(
    objects: Sequence[bpy.types.Object], index: int, cube_to_world: np.ndarray, size: int = TILE, threads: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Colour tile and normal tile [size,size,3] of view `index`, float32 on white.

    Holds Blender for one render. Errors: RuntimeError when Blender refuses to render.
    """
    camera = world_camera(index, cube_to_world, size)
    view = capture.capture(objects, [camera], samples=SAMPLES, threads=threads)[0]
    normals = bundle_views.encode_normals(view.normals, camera.world_to_camera)
    mask = view.mask[..., None]
    return tuple(
        np.where(mask, tile, 1.0).astype(np.float32) for tile in (surface_colors(view.albedo, view.color), normals)
    )


def surface_colors(albedo: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """Base colours [...,3], sRGB: the `albedo`, and where a surface has none but is bright under white light (metal, or
    what shines by itself) what is seen of it."""
    unlike = (albedo.max(axis=-1) < BLACK) & (lit.max(axis=-1) > BRIGHT)
    return np.where(unlike[..., None], lit, albedo)


def bundle_png(tiles: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """The picture of all four views as a PNG."""
    picture = bundle_views.join_tiles(np.stack([tile[0] for tile in tiles]), np.stack([tile[1] for tile in tiles]))
    return png_bytes(np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8))


def is_empty(tiles: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether none of the views shows anything."""
    return all(bool((normals > 0.999).all()) for _, normals in tiles)
