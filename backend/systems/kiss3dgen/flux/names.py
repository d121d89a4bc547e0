"""The two names of Flux's layers: those of the original release (single files, kohya, XLabs) and those of diffusers.

The original keeps query, key and value (and in single blocks the MLP's first layer) in one matrix; diffusers has one
layer for each, so that one original name stands for several, stacked by rows.
"""

from __future__ import annotations

from collections.abc import Iterator

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": QKV,
    "txt_attn.qkv": TEXT_QKV,
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
DOUBLE_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": (*QKV, "proj_mlp"),
    "linear2": ("proj_out",),
}
SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}
EMBEDDERS = {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"}
HALVES_SWAPPED = "norm_out.linear"
"""Of this layer the original's first half of rows is the shift, the scale comes second; in diffusers the other way."""
TOP = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": (HALVES_SWAPPED,),
    **{f"{old}.in_layer": (f"time_text_embed.{new}.linear_1",) for old, new in EMBEDDERS.items()},
    **{f"{old}.out_layer": (f"time_text_embed.{new}.linear_2",) for old, new in EMBEDDERS.items()},
}


def original_layers(doubles: int, singles: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(original name, the diffusers names stacked in it) of every linear layer of a transformer of that many blocks."""
    yield from TOP.items()
    for block in range(doubles):
        for name, parts in DOUBLE.items():
            yield f"double_blocks.{block}.{name}", tuple(f"transformer_blocks.{block}.{part}" for part in parts)
    for block in range(singles):
        for name, parts in SINGLE.items():
            yield f"single_blocks.{block}.{name}", tuple(f"single_transformer_blocks.{block}.{part}" for part in parts)


def original_norms(doubles: int, singles: int) -> Iterator[tuple[str, str]]:
    """(original name, diffusers name) of every normalisation; the tensor is called scale there and weight here."""
    for block in range(doubles):
        for name, part in DOUBLE_NORMS.items():
            yield f"double_blocks.{block}.{name}", f"transformer_blocks.{block}.{part}"
    for block in range(singles):
        for name, part in SINGLE_NORMS.items():
            yield f"single_blocks.{block}.{name}", f"single_transformer_blocks.{block}.{part}"


def part_rows(rows: int, inner: int, parts: int) -> tuple[tuple[int, int], ...]:
    """First and last row + 1 of each part of a stacked matrix [rows, inner]: the last part takes what is left."""
    if parts == 1:
        return ((0, rows),)
    starts = [index * inner for index in range(parts)]
    return tuple(zip(starts, [*starts[1:], rows], strict=True))
