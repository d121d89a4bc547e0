"""The training loop learns, resumes where it stopped, and keeps its files small."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from backend.contract.errors import MaquetteError
from backend.training.checkpoints import LIMIT_BYTES, load_strict, load_tensors, save_tensors
from backend.training.loop import LoopSettings, TrainingLoop
from backend.training.plots import plot_log


def loop(folder: Path, steps: int = 100) -> TrainingLoop:
    torch.manual_seed(0)
    settings = LoopSettings(0.0, learning_rate=0.05, warmup=5, total=2000, log_every=10, bf16=False, steps=steps)
    return TrainingLoop(nn.Linear(4, 1), folder, settings, torch.device("cpu"))


def loss_of(trained: TrainingLoop):
    def loss(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.randn(32, 4, generator=generator)
        return (trained.module(x)[:, 0] - x.sum(1)).square().mean(), {}

    return loss


def test_learns_logs_and_resumes(tmp_path: Path) -> None:
    first = loop(tmp_path)
    first.run(loss_of(first), lambda: {"zero": 0.0})
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-2]["loss"] < 0.5 * rows[0]["loss"]
    assert (tmp_path / "loss.png").stat().st_size > 0
    second = loop(tmp_path)
    assert second.resume()
    assert second.step == first.step > 20
    assert torch.equal(second.module.weight, first.module.weight)
    state = second.optimizers[0].state[second.module.weight]
    assert torch.equal(state["exp_avg"], first.optimizers[0].state[first.module.weight]["exp_avg"])


def test_muon_moves_the_matrices_of_blocks_and_resumes(tmp_path: Path) -> None:
    def make() -> TrainingLoop:
        torch.manual_seed(0)
        module = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4)]), "head": nn.Linear(4, 1)})
        settings = LoopSettings(0.0, learning_rate=0.02, warmup=2, log_every=10, bf16=False, muon=True, steps=200)
        return TrainingLoop(module, tmp_path, settings, torch.device("cpu"))

    def loss(trained: TrainingLoop, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.randn(32, 4, generator=generator)
        answer = trained.module["head"](trained.module["blocks"][0](x))
        return (answer[:, 0] - x.sum(1)).square().mean(), {}

    first = make()
    matrix = first.module["blocks"][0].weight
    assert [p is matrix for p in first.optimizers[1].param_groups[0]["params"]] == [True]
    first.run(lambda generator: loss(first, generator))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    second = make()
    assert second.resume()
    kept = second.optimizers[1].state[second.module["blocks"][0].weight]["momentum_buffer"]
    assert torch.equal(kept, first.optimizers[1].state[matrix]["momentum_buffer"])


def test_two_workers_learn_as_one(tmp_path: Path) -> None:
    def trained(workers: int) -> torch.Tensor:
        torch.manual_seed(0)
        settings = LoopSettings(0.0, learning_rate=0.05, warmup=1, bf16=False, workers=workers)
        loop = TrainingLoop(nn.Linear(4, 1), tmp_path / str(workers), settings, torch.device("cpu"))
        data = torch.randn(64, 4, generator=torch.Generator().manual_seed(3))
        halves = list(data.chunk(workers))

        def loss(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
            share = halves[loop.generators.index(generator)] if workers > 1 else data
            return (loop.module(share)[:, 0] - share.sum(1)).square().mean(), {"share": float(len(share))}

        parts = [loop._one_step(loss) for _ in range(20)][-1]
        assert parts["share"] == 64 / workers
        return loop.module.weight.detach().clone()

    assert torch.allclose(trained(1), trained(2), atol=1e-5)


def test_logged_means_are_means_also_after_a_resume(tmp_path: Path) -> None:
    for _ in range(2):
        trained = loop(tmp_path)
        trained.resume()
        trained.step += 3  # a checkpoint need not lie at a logged step
        trained.run(lambda _, module=trained.module: (module.weight.sum() * 0 + 2.0, {}))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(rows) > 4 and all(row["loss"] == pytest.approx(2.0) for row in rows)


def test_a_run_that_ended_before_its_first_step_goes_on(tmp_path: Path) -> None:
    first = loop(tmp_path, 0)
    first.run(loss_of(first))
    second = loop(tmp_path)
    assert second.resume() and second.step == 0
    assert second._one_step(loss_of(second))["loss"] > 0 and second.step == 1


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert not loop(tmp_path).resume()


def test_a_loss_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    trained = loop(tmp_path)
    before = trained.module.weight.detach().clone()
    trained.run(lambda _: (trained.module.weight.sum() * float("nan"), {}))
    assert torch.equal(trained.module.weight, before)


def test_large_sets_are_split_and_old_parts_go(tmp_path: Path) -> None:
    part = LIMIT_BYTES // 4 // 2 + 1
    files = save_tensors(tmp_path / "set", {f"t{i}": torch.full((part,), float(i)) for i in range(3)})
    assert len(files) == 3 and all(f.stat().st_size <= 16 * 2**20 for f in files)
    assert load_tensors(tmp_path / "set")["t2"][0] == 2
    save_tensors(tmp_path / "set", {"t0": torch.zeros(3)})
    assert [f.name for f in tmp_path.iterdir()] == ["set.safetensors"]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"bias": None}, "bias"), ({"weight": torch.zeros(2, 2)}, "weight"), ({"more": torch.zeros(1)}, "more")],
)
def test_strict_loading_names_the_tensor(change: dict, named: str) -> None:
    module = nn.Linear(4, 1)
    tensors = {k: v for k, v in (dict(module.state_dict()) | change).items() if v is not None}
    with pytest.raises(MaquetteError, match=named):
        load_strict(module, tensors, "a test")


def test_plot_of_an_empty_log(tmp_path: Path) -> None:
    plot_log(tmp_path / "none.jsonl", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_a_call_of_some_steps_keeps_a_constant_rate_and_writes_nothing(tmp_path: Path) -> None:
    settings = LoopSettings(60.0, 0.05, warmup=2, total=3, constant=True, steps=6, save=False, betas=(0.8, 0.9))
    trained = TrainingLoop(nn.Linear(4, 1), tmp_path, settings, torch.device("cpu"))
    result = trained.run(loss_of(trained), lambda: pytest.fail("a trial is not validated"))
    assert result["step"] == trained.step == 6 and result["loss"] > 0 and not list(tmp_path.iterdir())
    assert {group["lr"] for group in trained.optimizers[0].param_groups} == {0.05}
    assert trained.optimizers[0].param_groups[0]["betas"] == (0.8, 0.9)
