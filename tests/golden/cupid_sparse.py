"""Replays of CUPID's sparse cases.

voxel operations, structured-latent networks, mesh extraction (CUPID spec 4.4 to 4.9).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from backend.geometry.dual_marching_cubes import DualMesh, extract_mesh
from backend.nn.sparse_attention import group_ids
from backend.nn.sparse_conv import SparseConv3d
from backend.nn.sparse_ops import downsample, subdivide, upsample
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.cupid.slat_flow import SLatFlowModel, VisualLatentConditioningSLatFlowModel
from backend.systems.cupid.slat_mesh import SLatMeshDecoder
from backend.systems.cupid.slat_vae import Gaussians, SLatEncoder, SLatGaussianDecoder, SLatRadianceFieldDecoder
from tests.golden.replay import Arrays, Comparison, Manifest, Replay, state_dict


def _tensor(arrays: Arrays, name: str) -> Tensor:
    return torch.from_numpy(np.array(arrays[name]))


def _sparse(arrays: Arrays, feats: str = "feats", coords: str = "coords") -> SparseTensor:
    return SparseTensor(_tensor(arrays, coords), _tensor(arrays, feats).float())


def _loaded(module: nn.Module, arrays: Arrays, prefix: str = "sd") -> nn.Module:
    module.load_state_dict(state_dict(arrays, prefix), strict=True)
    return module.eval()


def _same_groups(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """``actual`` renumbered so that it equals ``expected`` exactly where the two groupings agree."""
    first = {int(mine): int(theirs) for mine, theirs in zip(actual[::-1], expected[::-1], strict=True)}
    renumbered = np.array([first[int(mine)] for mine in actual])
    if len(set(actual.tolist())) != len(set(expected.tolist())):
        renumbered[:] = -1
    return renumbered


@torch.no_grad()
def sparse_ops(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Down, up, subdivide, both convolutions and the attention windows."""
    x = _sparse(arrays)
    down = downsample(x)
    up = upsample(down)
    children = subdivide(x)
    found: list[Comparison] = [
        ("down_coords", down.coords, arrays["down_coords"]),
        ("down_feats", down.feats, arrays["down_feats"]),
        ("up_coords", up.coords, arrays["up_coords"]),
        ("up_feats", up.feats, arrays["up_feats"]),
        ("sub_coords", children.coords, arrays["sub_coords"]),
        ("sub_feats", children.feats, arrays["sub_feats"]),
    ]
    for name in sorted({key.split("/")[0] for key in arrays if key.startswith("sd_conv")}):
        out_channels, kernel, _, _, in_channels = arrays[f"{name}/conv.weight"].shape
        convolution = _loaded(SparseConv3d(in_channels, out_channels, kernel), arrays, name)
        output = name.removeprefix("sd_") + "_out"
        found.append((output, convolution(x).feats, arrays[output]))
    for shift in manifest["config"]["shifts"]:
        expected = arrays[f"window_id_shift{shift}"]
        actual = group_ids(x, int(manifest["config"]["window"]), int(shift)).numpy()
        found.append((f"window_id_shift{shift}", _same_groups(actual, expected), expected))
        lengths = np.sort(arrays[f"window_len_shift{shift}"])
        found.append((f"window_len_shift{shift}", np.sort(np.bincount(actual)), lengths))
    return found


