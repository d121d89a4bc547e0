"""Replays of RefAny3D's network: positions and tables, one forward in six forms, one training step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from backend.contract.reference_views import FRAMES, view_azimuths
from backend.systems.refany3d import condition_views, lora, positions
from backend.systems.refany3d.attention import Mask
from backend.systems.refany3d.kv_cache import ConditionCache
from backend.systems.refany3d.training_loss import Draw, training_loss
from backend.systems.refany3d.transformer import Conditions, RefAny3DTransformer
from tests.golden.replay import Arrays, Comparison, Manifest, Replay, as_array, shared_arrays

VIEW_COUNTS = (1, 2, 4, 6, 8)
FLUX_AXES = (16, 56, 56)
BRANCHES = {"text": 0, "rgb": 1, "coord": 2, "cond_rgb0": 3, "cond_coord0": -1}
"""Branches whose states are recorded; the last is the first point-map view, whose number depends on the views."""
OTHER_LAST_BITS = {12: -1, 13: 1, 44: 1}
"""Of the 128 float32 frequencies of the time embedding, those that the recording machine rounded to a neighbour, found
by trying which neighbours bring the recorded vectors from 1.3e-5 to 4e-7: times 3500 a last bit is not small."""


class RecordedTimes(nn.Module):
    """The time embedding with the frequencies of the recording machine: times [B] -> [B, 256]."""

    def forward(self, times: Tensor) -> Tensor:
        """Cosines, then sines."""
        exponents = -math.log(10000) * torch.arange(128, dtype=torch.float32) / 128
        frequencies = np.exp(exponents.double().numpy()).astype(np.float32)
        for place, step in OTHER_LAST_BITS.items():
            frequencies[place] = np.nextafter(frequencies[place], np.float32(step * np.inf))
        angles = times[:, None].float() * torch.from_numpy(frequencies)
        return torch.cat([angles.cos(), angles.sin()], 1)


def load_network(
    manifest: Manifest, adapters: set[str] | None = None, domain_embedding: bool = True, independent: bool = False
) -> RefAny3DTransformer:
    """The golden network with the LoRAs of these names (both by default)."""
    weights = {
        name: torch.from_numpy(value) for name, value in shared_arrays(manifest, "weights_transformer.npz").items()
    }

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}

    base = FluxTransformer2DModel(**manifest["config"]["transformer"])
    base.load_state_dict(part("base/"))
    wanted = {"default", "coord"} if adapters is None else adapters
    default, coord = (
        lora.parse_lora(part(f"lora/{name}/"), base, name) if name in wanted else None for name in ("default", "coord")
    )
    embedder = lora.parse_domain_embedder(part("domain/"), base.inner_dim, "domain") if domain_embedding else None
    return RefAny3DTransformer(base.requires_grad_(False), default, coord, embedder, independent=independent)


def ids_masks(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Positions, their rotary tables, the tables of attention, the sequence and the orbit's frames."""
    found: list[Comparison] = []
    for side in (4, 32):
        noise, condition = positions.noise_ids(side, side), positions.condition_ids(side, side)
        found += [
            (f"{kind}_ids_{side}x{side}", ids, arrays[f"{kind}_ids_{side}x{side}"])
            for kind, ids in (("noise", noise), ("coord", noise), ("condition", condition))
        ]
        axes = tuple(manifest["config"]["transformer"]["axes_dims_rope"]) if side == 4 else FLUX_AXES
        chosen = slice(None) if side == 4 else torch.from_numpy(arrays["sel_tokens"])
        for kind, ids in (("noise", noise), ("condition", condition)):
            turns = positions.rotary_turns(ids[chosen], axes)
            for name, table in (("cos", turns.real), ("sin", turns.imag)):
                key = f"rope_{name}_{kind}_4x4" if side == 4 else f"rope_{name}_fluxdev_{kind}_sel"
                found.append((key, table.repeat_interleave(2, 1), arrays[key]))
    for views in VIEW_COUNTS:
        for name, independent in (("group_mask", False), ("group_mask_independent", True)):
            key = f"{name}_{views}views"
            found.append((key, positions.group_mask(views, independent).int(), arrays[key].astype(int)))
    names = [float(name in manifest["branch_order_8views"]) for name in positions.branch_names(8)]
    return [
        *found,
        ("branch names", names, np.ones(len(manifest["branch_order_8views"]))),
        ("offsets", positions.branch_offsets(512, 1024, 8), arrays["sequence_offsets_512px_8views"]),
        ("frames", view_azimuths(8) * FRAMES / (2.0 * np.pi), arrays["condition_frame_indices_60frames_8views"]),
        ("azimuths", condition_views.azimuths(8), arrays["condition_azimuth_degrees_8views"]),
        ("pairs", positions.attended_pairs(512, 1024, 8), arrays["attention_pairs_8views_512px"]),
    ]


