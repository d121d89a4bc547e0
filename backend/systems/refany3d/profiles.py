"""How much memory RefAny3D takes in each profile, and which one fits.

The profiles are those of `kiss3dgen.flux.networks`: full (float32), half (bf16), int8 (8-bit integers, one stage at a
time) and offload (the same, blocks visit the card). Beside the base model there are two LoRAs of 58 million numbers and
the embedder. `python -m backend.systems.refany3d.profiles` prints the table of README.md for the published sizes.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from backend.systems.kiss3dgen.flux import needs
from backend.systems.kiss3dgen.flux.needs import Entries, Needs
from backend.systems.kiss3dgen.flux.profiles import PROFILES
from backend.systems.refany3d.config import read_config

GIB = 2**30
OWN_NUMBERS = 126_132_736
"""Of both LoRAs (57,951,232 each) and the domain embedder (10,230,272) at the published size."""
WORK_BYTES = {"full": 8 * GIB, "half": 4 * GIB, "int8": 4 * GIB, "offload": 4 * GIB}
"""What one pass over 8 views of 512 pixels (18,944 tokens) takes beside the weights, with room to spare."""


def memory(entries: Entries, profile: str) -> Needs:
    """What the networks `entries` take by role in `profile`, RefAny3D's own weights included."""
    base = needs.needs(entries, profile)
    own = OWN_NUMBERS * (2 if PROFILES[profile].half else 4)
    return replace(base, device=base.device + own, work=WORK_BYTES[profile])


def choose_profile(entries: Entries, free: int, device: torch.device) -> str:
    """The first profile whose weights and work fit into `free` bytes of `device`, and the most frugal if none does."""
    if needs.needs(entries, "full").device <= needs.SMALL:
        return "full"
    names = ("half", "int8") if device.type == "cpu" else ("half", "int8", "offload")
    for name in names:
        if memory(entries, name).card <= free:
            return name
    return names[-1]


def table(entries: Entries) -> list[str]:
    """The lines of README.md: GB (10^9) for each profile."""
    lines = [
        "| profile | weights on the card | work | card must have free | main memory for weights |",
        "|---|---|---|---|---|",
    ]
    for profile in PROFILES:
        taken = memory(entries, profile)
        numbers = (taken.device, taken.work, taken.card, taken.host)
        lines.append(f"| {profile} | " + " | ".join(f"{number / 1e9:.1f} GB" for number in numbers) + " |")
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(table(read_config("full")["networks"])) + "\n")
