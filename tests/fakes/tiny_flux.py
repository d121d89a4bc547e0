"""Stage I's networks with tiny numbers: real classes, tiles of 32 pixels, all of them in a second on one core."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

WIDTH, POOLED = 32, 24
FLUX = {
    "patch_size": 1, "in_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": WIDTH, "pooled_projection_dim": POOLED, "guidance_embeds": True,
    "axes_dims_rope": [4, 6, 6],
}  # fmt: skip
BLOCKS = 4
VAE = {
    "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"] * BLOCKS,
    "up_block_types": ["UpDecoderBlock2D"] * BLOCKS, "layers_per_block": 1, "act_fn": "silu",
    "use_quant_conv": False, "use_post_quant_conv": False,
    "block_out_channels": [8] * BLOCKS, "norm_num_groups": 4, "latent_channels": 4, "sample_size": 32,
    "scaling_factor": 0.5, "shift_factor": 0.1,
}  # fmt: skip
TINY: dict[str, Any] = {
    "settings": {
        "tile": 32, "text": "clip_t5", "text_tokens": 80, "image_size": 16, "steps": 3, "guidance": 3.5,
        "guidance_scale": 1.0, "control_mode": 1,
    },
    "networks": {
        "transformer": {"name": "FluxTransformer2DModel", "args": FLUX},
        "controlnet": {
            "name": "FluxControlNetModel", "args": {**FLUX, "num_layers": 1, "num_single_layers": 1, "num_mode": 10},
        },
        "vae": {"name": "AutoencoderKL", "args": VAE},
        "image_encoder": {
            "name": "SiglipVisionModel",
            "args": {
                "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                "image_size": 16, "patch_size": 8,
            },
        },
        "redux": {"name": "ReduxImageEncoder", "args": {"redux_dim": 16, "txt_in_features": WIDTH}},
        "clip": {
            "name": "CLIPTextModel",
            "args": {
                "vocab_size": 300, "hidden_size": POOLED, "intermediate_size": 32, "num_hidden_layers": 1,
                "num_attention_heads": 2, "max_position_embeddings": 77, "eos_token_id": 1, "bos_token_id": 2,
            },
        },
        "t5": {
            "name": "T5EncoderModel",
            "args": {
                "vocab_size": 300, "d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2,
                "feed_forward_proj": "gated-gelu",
            },
        },
    },
}  # fmt: skip


def tiny_config(**settings: Any) -> dict[str, Any]:
    """The tiny configuration with some of its settings changed."""
    config = copy.deepcopy(TINY)
    config["settings"].update(settings)
    return config


def write_tiny_config(path: Path, **settings: Any) -> str:
    """The same as a file; returns its path for `load_flux`."""
    path.write_text(json.dumps(tiny_config(**settings)))
    return str(path)
