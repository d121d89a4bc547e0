"""Stage I's networks in memory, by profile; one stage's at a time where they would not fit beside one another.

| profile | weights | in the device's memory | for |
|---|---|---|---|
| full | float32 | everything | mini, and checks |
| half | bf16 | everything | 48 GB cards |
| int8 | 8-bit integers, the rest bf16 | one stage's networks | 24 GB cards |
| offload | the same | blocks as far as there is room, the others visit it | 12 GB cards |

The stages are text, image (Redux) and denoise; the autoencoder is small and always there. On a CPU without bf16 "bf16"
is float32. `needs.py` counts what a profile takes, README.md has the table.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.contract.errors import MaquetteError
from backend.nn.devices import cpu_has_bf16, free_memory
from backend.systems.kiss3dgen.flux import needs, places
from backend.systems.kiss3dgen.flux.config import NEEDED, ROLES, FluxSettings, build_empty, read_config, read_settings
from backend.systems.kiss3dgen.flux.lora import Lora, WithLora, read_lora
from backend.systems.kiss3dgen.flux.profiles import BLOCKS, PROFILES, STAGE_OF, STREAMED
from backend.systems.kiss3dgen.flux.streaming import stream_blocks
from backend.systems.kiss3dgen.flux.tensors import RandomTensors, TensorSource, expected_shapes, load_into
from backend.systems.kiss3dgen.flux.text import (
    ByteTokenizer,
    CachedText,
    ClipAndT5,
    MiniLM,
    TextEncoder,
    read_tokenizers,
)

logger = logging.getLogger(__name__)

PUBLISHED = "published"
RANDOM = "random"
TILE_PIXELS = 512
"""Side of the tiles that the autoencoder works in where memory is short."""

Opener = Callable[[], TensorSource]


@dataclass(frozen=True)
class Part:
    """One network: what it is, and where its tensors come from."""

    entry: Mapping[str, Any]
    open: Opener


class FluxNetworks(Mapping[str, nn.Module]):
    """Networks by role, read when they are first asked for; other stages' leave then where the profile says so."""

    def __init__(
        self,
        parts: Mapping[str, Part],
        settings: FluxSettings,
        profile: str,
        device: torch.device,
        text: Callable[[FluxNetworks], TextEncoder],
        loras: Mapping[str, Path] | None = None,
    ) -> None:
        """loras: files by the kind of flow (image, mesh) that they are for; the first is used until another is wanted.

        Errors: as `use_lora` and `load_into`.
        """
        self.parts, self.settings, self.profile, self.device = dict(parts), settings, PROFILES[profile], device
        self.present: dict[str, nn.Module] = {}
        self.lora: tuple[Lora, float] | None = None
        self.lora_files = dict(loras or {})
        self._known_loras: dict[Path, Lora] = {}
        self.text = CachedText(partial(text, self))
        """The text encoder, with the features of the last sentences."""
        for kind in list(self.lora_files)[:1]:
            self.select_lora(kind)
        if not self.profile.staged:
            for role in self.parts:
                self[role]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of weights and of what goes through the networks."""
        return torch.bfloat16 if self.profile.half and has_bf16(self.device) else torch.float32

    def __getitem__(self, role: str) -> Any:
        if role not in self.present:
            part = self.parts[role]
            if self.profile.staged:
                self._leave_only(STAGE_OF.get(role, ""))
            self.present[role] = self._read(role, part)
        return self.present[role]

    def __contains__(self, role: object) -> bool:
        return role in self.parts

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def use_lora(self, lora: Lora | None, scale: float = 1.0) -> None:
        """Fuse `lora` into the transformer's weights from now on, or none: it is read again when it is next needed."""
        if (lora, scale) == (self.lora or (None, scale)):
            return
        self.lora = None if lora is None else (lora, scale)
        if self.present.pop("transformer", None) is not None:
            self._collect()

    def select_lora(self, kind: str, scale: float = 1.0) -> None:
        """Use the LoRA for flows of this kind (image, mesh), where these weights have one. Errors: as `read_lora`."""
        file = self.lora_files.get(kind)
        if file is None:
            return
        if file not in self._known_loras:
            self._known_loras[file] = read_lora(file, self.parts["transformer"].entry)
        self.use_lora(self._known_loras[file], scale)

    def _read(self, role: str, part: Part) -> nn.Module:
        network, source = build_empty(part.entry), part.open()
        if role == "transformer" and self.lora is not None:
            source = WithLora(source, *self.lora)
        blocks = BLOCKS.get(role, ()) if self.profile.int8 else ()
        streamed = self.profile.streamed and role in STREAMED
        home = torch.device("cpu") if streamed else self.device
        load_into(network, source, role, self.dtype, home, blocks)
        if streamed:
            room = max(0, free_memory(self.device) - needs.WORK_BYTES["offload"]) if self.device.type == "cuda" else 0
            left = stream_blocks(network, blocks, self.device, room)
            logger.info("%s: %d blocks visit the device", role, left)
        if self.profile.staged and hasattr(network, "enable_tiling"):
            tile_vae(network)
        return network

    def _leave_only(self, stage: str) -> None:
        gone = [role for role in self.present if stage and STAGE_OF.get(role, stage) != stage]
        for role in gone:
            del self.present[role]
        if gone:
            logger.info("left for stage %s: %s", stage, ", ".join(gone))
            self._collect()

    def _collect(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()


def has_bf16(device: torch.device) -> bool:
    """Whether Flux should run in bf16 there; float16 is not wide enough for its activations."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return cpu_has_bf16() if device.type == "cpu" else True


def tile_vae(network: Any) -> None:
    """Let the autoencoder work in overlapping tiles: a bundle of 1024 x 2048 then takes a quarter of the memory."""
    network.tile_sample_min_size = TILE_PIXELS
    network.tile_latent_min_size = TILE_PIXELS // 8
    network.enable_tiling()


def load_flux(
    weights: str = "mini",
    config: str = "mini",
    base: str = "dev",
    device: str = "cpu",
    seed: int = 0,
    profile: str | None = None,
    lora: str | None = None,
) -> FluxNetworks:
    """Stage I's networks.

    weights: mini, published, random or a folder; random makes `config` with weights of `seed`. base: the transformer
    to build on, where weights are published or random at full size (`configs/bases.json`). profile: None takes what
    fits. lora: a file for every flow, "none", or None for those that belong to the weights: the published pair, or
    `lora.safetensors` of the folder.
    Errors: `MaquetteError` model_missing naming the network or the tensor, bad_input for an unknown name.
    """
    if profile is not None and profile not in PROFILES:
        raise MaquetteError("bad_input", f"There is no profile {profile[:40]!r}; choose one of: {', '.join(PROFILES)}.")
    chosen = places.installed_base(base) if weights == PUBLISHED else places.find_base(base)
    values = read_config("full" if weights == PUBLISHED else config)
    entries: dict[str, Mapping[str, Any]] = {
        role: values["networks"][role] for role in ROLES if role in values["networks"]
    }
    settings = read_settings(values)
    if weights == PUBLISHED or (weights == RANDOM and entries["transformer"]["args"]["guidance_embeds"]):
        settings = replace(settings, **chosen.settings)
        entries["transformer"] = with_arguments(entries["transformer"], guidance_embeds=chosen.guidance_embeds)
    if weights == RANDOM:
        parts = {role: Part(entry, partial(_random, entry, role, seed)) for role, entry in entries.items()}
    else:
        folder = places.MINI_FOLDER if weights == "mini" else Path(weights)
        found = places.published_places(chosen) if weights == PUBLISHED else places.folder_places(folder)
        parts = {role: Part(place.entry or entries[role], place.open) for role, place in found.items()}
    absent = [role for role in NEEDED if role not in parts]
    if absent:
        raise MaquetteError(
            "model_missing", f"The weights of {absent[0]} are not there; install Kiss3DGen's weights.",
            detail=f"missing: {', '.join(absent)}", next_step="install_model",
        )  # fmt: skip
    place = torch.device(device)
    if profile is None:
        profile = needs.choose_profile({role: part.entry for role, part in parts.items()}, free_memory(place), place)
    text = partial(make_text, settings, weights == RANDOM)
    networks = FluxNetworks(parts, settings, profile, place, text, lora_files(weights, lora))
    logger.info(
        "Kiss3DGen %s weights, base %s, profile %s on %s: %s", weights, chosen.name, profile, device, ", ".join(parts)
    )
    return networks


def lora_files(weights: str, lora: str | None) -> dict[str, Path]:
    """The LoRA file for each kind of flow, as `load_flux` takes `lora`. Errors: `MaquetteError` model_missing."""
    if lora is not None or weights == RANDOM:
        return {kind: Path(lora) for kind in places.LORA_FILES} if lora and lora != "none" else {}
    if weights == PUBLISHED:
        return {kind: places.published_lora(kind) for kind in places.LORA_FILES}
    own = (places.MINI_FOLDER if weights == "mini" else Path(weights)) / "lora.safetensors"
    return {kind: own for kind in places.LORA_FILES} if own.exists() else {}


def with_arguments(entry: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """A network's description with some arguments changed."""
    return {"name": entry["name"], "args": {**entry["args"], **changed}}


def make_text(settings: FluxSettings, random: bool, networks: FluxNetworks) -> TextEncoder:
    """The text encoder that `settings` name. Errors: `MaquetteError` model_missing."""
    if settings.text == "minilm":
        return MiniLM(settings.text_tokens, networks.device)
    if random:
        tokenizers: tuple[Any, Any] = ByteTokenizer(), ByteTokenizer()
    else:
        tokenizers = read_tokenizers(*places.tokenizer_folders())
    return ClipAndT5(networks["clip"], tokenizers[0], networks["t5"], tokenizers[1], settings.text_tokens)


def _random(entry: Mapping[str, Any], role: str, seed: int) -> TensorSource:
    return RandomTensors(expected_shapes(build_empty(entry)), role, seed)
