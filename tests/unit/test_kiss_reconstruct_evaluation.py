"""The measures of reconstructions from true bundles, on a body that is drawn here instead of by Blender."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.contract.meshes import MeshData
from backend.data.views import random_cameras
from backend.evaluation import cupid, kiss3dgen_reconstruct
from backend.rendering.rasterizer import rasterize
from backend.rendering.views import interpolate, vertex_normals
from backend.systems.kiss3dgen import bundle as bundles
from backend.systems.kiss3dgen.reconstruct import ReconstructSettings
from tests.unit.test_kiss_start_mesh import drawn_bundle, ellipsoid

VIEW = 64


@pytest.fixture(scope="module")
def case() -> kiss3dgen_reconstruct.Case:
    surface = ellipsoid()
    bundle = drawn_bundle(surface, 64)
    mask = np.concatenate([np.concatenate(list(bundle.mask), axis=1)] * 2)
    picture = np.rint(np.dstack([bundles.join(bundle), mask]) * 255).astype(np.uint8)
    vertices, faces = bundles.from_bundle_frame(surface[0]).astype(np.float64), surface[1]
    colors, normals = (surface[0] + 1) / 2, vertex_normals(vertices, faces)
    arrays: dict[str, list[np.ndarray]] = {
        name: [] for name in ("mask", "points", "normals", "albedo", "world_to_camera", "intrinsics")
    }
    for camera in random_cameras(kiss3dgen_reconstruct.VIEWS, 0):
        raster = rasterize(vertices, faces, camera.world_to_camera, camera.intrinsics, (VIEW, VIEW))
        arrays["mask"].append(raster.mask)
        arrays["points"].append(interpolate(raster, faces, vertices))
        arrays["normals"].append(np.rint(interpolate(raster, faces, normals) * 127).astype(np.int8))
        arrays["albedo"].append(np.rint(interpolate(raster, faces, colors) * 255).astype(np.uint8))
        arrays["world_to_camera"].append(camera.world_to_camera)
        arrays["intrinsics"].append(camera.intrinsics)
    stacked = {name: np.stack(values) for name, values in arrays.items()}
    return kiss3dgen_reconstruct.make_case("ellipsoid", picture, stacked)


def test_the_true_mesh_scores_best(case: kiss3dgen_reconstruct.Case) -> None:
    vertices, faces = ellipsoid()
    colors = np.full((len(vertices), 4), 255, np.uint8)
    colors[:, :3] = np.rint((vertices + 1) / 2 * 255)
    ours = bundles.from_bundle_frame(vertices).astype(np.float32)
    mesh = MeshData(ours, faces.astype(np.int32), colors=colors)
    found = kiss3dgen_reconstruct.score(case, mesh)
    assert found["fscore_05"] > 0.999 and found["normal_consistency"] > 0.97 and found["chamfer"] < 0.02
    assert found["psnr"] > 24.0 and found["psnr_others"] > 24.0 and found["mask_iou"] > 0.95
    large = kiss3dgen_reconstruct.score(case, replace(mesh, vertices=ours * np.float32(1.5)))
    assert large["fscore_05"] < 0.2 and large["psnr"] < found["psnr"] - 5


def test_a_bundle_that_shows_nothing_counts_as_the_worst(case: kiss3dgen_reconstruct.Case) -> None:
    white = np.ones_like(case.bundle.rgb)
    nothing = replace(case, bundle=bundles.Bundle(white, white, np.zeros_like(case.bundle.mask)))
    entry, mesh = kiss3dgen_reconstruct.evaluate_case(nothing, ReconstructSettings())
    assert mesh is None and "no object" in entry["error"] and entry["fscore_05"] == 0.0
    summary = kiss3dgen_reconstruct.summarise([entry, entry | {"fscore_05": 1.0, "error": ""}])
    assert summary["count"] == 2 and summary["failed"] == 1 and summary["fscore_05"] == 0.5
    assert kiss3dgen_reconstruct.summarise([]) == {"count": 0}


def test_the_command_is_known() -> None:
    assert cupid.OTHER_MEASURES["kiss3dgen-reconstruct"] == kiss3dgen_reconstruct.__name__
