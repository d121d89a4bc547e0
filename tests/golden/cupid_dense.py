"""Replays of CUPID's dense networks, sampler, camera and training helpers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.geometry import pose
from backend.geometry.similarity import align_camera, fit_similarity
from backend.nn.attention import MultiHeadAttention
from backend.nn.blocks import ModulatedTransformerCrossBlock
from backend.nn.embeddings import position_embedding, timestep_embedding, timestep_frequencies
from backend.nn.sparse_attention import SparseCrossAttention
from backend.nn.sparse_blocks import SparseModulatedCrossBlock
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.cupid import data_prep, flow_sampler, losses, preprocess, structure_decode
from backend.systems.cupid.structure_flow import load_structure_flow
from backend.systems.cupid.structure_vae import SparseStructureDecoder, SparseStructureEncoder
from backend.systems.cutout.crop import crop_to_content
from tests.golden.replay import Arrays, Comparison, Manifest, Replay, state_dict

PUBLISHED_RESOLUTION = 64


def tensor(arrays: Arrays, name: str) -> Tensor:
    """One stored array as a tensor."""
    return torch.from_numpy(np.array(arrays[name]))


def embeddings(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Position and time embeddings at every stored width (``ape_<channels>``, ``timestep_<channels>``).

    The last bit of the reference's float32 exponential depends on its machine. The stored widths need no slack; at
    others one unit in the last place of a frequency, times t, is granted and printed.
    """
    found: list[Comparison] = []
    for name, expected in arrays.items():
        kind, _, width = name.partition("_")
        if kind == "ape":
            found.append((name, position_embedding(tensor(arrays, "coords"), int(width)), expected))
        elif kind == "timestep":
            unit = np.spacing(timestep_frequencies(int(width) // 2).numpy())
            slack = np.abs(arrays["timesteps"])[:, None] * np.concatenate([unit, unit])[None]
            slack = np.pad(slack, ((0, 0), (0, int(width) % 2)))
            found.append((name, timestep_embedding(tensor(arrays, "timesteps"), int(width)), expected, slack))
    return found


@torch.no_grad()
def ss_flow(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Forward pass of the structure flow."""
    model = load_structure_flow(manifest["config"], state_dict(arrays))
    out = model(tensor(arrays, "x"), tensor(arrays, "t"), tensor(arrays, "cond"))
    return [("out", out, arrays["out"])]


@torch.no_grad()
def structure_vae(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Encoder distribution and decoder logits of a dense VAE."""
    encoder = SparseStructureEncoder.from_config(manifest["config"]["encoder"])
    encoder.load_state_dict(state_dict(arrays, "sd_enc"), strict=True)
    decoder = SparseStructureDecoder.from_config(manifest["config"]["decoder"])
    decoder.load_state_dict(state_dict(arrays, "sd_dec"), strict=True)
    mean, logvar = encoder.distribution(tensor(arrays, "volume"))
    logits = decoder(tensor(arrays, "z"))
    return [
        ("mean", mean, arrays["mean"]),
        ("logvar", logvar, arrays["logvar"]),
        ("logits", logits, arrays["logits"]),
    ]


def _velocity(text: str) -> flow_sampler.Velocity:
    """The analytic velocity of a sampler case, its coefficients read from the manifest's formula."""
    numbers = re.search(r"= *([-\d.e]+)\*x \+ ([-\d.e]+)\*\(t_model/1000\) \+ ([-\d.e]+)\*cond\*cos\(x\)", text)
    if numbers is None:
        raise ValueError(f"the velocity formula is not understood: {text}")
    a, b, c = (float(number) for number in numbers.groups())

    def velocity(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        time = (t / flow_sampler.TIME_SCALE).view(-1, *[1] * (x.dim() - 1))
        return a * x + b * time + c * cond * torch.cos(x)

    return velocity


def sampler(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Plain, guided and interval-guided sampling, step by step."""
    config = manifest["config"]
    velocity = _velocity(config["velocity"])
    common = {"steps": config["steps"], "rescale_t": config["rescale_t"], "sigma_min": config["sigma_min"]}
    strength = config["cfg_strength"]
    modes = {
        "plain": flow_sampler.FlowSettings(**common, cfg_strength=0.0),
        "cfg": flow_sampler.FlowSettings(**common, cfg_strength=strength, cfg_interval=(0.0, 1.0)),
        "interval": flow_sampler.FlowSettings(
            **common, cfg_strength=strength, cfg_interval=tuple(config["cfg_interval"])
        ),
    }
    found: list[Comparison] = [
        ("t_seq", flow_sampler.time_sequence(config["steps"], config["rescale_t"]), arrays["t_seq"])
    ]
    for name, expected in arrays.items():
        if name.startswith("t_seq_"):
            steps, rescale = name.removeprefix("t_seq_").split("_rescale")
            found.append((name, flow_sampler.time_sequence(int(steps), float(rescale)), expected))
    for mode, settings in modes.items():
        result = flow_sampler.sample_flow(
            velocity, tensor(arrays, "noise"), tensor(arrays, "cond"), tensor(arrays, "neg_cond"), settings, keep=True
        )
        outputs = {"samples": result.samples, "pred_x_t": result.trajectory, "pred_x_0": result.predictions}
        for part, value in outputs.items():
            if f"{mode}/{part}" in arrays:
                stacked = torch.stack(value) if isinstance(value, list) else value
                found.append((f"{mode}/{part}", stacked, arrays[f"{mode}/{part}"]))
    return found


def pose_solver(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """The linear solver value by value; the nonlinear one must not reproject worse than the reference's."""
    found: list[Comparison] = []
    for index in range(len(manifest["config"]["cases"])):
        case = f"case{index}"
        points, uv = (arrays[f"{case}/{name}"].astype(np.float64) for name in ("obj_points", "img_points"))
        plain = pose.solve_dlt(points, uv)
        weighted = pose.solve_dlt(points, uv, arrays[f"{case}/weights"])
        refined = pose.calibrate(points, uv)
        found += [
            (f"{case}/dlt_K", plain.intrinsics, arrays[f"{case}/dlt_K"]),
            (f"{case}/dlt_E", plain.world_to_camera[:3], arrays[f"{case}/dlt_E"]),
            (f"{case}/dlt_err", plain.residual, arrays[f"{case}/dlt_err"]),
            (f"{case}/dltw_K", weighted.intrinsics, arrays[f"{case}/dltw_K"]),
            (f"{case}/dltw_E", weighted.world_to_camera[:3], arrays[f"{case}/dltw_E"]),
        ]
        reference = pose.reprojection_error(
            points,
            uv,
            arrays[f"{case}/cv_K"].astype(np.float64),
            np.vstack([arrays[f"{case}/cv_E"].astype(np.float64), [0, 0, 0, 1]]),
        )
        found.append((f"{case}/cv_err", refined.residual, min(reference, refined.residual)))
        found.append((f"{case}/skew", refined.intrinsics[0, 1], 0.0))
    return found


def similarity(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Closed-form similarity and its composition with an object's pose."""
    fitted = fit_similarity(arrays["src"], arrays["tgt"])
    return [
        ("scale", fitted.scale, arrays["scale"]),
        ("R", fitted.rotation, arrays["R"]),
        ("t", fitted.translation, arrays["t"]),
        ("aligned_extrinsic", align_camera(fitted, arrays["object_extrinsic"]), arrays["aligned_extrinsic"]),
    ]


def image_preprocess(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Crop, premultiplied tensors of every stored size, de-cropped intrinsics."""
    config = manifest["config"]
    crop = crop_to_content(arrays["rgba"], config["crop_padding"], config["alpha_threshold"])
    found: list[Comparison] = [
        ("cropped", crop.image, arrays["cropped"]),
        ("crop_params", crop.parameters, arrays["crop_params"]),
        ("K_full", pose.de_crop(arrays["K_crop"], crop.parameters), arrays["K_full"]),
    ]
    for name, expected in arrays.items():
        if name.startswith("tensor_"):
            found.append((name, preprocess.premultiplied_tensor(crop.image, int(name.split("_")[1])), expected))
    return found


def decode(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Occupied voxels, pose set with both supports, projection of voxel centres."""
    config = manifest["config"]
    found: list[Comparison] = []
    for suffix, from_occupancy in (("", True), ("_own", False)):
        result = structure_decode.decode_structure(
            tensor(arrays, "ss_logits"),
            tensor(arrays, "uv_logits"),
            from_occupancy,
            config["expand_min_num_activated"],
            config["expand_threshold_step"],
        )
        found += [
            (f"coords{suffix}", result.coords, arrays[f"coords{suffix}"]),
            (f"uv_coords{suffix}", result.uv_coords, arrays[f"uv_coords{suffix}"]),
            (f"uv_values{suffix}", result.uv, arrays[f"uv_values{suffix}"]),
        ]
    resolution = config.get("resolution", PUBLISHED_RESOLUTION)  # of the voxels, not of the small logit volumes
    uv = structure_decode.voxel_uv(
        tensor(arrays, "vox_coords"), tensor(arrays, "extrinsics"), tensor(arrays, "intrinsics"), resolution
    )
    return [*found, ("vox_uv", uv, arrays["vox_uv"])]


def train_losses(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Losses of the UV-cube VAE, and the dilation."""
    config = manifest["config"]
    named = losses.uv_vae_losses(
        tensor(arrays, "logits"),
        tensor(arrays, "ssuv"),
        tensor(arrays, "uv_volume"),
        tensor(arrays, "mean"),
        tensor(arrays, "logvar"),
        config["lambda_kl"],
        config["lambda_uv_volume"],
    )
    dilation = config["dilation"]
    coords, weights = losses.dilate_voxels(
        tensor(arrays, "dil_in"), dilation["resolution"], dilation["sigma"], dilation["min_weight"]
    )
    found: list[Comparison] = [(f"loss/{name}", value, arrays[f"loss/{name}"]) for name, value in named.items()]
    return [*found, ("dil_coords", coords, arrays["dil_coords"]), ("dil_weights", weights, arrays["dil_weights"])]


def train_data_prep(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Camera conversion, UV cube and support, every crop augmentation (``crop_r<ratio>_pad<0|1>``)."""
    resolution = manifest["config"]["resolution"]
    extrinsics, intrinsics = data_prep.camera_from_blender(arrays["blender_c2w"], float(arrays["fov_x"]))
    raw, support = data_prep.uv_cube(extrinsics, intrinsics, resolution)
    found: list[Comparison] = [
        ("extrinsics", extrinsics, arrays["extrinsics"]),
        ("intrinsics", intrinsics, arrays["intrinsics"]),
        ("uv_raw", raw, arrays["uv_raw"]),
        ("uv_volume", np.clip(raw, 0, 1), arrays["uv_volume"]),
        ("ssuv", support, arrays["ssuv"]),
    ]
    alpha = arrays["rgba"][..., 3]
    height, width = alpha.shape
    for name in arrays:
        if not name.endswith("/bbox"):
            continue
        case = name.removesuffix("/bbox")
        ratio, padding = case.removeprefix("crop_r").split("_pad")
        box = data_prep.augmented_box(alpha, float(ratio), padding == "1")
        uv, cropped = data_prep.crop_camera(raw, intrinsics, box, width, height)
        found += [
            (name, box, arrays[name]),
            (f"{case}/uv_volume", uv, arrays[f"{case}/uv_volume"]),
            (f"{case}/intrinsics", cropped, arrays[f"{case}/intrinsics"]),
        ]
    return found


@torch.no_grad()
def occlusion_attention(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Attention with token weights and the modulated cross blocks, dense and sparse."""
    config = manifest["config"]
    channels, heads, width = config["channels"], config["num_heads"], config["ctx_channels"]
    attention = MultiHeadAttention(
        channels, heads, ctx_channels=width, kind="cross", qk_rms_norm=config["attn_qk_rms_norm"]
    )
    attention.load_state_dict(state_dict(arrays, "sd_dense_attn"), strict=True)
    norms = {"qk_rms_norm": config["block_qk_rms_norm"], "qk_rms_norm_cross": config["block_qk_rms_norm_cross"]}
    block = ModulatedTransformerCrossBlock(channels, width, heads, config["mlp_ratio"], **norms)
    block.load_state_dict(state_dict(arrays, "sd_dense_block"), strict=True)
    sparse_attention = SparseCrossAttention(channels, width, heads, qk_rms_norm=config["attn_qk_rms_norm"])
    sparse_attention.load_state_dict(state_dict(arrays, "sd_sparse_attn"), strict=True)
    sparse_block = SparseModulatedCrossBlock(channels, width, heads, config["mlp_ratio"], **norms)
    sparse_block.load_state_dict(state_dict(arrays, "sd_sparse_block"), strict=True)
    x, context, weight, mod = (tensor(arrays, name) for name in ("x", "context", "weight", "mod"))
    voxels = SparseTensor(tensor(arrays, "coords"), tensor(arrays, "feats"))
    return [
        ("dense_attn_out", attention(x, context, weight), arrays["dense_attn_out"]),
        ("dense_block_out", block(x, mod, context, weight), arrays["dense_block_out"]),
        ("sparse_attn_out", sparse_attention(voxels, context, weight).feats, arrays["sparse_attn_out"]),
        ("sparse_block_out", sparse_block(voxels, mod, context, weight).feats, arrays["sparse_block_out"]),
    ]


REPLAYS: dict[str, Replay] = {
    "embeddings": embeddings,
    "flow_sampler": sampler,
    "image_preprocess": image_preprocess,
    "occlusion_attention": occlusion_attention,
    "pose_solver": pose_solver,
    "similarity_alignment": similarity,
    "ss_flow": ss_flow,
    "ss_vae": structure_vae,
    "structure_decode": decode,
    "train_data_prep": train_data_prep,
    "train_losses": train_losses,
    "uv_vae": structure_vae,
}