@torch.no_grad()
def slat_flow_base(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """The sparse flow transformer."""
    model = _loaded(SLatFlowModel(**manifest["config"]), arrays)
    out = model(_sparse(arrays), _tensor(arrays, "t"), _tensor(arrays, "cond"))
    return [("out_feats", out.feats, arrays["out_feats"]), ("out_coords", out.coords, arrays["out_coords"])]


@torch.no_grad()
def slat_flow_visual(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """The released second stage: pose-aligned features and the velocity, with and without the condition."""
    model = _loaded(VisualLatentConditioningSLatFlowModel(**manifest["config"]["flow"]), arrays)
    encoder = _loaded(SLatEncoder(**manifest["config"]["encoder"]), arrays, "sd_enc")
    assert isinstance(model, VisualLatentConditioningSLatFlowModel) and isinstance(encoder, SLatEncoder)
    x, t, uv, image = _sparse(arrays), *(_tensor(arrays, name) for name in ("t", "uv", "image"))
    tokens = _tensor(arrays, "cond_A") @ _tensor(arrays, "cond_B")
    local = model.local_features(x, tokens, image, uv, encoder)
    nothing = torch.zeros_like(tokens)
    null = model.local_features(x, nothing, torch.zeros_like(image), uv, encoder)
    width = model.cond_latent_channels
    return [
        ("latent_cond", local[:, :width], arrays["latent_cond"]),
        ("visual_feats", local[:, width:], arrays["visual_feats"]),
        ("out_feats", model(x, t, tokens, local).feats, arrays["out_feats"]),
        ("uncond_latent", null[:, :width], arrays["uncond_latent"]),
        ("uncond_out_feats", model(x, t, nothing, null).feats, arrays["uncond_out_feats"]),
    ]


def _gaussian_attributes(splats: Gaussians) -> dict[str, Tensor]:
    return {
        "_xyz": splats.raw_xyz,
        "_features_dc": splats.raw_features_dc,
        "_scaling": splats.raw_scaling,
        "_rotation": splats.raw_rotation,
        "_opacity": splats.raw_opacity,
        "get_xyz": splats.positions,
        "get_scaling": splats.scales,
        "get_rotation": splats.rotations,
        "get_opacity": splats.opacities,
    }


@torch.no_grad()
def slat_vae_gaussian(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Encoder moments, then the splats of the mean."""
    encoder = _loaded(SLatEncoder(**manifest["config"]["encoder"]), arrays, "sd_enc")
    decoder = _loaded(SLatGaussianDecoder(**manifest["config"]["decoder"]), arrays, "sd_dec")
    assert isinstance(encoder, SLatEncoder)
    mean, logvar = encoder.moments(_sparse(arrays))
    found = [("mean", mean.feats, arrays["mean"]), ("logvar", logvar.feats, arrays["logvar"])]
    for index, splats in enumerate(decoder(mean)):
        for name, value in _gaussian_attributes(splats).items():
            found.append((f"gs{index}/{name}", value, arrays[f"gs{index}/{name}"]))
    return found


@torch.no_grad()
def slat_dec_rf(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Radiance fields."""
    decoder = _loaded(SLatRadianceFieldDecoder(**manifest["config"]), arrays)
    found: list[Comparison] = []
    for index, field in enumerate(decoder(_sparse(arrays, "z"))):
        for name in ("position", "trivec", "density", "features_dc"):
            found.append((f"rf{index}/{name}", getattr(field, name), arrays[f"rf{index}/{name}"]))
    return found


def _oriented(faces: np.ndarray) -> np.ndarray:
    """Faces as a sorted set: the smallest vertex first (orientation kept), rows in lexicographic order."""
    turned = np.array([np.roll(face, -int(np.argmin(face))) for face in faces.reshape(-1, 3)]).reshape(-1, 3)
    return turned[np.lexsort(turned.T[::-1])]


def _compare_meshes(mesh: DualMesh, arrays: Arrays, prefix: str = "") -> list[Comparison]:
    """Vertices, attributes and oriented faces as sets.

    Ours are put into the reference's order by one-to-one nearest vertices.
    """
    vertices, expected = mesh.vertices.numpy(), arrays[prefix + "vertices"]
    if vertices.shape != expected.shape:
        return [(prefix + "vertices", vertices, expected)]
    ours = [vertices]
    theirs = [expected]
    if mesh.attributes is not None and prefix + "vertex_attrs" in arrays:
        ours.append(mesh.attributes.numpy())  # attributes tell apart vertices at nearly the same place
        theirs.append(arrays[prefix + "vertex_attrs"])
    order = cKDTree(np.concatenate(ours, 1)).query(np.concatenate(theirs, 1))[1]
    if len(np.unique(order)) != len(order):
        return [(prefix + "vertices (one to one)", np.array([len(np.unique(order))]), np.array([len(order)]))]
    renamed = np.empty(len(order), dtype=np.int64)
    renamed[order] = np.arange(len(order))
    found: list[Comparison] = [(prefix + "vertices", vertices[order], expected)]
    if len(ours) > 1:
        found.append((prefix + "vertex_attrs", ours[1][order], theirs[1]))
    faces = renamed[mesh.faces.numpy()]
    return [*found, (prefix + "faces", _oriented(faces), _oriented(arrays[prefix + "faces"].astype(np.int64)))]


@torch.no_grad()
def slat_dec_mesh(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Cube features and the mesh of them."""
    decoder = _loaded(SLatMeshDecoder(**manifest["config"]), arrays)
    assert isinstance(decoder, SLatMeshDecoder)
    cubes = decoder.cubes(_sparse(arrays, "z"))
    (mesh,) = decoder.extract(cubes)
    return [
        ("cube_coords", cubes.coords, arrays["cube_coords"]),
        ("cube_feats", cubes.feats, arrays["cube_feats"]),
        *_compare_meshes(mesh, arrays),
    ]


@torch.no_grad()
def mesh_extract(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Dual marching cubes, and its training variant where the case has one."""
    coords, feats = _tensor(arrays, "coords")[:, 1:], _tensor(arrays, "feats").float()
    resolution, use_color = int(manifest["config"]["res"]), bool(manifest["config"]["use_color"])
    found = _compare_meshes(extract_mesh(coords, feats, resolution, use_color), arrays)
    if "train_vertices" in arrays:
        mesh = extract_mesh(coords, feats, resolution, use_color, training=True)
        assert mesh.field_vertices is not None and mesh.field_values is not None
        found += _compare_meshes(mesh, arrays, "train_")
        found.append(("train_reg_loss", mesh.regulariser, arrays["train_reg_loss"]))
        order = cKDTree(mesh.field_vertices.numpy()).query(arrays["tsdf_v"])[1]
        found.append(("tsdf_v", mesh.field_vertices[order], arrays["tsdf_v"]))
        found.append(("tsdf_s", mesh.field_values[order], arrays["tsdf_s"]))
    return found


REPLAYS: dict[str, Replay] = {
    "sparse_ops": sparse_ops,
    "slat_flow_base": slat_flow_base,
    "slat_flow_visual": slat_flow_visual,
    "slat_vae_gaussian": slat_vae_gaussian,
    "slat_dec_rf": slat_dec_rf,
    "slat_dec_mesh": slat_dec_mesh,
    "mesh_extract": mesh_extract,
}
