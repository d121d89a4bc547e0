"""The sampler: it follows straight paths exactly, counts its evaluations, reports and stops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.systems.cupid import flow_sampler
from backend.systems.cupid.flow_sampler import FlowSettings, sample_flow, time_sequence

torch.set_num_threads(1)


def test_times_run_from_one_to_zero_and_linger_near_noise() -> None:
    times = time_sequence(12, 3.0)
    assert times[0] == 1.0 and times[-1] == 0.0
    assert (times[:-1] > times[1:]).all()
    assert times[6] > 0.5


@pytest.mark.parametrize("steps", [1, 3, 25])
def test_a_straight_flow_ends_at_its_target(steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    noise, target = (torch.randn(2, 4, 3, generator=generator) for _ in range(2))
    velocity = flow_sampler.target_velocity(target, noise)
    result = sample_flow(lambda x, t, c: velocity, noise, None, settings=FlowSettings(steps=steps))
    # The path starts at (1-t) x0 + (s + (1-s) t) eps, so s = 1e-5 of the noise is left at t = 0.
    torch.testing.assert_close(result.samples, target, atol=1e-4, rtol=0)


def test_start_prediction_inverts_the_path() -> None:
    generator = torch.Generator().manual_seed(0)
    noise, target = (torch.randn(5, 2, generator=generator) for _ in range(2))
    velocity = flow_sampler.target_velocity(target, noise)
    noisy = flow_sampler.noisy_sample(target, noise, torch.tensor(0.3))
    torch.testing.assert_close(flow_sampler.predicted_start(noisy, 0.3, velocity), target, atol=1e-5, rtol=0)


def test_shipped_settings_cost_44_evaluations() -> None:
    calls: list[tuple[float, object]] = []

    def velocity(x: Tensor, t: Tensor, cond: object) -> Tensor:
        calls.append((float(t[0]) / flow_sampler.TIME_SCALE, cond))
        return -x

    sample_flow(velocity, torch.ones(1, 2), "cond", "none")
    assert len(calls) == 44
    assert all(t >= 0.5 - 1e-6 for t, cond in calls if cond == "none")
    assert sum(cond == "cond" for _, cond in calls) == 25


def test_without_a_negative_condition_there_is_no_guidance() -> None:
    calls = []

    def velocity(x: Tensor, t: Tensor, cond: object) -> Tensor:
        calls.append(cond)
        return x

    sample_flow(velocity, torch.ones(1, 2), "cond", settings=FlowSettings(steps=4))
    assert calls == ["cond"] * 4


def test_progress_is_reported_and_may_stop_the_sampling() -> None:
    seen = []

    class Stop(Exception):
        pass

    def on_step(done: int, total: int, preview: Tensor) -> None:
        seen.append((done, total))
        assert preview.shape == (1, 2)
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        sample_flow(lambda x, t, c: x, torch.ones(1, 2), None, settings=FlowSettings(steps=8), on_step=on_step)
    assert seen == [(1, 8), (2, 8), (3, 8)]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rescale_t": 0.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        FlowSettings(**wrong)  # type: ignore[arg-type]
