"""RefAny3D's networks in memory: Flux, its autoencoder and text encoders as Kiss3DGen holds them, and what is its own.

The base model, its 8-bit and its visiting blocks come from `kiss3dgen.flux.networks`; the two LoRAs and the domain
embedder stay beside it, for they act on some tokens only and cannot be fused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.catalog.catalog import find_model, missing_files, models_folder
from backend.contract.errors import MaquetteError
from backend.nn.devices import free_memory
from backend.systems.kiss3dgen.flux import places
from backend.systems.kiss3dgen.flux.config import FluxSettings, build_empty
from backend.systems.kiss3dgen.flux.networks import FluxNetworks, Part, with_arguments
from backend.systems.kiss3dgen.flux.profiles import PROFILES
from backend.systems.kiss3dgen.flux.tensors import RandomTensors, TensorSource, expected_shapes
from backend.systems.kiss3dgen.flux.text import ByteTokenizer, MiniLM, TextEncoder, TextFeatures, read_tokenizers
from backend.systems.refany3d import lora, profiles
from backend.systems.refany3d.config import Settings, read_config, read_settings
from backend.systems.refany3d.text import PlainPrompts
from backend.systems.refany3d.transformer import RefAny3DTransformer
from backend.training.checkpoints import tensor_files

logger = logging.getLogger(__name__)

MINI_FOLDER = Path(__file__).parents[2] / "weights" / "mini" / "refany3d"
PUBLISHED, RANDOM = "published", "random"
MODEL = "refany3d"
"""The catalogue's entry of the published LoRAs and embedder."""
ROLES = ("transformer", "vae", "clip", "t5")
NEEDED = ("transformer", "vae")
LORAS = ("default", "coord")
EMBEDDER = "domain_embedder"
BASES: dict[str, dict[str, Any]] = {
    "schnell": {"guidance": 1.0, "dynamic": False, "text_tokens": 256},
    "openflux": {"dynamic": False, "text_tokens": 256},
}
"""What base models beside FLUX.1-dev want otherwise (spec section 2): no shift by size, and no more words."""


@dataclass(frozen=True)
class Own:
    """What RefAny3D adds to a base model [meta or real]: both LoRAs and the domain embedder, None for none."""

    default: lora.LoraSet | None
    coord: lora.LoraSet | None
    embedder: nn.Module | None


