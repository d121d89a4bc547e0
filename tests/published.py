"""Every tensor of CUPID's eleven published files, written down from the specification's module trees (section 4).

Nothing here asks our classes: names, shapes and precisions are the published ones, so that a class that differs is
found out. `write_file` makes a file of them with random values, in the order and form that the format prescribes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WIDTH, CONDITION, DEPTH, HEADS = 1024, 1024, 24, 16  # both flows
SLAT_WIDTH, SLAT_DEPTH = 768, 12
BLOCK_BYTES = 1 << 20

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Published:
    """One file: its class and arguments (section 1.1), its size, its tensors, and whether its body is F16."""

    name: str
    class_name: str
    args: dict
    bytes: int
    shapes: Shapes
    half: bool

    def dtype(self, key: str) -> str:
        """Linears and convolutions inside the body are F16 in a half file; everything else is F32 (section 1.2)."""
        body = key.split(".")[0] in ("blocks", "input_blocks", "out_blocks", "middle_block", "upsample")
        norm = any(part.startswith("norm") or part.endswith("_norm") for part in key.split(".")[:-1])
        norm = norm or ".act_layers.0." in key or ".out_layers.1." in key
        return "F16" if self.half and body and not norm else "F32"


def affine(name: str, *shape: int) -> Shapes:
    """A weight of `shape` and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def time_embedder() -> Shapes:
    return affine("t_embedder.mlp.0", WIDTH, 256) | affine("t_embedder.mlp.2", WIDTH, WIDTH)


