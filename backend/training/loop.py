"""The training loop: AdamW, bf16 autocast where the machine has it, averaged weights, a log, resumable at any step.

A run's folder holds `log.jsonl` (one line every `log_every` steps), `loss.png`, `state.json` and the tensor sets
`weights`, `average` and `optimizer` (see `checkpoints`). Nothing else is needed to go on elsewhere.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from backend.nn.devices import autocast_dtype

from .checkpoints import load_tensors, save_tensors
from .plots import plot_log

logger = logging.getLogger(__name__)

MOMENTS = {"exp_avg": ".first", "exp_avg_sq": ".second", "momentum_buffer": ".momentum"}
"""What the optimizers keep of a parameter, and the ending of its name in a checkpoint."""

LossFunction = Callable[[torch.Generator], tuple[torch.Tensor, dict[str, float]]]
ValidationFunction = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class LoopSettings:
    """How to train. `minutes` is wall-clock time of this call; `warmup` and `total` (for the cosine) are steps.

    With `steps` this call ends after so many, whatever the time; `constant` keeps the rate after the warm-up; without
    `save` nothing is written. `average` is the decay of the averaged weights.

    `bf16` off keeps float32: 3D convolutions of few channels are quicker so on CPUs. `muon` moves the matrices of
    transformer blocks along orthogonalised momentum instead of by AdamW, which learns more from each sample. `workers`
    threads of one core each take shares of a step (`loss` then draws one share): small operators leave cores idle
    when they are split instead.
    """

    minutes: float
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    warmup: int = 200
    total: int = 100_000
    average: float = 0.999
    clip: float = 1.0
    seed: int = 0
    log_every: int = 50
    save_every_seconds: float = 120.0
    validate_every_seconds: float = 180.0
    bf16: bool = True
    muon: bool = False
    workers: int = 1
    betas: tuple[float, float] = (0.9, 0.98)
    constant: bool = False
    steps: int = 0
    save: bool = True


class TrainingLoop:
    """Trains the parameters of `module` on what `loss` returns.

    `loss(generator)` draws its own batch with `generator`, so that a resumed run draws on instead of starting again.
    """

    def __init__(self, module: nn.Module, folder: Path, settings: LoopSettings, device: torch.device) -> None:
        self.module = module.to(device)
        self.folder = folder
        self.settings = settings
        self.device = device
        self.dtype = autocast_dtype(device) if settings.bf16 else None
        self.step = 0
        self.seconds = 0.0
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.optimizers = self._make_optimizers()
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.generators = [torch.Generator() for _ in range(settings.workers)]
        self._seed_workers(0)
        self.pool: ThreadPoolExecutor | None = None
        if settings.workers > 1:
            self.pool = ThreadPoolExecutor(settings.workers, initializer=torch.set_num_threads, initargs=(1,))

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        settings, parameters = self.settings, self.parameters
        inner = [n for n, p in parameters.items() if settings.muon and p.ndim == 2 and "blocks." in n]
        decayed = [p for n, p in parameters.items() if p.ndim > 1 and n not in set(inner)]
        plain = [p for p in parameters.values() if p.ndim <= 1]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
                lr=settings.learning_rate,
                betas=settings.betas,
                fused=True,
            )
        ]
        if inner:
            matrices = [parameters[name] for name in inner]
            optimizers.append(
                torch.optim.Muon(
                    matrices,
                    lr=settings.learning_rate,
                    weight_decay=settings.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        return optimizers

    def resume(self) -> bool:
        """Go on from the folder's last checkpoint; False if there is none."""
        state = self.folder / "state.json"
        if not state.exists():
            return False
        saved = json.loads(state.read_text())
        self.step, self.seconds = saved["step"], saved["seconds"]
        for target, name in ((self.parameters, "weights"), (self.average, "average")):
            tensors = load_tensors(self.folder / name)
            with torch.no_grad():
                for key, value in target.items():
                    value.copy_(tensors[key])
        moments = load_tensors(self.folder / "optimizer")
        owner = {p: optimizer for optimizer in self.optimizers for g in optimizer.param_groups for p in g["params"]}
        for name, parameter in self.parameters.items():
            known = {key: moments[name + suffix] for key, suffix in MOMENTS.items() if name + suffix in moments}
            state = {key: tensor.to(self.device) for key, tensor in known.items()}
            if isinstance(owner[parameter], torch.optim.AdamW):  # without moments it starts anew: saved before a step
                state = state | {"step": torch.tensor(float(self.step))} if "exp_avg" in state else {}
            owner[parameter].state[parameter] = state
        self.generator.manual_seed(self.settings.seed + self.step)
        self._seed_workers(self.step)
        return True

    def _seed_workers(self, step: int) -> None:
        for index, generator in enumerate(self.generators):
            generator.manual_seed(self.settings.seed + step + 1_000_003 * (index + 1))

    def run(self, loss: LossFunction, validate: ValidationFunction | None = None) -> dict[str, float]:
        """Train for the set minutes, save, and return the last logged values."""
        self.folder.mkdir(parents=True, exist_ok=True)
        began = saved = validated = time.monotonic()
        first, tried = self.step, 0
        sums: dict[str, float] = {}
        summed = 0
        last: dict[str, float] = {}
        self.module.train()
        while self._goes_on(tried, time.monotonic() - began):
            values = self._one_step(loss)
            tried += 1
            for key, value in values.items():
                sums[key] = sums.get(key, 0.0) + value
            summed += bool(values)
            if summed == self.settings.log_every:
                now = time.monotonic()
                last = {key: value / summed for key, value in sums.items()}
                last |= {"step": self.step, "seconds": round(self.seconds + now - began, 1)}
                sums, summed = {}, 0
                if validate and now - validated > self.settings.validate_every_seconds:
                    last |= self.validate(validate)
                    validated = time.monotonic()
                self._log(last)
                if self.settings.save and now - saved > self.settings.save_every_seconds:
                    self.save(self.seconds + now - began)
                    saved = time.monotonic()
        self.seconds += time.monotonic() - began
        if not last and summed:
            last = {key: value / summed for key, value in sums.items()}
            last |= {"step": self.step, "seconds": round(self.seconds, 1)}
        if self.step == first and tried:
            logger.warning("none of %d steps had a finite loss", tried)
        if not self.settings.save:
            return last
        if validate:
            last |= {"step": self.step, "seconds": round(self.seconds, 1)} | self.validate(validate)
            self._log(last)
        self.save(self.seconds)
        plot_log(self.folder / "log.jsonl", self.folder / "loss.png")
        return last

    def _goes_on(self, tried: int, seconds: float) -> bool:
        """Whether this call has another step to make after so many, and so many seconds."""
        return tried < self.settings.steps if self.settings.steps else seconds < self.settings.minutes * 60

    def validate(self, validate: ValidationFunction) -> dict[str, float]:
        """What `validate` measures with the averaged weights in place."""
        with torch.no_grad():
            present = {n: p.detach().clone() for n, p in self.parameters.items()}
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name])
            self.module.eval()
            result = {f"val_{key}": value for key, value in validate().items()}
            self.module.train()
            for name, parameter in self.parameters.items():
                parameter.copy_(present[name])
        return result

    def averaged_state(self, submodule: str = "") -> dict[str, torch.Tensor]:
        """The state dict of the module (or of its child `submodule`) with averaged parameters, in float32."""
        state = dict(self.module.state_dict()) | self.average
        prefix = submodule + "." if submodule else ""
        return {k[len(prefix) :]: v.float() for k, v in state.items() if k.startswith(prefix)}

    def save(self, seconds: float) -> None:
        """Write the checkpoint: weights, averages, optimizer moments, then `state.json`, which makes it valid."""
        save_tensors(self.folder / "weights", {n: p.detach() for n, p in self.parameters.items()})
        save_tensors(self.folder / "average", self.average)
        moments = {}
        for name, parameter in self.parameters.items():
            for optimizer in self.optimizers:
                state = optimizer.state.get(parameter, {})
                moments |= {name + suffix: state[key] for key, suffix in MOMENTS.items() if key in state}
        save_tensors(self.folder / "optimizer", moments)
        (self.folder / "state.json").write_text(json.dumps({"step": self.step, "seconds": round(seconds, 1)}))

    def _one_step(self, loss: LossFunction) -> dict[str, float]:
        settings = self.settings
        rate = min(1.0, (self.step + 1) / settings.warmup)
        if not settings.constant:
            rate *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / settings.total)))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate
            optimizer.zero_grad(set_to_none=True)
        if self.pool is None:
            parts = self._backward(loss, self.generator)
        else:
            shares = list(self.pool.map(lambda generator: self._gradients(loss, generator), self.generators))
            parts = {key: sum(found[key] for found, _ in shares) / len(shares) for key in shares[0][0]}
            for index, parameter in enumerate(self.parameters.values()):
                given = [gradients[index] for _, gradients in shares if gradients[index] is not None]
                if given:
                    parameter.grad = torch.stack(given).sum(0) / len(shares)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip)
        parts["gradient_norm"] = float(norm)
        if not math.isfinite(parts["loss"]) or not math.isfinite(parts["gradient_norm"]):
            logger.warning("step %d gave a loss that is not finite; it is left out", self.step)
            return {}
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        decay = min(settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)
        return parts

    def _backward(self, loss: LossFunction, generator: torch.Generator) -> dict[str, float]:
        value, parts = self._forward(loss, generator)
        value.backward()
        return {"loss": float(value.detach())} | parts

    def _gradients(
        self, loss: LossFunction, generator: torch.Generator
    ) -> tuple[dict[str, float], tuple[torch.Tensor | None, ...]]:
        """One worker's share of a step, apart from the others: nothing of the module is written."""
        value, parts = self._forward(loss, generator)
        gradients = torch.autograd.grad(value, list(self.parameters.values()), allow_unused=True)
        return {"loss": float(value.detach())} | parts, gradients

    def _forward(
        self, loss: LossFunction, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            return loss(generator)

    def _log(self, values: dict[str, float]) -> None:
        logger.info(" ".join(f"{k}={v:.4g}" for k, v in values.items()))
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")
