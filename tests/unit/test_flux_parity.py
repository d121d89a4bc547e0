"""Our sampler against the pipeline of diffusers that the authors run, on the same small networks.

The published code has a scheduler that drops the shift that the pipeline computes for it (spec section 6), and draws
from the autoencoder's posterior where we take its mean: both are said here to the pipeline of diffusers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler, FluxControlNetImg2ImgPipeline, FluxPriorReduxPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.controlnets.controlnet_flux import FluxMultiControlNetModel
from transformers import SiglipImageProcessor

from backend.systems.base import Hooks
from backend.systems.kiss3dgen.flux.networks import load_flux
from backend.systems.kiss3dgen.flux.sampler import SampleSettings, generate_bundle, photo_tokens
from tests.fakes.tiny_flux import write_tiny_config


class PublishedScheduler(FlowMatchHeunDiscreteScheduler):
    """Heun as in the published code: it is told levels and a shift, and hears neither."""

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None
    ) -> None:
        super().set_timesteps(num_inference_steps or len(sigmas), device)


def test_a_bundle_is_that_of_the_published_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    networks = load_flux("random", write_tiny_config(tmp_path / "tiny.json"), profile="full")
    random = np.random.default_rng(0)
    init, control = (random.random((64, 128, 3)).astype(np.float32) for _ in range(2))
    settings = SampleSettings(steps=4, strength=0.75, control_scale=0.6, control_end=0.65, preview_every=0)
    ours = generate_bundle(
        networks, "a chair", settings, torch.Generator().manual_seed(5), Hooks(), init=init, control=control
    )
    pipeline = FluxControlNetImg2ImgPipeline(
        scheduler=PublishedScheduler(shift=3.0), vae=networks["vae"], transformer=networks["transformer"],
        controlnet=FluxMultiControlNetModel([networks["controlnet"]]), text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    text = networks.text.encode(["a chair"])
    theirs = pipeline(
        image=init, control_image=[control], height=64, width=128, strength=0.75, num_inference_steps=4,
        guidance_scale=3.5, control_guidance_start=[0.0], control_guidance_end=[0.65], control_mode=[1],
        controlnet_conditioning_scale=[0.6], generator=torch.Generator().manual_seed(5), prompt_embeds=text.tokens,
        pooled_prompt_embeds=text.pooled, output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs(ours - theirs).max() < 1e-4
    silent = generate_bundle(
        networks, "a chair", SampleSettings(steps=4, strength=0.75, preview_every=0),
        torch.Generator().manual_seed(5), Hooks(), init=init,
    )  # fmt: skip
    assert np.abs(ours - silent).max() > 1e-2, "the ControlNet was heard"


def test_a_photo_is_read_as_redux_reads_it(tmp_path: Path) -> None:
    networks = load_flux("random", write_tiny_config(tmp_path / "tiny.json"), profile="full")
    processor = SiglipImageProcessor(size={"height": 16, "width": 16}, resample=3)
    pipeline = FluxPriorReduxPipeline(networks["image_encoder"], processor, networks["redux"])
    photo = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    with torch.no_grad():
        features = pipeline.encode_image(photo, torch.device("cpu"), 1)
        theirs = networks["redux"](features).image_embeds
        assert torch.allclose(photo_tokens(networks, photo / 255.0), theirs, atol=1e-4)