def cross_block(name: str) -> Shapes:
    """Section 4.1: the modulated cross block."""
    gamma = (HEADS, WIDTH // HEADS)
    return (
        norm(f"{name}.norm2", WIDTH)
        | affine(f"{name}.self_attn.to_qkv", 3 * WIDTH, WIDTH)
        | {f"{name}.self_attn.q_rms_norm.gamma": gamma, f"{name}.self_attn.k_rms_norm.gamma": gamma}
        | affine(f"{name}.self_attn.to_out", WIDTH, WIDTH)
        | affine(f"{name}.cross_attn.to_q", WIDTH, WIDTH)
        | affine(f"{name}.cross_attn.to_kv", 2 * WIDTH, CONDITION)
        | affine(f"{name}.cross_attn.to_out", WIDTH, WIDTH)
        | affine(f"{name}.mlp.mlp.0", 4 * WIDTH, WIDTH)
        | affine(f"{name}.mlp.mlp.2", WIDTH, 4 * WIDTH)
        | affine(f"{name}.adaLN_modulation.1", 6 * WIDTH, WIDTH)
    )


def cross_blocks() -> Shapes:
    return {key: shape for index in range(DEPTH) for key, shape in cross_block(f"blocks.{index}").items()}


def structure_flow(channels: int) -> Shapes:
    """Section 4.2: 489 tensors."""
    ends = affine("input_layer", WIDTH, channels) | affine("out_layer", channels, WIDTH)
    return {"pos_emb": (16**3, WIDTH)} | time_embedder() | ends | cross_blocks()


def sparse_conv(name: str, out: int, channels: int, size: int = 3) -> Shapes:
    """Section 4.4: stored [out, kx, ky, kz, in]."""
    return affine(f"{name}.conv", out, size, size, size, channels)


def io_block(name: str, channels: int, out: int) -> Shapes:
    """Section 4.5: the residual block at the ends of the structured-latent flow."""
    skip = affine(f"{name}.skip_connection", out, channels) if channels != out else {}
    return (
        norm(f"{name}.norm1", channels) | sparse_conv(f"{name}.conv1", out, channels)
        | sparse_conv(f"{name}.conv2", out, out) | affine(f"{name}.emb_layers.1", 2 * out, WIDTH) | skip
    )  # fmt: skip


def slat_flow() -> Shapes:
    """Section 4.5: 534 tensors. Inputs are 8 noisy, 8 latent and 4 x 4 visual channels."""
    visual: Shapes = {}
    for index, channels in enumerate((3, 4, 4, 4)):
        visual |= affine(f"visual_conv_blocks.{index}", 4, channels, 3, 3)
    return (
        time_embedder() | affine("input_layer", 128, 8 + 8 + 4 * 4) | affine("out_layer", 8, 128)
        | io_block("input_blocks.0", 128, 128) | io_block("input_blocks.1", 128, WIDTH)
        | io_block("out_blocks.0", 2 * WIDTH, 128) | io_block("out_blocks.1", 2 * 128, 128)
        | cross_blocks() | visual
    )  # fmt: skip


def conv3(name: str, out: int, channels: int, size: int = 3) -> Shapes:
    return affine(name, out, channels, size, size, size)


def res_block(name: str, channels: int) -> Shapes:
    """Section 4.3."""
    return (
        norm(f"{name}.norm1", channels) | norm(f"{name}.norm2", channels)
        | conv3(f"{name}.conv1", channels, channels) | conv3(f"{name}.conv2", channels, channels)
    )  # fmt: skip


def structure_decoder(out: int) -> Shapes:
    """Section 4.3: 8 -> 512, two middle blocks, 512 512 up 128 128 up 32 32."""
    shapes = conv3("input_layer", 512, 8) | norm("out_layer.0", 32) | conv3("out_layer.2", out, 32)
    shapes |= conv3("blocks.2.conv", 1024, 512) | conv3("blocks.5.conv", 256, 128)
    for name, channels in (("middle_block.0", 512), ("middle_block.1", 512), ("blocks.0", 512), ("blocks.1", 512),
                           ("blocks.3", 128), ("blocks.4", 128), ("blocks.6", 32), ("blocks.7", 32)):  # fmt: skip
        shapes |= res_block(name, channels)
    return shapes


def structure_encoder(channels: int) -> Shapes:
    """Section 4.3: the mirror image, halving with kernels of two, ending in 8 means and 8 log-variances."""
    shapes = conv3("input_layer", 32, channels) | norm("out_layer.0", 512) | conv3("out_layer.2", 16, 512)
    shapes |= conv3("blocks.2.conv", 128, 32, 2) | conv3("blocks.5.conv", 512, 128, 2)
    for name, width in (("middle_block.0", 512), ("middle_block.1", 512), ("blocks.0", 32), ("blocks.1", 32),
                        ("blocks.3", 128), ("blocks.4", 128), ("blocks.6", 512), ("blocks.7", 512)):  # fmt: skip
        shapes |= res_block(name, width)
    return shapes


def slat_trunk(channels: int, out: int, out_width: int = SLAT_WIDTH) -> Shapes:
    """Section 4.6."""
    shapes = affine("input_layer", SLAT_WIDTH, channels) | affine("out_layer", out, out_width)
    for index in range(SLAT_DEPTH):
        shapes |= affine(f"blocks.{index}.attn.to_qkv", 3 * SLAT_WIDTH, SLAT_WIDTH)
        shapes |= affine(f"blocks.{index}.attn.to_out", SLAT_WIDTH, SLAT_WIDTH)
        shapes |= affine(f"blocks.{index}.mlp.mlp.0", 4 * SLAT_WIDTH, SLAT_WIDTH)
        shapes |= affine(f"blocks.{index}.mlp.mlp.2", SLAT_WIDTH, 4 * SLAT_WIDTH)
    return shapes


def mesh_upsample(name: str, channels: int, out: int) -> Shapes:
    """Section 4.8."""
    return (
        norm(f"{name}.act_layers.0", channels) | sparse_conv(f"{name}.out_layers.0", out, channels)
        | norm(f"{name}.out_layers.1", out) | sparse_conv(f"{name}.out_layers.3", out, out)
        | sparse_conv(f"{name}.skip_connection", out, channels, 1)
    )  # fmt: skip


FLOW_ARGS = {
    "resolution": 16, "model_channels": 1024, "cond_channels": 1024, "num_blocks": 24, "num_heads": 16, "mlp_ratio": 4,
    "patch_size": 1, "pe_mode": "ape", "qk_rms_norm": True, "use_fp16": True,
}  # fmt: skip
SLAT_FLOW_ARGS = {
    "resolution": 64, "in_channels": 8, "out_channels": 8, "model_channels": 1024, "cond_channels": 1024,
    "cond_latent_channels": 8, "visual_feat_channels": [4, 4, 4, 4], "visual_feat_resolution": 256,
    "visual_conv_kernel_size": 3, "num_blocks": 24, "num_heads": 16, "mlp_ratio": 4, "patch_size": 2,
    "num_io_res_blocks": 2, "io_block_channels": [128], "pe_mode": "ape", "qk_rms_norm": True, "use_fp16": True,
}  # fmt: skip
VAE_ARGS = {"latent_channels": 8, "num_res_blocks": 2, "num_res_blocks_middle": 2, "use_fp16": True}
SLAT_ARGS = {
    "resolution": 64, "model_channels": 768, "latent_channels": 8, "num_blocks": 12, "num_heads": 12, "mlp_ratio": 4,
    "attn_mode": "swin", "window_size": 8, "use_fp16": True,
}  # fmt: skip
GAUSSIAN_CONFIG = {
    "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
    "perturb_offset": True, "voxel_size": 1.5, "num_gaussians": 32, "2d_filter_kernel_size": 0.1,
    "3d_filter_kernel_size": 9e-4, "scaling_bias": 4e-3, "opacity_bias": 0.1, "scaling_activation": "softplus",
}  # fmt: skip


def _structure(name: str, channels: int, size: int, half: bool) -> Published:
    args = FLOW_ARGS | {"in_channels": channels, "out_channels": channels}
    return Published(name, "SparseStructureFlowModel", args, size, structure_flow(channels), half)


def _vae(name: str, kind: str, channels: int, size: int, half: bool) -> Published:
    if kind == "Decoder":
        args = VAE_ARGS | {"out_channels": channels, "channels": [512, 128, 32]}
        return Published(name, "SparseStructureDecoder", args, size, structure_decoder(channels), half)
    args = VAE_ARGS | {"in_channels": channels, "channels": [32, 128, 512]}
    return Published(name, "SparseStructureEncoder", args, size, structure_encoder(channels), half)


FILES = (
    _structure("suv_flow_img_dit_L_16l8_fp16", 16, 2_239_067_672, False),
    Published("slat_flow_img_dit_L_64l8p2_fp16", "ElasticVisualLatentConditioningSLatFlowModel", SLAT_FLOW_ARGS,
              2_401_799_952, slat_flow(), False),
    _vae("uv_vae_conv3d_16l8_fp16_decoder", "Decoder", 3, 294_698_604, False),
    _vae("uv_vae_conv3d_16l8_fp16_encoder", "Encoder", 3, 237_206_376, False),
    _vae("ss_dec_conv3d_16l8_fp16", "Decoder", 1, 147_591_972, True),
    _vae("ss_enc_conv3d_16l8_fp16", "Encoder", 1, 119_068_016, True),
    Published("slat_enc_swin8_B_64l8_fp16", "SLatEncoder", SLAT_ARGS | {"in_channels": 1024}, 173_242_816,
              slat_trunk(1024, 16), True),
    Published("slat_dec_gs_swin8_B_64l8gs32_fp16", "SLatGaussianDecoder",
              SLAT_ARGS | {"representation_config": GAUSSIAN_CONFIG}, 171_450_952,
              slat_trunk(8, 448) | {"offset_perturbation": (32, 3)}, True),
    Published("slat_dec_mesh_swin8_B_64l8m256c_fp16", "SLatMeshDecoder",
              SLAT_ARGS | {"representation_config": {"use_color": True}}, 181_903_412,
              slat_trunk(8, 101, 96) | mesh_upsample("upsample.0", 768, 192) | mesh_upsample("upsample.1", 192, 96),
              True),
    Published("slat_dec_rf_swin8_B_64l8r16_fp16", "SLatRadianceFieldDecoder",
              SLAT_ARGS | {"representation_config": {"rank": 16, "dim": 8}}, 171_450_488, slat_trunk(8, 448), True),
    _structure("ss_flow_img_dit_L_16l8_fp16", 8, 1_130_770_840, True),
)  # fmt: skip


def header_and_payload(published: Published) -> tuple[bytes, int, int]:
    """The header with its length before it, and the bytes of single and of half precision after it, in this order.

    The format sorts by precision, then by name, and pads the header with spaces to a multiple of eight bytes.
    """
    entries, place, ends = {}, 0, {"F32": 0, "F16": 0}
    for dtype, width in (("F32", 4), ("F16", 2)):
        for key in sorted(key for key in published.shapes if published.dtype(key) == dtype):
            shape = published.shapes[key]
            end = place + width * int(np.prod(shape))
            entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
            place = end
        ends[dtype] = place
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, ends["F32"], ends["F16"] - ends["F32"]


def write_file(published: Published, path: Path, seed: int = 0) -> None:
    """The file, its tensors filled with one random block over and over."""
    header, single, half = header_and_payload(published)
    values = np.random.default_rng(seed).normal(0, 0.02, BLOCK_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(header)
        for chunk in _repeated(values.astype("<f4").tobytes()[:BLOCK_BYTES], single):
            stream.write(chunk)
        for chunk in _repeated(values.astype("<f2").tobytes()[:BLOCK_BYTES], half):
            stream.write(chunk)


def _repeated(block: bytes, count: int) -> Iterator[bytes]:
    for _ in range(count // len(block)):
        yield block
    yield block[: count % len(block)]
