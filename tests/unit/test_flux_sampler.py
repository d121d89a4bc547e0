"""Stage I end to end on tiny networks: every kind of input, guidance, previews, cancelling, and a mid-size step."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from backend.contract.errors import Cancelled, MaquetteError
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.flux.latents import decode_tokens, encode_pictures, image_ids, pack, unpack
from backend.systems.kiss3dgen.flux.networks import FluxNetworks, load_flux
from backend.systems.kiss3dgen.flux.sampler import SampleSettings, generate_bundle, generate_bundles, photo_tokens
from backend.systems.kiss3dgen.flux.schedule import control_window, heun_schedule, integrate
from tests.fakes.tiny_flux import tiny_config, write_tiny_config

SHAPE = (64, 128, 3)


class Listener(Hooks):
    """Keeps what it hears; cancels after `most` steps."""

    def __init__(self, most: int = 10**6) -> None:
        super().__init__()
        self.steps: list[tuple[int, int]] = []
        self.previews: list[bytes] = []
        self.most = most

    def on_step(self, stage: str, index: int, count: int) -> None:
        self.steps.append((index, count))

    def on_preview(self, png: bytes) -> None:
        self.previews.append(png)

    def cancelled(self) -> bool:
        return len(self.steps) >= self.most


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> FluxNetworks:
    return load_flux("random", write_tiny_config(tmp_path_factory.mktemp("tiny") / "tiny.json"))


def make(
    networks: FluxNetworks, prompt: str = "a chair", hooks: Hooks | None = None, seed: int = 3, **more: Any
) -> Any:
    pictures = {name: more.pop(name) for name in ("init", "photo", "control") if name in more}
    settings = SampleSettings(**{"preview_every": 0, **more})
    generator = torch.Generator().manual_seed(seed)
    return generate_bundle(networks, prompt, settings, generator, hooks or Hooks(), **pictures)


def picture(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def test_tokens_are_pictures() -> None:
    latents = torch.randn(2, 4, 8, 16)
    tokens = pack(latents)
    assert tokens.shape == (2, 32, 16) and torch.equal(unpack(tokens, 64, 128), latents)
    assert torch.equal(tokens[0, 9].reshape(4, 2, 2), latents[0, :, 2:4, 2:4])
    assert image_ids(64, 128)[9].tolist() == [0, 1, 1]


def test_a_sentence_becomes_a_bundle_and_says_so(tiny: FluxNetworks) -> None:
    hooks = Listener()
    bundle = make(tiny, hooks=hooks, preview_every=1)
    assert bundle.shape == SHAPE and bundle.dtype == np.float32 and 0 <= bundle.min() and bundle.max() <= 1
    assert bundle.std() > 0.01 and hooks.steps == [(i + 1, 5) for i in range(5)]
    assert len(hooks.previews) == 2
    assert Image.open(io.BytesIO(hooks.previews[0])).size == (128, 64)
    assert np.array_equal(make(tiny), bundle), "the same seed, the same bundle"
    assert not np.allclose(make(tiny, seed=4), bundle, atol=0.05)
    assert not np.array_equal(make(tiny, "a table"), bundle)
    assert make(tiny, steps=5).shape == SHAPE


def test_guidance_of_both_kinds_is_heard(tiny: FluxNetworks) -> None:
    plain = make(tiny)
    assert not np.array_equal(make(tiny, guidance=7.0), plain)
    assert not np.array_equal(make(tiny, guidance_scale=3.0), plain)
    assert np.allclose(make(tiny, "", guidance_scale=3.0), make(tiny, ""), atol=1e-4), "nothing beside nothing"


def test_strength_says_how_much_of_a_bundle_may_change(tiny: FluxNetworks) -> None:
    init = picture(1)
    with torch.no_grad():
        tokens = encode_pictures(tiny["vae"], torch.from_numpy(init).permute(2, 0, 1)[None])
        kept = decode_tokens(tiny["vae"], tokens, 64, 128)[0].permute(1, 2, 0).numpy()
    hooks = Listener()
    assert np.allclose(make(tiny, hooks=hooks, init=init, strength=0.0), kept, atol=1e-5) and not hooks.steps
    assert np.array_equal(make(tiny, init=init, strength=1.0), make(tiny)), "published: the picture is ignored"
    half = make(tiny, hooks=hooks, init=init, strength=0.5)
    assert len(hooks.steps) == heun_schedule(3, 0.5).evaluations == 3
    assert not np.allclose(half, kept, atol=1e-3) and not np.allclose(half, make(tiny), atol=1e-3)
    assert make(tiny, init=picture(1, (32, 64, 3)), strength=0.5).shape == SHAPE, "any size of tiles is taken"


def test_a_level_is_left_in_one_step(tiny: FluxNetworks) -> None:
    init, hooks = picture(1), Listener()
    near, far = (make(tiny, hooks=hooks, init=init, strength=0.5, level=level) for level in (0.05, 0.8))
    assert len(hooks.steps) == 2, "one evaluation each"
    kept = make(tiny, init=init, strength=0.0)
    assert 0 < np.abs(near - kept).mean() < np.abs(far - kept).mean()


def test_a_photo_speaks_as_loud_as_it_is_told(tiny: FluxNetworks) -> None:
    photo = picture(2, (40, 30, 3))
    tokens = photo_tokens(tiny, photo)
    assert tokens.shape == (1, 4, 32)
    loud, quiet = (make(tiny, photo=photo, redux_strength=strength) for strength in (1.0, 0.2))
    assert not np.array_equal(loud, quiet) and not np.array_equal(loud, make(tiny))
    assert make(tiny, photo=photo, guidance_scale=2.0).shape == SHAPE


def test_the_controlnet_speaks_until_its_window_ends(tiny: FluxNetworks) -> None:
    control, plain = picture(5), make(tiny)
    calls: list[float] = []
    handle = tiny["controlnet"].register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(float(kwargs["timestep"][0])), with_kwargs=True
    )
    try:
        kept = make(tiny, control=control, control_scale=0.6, control_end=0.65)
        assert len(calls) == sum(control_window(5, 0.65)) == 3 and calls[0] == 1.0
        assert not np.array_equal(kept, plain)
        assert np.array_equal(make(tiny, control=control, control_scale=0.6, control_end=0.0), plain)
        assert np.array_equal(make(tiny, control=control, control_scale=0.0), plain) and len(calls) == 3
    finally:
        handle.remove()


def test_several_prompts_at_once_are_those_one_by_one(tiny: FluxNetworks) -> None:
    generator = torch.Generator().manual_seed(3)
    both = generate_bundles(tiny, ["a chair", "a table"], SampleSettings(guidance_scale=2.0), generator, Hooks())
    assert both.shape == (2, *SHAPE)
    assert np.allclose(both[0], make(tiny, guidance_scale=2.0), atol=1e-3)


def test_cancelling_stops_at_the_next_evaluation(tiny: FluxNetworks) -> None:
    hooks = Listener(most=2)
    with pytest.raises(Cancelled):
        make(tiny, hooks=hooks)
    assert len(hooks.steps) == 2


def test_wrong_pictures_and_missing_networks_are_refused(tiny: FluxNetworks) -> None:
    for name in ("init", "control"):
        with pytest.raises(MaquetteError, match="twice as wide as high"):
            make(tiny, **{name: picture(1, (64, 64, 3))}, control_scale=1.0, strength=0.5)
    parts = {role: tiny.parts[role] for role in ("transformer", "vae")}
    lacking = FluxNetworks(parts, tiny.settings, "int8", tiny.device, lambda _: tiny.text)
    with pytest.raises(MaquetteError, match="ControlNet is not installed"):
        make(lacking, control=picture(1), control_scale=0.5)
    with pytest.raises(MaquetteError, match="Redux is not installed"):
        make(lacking, photo=picture(1))


@pytest.mark.parametrize("profile", ["half", "int8", "offload"])
def test_every_profile_samples(profile: str, tmp_path: Path) -> None:
    networks = load_flux("random", write_tiny_config(tmp_path / "tiny.json"), profile=profile)
    bundle = make(networks, init=picture(1), photo=picture(2), control=picture(3), strength=0.7, control_scale=0.5)
    assert bundle.shape == SHAPE and np.isfinite(bundle).all() and bundle.std() > 0.01


def test_the_schedule_follows_a_straight_flow_exactly() -> None:
    target, noise = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    schedule = heun_schedule(4)
    seen: list[bool] = []

    def watch(evaluation: int, estimate: torch.Tensor | None) -> None:
        seen.append(estimate is not None)
        if estimate is not None:
            assert torch.allclose(estimate, target, atol=1e-5), "the estimate of a straight flow is its end"

    end = integrate(lambda x, sigma, index: noise - target, schedule.start(None, noise), schedule, watch)
    assert torch.allclose(end, target, atol=1e-5) and seen == [True, False, True, False, True, False, True]
    assert torch.equal(heun_schedule(4, 0.0).start(target, noise), target)


def test_a_mid_size_step_with_lora_and_controlnet(tmp_path: Path) -> None:
    config = tiny_config(steps=1)
    flux = {"attention_head_dim": 128, "num_attention_heads": 3, "axes_dims_rope": [16, 56, 56]}
    for role, layers in (("transformer", (2, 3)), ("controlnet", (1, 1))):
        args = config["networks"][role]["args"]
        args.update(flux, num_layers=layers[0], num_single_layers=layers[1])
    (tmp_path / "mid.json").write_text(json.dumps(config))
    name = "lora_unet_single_blocks_1_linear1"
    save_file(
        {f"{name}.lora_down.weight": torch.randn(8, 384), f"{name}.lora_up.weight": torch.randn(7 * 384, 8)},
        tmp_path / "lora.safetensors",
    )
    networks = load_flux("random", str(tmp_path / "mid.json"), profile="int8", lora=str(tmp_path / "lora.safetensors"))
    bundle = make(networks, control=picture(4), control_scale=0.6)
    assert bundle.shape == SHAPE and np.isfinite(bundle).all()
    networks.use_lora(None)
    assert not np.array_equal(make(networks, control=picture(4), control_scale=0.6), bundle)
