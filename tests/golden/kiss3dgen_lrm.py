"""Replays of Kiss3DGen's start mesh: planes, the field on them, its surface, and the photo's framing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backend.geometry.flexicubes import extract_surface
from backend.systems.kiss3dgen.foreground import GREY, on_color, resize_foreground
from backend.systems.kiss3dgen.lrm.field import TriplaneField, sample_planes
from backend.systems.kiss3dgen.lrm.triplane import TriplaneTransformer
from tests.golden.replay import Arrays, Comparison, Manifest, Replay


def tensor(arrays: Arrays, name: str) -> Tensor:
    """One stored input as a tensor."""
    return torch.from_numpy(np.array(arrays["in_" + name]))


def weights(arrays: Arrays) -> dict[str, Tensor]:
    """The stored weights of the network."""
    return {name[6:]: torch.from_numpy(np.array(value)) for name, value in arrays.items() if name.startswith("in_sd.")}


@torch.no_grad()
def triplane_transformer(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Image tokens to planes."""
    sizes = manifest["parameters"]
    network = TriplaneTransformer(
        sizes["inner_dim"], sizes["num_layers"], sizes["num_heads"], sizes["image_feat_dim"],
        sizes["triplane_low_res"], sizes["triplane_dim"],
    )  # fmt: skip
    network.load_state_dict(weights(arrays), strict=True)
    return [("planes", network(tensor(arrays, "image_feats")), arrays["out_planes"])]


@torch.no_grad()
def triplane_decode(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Features of places and what the perceptrons say of them."""
    sizes = manifest["parameters"]
    field = TriplaneField(sizes["n_features"], sizes["hidden_dim"], sizes["num_layers"])
    field.decoder.load_state_dict(weights(arrays), strict=True)
    planes, points = tensor(arrays, "planes"), tensor(arrays, "points")
    features = field.features(planes, points)
    metallic, roughness = field.decoder.material(features)
    found = {
        "sampled": sample_planes(planes, points),
        "sdf": field.decoder.distance(features),
        "deformation": field.decoder.deformation(features),
        "weight": field.decoder.weights(features[:, tensor(arrays, "cube_indices")]),
        "rgb": field.decoder.color(features),
        "metallic": metallic,
        "roughness": roughness,
    }
    return [(name, value, arrays["out_" + name]) for name, value in found.items()]


def flexicubes(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """The surface of a field with learned weights, vertices and faces in the published order."""
    vertices, faces = extract_surface(
        tensor(arrays, "grid_vertices") + tensor(arrays, "deformation"), tensor(arrays, "sdf"),
        tensor(arrays, "cube_indices"), tensor(arrays, "weight"), manifest["parameters"]["res"],
    )  # fmt: skip
    return [("vertices", vertices, arrays["out_vertices"]), ("faces", faces, arrays["out_faces"])]


def framing(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """A cut-out photo cropped, squared and padded, and pictures over grey."""
    rgba, sizes = arrays["in_rgba_u8"], manifest["parameters"]
    framed = resize_foreground(rgba, sizes["ratio"], sizes["pad_value"])
    return [
        ("rgba_u8", framed, arrays["out_rgba_u8"]),
        ("rgb_u8", on_color(framed, GREY), arrays["out_rgb_u8"]),
        ("premultiplied_input_rgb", on_color(rgba, GREY), arrays["out_premultiplied_input_rgb"]),
    ]


REPLAYS: dict[str, Replay] = {
    "lrm_triplane_transformer": triplane_transformer,
    "lrm_triplane_decode": triplane_decode,
    "flexicubes_extract": flexicubes,
    "resize_foreground": framing,
}