def transformer(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Every recorded state and prediction; the slack is what the last bits of the recorded frequencies change."""
    found = _forward(manifest, arrays, load_network)

    def recorded(*given: Any) -> RefAny3DTransformer:
        network = load_network(*given)
        network.base.time_text_embed.time_proj = RecordedTimes()
        return network

    others = _forward(manifest, arrays, recorded)
    return [
        (name, ours, wanted, np.abs(as_array(ours) - as_array(other)))
        for (name, ours, wanted), (_, other, _) in zip(found, others, strict=True)
    ]


@torch.no_grad()
def _forward(manifest: Manifest, arrays: Arrays, load: Callable[..., RefAny3DTransformer]) -> list[Comparison]:
    """Every recorded state, then the predictions as they are made when nobody watches and when views are kept."""
    adapters = {name for branch in manifest["adapters"] for name in branch.split("+") if name}
    mask = {"none": Mask.NONE, "group_mask": Mask.TRAINED, "group_mask_independent": Mask.INDEPENDENT}[manifest["mask"]]
    network = load(manifest, adapters, manifest["domain_embedding"], mask is Mask.INDEPENDENT)
    given = {name: torch.from_numpy(value) for name, value in shared_arrays(manifest, "transformer_inputs.npz").items()}
    states: dict[str, Tensor] = {}
    conditions = given["condition_latents"][None]

    def predict(seen: Conditions, watch: bool = False) -> list[Tensor]:
        velocities = network.predict(
            given["rgb_latents"], given["coord_latents"], seen, given["prompt_embeds"], given["pooled"],
            given["timestep"], given["guidance_main"], masked=mask is not Mask.NONE,
            condition_guidance=float(given["guidance_condition"]), watch=states.__setitem__ if watch else None,
        )  # fmt: skip
        return [velocity for velocity in velocities if velocity is not None]

    prepared = network.prepare(conditions, given["pooled"], float(given["guidance_condition"]))
    forms: dict[str, list[Tensor]] = {
        "watched": predict(conditions, watch=True),
        "plain": predict(conditions),
        "prepared": predict(prepared),
        "prepared again": predict(prepared),
    }
    if mask is Mask.INDEPENDENT:
        cache = network.cache_conditions(conditions, given["pooled"], float(given["guidance_condition"]))
        assert isinstance(cache, ConditionCache)
        forms["kept"] = predict(cache)
    found: list[Comparison] = [
        (f"{name} {form}", value, arrays[name])
        for form, values in forms.items()
        for name, value in zip(("rgb_pred", "coord_pred"), values, strict=True)
    ]
    views = conditions.shape[1] // 2
    text, tokens = given["prompt_embeds"].shape[1], given["rgb_latents"].shape[1]
    offsets = positions.branch_offsets(text, tokens, views)
    names = {**BRANCHES, "cond_coord0": 3 + views}
    for block in (name for name in states if name != "x_embed"):
        for branch, number in names.items():
            state = states[block][:, offsets[number] : offsets[number + 1]]
            found.append((f"{block}_{branch}", state, arrays[f"{block}_{branch}"]))
    embedded = states["x_embed"]
    for name, number in (("coord", 2), ("first_condition", 3)):
        state = embedded[:, offsets[number] : offsets[number + 1]]
        found.append((f"x_embed_{name}", state, arrays[f"x_embed_{name}"]))
    sizes = positions.sequence(text, tokens, views)
    vectors = network.vectors(
        given["timestep"], given["guidance_main"], given["pooled"], sizes, float(given["guidance_condition"])
    )
    branches = vectors[0, positions.branch_kinds(views)]
    return [*found, ("temb_branches", branches, arrays["temb_branches"])]


def training_step(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """The noisy inputs' predictions, both losses, and the gradient of everything that is trained."""
    network = load_network(manifest)
    given = {name: torch.from_numpy(value) for name, value in arrays.items() if not name.startswith("grad/")}
    keep = torch.zeros(1, dtype=torch.bool)
    draw = Draw(given["t"], given["rgb_noise"], given["coord_noise"], keep, keep)
    found: list[Comparison] = []
    for checkpointing in (False, True):
        network.checkpointing = checkpointing
        network.zero_grad()
        loss, parts = training_loss(
            network, given["rgb_x0"], given["coord_x0"], given["condition_tokens"][None], given["prompt_embeds"],
            given["pooled"], draw,
        )  # fmt: skip
        loss.backward()
        found += [
            ("loss", loss, arrays["loss"]),
            ("rgb_loss", parts["rgb"], arrays["rgb_loss"]),
            ("coord_loss", parts["coord"], arrays["coord_loss"]),
        ]
        gradients = {
            f"grad/{name}/{layer.replace('/', '.')}.{side}.weight": _gradient(getattr(pair, side))
            for name in ("default", "coord")
            for layer, pair in getattr(network, name).layers.items()
            for side in ("lora_A", "lora_B")
        }
        gradients |= {f"grad/domain/{name}": value.grad for name, value in network.domain_embedder.named_parameters()}
        wanted = {name: value for name, value in arrays.items() if name.startswith("grad/")}
        if set(gradients) != set(wanted):
            raise ValueError(f"gradients differ in name: {sorted(set(gradients) ^ set(wanted))[:3]}")
        found += [(name, gradients[name], value) for name, value in wanted.items()]
    return found


def _gradient(parameter: Tensor) -> Tensor:
    """Zero where the last block makes nothing of the views' tokens, whose results nobody reads."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


REPLAYS: dict[str, Replay] = {"ids_masks": ids_masks, "transformer": transformer, "training_step": training_step}
