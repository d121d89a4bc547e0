"""How CUPID's networks are kept in memory: all of them or one stage's at a time, in float32 or in half precision.

| profile | networks | weights | for |
|---|---|---|---|
| full | all, all the time | float32 | mini, and checks |
| half | all, all the time | 16 bit (spec section 1.2) | the published size where it fits |
| offload | one stage's, made or read when it is needed | 16 bit | the published size everywhere else |

On a CPU without bf16 "16 bit" is float32: products in half precision would be slower than that.
"""

from __future__ import annotations

import gc
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from backend.nn.devices import free_memory, inference_dtype
from backend.systems.cupid.slat_mesh import SLatMeshDecoder

logger = logging.getLogger(__name__)

PROFILES = ("full", "half", "offload")
STAGE_OF = {
    "image_encoder": "encode",
    "structure_flow": "structure",
    "ss_dec": "structure",
    "uv_dec": "structure",
    "uv_enc": "structure",
    "view_reader": "structure",
    "slat_flow": "latent",
    "slat_enc": "latent",
    "slat_dec_mesh": "decode",
    "slat_dec_gs": "decode",
}
SMALL = 2**30  # bytes in float32: networks below that are not worth any trouble
HEADROOM = 4 * 2**30  # bytes that the work itself takes at the published size, and what else runs should keep
START_SPREAD = 0.02  # of random weights where a network's own start is zero

Maker = Callable[[], nn.Module]


class Networks(Mapping[str, nn.Module]):
    """Networks by role, made when they are first asked for; with profile offload the other stages' go away then."""

    def __init__(self, makers: Mapping[str, Maker], profile: str, device: torch.device) -> None:
        """makers: what makes or reads each network on the CPU in float32."""
        self.makers, self.profile, self.device = dict(makers), profile, device
        self.present: dict[str, nn.Module] = {}
        if profile != "offload":
            for role in self.makers:
                self[role]

    def __getitem__(self, role: str) -> nn.Module:
        if role not in self.present:
            maker = self.makers[role]
            if self.profile == "offload":
                self._leave_only(STAGE_OF.get(role, role))
            self.present[role] = self._placed(maker())
        return self.present[role]

    def __contains__(self, role: object) -> bool:
        return role in self.makers

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)

    def _placed(self, network: nn.Module) -> nn.Module:
        network.float().eval().requires_grad_(False)
        dtype = torch.float32 if self.profile == "full" else inference_dtype(self.device)
        convert = getattr(network, "set_compute_dtype", None)  # the others are small, and exact
        if convert is not None and dtype != torch.float32:
            convert(dtype)
        return network.to(self.device)

    def _leave_only(self, stage: str) -> None:
        gone = [role for role in self.present if STAGE_OF.get(role, role) != stage]
        for role in gone:
            del self.present[role]
        if gone:
            logger.info("left for stage %s: %s", stage, ", ".join(gone))
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            elif self.device.type == "mps":
                torch.mps.empty_cache()


def choose_profile(parameters: int, device: torch.device) -> str:
    """The default profile for so many `parameters` of all networks: what fits beside the work itself."""
    if parameters * torch.float32.itemsize <= SMALL:
        return "full"
    free, wanted = free_memory(device), parameters * inference_dtype(device).itemsize + HEADROOM
    return "half" if free >= wanted else "offload"


def count_parameters(build: Maker) -> int:
    """Numbers in the network that `build` makes, without making it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def random_network(build: Maker, role: str, seed: int) -> nn.Module:
    """What `build` makes, seeded by role, and with something in every matrix: a training start has outputs and gates
    of zero, which would leave nothing to measure."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed + zlib.crc32(role.encode())) % 2**63)
        network = build()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    parameter.normal_(std=START_SPREAD)
            if isinstance(network, SLatMeshDecoder):
                network.start_solid()
    return network
