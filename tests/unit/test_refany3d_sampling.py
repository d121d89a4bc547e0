"""RefAny3D's schedule, what encoding keeps, and the figures of its memory profiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.systems.kiss3dgen.flux.config import build, build_empty
from backend.systems.kiss3dgen.flux.profiles import PROFILES
from backend.systems.refany3d import encoding, lora, profiles, schedule, work
from backend.systems.refany3d.config import read_config
from tests.fakes.tiny_refany3d import SIZE, TINY

torch.set_num_threads(1)


def test_levels_of_a_512_pixel_picture() -> None:
    sigmas = schedule.euler_sigmas(28, 1024)
    assert schedule.shift_of(1024) == pytest.approx(0.63)
    assert len(sigmas) == 29 and sigmas[0] == 1.0 and sigmas[-1] == 0.0
    assert (sigmas.diff() < 0).all()
    plain = schedule.euler_sigmas(4, 1024, dynamic=False)
    torch.testing.assert_close(plain, torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    assert (schedule.euler_sigmas(4, 1024)[1:-1] > plain[1:-1]).all()
    with pytest.raises(ValueError, match="one step"):
        schedule.euler_sigmas(0, 16)


def test_a_straight_flow_is_followed_to_its_end() -> None:
    picture, point_map, noise = torch.randn(3, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    seen = []
    ends = schedule.integrate(
        lambda rgb, coord, sigma: (noise - picture, noise - point_map),
        noise, noise, schedule.euler_sigmas(5, 16), lambda step, rgb, coord: seen.append((step, rgb, coord)),
    )  # fmt: skip
    torch.testing.assert_close(ends[0], picture)
    torch.testing.assert_close(ends[1], point_map)
    assert [step for step, *_ in seen] == [1, 2, 3, 4, 5]
    for _, rgb, coord in seen:  # the estimate is right from the first step
        torch.testing.assert_close(rgb, picture)
        torch.testing.assert_close(coord, point_map)


def test_without_point_maps_one_flow_is_followed() -> None:
    noise = torch.ones(1, 4, 8)
    rgb, coord = schedule.integrate(lambda *_: (noise, None), noise, None, schedule.euler_sigmas(3, 16))
    torch.testing.assert_close(rgb, torch.zeros_like(noise))
    assert coord is None


def test_conditions_are_the_views_and_then_their_point_maps() -> None:
    torch.manual_seed(0)  # chance weights can make much of the last bit of a pixel
    vae = build(TINY["networks"]["vae"]).eval()
    random = np.random.default_rng(0)
    views, points = random.integers(0, 256, (2, 4, SIZE, SIZE, 3), np.uint8)
    tokens = encoding.condition_tokens(vae, views, points)
    assert tokens.shape == (1, 8, (SIZE // 16) ** 2, 16)
    alone = encoding.condition_tokens(vae, points[2:3], views[1:2])
    torch.testing.assert_close(tokens[:, [6, 1]], alone, rtol=1e-3, atol=2e-3)
    again = encoding.condition_tokens(vae, views / 255.0, points / 255.0)
    torch.testing.assert_close(tokens, again, rtol=1e-3, atol=2e-3)
    black = encoding.black_tokens(vae, SIZE)
    alone = encoding.condition_tokens(vae, 0 * views[:1], 0 * points[:1])[:, 0]
    torch.testing.assert_close(black, alone, rtol=1e-3, atol=2e-3)


def test_profiles_name_what_they_take() -> None:
    entries = read_config("full")["networks"]
    base = build_empty(entries["transformer"])
    numbers = 2 * sum(rows * columns for rows, columns in lora.lora_shapes(base).values())
    with torch.device("meta"):
        numbers += sum(part.numel() for part in lora.new_domain_embedder(3072).parameters())
    assert numbers == profiles.OWN_NUMBERS
    lines = "\n".join(profiles.table(entries))
    cards = {name: profiles.memory(entries, name).card for name in PROFILES}
    assert cards["half"] / 1e9 == pytest.approx(38.3, abs=0.1) and "38.3 GB" in lines
    assert cards["full"] > cards["half"] > cards["int8"] > cards["offload"]
    card = torch.device("cuda")
    chosen = [profiles.choose_profile(entries, int(free * 1e9), card) for free in (80, 24, 12, 4)]
    assert chosen == ["half", "int8", "offload", "offload"]
    assert profiles.choose_profile(entries, int(24e9), torch.device("cpu")) == "int8"
    assert profiles.choose_profile(TINY["networks"], 10**9, card) == "full"


def test_the_work_set_aside_is_enough() -> None:
    taken = work.one_pass("full", 8)
    assert 1.5e9 < taken < profiles.WORK_BYTES["half"]
    assert 2 * taken < profiles.WORK_BYTES["full"]  # numbers twice as wide
    assert work.decoding("full") < taken
