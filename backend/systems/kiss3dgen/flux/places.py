"""Where each network's files lie: a folder of our own layout, or what the catalogue installed (spec section 2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.catalog.catalog import find_model, is_installed, models_folder
from backend.contract.errors import MaquetteError
from backend.systems.kiss3dgen.flux.config import CONFIG_FOLDER, ROLES
from backend.systems.kiss3dgen.flux.tensors import OriginalTensors, StoredTensors, TensorSource
from backend.training.checkpoints import tensor_files

MINI_FOLDER = Path(__file__).parents[3] / "weights" / "mini" / "kiss3dgen"
PARTS = "flux1_parts"
"""The catalogue's entry with the autoencoder, both text encoders and their tokenizers."""
PUBLISHED = {
    "vae": (PARTS, "vae/diffusion_pytorch_model"),
    "clip": (PARTS, "text_encoder/model"),
    "t5": (PARTS, "text_encoder_2/model"),
    "controlnet": ("flux1_controlnet_union", "diffusion_pytorch_model"),
    "image_encoder": ("flux1_redux", "image_encoder/model"),
    "redux": ("flux1_redux", "image_embedder/diffusion_pytorch_model"),
}
"""Role -> (catalogue entry, place of its files without suffix), beside the transformer, which the base decides."""
PACKINGS = {"dev": "dev_fp8", "dev_fp8": "dev"}
"""The same base model in other files."""
LORA = "kiss3dgen"
LORA_FILES = {"image": "rgb_normal", "mesh": "rgb_normal_redux"}
"""The published LoRA for text and photos, and the one for meshes (spec section 2)."""
TOKENIZERS = ("tokenizer", "tokenizer_2")


@dataclass(frozen=True)
class Place:
    """One network's files (`stem` without suffix), and its {"name", "args"} when it differs from the configuration."""

    stem: Path
    entry: Mapping[str, Any] | None = None
    prefix: str = ""

    def open(self) -> TensorSource:
        """Its tensors under the names of diffusers. Errors: `MaquetteError` model_missing."""
        files = tensor_files(self.stem)
        if not files:
            raise MaquetteError(
                "model_missing", f"The weights {self.stem.name!r} are not there.", f"looked in {self.stem.parent}",
                "install_model",
            )  # fmt: skip
        source = StoredTensors(files, self.prefix)
        original = any(name.startswith("double_blocks.") for name in source.shapes())
        return OriginalTensors(source) if original else source


@dataclass(frozen=True)
class Base:
    """A transformer to build on. model: its entry in the catalogue. settings: what it wants otherwise."""

    name: str
    model: str
    transformer: str
    guidance_embeds: bool
    settings: Mapping[str, Any]
    prefix: str = ""

    @property
    def licence(self) -> str:
        """The licence that its files come under."""
        return find_model(self.model).licence


def read_bases() -> dict[str, Base]:
    """The base models by name."""
    values = json.loads((CONFIG_FOLDER / "bases.json").read_text(encoding="utf-8"))
    return {name: Base(name, **entry) for name, entry in values.items()}


def find_base(name: str) -> Base:
    """The base model `name`. Errors: `MaquetteError` bad_input."""
    bases = read_bases()
    if name not in bases:
        raise MaquetteError("bad_input", f"There is no base model {name[:40]!r}; choose one of: {', '.join(bases)}.")
    return bases[name]


def folder_places(folder: Path) -> dict[str, Place]:
    """Role -> place of every network in a folder of our own layout. Errors: `MaquetteError` model_missing."""
    if folder == MINI_FOLDER and not tensor_files(folder / "transformer"):
        raise MaquetteError(
            "model_missing", "Kiss3DGen has no small weights in this version; install its published ones under Models.",
            str(folder), "install_model",
        )  # fmt: skip
    if not folder.is_dir():
        raise MaquetteError(
            "model_missing", f"The weights folder {folder.name!r} does not exist; install the weights or choose mini.",
            str(folder), "install_model",
        )  # fmt: skip
    places = {}
    for role in ROLES:
        description = folder / f"{role}.json"
        if description.exists() and tensor_files(folder / role):
            places[role] = Place(folder / role, json.loads(description.read_text(encoding="utf-8")))
    return places


def installed_base(name: str) -> Base:
    """The base model `name`, or the same in another packing where only that is installed. Errors: as `find_base`."""
    base, other = find_base(name), PACKINGS.get(name)
    root = models_folder()
    if other is not None and not is_installed(root, find_model(base.model)):
        packed = find_base(other)
        if is_installed(root, find_model(packed.model)):
            return packed
    return base


def published_places(base: Base) -> dict[str, Place]:
    """Role -> place of every published network that is installed. Errors: `MaquetteError` model_missing for what the
    first step needs: the base, the autoencoder and the text encoders."""
    root = models_folder()
    for needed in (base.model, PARTS):
        require(needed)
    places = {"transformer": Place(root / base.model / base.transformer, prefix=base.prefix)}
    for role, (model, stem) in PUBLISHED.items():
        if is_installed(root, find_model(model)):
            places[role] = Place(root / model / stem)
    return places


def published_lora(kind: str) -> Path:
    """The file of the published LoRA, `kind` image or mesh. Errors: `MaquetteError` model_missing."""
    require(LORA)
    return models_folder() / LORA / f"{LORA_FILES[kind]}.safetensors"


def tokenizer_folders() -> tuple[Path, Path]:
    """The folders of CLIP's and T5's tokenizer."""
    clip, t5 = (models_folder() / PARTS / name for name in TOKENIZERS)
    return clip, t5


def require(model: str) -> None:
    """Errors: `MaquetteError` model_missing naming the entry of the catalogue that is not installed."""
    entry = find_model(model)
    if not is_installed(models_folder(), entry):
        raise MaquetteError(
            "model_missing",
            f"{entry.title} ({entry.licence}) is not installed. Install it under Models, or choose the small weights.",
            str(models_folder() / model),
            "install_model",
        )
