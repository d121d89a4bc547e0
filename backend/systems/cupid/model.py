"""Load CUPID's networks: from a folder of weights (mini's, the published ones, one's own) or seeded random ones.

A folder holds `NAME.json` ({"name": class, "args": {...}}) and `NAME.safetensors` a network, in itself or where its
`pipeline.json` says. Which classes with which numbers is configuration; there is no code for one size only.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.catalog.catalog import find_model, is_installed, models_folder
from backend.contract.errors import MaquetteError
from backend.systems.configuration import read_configuration
from backend.systems.cupid import dinov2
from backend.systems.cupid.flow_sampler import FlowSettings
from backend.systems.cupid.networks import Maker, Networks, choose_profile, count_parameters, random_network
from backend.training.checkpoints import load_strict, load_tensors, tensor_files

logger = logging.getLogger(__name__)

CONFIG_FOLDER = Path(__file__).with_name("configs")
MINI_FOLDER = Path(__file__).parents[2] / "weights" / "mini"
PUBLISHED = "published"
"""The name of the weights that the catalogue installs; they come with the configuration full."""
PUBLISHED_SLAT_ENCODER = "ckpts/slat_enc_swin8_B_64l8_fp16"  # needed, though pipeline.json does not list it

CLASSES = {
    "ImageEncoder": "backend.systems.cupid.image_encoder",
    "ViewReader": "backend.systems.cupid.view_reader",
    "DinoV2": "backend.systems.cupid.dinov2",
    "SparseStructureFlowModel": "backend.systems.cupid.structure_flow",
    "SparseStructureEncoder": "backend.systems.cupid.structure_vae",
    "SparseStructureDecoder": "backend.systems.cupid.structure_vae",
    "ElasticVisualLatentConditioningSLatFlowModel": "backend.systems.cupid.slat_flow",
    "VisualLatentConditioningSLatFlowModel": "backend.systems.cupid.slat_flow",
    "SLatEncoder": "backend.systems.cupid.slat_vae",
    "SLatGaussianDecoder": "backend.systems.cupid.slat_vae",
    "SLatMeshDecoder": "backend.systems.cupid.slat_mesh",
    "SLatRadianceFieldDecoder": "backend.systems.cupid.slat_vae",
}
STAGE_1 = ("image_encoder", "structure_flow", "ss_dec", "uv_dec")
STAGE_2 = ("slat_flow", "slat_dec_mesh")
OPTIONAL = ("slat_enc", "uv_enc", "slat_dec_gs")  # uv_enc: only for known cameras; slat_dec_gs: for splats
OWN = ("view_reader",)  # mini's, for choosing between hypotheses; nothing published has one

PUBLISHED_ROLES = {
    "sparse_structure_flow_model": "structure_flow",
    "sparse_structure_decoder": "ss_dec",
    "sparse_structure_uv_decoder": "uv_dec",
    "sparse_structure_uv_encoder": "uv_enc",
    "slat_flow_model": "slat_flow",
    "slat_decoder_mesh": "slat_dec_mesh",
    "slat_decoder_gs": "slat_dec_gs",
}


@dataclass(frozen=True)
class CupidSettings:
    """Everything that is not a network. `normalization`s are (mean, std) lists or None; sizes in pixels.

    camera: solver "dlt" (published) or "robust"; points "occupied" (published) or "support".
    """

    encoder_size: int
    visual_size: int
    structure_sampler: FlowSettings
    latent_sampler: FlowSettings
    structure_normalization: Mapping[str, list[float]] | None = None
    slat_normalization: Mapping[str, list[float]] | None = None
    camera: Mapping[str, Any] = field(default_factory=dict)
    project_photo: bool = False
    fit_silhouette: bool = False
    hypotheses: int = 1


@dataclass(frozen=True)
class CupidModel:
    """The networks by role and their settings. Stage 2 is absent when its weights are."""

    networks: Mapping[str, nn.Module]
    settings: CupidSettings
    device: torch.device
    profile: str = "full"

    def __getitem__(self, role: str) -> Any:
        return self.networks[role]

    @property
    def has_stage_2(self) -> bool:
        """Whether a structured latent can be sampled and decoded."""
        return all(role in self.networks for role in STAGE_2)


def read_config(config: str) -> dict[str, Any]:
    """The configuration `mini` or `full`, or a JSON file. Errors: `MaquetteError` bad_input."""
    return read_configuration(CONFIG_FOLDER, config, "CUPID")


def weights_folder(weights: str) -> Path:
    """The folder that `weights` (mini, published or a path) names. Errors: `MaquetteError` model_missing."""
    if weights == PUBLISHED:
        if not is_installed(models_folder(), find_model("cupid")):
            raise MaquetteError(
                "model_missing",
                "CUPID's published weights are not installed. Install them under Models, or choose the small ones.",
                str(models_folder()),
                "install_model",
            )
        return models_folder() / "cupid"
    folder = MINI_FOLDER if weights == "mini" else Path(weights)
    if not folder.is_dir():
        raise MaquetteError(
            "model_missing",
            f"The weights folder {weights!r} does not exist; install the weights or choose mini.",
            next_step="install_model",
        )
    return folder


def missing_weights(folder: Path) -> list[str]:
    """Stage-1 networks that `folder` lacks: without one of them nothing can be made."""
    places = _places(folder)
    return [role for role in STAGE_1 if role not in places]


def load_model(
    weights: str = "mini", config: str = "mini", device: str = "cpu", seed: int = 0, profile: str | None = None
) -> CupidModel:
    """Load (or, with weights "random", make) the networks; `profile` as in `networks.py`, None takes what fits.

    Errors: `MaquetteError` model_missing naming the network or the tensor, bad_input for an unknown configuration.
    """
    settings = read_config("full" if weights == PUBLISHED else config)
    makers: dict[str, Maker] = {}
    if weights == "random":
        entries = settings["models"]
        for role in (*STAGE_1, *STAGE_2, *OPTIONAL, *OWN):
            if role in entries:
                makers[role] = partial(random_network, partial(build, entries[role]), role, seed)
    else:
        folder = weights_folder(weights)
        settings = _merge_pipeline(settings, folder)
        places = _places(folder)
        entries = {role: _entry(place) for role, place in places.items()}
        for role in (*STAGE_1, *STAGE_2, *OPTIONAL, *OWN):
            if role in places:
                makers[role] = partial(_load, places[role], role)
    absent = [role for role in STAGE_1 if role not in makers]
    if absent:
        raise MaquetteError(
            "model_missing", f"The weights of {absent[0]} are not there; install CUPID's weights.",
            detail=f"missing: {', '.join(absent)}", next_step="install_model",
        )
    place = torch.device(device)
    if profile is None:
        profile = choose_profile(sum(count_parameters(partial(build, entries[role])) for role in makers), place)
    networks = Networks(makers, profile, place)
    logger.info("CUPID %s weights, profile %s on %s: %s", weights, profile, device, ", ".join(makers))
    return CupidModel(networks, read_settings(settings), place, profile)


def build(entry: Mapping[str, Any]) -> nn.Module:
    """The network that {"name", "args"} describes. Errors: `MaquetteError` for a class or arguments we do not have."""
    name = entry["name"]
    if name not in CLASSES:
        raise MaquetteError(
            "model_missing", f"The network class {name} is not part of this version; choose other weights.",
            next_step="install_model",
        )
    arguments = {key: value for key, value in entry["args"].items() if key != "use_fp16"}  # see DESIGN: float32 on CPU
    try:
        network: nn.Module = getattr(importlib.import_module(CLASSES[name]), name)(**arguments)
    except (TypeError, ValueError) as error:
        raise MaquetteError(
            "model_missing", f"The configuration of {name} does not fit this version; choose other weights.",
            detail=str(error), next_step="install_model",
        ) from error
    return network


def read_settings(config: Mapping[str, Any]) -> CupidSettings:
    """The settings part of a configuration."""
    samplers = config["sampler"]
    return CupidSettings(
        encoder_size=config["image"]["encoder_size"],
        visual_size=config["image"]["visual_size"],
        structure_sampler=_sampler(samplers["structure"]),
        latent_sampler=_sampler(samplers["latent"]),
        structure_normalization=config.get("structure_normalization"),
        slat_normalization=config.get("slat_normalization"),
        camera=config.get("camera", {}),
        project_photo=bool(config.get("project_photo", False)),
        fit_silhouette=bool(config.get("fit_silhouette", False)),
        hypotheses=int(config.get("hypotheses", 1)),
    )


def _sampler(values: Mapping[str, Any]) -> FlowSettings:
    return FlowSettings(**{**values, "cfg_interval": tuple(values["cfg_interval"])})


def _places(folder: Path) -> dict[str, Path]:
    """Role -> path without suffix of every network in `folder`."""
    places = {}
    for role in (*STAGE_1, *STAGE_2, *OPTIONAL, *OWN):
        if (folder / f"{role}.json").exists() and tensor_files(folder / role):
            places[role] = folder / role
    pipeline = _read_pipeline(folder)
    for published, stem in pipeline.get("args", {}).get("models", {}).items():
        role = PUBLISHED_ROLES.get(published)
        if role and tensor_files(folder / stem):
            places[role] = folder / stem
    if "args" in pipeline:  # the published layout, which leaves two networks to others
        if tensor_files(folder / PUBLISHED_SLAT_ENCODER):
            places["slat_enc"] = folder / PUBLISHED_SLAT_ENCODER
        encoder = dinov2.find_dinov2(folder)
        if encoder is not None and "image_encoder" not in places:
            places["image_encoder"] = encoder / dinov2.FILE_STEM
    return places


def _entry(place: Path) -> dict[str, Any]:
    """{"name", "args"} of the network at `place`; DINOv2 comes without."""
    if place.name == dinov2.FILE_STEM:
        return dinov2.ENTRY
    loaded: dict[str, Any] = json.loads(place.with_name(place.name + ".json").read_text(encoding="utf-8"))
    return loaded


def _load(place: Path, role: str) -> nn.Module:
    if place.name == dinov2.FILE_STEM:
        return dinov2.load_dinov2(place.parent)
    with torch.device("meta"):  # no memory for numbers that are overwritten
        network = build(_entry(place))
    tensors = {name: tensor.float() for name, tensor in load_tensors(place).items()}
    load_strict(network, tensors, role, assign=True)
    return network


def _read_pipeline(folder: Path) -> dict[str, Any]:
    path = folder / "pipeline.json"
    if not path.exists():
        return {}
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _merge_pipeline(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A folder's pipeline.json goes before the configuration: it belongs to the weights."""
    pipeline = _read_pipeline(folder)
    merged = dict(config)
    for name in ("image", "sampler", "structure_normalization", "slat_normalization", "camera", "project_photo",
                 "fit_silhouette", "hypotheses"):
        if name not in pipeline:
            continue
        both = isinstance(pipeline[name], dict) and isinstance(config.get(name), dict)
        merged[name] = {**config[name], **pipeline[name]} if both else pipeline[name]
    published = pipeline.get("args", {})
    if "slat_normalization" in published:
        merged["slat_normalization"] = published["slat_normalization"]
    return merged