class RefAny3DNetworks:
    """Everything that a picture takes; what `sampler.Networks` asks for. Stages are read when they are first needed."""

    def __init__(self, flux: FluxNetworks, settings: Settings, own: Callable[[Any], Own]) -> None:
        self.flux, self.settings, self._make_own = flux, settings, own
        self._made: RefAny3DTransformer | None = None
        self._own: Own | None = None

    @property
    def transformer(self) -> RefAny3DTransformer:
        """The network, made anew when its base has left the memory in between."""
        base = self.flux["transformer"]
        if self._made is None or self._made.base is not base:
            if self._own is None:
                self._own = self._make_own(base)
                for part in (self._own.default, self._own.coord, self._own.embedder):
                    if part is not None:
                        part.to(self.device, self.dtype).requires_grad_(False).eval()
            self._made = RefAny3DTransformer(
                base, self._own.default, self._own.coord, self._own.embedder,
                points=self.settings.points, independent=self.settings.independent,
                shared_positions=self.settings.shared_positions, shift=self.settings.shift,
            )  # fmt: skip
        return self._made

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.flux["vae"]

    @property
    def device(self) -> torch.device:
        """Where tensors go."""
        return self.flux.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of what goes through the transformer."""
        return self.flux.dtype

    def features(self, texts: list[str]) -> TextFeatures:
        """Features of each text; the text encoders leave afterwards where the profile says so."""
        self._made = None if self.flux.profile.staged else self._made  # it would keep its base in memory
        return self.flux.text.encode(texts)


def load_networks(
    weights: str = "mini",
    config: str = "mini",
    base: str = "dev",
    device: str = "cpu",
    seed: int = 0,
    profile: str | None = None,
) -> RefAny3DNetworks:
    """The networks of `weights`: mini, published, random (`config` with numbers of `seed`) or a folder.

    base: the Flux model that published weights build on (`kiss3dgen/flux/configs/bases.json`). profile: None takes what
    fits. Errors: `MaquetteError` model_missing naming what is not there, bad_input for an unknown name.
    """
    if profile is not None and profile not in PROFILES:
        raise MaquetteError("bad_input", f"There is no profile {profile[:40]!r}; choose one of: {', '.join(PROFILES)}.")
    if weights == RANDOM:
        values = read_config(config)
        parts, own = random_parts(values["networks"], seed), partial(random_own, seed, read_settings(values))
    elif weights == PUBLISHED:
        values = read_config("full")
        values["settings"].update(BASES.get(base, {}))
        own = partial(read_own, published_folder(), ".pth")
        parts = published_parts(values["networks"], base)
    else:
        folder = MINI_FOLDER if weights == "mini" else Path(weights)
        values, parts = folder_parts(folder)
        own = partial(read_own, folder, ".safetensors")
    settings = read_settings(values)
    place = torch.device(device)
    chosen = profile or profiles.choose_profile(
        {role: part.entry for role, part in parts.items()}, free_memory(place), place
    )
    text = partial(make_text, settings, weights == RANDOM)
    flux = FluxNetworks(parts, _flux_settings(settings), chosen, place, text)
    logger.info("RefAny3D %s weights, profile %s on %s: %s", weights, chosen, device, ", ".join(parts))
    return RefAny3DNetworks(flux, settings, own)


def published_folder() -> Path:
    """Where the published LoRAs and embedder lie; the base model that they were made for may be another's.

    Errors: `MaquetteError` model_missing.
    """
    root, entry = models_folder(), find_model(MODEL)
    if missing_files(root, entry):
        sentence = (
            f"{entry.title} ({entry.licence}) is not installed. Install it under Models, or choose the small weights."
        )
        raise MaquetteError("model_missing", sentence, str(root / MODEL), "install_model")
    return root / MODEL


def random_parts(entries: Mapping[str, Any], seed: int) -> dict[str, Part]:
    """Parts with random numbers, for measuring."""

    def source(role: str) -> TensorSource:
        return RandomTensors(expected_shapes(build_empty(entries[role])), role, seed)

    return {role: Part(entries[role], partial(source, role)) for role in ROLES if role in entries}


def published_parts(entries: Mapping[str, Any], base: str) -> dict[str, Part]:
    """Parts of the installed base model. Errors: `MaquetteError` model_missing."""
    chosen = places.installed_base(base)
    found = places.published_places(chosen)
    transformer = with_arguments(entries["transformer"], guidance_embeds=chosen.guidance_embeds)
    described = {**entries, "transformer": transformer}
    return {role: Part(described[role], found[role].open) for role in ROLES}


def folder_parts(folder: Path) -> tuple[dict[str, Any], dict[str, Part]]:
    """Settings and parts of a folder of our own layout: `pipeline.json`, and JSON and tensors for each network.

    Errors: `MaquetteError` model_missing naming what is not there.
    """
    description = folder / "pipeline.json"
    absent = [role for role in NEEDED if not (tensor_files(folder / role) and (folder / f"{role}.json").exists())]
    absent += [name for name in (*LORAS, EMBEDDER) if folder == MINI_FOLDER and not tensor_files(folder / name)]
    if absent or not description.exists():
        what = absent[0] if absent else description.name
        sentence = f"The weights folder {folder.name!r} lacks {what}; choose another folder."
        if folder == MINI_FOLDER:
            sentence = "RefAny3D has no small weights in this version; install its published ones under Models."
        raise MaquetteError("model_missing", sentence, f"missing in {folder}: {what}", "install_model")
    parts = {}
    for role in ROLES:
        if tensor_files(folder / role):
            entry = json.loads((folder / f"{role}.json").read_text(encoding="utf-8"))
            parts[role] = Part(entry, places.Place(folder / role, entry).open)
    return json.loads(description.read_text(encoding="utf-8")), parts


def read_own(folder: Path, embedder: str, base: Any) -> Own:
    """The LoRAs and the embedder of a folder, for the transformer `base`; a file that is not there is an ablation's.

    embedder: the ending of its file. Errors: as `lora.read_lora`.
    """
    files = {name: folder / f"{name}.safetensors" for name in LORAS}
    read = {name: lora.read_lora(path, base) if path.exists() else None for name, path in files.items()}
    path = folder / f"{EMBEDDER}{embedder}"
    made = lora.read_domain_embedder(path, base.inner_dim) if path.exists() else None
    return Own(read["default"], read["coord"], made)


def random_own(seed: int, settings: Settings, base: Any) -> Own:
    """The same with random numbers; nothing is zero, so that every path is walked."""

    def tensors(shapes: Mapping[str, tuple[int, ...]], what: str) -> dict[str, Tensor]:
        source = RandomTensors(shapes, what, seed)
        return {name: source.read(name, torch.device("cpu")) for name in shapes}

    shapes = lora.lora_shapes(base, settings.rank)
    default, coord = (lora.parse_lora(tensors(shapes, name), base, name) for name in LORAS)
    with torch.device("meta"):
        known = expected_shapes(lora.new_domain_embedder(base.inner_dim))
    return Own(default, coord, lora.parse_domain_embedder(tensors(known, EMBEDDER), base.inner_dim, EMBEDDER))


def make_text(settings: Settings, random: bool, networks: FluxNetworks) -> TextEncoder:
    """The text encoder that `settings` name. Errors: `MaquetteError` model_missing."""
    if settings.text == "minilm":
        return MiniLM(settings.text_tokens, networks.device)
    tokenizers = (ByteTokenizer(), ByteTokenizer()) if random else read_tokenizers(*places.tokenizer_folders())
    return PlainPrompts(networks["clip"], tokenizers[0], networks["t5"], tokenizers[1], settings.text_tokens)


def _flux_settings(settings: Settings) -> FluxSettings:
    """As Kiss3DGen's holder of networks wants them; it only passes them on."""
    return FluxSettings(settings.size, settings.text, settings.text_tokens, settings.size, settings.steps)
