"""Stage I: a bundle image from a sentence, a photo, another bundle, or several of them (spec section 6).

Text and photo speak through tokens, a bundle to start from through its latents and `strength`, a bundle to keep to
through the tile ControlNet, which is silent after its window. Guidance is distilled (published) or classifier-free
(mini, openly licensed bases).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backend.contract.errors import MaquetteError
from backend.formats.images import encode_png
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.flux.config import PACK, FluxSettings
from backend.systems.kiss3dgen.flux.latents import (
    VAE_STRIDE,
    decode_tokens,
    encode_pictures,
    image_ids,
    pack,
    text_ids,
)
from backend.systems.kiss3dgen.flux.networks import FluxNetworks
from backend.systems.kiss3dgen.flux.schedule import control_window, heun_schedule, integrate, single_step

logger = logging.getLogger(__name__)

PHOTO_SIZE = 512
"""Side that a photo is brought to before the image encoder makes it smaller (spec section 6)."""
CONTROLNET_GUIDANCE = 3.5
"""What a ControlNet made for a distilled base is told where the base itself is not distilled."""
PREVIEW_WIDTH = 512


@dataclass(frozen=True)
class SampleSettings:
    """What a flow (`flows.json`) and the person decide.

    steps: None takes the weights' own. strength: share of the steps that is done on `init`. redux_strength: how loud
    the photo is. control_scale, control_end: of the tile ControlNet. guidance, guidance_scale: None takes the weights'
    own. level: noise that `init` gets and loses in one step, in place of steps and strength. preview_every: steps
    between previews, 0 for none. lora: kind of LoRA (image, mesh) where the weights have one, None for the one in
    use; lora_scale: how much of it.
    """

    steps: int | None = None
    strength: float = 1.0
    redux_strength: float = 1.0
    control_scale: float = 0.0
    control_end: float = 1.0
    guidance: float | None = None
    guidance_scale: float | None = None
    level: float | None = None
    preview_every: int = 2
    lora: str | None = None
    lora_scale: float = 1.0


@dataclass(frozen=True)
class Told:
    """What the transformer is told: tokens [B, L, D] and pooled [B, P]."""

    tokens: Tensor
    pooled: Tensor


def generate_bundle(
    networks: FluxNetworks,
    prompt: str,
    settings: SampleSettings,
    generator: torch.Generator,
    hooks: Hooks,
    init: np.ndarray | None = None,
    photo: np.ndarray | None = None,
    control: np.ndarray | None = None,
) -> np.ndarray:
    """The bundle [2S, 4S, 3] float32 in [0, 1] of `prompt`. S is the weights' tile.

    init: a bundle to start from, control: one to keep to, both [2S', 4S', 3] in [0, 1]; photo: [H, W, 3] in [0, 1].
    Errors: `Cancelled`; `MaquetteError` bad_input for a picture of the wrong shape, model_missing for a network.
    """
    return generate_bundles(networks, [prompt], settings, generator, hooks, init, photo, control)[0]


@torch.no_grad()
def generate_bundles(
    networks: FluxNetworks,
    prompts: Sequence[str],
    settings: SampleSettings,
    generator: torch.Generator,
    hooks: Hooks,
    init: np.ndarray | None = None,
    photo: np.ndarray | None = None,
    control: np.ndarray | None = None,
) -> np.ndarray:
    """One bundle a prompt [B, 2S, 4S, 3], sampled together; the pictures serve them all. As `generate_bundle`."""
    own, device, count = networks.settings, networks.device, len(prompts)
    height, width = own.size
    _check(networks, settings, init, photo, control)
    if settings.lora is not None:
        networks.select_lora(settings.lora, settings.lora_scale)
    scale = own.guidance_scale if settings.guidance_scale is None else settings.guidance_scale
    networks.text.encode([*prompts, ""] if scale != 1.0 else list(prompts))  # all at once: the encoders leave after it
    told = [_told(networks, list(prompts), photo, settings.redux_strength)]
    if scale != 1.0:
        told.append(_told(networks, [""] * count, None, 0.0))
    strength = 1.0 if init is None else settings.strength
    started = _encode(networks, init, count) if init is not None and strength < 1 else None
    keeps = None if control is None or settings.control_scale == 0 else _encode(networks, control, count)
    schedule = heun_schedule(settings.steps or own.steps, strength, own.shift)
    if settings.level is not None and started is not None:
        schedule = single_step(settings.level)
    window = control_window(schedule.evaluations, settings.control_end) if keeps is not None else []
    guidance = own.guidance if settings.guidance is None else settings.guidance
    positions = image_ids(height, width, device)
    noise = pack(_noise(networks, count, generator))
    if not any(window):
        keeps = None

    def velocity(x: Tensor, sigma: float, evaluation: int) -> Tensor:
        control_scale = settings.control_scale if keeps is not None and window[evaluation] else 0.0
        flows = [
            _velocity(networks, x, sigma, each, positions, guidance, keeps, control_scale, own.control_mode)
            for each in _batched(told)
        ]
        parts = [part for flow in flows for part in flow.split(count)]
        return parts[0] if len(parts) == 1 else parts[1] + scale * (parts[0] - parts[1])

    def watch(evaluation: int, estimate: Tensor | None) -> None:
        hooks.step(evaluation + 1, schedule.evaluations)
        every = 2 * settings.preview_every
        if estimate is None or not every or not evaluation or evaluation % every:
            return
        if hooks.wants_preview():
            hooks.preview(preview_png(decode_tokens(networks["vae"], estimate[:1], height, width)))

    latents = integrate(velocity, schedule.start(started, noise), schedule, watch)
    pictures = decode_tokens(networks["vae"], latents, height, width)
    return pictures.permute(0, 2, 3, 1).cpu().numpy()


def photo_tokens(networks: FluxNetworks, photo: np.ndarray) -> Tensor:
    """Redux tokens [1, P, D] float32 of a photo [H, W, 3] in [0, 1]. Errors: `MaquetteError` model_missing."""
    own = networks.settings
    seen = _tensor(photo)
    if own.tile >= PHOTO_SIZE:
        seen = functional.interpolate(
            seen, size=(PHOTO_SIZE, PHOTO_SIZE), mode="bilinear", align_corners=False, antialias=True
        )
    seen = functional.interpolate(
        seen, size=(own.image_size, own.image_size), mode="bicubic", align_corners=False, antialias=True
    ).clamp(0, 1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (own.image_mean, own.image_std))
    encoder = networks["image_encoder"]
    features = encoder(((seen - mean) / std).to(networks.device, networks.dtype)).last_hidden_state
    embedded: Tensor = networks["redux"](features).image_embeds
    return embedded.float()


def preview_png(pictures: Tensor) -> bytes:
    """A small PNG of the first of `pictures` [B, 3, H, W] in [0, 1]."""
    picture = pictures[:1]
    if picture.shape[-1] > PREVIEW_WIDTH:
        picture = functional.interpolate(picture, scale_factor=PREVIEW_WIDTH / picture.shape[-1], mode="area")
    return encode_png(picture[0].permute(1, 2, 0).cpu().numpy())


def _told(networks: FluxNetworks, prompts: list[str], photo: np.ndarray | None, redux_strength: float) -> Told:
    features = networks.text.encode(prompts).to(networks.device, torch.float32)
    tokens = features.tokens
    if photo is not None:
        extra = redux_strength * photo_tokens(networks, photo)
        tokens = torch.cat([tokens, extra.expand(len(prompts), -1, -1)], 1)
    return Told(tokens.to(networks.dtype), features.pooled.to(networks.dtype))


def _batched(told: list[Told]) -> list[Told]:
    """Both halves of guidance as one batch, where they have as many tokens."""
    if len({each.tokens.shape[1] for each in told}) > 1:
        return told
    return [Told(torch.cat([each.tokens for each in told]), torch.cat([each.pooled for each in told]))]


def _velocity(
    networks: FluxNetworks,
    x: Tensor,
    sigma: float,
    told: Told,
    positions: Tensor,
    guidance: float | None,
    keeps: Tensor | None,
    control_scale: float,
    mode: int,
) -> Tensor:
    """The transformer's answer [B, N, C] in float32; `told` may hold x's batch several times."""
    transformer: Any = networks["transformer"]
    count, repeats = len(told.tokens), len(told.tokens) // len(x)
    common = {
        "hidden_states": x.repeat(repeats, 1, 1).to(networks.dtype),
        "encoder_hidden_states": told.tokens,
        "pooled_projections": told.pooled,
        "timestep": torch.full((count,), sigma, device=x.device, dtype=networks.dtype),
        "img_ids": positions,
        "txt_ids": text_ids(told.tokens.shape[1], x.device),
        "return_dict": False,
    }
    blocks = singles = None
    if keeps is not None and control_scale:
        controlnet: Any = networks["controlnet"]
        blocks, singles = controlnet(
            **common,
            controlnet_cond=keeps.repeat(repeats, 1, 1).to(networks.dtype),
            controlnet_mode=torch.full((count, 1), mode, device=x.device) if controlnet.union else None,
            conditioning_scale=control_scale,
            guidance=_guidance(controlnet, guidance or CONTROLNET_GUIDANCE, count, x.device),
        )
    (flow,) = transformer(
        **common,
        guidance=_guidance(transformer, guidance or 1.0, count, x.device),
        controlnet_block_samples=blocks,
        controlnet_single_block_samples=singles,
    )
    answer: Tensor = flow.float()
    return answer


def _guidance(network: Any, guidance: float, count: int, device: torch.device) -> Tensor | None:
    return torch.full((count,), guidance, device=device) if network.config.guidance_embeds else None


def _noise(networks: FluxNetworks, count: int, generator: torch.Generator) -> Tensor:
    own: FluxSettings = networks.settings
    channels = networks["vae"].config.latent_channels
    height, width = (side // VAE_STRIDE // PACK * PACK for side in own.size)
    return torch.randn((count, channels, height, width), generator=generator, device=generator.device).to(
        networks.device
    )


def _encode(networks: FluxNetworks, picture: np.ndarray, count: int) -> Tensor:
    height, width = networks.settings.size
    resized = functional.interpolate(
        _tensor(picture), size=(height, width), mode="bilinear", align_corners=False, antialias=True
    ).clamp(0, 1)
    return encode_pictures(networks["vae"], resized).to(networks.device).expand(count, -1, -1)


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).permute(2, 0, 1)[None]


def _check(
    networks: FluxNetworks,
    settings: SampleSettings,
    init: np.ndarray | None,
    photo: np.ndarray | None,
    control: np.ndarray | None,
) -> None:
    for name, picture in (("bundle to start from", init), ("bundle to keep to", control)):
        if picture is not None and (
            picture.ndim != 3 or picture.shape[2] != 3 or picture.shape[1] != 2 * picture.shape[0]
        ):
            raise MaquetteError(
                "bad_input", f"The {name} must be a colour picture twice as wide as high, four tiles over four.",
                f"shape {picture.shape}",
            )  # fmt: skip
    if photo is not None and (photo.ndim != 3 or photo.shape[2] != 3):
        raise MaquetteError("bad_input", "The photo must be a colour picture; choose another.", f"shape {photo.shape}")
    wanted = ["image_encoder", "redux"] if photo is not None else []
    if control is not None and settings.control_scale:
        wanted.append("controlnet")
    for role in wanted:
        if role not in networks:
            what = "tile ControlNet" if role == "controlnet" else "image prior Redux"
            raise MaquetteError(
                "model_missing", f"The {what} is not installed; install it under Models, or choose a flow without it.",
                role, "install_model",
            )  # fmt: skip
