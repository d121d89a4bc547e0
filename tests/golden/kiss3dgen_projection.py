"""Replays of Kiss3DGen's bundle layout, masks, colour projection and colour spaces."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backend.formats.glb import linear_light
from backend.systems.kiss3dgen import bundle, projection
from tests.golden.replay import Arrays, Comparison, Manifest, Replay


def tensor(arrays: Arrays, name: str) -> Tensor:
    """One stored array as a tensor."""
    return torch.from_numpy(np.array(arrays[name]))


def project_color_single(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """What one view gives the vertices it sees."""
    sampled = projection.sample_view(
        tensor(arrays, "in_vertices"), tensor(arrays, "in_faces"), tensor(arrays, "in_image_rgba_u8").float() / 255,
        tensor(arrays, "in_visible_faces"), float(arrays["in_azimuth"]), manifest["parameters"]["radius"],
        float(arrays["in_elevation"]),
    )  # fmt: skip
    return [
        ("valid_verts", sampled.vertices, arrays["out_valid_verts"]),
        ("valid_colors", sampled.colors, arrays["out_valid_colors"]),
        ("valid_alpha", sampled.alpha[:, None], arrays["out_valid_alpha"]),
        ("cos_angles", sampled.cosine, arrays["out_cos_angles"]),
    ]


def projection_views(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """All views on a mesh: as colours or as targets of stage 2."""
    parameters = manifest["parameters"]
    counts = arrays["in_visible_faces_counts"].tolist()
    assert set(arrays["in_elevations"].tolist()) == {bundle.ELEVATION}
    power = {"square": 2, "linear": 1}[parameters["reweight_with_cosangle"]]
    colors = projection.project_views(
        tensor(arrays, "in_vertices"), tensor(arrays, "in_faces"), tensor(arrays, "in_images_rgba_u8").float() / 255,
        tensor(arrays, "in_visible_faces_concat").split(counts), tensor(arrays, "in_initial_colors"),
        view_weights=arrays["in_weights"].tolist(), power=power,
        smooth=parameters["below_confidence_strategy"] == "smooth", complete=parameters["complete_unseen"],
        radius=parameters["radius"], azimuths=arrays["in_azimuths"].tolist(),
    )  # fmt: skip
    return [("vertex_colors", colors, arrays["out_vertex_colors"])]


def linear_colors(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """sRGB to linear."""
    return [("linear", linear_light(arrays["in_c"]), arrays["out_linear"])]


def mask_fix(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Masks for colours."""
    parameters = manifest["parameters"]
    mask = projection.soften_mask(arrays["in_mask"], parameters["erode_size"], parameters["blur_kernel"])
    return [("mask", mask, arrays["out_mask"])]


def bundle_layout(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Eight tiles as one picture, and back."""
    tiles = arrays["in_tiles"].transpose(0, 2, 3, 1)
    joined = bundle.join(bundle.Bundle(tiles[:4], tiles[4:], np.ones(tiles.shape[:3], np.float32)[:4]))
    scale = np.float32(2.0 ** -np.ceil(np.log2(arrays["out_bundle"].max())))  # into [0,1], without rounding
    again = bundle.split(scale * arrays["out_bundle"].transpose(1, 2, 0))
    return [
        ("bundle", joined.transpose(2, 0, 1), arrays["out_bundle"]),
        ("tiles", np.concatenate([again.rgb, again.normals]) / scale, tiles),
    ]


REPLAYS: dict[str, Replay] = {
    "project_color_single": project_color_single,
    "projection_texture": projection_views,
    "projection_stage2target": projection_views,
    "srgb_to_linear": linear_colors,
    "mask_fix": mask_fix,
    "bundle_layout": bundle_layout,
}
