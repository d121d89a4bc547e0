"""How much memory Stage I takes in each profile: weights counted, what the work itself takes from a trace.

`python -m backend.systems.kiss3dgen.flux.needs` prints the table of README.md for the published sizes.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from backend.systems.kiss3dgen.flux.config import build_empty, read_config
from backend.systems.kiss3dgen.flux.profiles import BLOCKS, PROFILES, STAGE_OF, STREAMED, Profile
from backend.systems.kiss3dgen.flux.quantise import Int8Linear, quantise_linears
from backend.systems.kiss3dgen.flux.streaming import blocks_of

GIB = 2**30
SMALL = GIB
"""Bytes of all weights in float32: networks below that are not worth any trouble."""
WORK_BYTES = {"full": 8 * GIB, "half": 6 * GIB, "int8": 4 * GIB, "offload": 4 * GIB}
"""What the work at 1024 x 2048 takes beside the weights, with room to spare; `work.py` traces it, tests compare. The
autoencoder's decoder takes the most; the last two profiles let it work in tiles."""

Entries = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Needs:
    """Bytes: weights on the device and in main memory while the fullest stage runs, and the work on the device."""

    device: int
    host: int
    work: int

    @property
    def card(self) -> int:
        """What the device must have free."""
        return self.device + self.work


def needs(entries: Entries, profile: str) -> Needs:
    """What the networks `entries` take by role, in `profile`, with 16-bit numbers where the profile has them."""
    chosen = PROFILES[profile]
    there: dict[str, int] = {}
    visiting: dict[str, int] = {}
    for role, entry in entries.items():
        stage = STAGE_OF.get(role, "")
        fixed, blocks = _network_bytes(json.dumps(entry), role, chosen)
        if chosen.streamed and role in STREAMED:
            there[stage] = there.get(stage, 0) + fixed + 2 * max(blocks, default=0)  # one works while the next arrives
            visiting[stage] = visiting.get(stage, 0) + sum(blocks)
        else:
            there[stage] = there.get(stage, 0) + fixed + sum(blocks)
    always = there.pop("", 0)
    device = always + (max(there.values(), default=0) if chosen.staged else sum(there.values()))
    return Needs(device, max(visiting.values(), default=0), WORK_BYTES[profile])


def choose_profile(entries: Entries, free: int, device: torch.device) -> str:
    """The first profile whose weights and work fit into `free` bytes of `device`, and the most frugal if none does."""
    if needs(entries, "full").device <= SMALL:
        return "full"
    names = ("half", "int8") if device.type == "cpu" else ("half", "int8", "offload")
    for name in names:
        if needs(entries, name).card <= free:
            return name
    return names[-1]


@functools.cache
def _network_bytes(entry: str, role: str, profile: Profile) -> tuple[int, tuple[int, ...]]:
    """Bytes of one network, described in JSON: outside its lists of blocks, and of each block."""
    network = build_empty(json.loads(entry))
    if profile.int8:
        quantise_linears(network, BLOCKS.get(role, ()))
    width = 2 if profile.half else 4
    total = _bytes(network, width)
    blocks = tuple(_bytes(block, width) for block in blocks_of(network, BLOCKS.get(role, ())))
    return total - sum(blocks), blocks


def _bytes(module: nn.Module, width: int) -> int:
    quantised = [part for part in module.modules() if isinstance(part, Int8Linear)]
    integers = sum(part.weight.numel() + part.scale.numel() * 4 for part in quantised)
    return integers + width * sum(parameter.numel() for parameter in module.parameters())


def table(entries: Entries) -> list[str]:
    """The lines of README.md: GB (10^9) for each profile."""
    lines = [
        "| profile | weights on the card | work | card must have free | main memory for weights |",
        "|---|---|---|---|---|",
    ]
    for profile in PROFILES:
        taken = needs(entries, profile)
        numbers = (taken.device, taken.work, taken.card, taken.host)
        lines.append(f"| {profile} | " + " | ".join(f"{number / 1e9:.1f} GB" for number in numbers) + " |")
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(table(read_config("full")["networks"])) + "\n")
