"""Training of RefAny3D mini (spec section 10): stage `base`, then stage `lora`.

Mini has no published base model: it begins as Kiss3DGen mini's, and `base` learns pictures of scenes from sentences.
`lora` is the published recipe: both noisy pictures with one time, both LoRAs and the domain embedder, sentences and
conditions dropped one time in ten each, the sum of both branches' errors. There the base learns on, unless it is
`frozen` as published: a small one was never told to look at other pictures, and the picture comes from base weights
alone. Mini's views look at themselves only (`independent`): one pass over them serves eight noises.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from backend.contract.errors import MaquetteError
from backend.contract.reference_views import VIEW_COUNTS
from backend.data.prepare import object_seed, read_assets
from backend.data.reference_scenes import SceneDataset
from backend.systems.kiss3dgen.flux.config import build
from backend.systems.kiss3dgen.flux.latents import image_ids, text_ids
from backend.systems.kiss3dgen.flux.places import MINI_FOLDER as KISS_FOLDER
from backend.training.checkpoints import load_strict, load_tensors, save_model, tensor_files
from backend.training.loop import TrainingLoop
from backend.training.stage import StageRequest, TrainingStage, train_stage

from .config import Settings, read_config, read_settings
from .encoding import black_tokens, encode_pictures, to_tensor
from .lora import new_domain_embedder, new_lora
from .networks import EMBEDDER, LORAS, MINI_FOLDER, read_own
from .train_data import Batch, ObjectTokens, SceneTraining, keep, object_views
from .train_framing import framed
from .train_plain import PlainTraining
from .training_loss import GUIDANCE, draw_step, dropped, mixed, training_loss
from .transformer import Conditions, RefAny3DTransformer

logger = logging.getLogger(__name__)

ABLATIONS = ("points", "positions", "domain-lora")
"""What can be left out: point maps altogether, the views' shared positions, the second LoRA."""
SCALED_BY = 256  # scenes whose latents tell the scaling
VALIDATED = 4  # batches
NOISE_SHIFT = 3.0  # of times: views tell most, and a picture's plan is made, where noise hides most
Pictures = SceneTraining | PlainTraining
DRAWS = 8  # of noise and time for each scene of a batch, where its views are made once for all of them


@dataclass(frozen=True)
class RefAny3DTrainRequest(StageRequest):
    """What the command line asks for.

    assets: folder of the objects' GLB files, for the stage `lora`. start: folder of an exported base, by default where
    the stage exports to. views: of an object. without: of ABLATIONS. frozen: the base does not learn in `lora`.
    independent: views that look at themselves only, which makes their keys and values worth keeping. plain: the share
    of `lora`'s pictures that show the object alone on white. objects: how many objects have such pictures at most,
    those of the scenes first.
    """

    assets: Path | None = None
    start: Path | None = None
    views: int = 8
    without: tuple[str, ...] = ()
    frozen: bool = False
    independent: bool = False
    plain: float = 0.5
    objects: int | None = None

    @property
    def folder(self) -> Path:
        """Where the exported weights lie."""
        return self.export_to or MINI_FOLDER


class Stage(TrainingStage):
    """What both stages share: the scenes as tokens, and the settings that are exported."""

    batch = 16
    rate = 1e-3
    muon = True
    bf16_on_cpu = True
    most_workers = 2

    def __init__(self, request: RefAny3DTrainRequest) -> None:
        self.request = request
        self.config = read_config(request.config)
        self.settings = chosen_settings(read_settings(self.config), request)
        super().__init__(request, dict(self.config["networks"]), request.folder, request.start or request.folder)
        self.vae = self.autoencoder()
        cache = request.out / "refany3d" / "cache"
        self.data, self.held_out = (
            SceneTraining(request.data, split, self.vae, self.settings, cache) for split in ("train", "val")
        )
        self.null = tuple(part.to(self.device) for part in self.data.empty_text())

    def autoencoder(self) -> Any:
        """The one that an earlier stage exported; else Kiss3DGen mini's, scaled for these pictures."""
        folder = self.shipped if (self.shipped / "vae.json").exists() else KISS_FOLDER
        entry = json.loads((folder / "vae.json").read_text(encoding="utf-8"))
        tensors = {name: tensor.float() for name, tensor in load_tensors(folder / "vae").items()}
        vae = self._made(entry, tensors)
        if folder == KISS_FOLDER:
            entry["args"] |= scaling(vae, SceneDataset(self.request.data, "train"))
            vae = self._made(entry, tensors)
        self.entries = {**self.entries, "vae": entry}
        return vae

    def _made(self, entry: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
        vae = build(entry)
        load_strict(vae, tensors, "vae")
        return vae.to(self.device).eval().requires_grad_(False)

    def told(self, batch: Batch, gone: Tensor) -> tuple[Tensor, Tensor]:
        """Sentences' features with those of `gone` [B] replaced by the empty sentence's."""
        return tuple(  # type: ignore[return-value]
            dropped(part.to(self.device), null, gone.to(self.device))
            for part, null in zip((batch.text, batch.pooled), self.null, strict=True)
        )

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return self.batch_loss(self.data, generator)

    def validate(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(1)
        found = [self.batch_loss(self.held_out, generator) for _ in range(VALIDATED)]
        parts = {name: sum(values[name] for _, values in found) / VALIDATED for name in found[0][1]}
        return {"loss": sum(float(value) for value, _ in found) / VALIDATED} | parts

    def batch_loss(self, data: Pictures, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of `data`, and its parts."""
        raise AssertionError("a stage defines its loss")

    def export_common(self) -> None:
        """The settings and the autoencoder."""
        folder = self.folder
        vae = {name: part.half() if part.ndim > 1 else part for name, part in self.vae.state_dict().items()}
        save_model(folder, "vae", self.entries["vae"]["name"], self.entries["vae"]["args"], vae)
        settings = json.dumps({"settings": asdict(self.settings)}, indent=2)
        (folder / "pipeline.json").write_text(settings + "\n", encoding="utf-8")


class Base(Stage):
    """The transformer alone: pictures of scenes from their sentences."""

    parts = {"transformer": ""}
    batch = 64

    def __init__(self, request: RefAny3DTrainRequest) -> None:
        super().__init__(request)
        self.module = build(self.entries["transformer"])
        if start_as_kiss3dgen(self.module, self.entries["transformer"]):
            logger.info("the base starts as Kiss3DGen's")
        self.module.to(self.device)
        self.ids = image_ids(self.settings.size, self.settings.size, self.device)

    def batch_loss(self, data: Pictures, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = data.draw(self.size, generator)
        rgb = batch.rgb.to(self.device)
        draw = draw_step((rgb.shape[0], rgb.shape[1], rgb.shape[2]), generator, self.device, NOISE_SHIFT)
        text, pooled = self.told(batch, draw.no_text)
        predicted = self.module(
            hidden_states=mixed(rgb, draw.rgb_noise, draw.t), timestep=draw.t, encoder_hidden_states=text,
            pooled_projections=pooled, img_ids=self.ids, txt_ids=text_ids(text.shape[1], self.device),
            return_dict=False,
        )[0]  # fmt: skip
        return functional.mse_loss(predicted.float(), draw.rgb_noise - rgb), {}

    def export(self, loop: TrainingLoop) -> None:
        super().export(loop)
        self.export_common()


class Lora(Stage):
    """The published recipe on mini's base."""

    parts = {"transformer": "base"}
    rate = 7e-4
    batch = 64
    warmup = 60  # steps; it begins with a base that has learned

    def __init__(self, request: RefAny3DTrainRequest) -> None:
        super().__init__(request)
        base: Any = build(self.entries["transformer"])
        tensors = {name: tensor.float() for name, tensor in load_tensors(self.shipped / "transformer").items()}
        load_strict(base, tensors, "transformer")
        base.requires_grad_(not request.frozen)
        generator = torch.Generator().manual_seed(request.seed)
        wants_coord = self.settings.points and "domain-lora" not in request.without
        self.module = RefAny3DTransformer(
            base, new_lora(base, self.settings.rank, generator),
            new_lora(base, self.settings.rank, generator) if wants_coord else None, new_domain_embedder(base.inner_dim),
            points=self.settings.points, independent=self.settings.independent,
            shared_positions=self.settings.shared_positions, shift=self.settings.shift,
        ).to(self.device)  # fmt: skip
        self.black = black_tokens(self.vae, self.settings.size).to(self.device)
        self.views, self.plain = self._objects(request)

    def _objects(self, request: RefAny3DTrainRequest) -> tuple[ObjectTokens, PlainTraining]:
        """The conditions of all objects, and pictures on white of those that are trained on, with a scene or without;
        scenes of an object without views are left out."""
        if request.assets is None:
            raise MaquetteError(
                "bad_input", "The stage lora needs the objects themselves; name their folder: --assets."
            )
        cache = request.out / "refany3d" / "cache"
        size, views = self.settings.size, self.settings.views
        rows = read_assets(request.assets)
        paths, captions = {row.id: row.path for row in rows}, {row.id: row.caption for row in rows}
        others = [row.id for row in rows if row.split == "train"] if request.plain else []
        others.sort(key=lambda name: object_seed(name, 0))  # a few of them are then as mixed as all
        alone = list(dict.fromkeys([*self.data.ids, *others]))[: request.objects]
        found = object_views([*self.data.ids, *self.held_out.ids, *alone], paths, self.vae, size, views, cache)
        for data in (self.data, self.held_out):
            keep(data, found.usable(data.ids))
            if not len(data):
                raise MaquetteError("bad_input", "No object of the scenes is in --assets; name the folder they are of.")
        return found, PlainTraining(alone, captions, paths, self.vae, self.settings, found, cache)

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        plain = float(torch.rand(1, generator=generator)) < self.request.plain
        return self.batch_loss(self.plain if plain else self.data, generator)

    def batch_loss(self, data: Pictures, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Views that look at themselves only are the same for every noise: DRAWS of it share them, at a quarter of the
        work a sample."""
        draws = min(DRAWS, self.size) if self.settings.independent else 1
        batch = data.draw(self.size // draws, generator)
        conditions = self.views.of(batch.ids).to(self.device)
        if not self.settings.points:
            conditions = conditions[:, : self.settings.views]
        rgb = batch.rgb.to(self.device).repeat_interleave(draws, 0)
        coord = batch.coord.to(self.device).repeat_interleave(draws, 0) if self.settings.points else None
        draw = draw_step((rgb.shape[0], rgb.shape[1], rgb.shape[2]), generator, self.device, NOISE_SHIFT)
        text, pooled = self.told(batch, draw.no_text[::draws])
        seen: Conditions = dropped(conditions, self.black, draw.no_pictures[::draws])
        module: Any = self.module
        if draws > 1:
            seen = module.cache_conditions(seen, pooled, GUIDANCE)
        text, pooled = (each.repeat_interleave(draws, 0) for each in (text, pooled))
        value, parts = training_loss(module, rgb, coord, seen, text, pooled, draw)
        return value, {name: float(part) for name, part in parts.items()}

    def load_shipped(self) -> bool:
        """Go on from exported LoRAs and embedder; the base was read already."""
        module: Any = self.module
        if not tensor_files(self.shipped / LORAS[0]):
            return False
        own = read_own(self.shipped, ".safetensors", module.base)
        for role, part in zip((*LORAS, EMBEDDER), (own.default, own.coord, own.embedder), strict=True):
            target = {"default": module.default, "coord": module.coord, EMBEDDER: module.domain_embedder}[role]
            if target is not None and part is not None:
                load_strict(target, {name: tensor.float() for name, tensor in part.state_dict().items()}, role)
        return True

    def export(self, loop: TrainingLoop) -> None:
        """Base, LoRAs and embedder with averaged weights, in half precision; a LoRA that was left out has no file."""
        super().export(loop)
        self.export_common()
        module: Any = self.module
        load_strict(self.module, loop.averaged_state(), "the run")
        for name, lora in zip(LORAS, (module.default, module.coord), strict=True):
            path = self.folder / f"{name}.safetensors"
            path.unlink(missing_ok=True)
            if lora is not None:
                save_file(_halves(lora.published_tensors()), path)
        save_file(_halves(module.domain_embedder.state_dict()), self.folder / f"{EMBEDDER}.safetensors")


STAGES: dict[str, type[Stage]] = {"base": Base, "lora": Lora}


def train(request: RefAny3DTrainRequest) -> dict[str, float]:
    """Run one stage for the requested minutes; returns its last measures. Errors: `MaquetteError` bad_input."""
    if request.stage not in STAGES:
        raise MaquetteError("bad_input", f"RefAny3D has no stage {request.stage!r}; choose: {', '.join(STAGES)}.")
    stage = STAGES[request.stage](request)
    return train_stage(stage, request, request.out / "refany3d" / run_name(request))


def start_as_kiss3dgen(transformer: Any, entry: dict[str, Any]) -> bool:
    """Give `transformer` Kiss3DGen mini's weights, where it is as large: as both published systems share one base.

    What that has learned of objects, of pictures that belong together and of words is worth hours of one core.
    """
    described = json.loads((KISS_FOLDER / "transformer.json").read_text(encoding="utf-8"))
    if described != {"name": entry["name"], "args": dict(entry["args"])}:
        return False
    tensors = {name: tensor.float() for name, tensor in load_tensors(KISS_FOLDER / "transformer").items()}
    load_strict(transformer, tensors, "transformer")
    return True


def run_name(request: RefAny3DTrainRequest) -> str:
    """The run's folder: the stage and what is unusual of it, so that ablations do not write into each other."""
    unusual = [f"no-{name}" for name in request.without]
    unusual += [f"{request.views}-views"] * (request.views != max(VIEW_COUNTS))
    unusual += ["frozen"] * request.frozen + ["independent"] * request.independent
    return "-".join([request.stage, *unusual] if request.stage == "lora" else [request.stage])


def chosen_settings(settings: Settings, request: RefAny3DTrainRequest) -> Settings:
    """The settings with what the request changes. Errors: `MaquetteError` bad_input."""
    unknown = sorted(set(request.without) - set(ABLATIONS))
    if unknown:
        raise MaquetteError("bad_input", f"There is no ablation {unknown[0]!r}; choose: {', '.join(ABLATIONS)}.")
    if request.views not in VIEW_COUNTS:
        raise MaquetteError("bad_input", f"{request.views} views cannot be trained; choose 4, 6 or 8.")
    return replace(
        settings, views=request.views, points=settings.points and "points" not in request.without,
        shared_positions=settings.shared_positions and "positions" not in request.without,
        independent=settings.independent or request.independent,
    )  # fmt: skip


@torch.no_grad()
def scaling(vae: Any, dataset: SceneDataset) -> dict[str, float]:
    """The arguments of an autoencoder with which tokens of pictures and point maps have mean 0 and spread 1."""
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:SCALED_BY].tolist()
    pairs = [framed(dataset.pictures[index], dataset.points[index]) for index in chosen]
    tokens = torch.cat([encode_pictures(vae, to_tensor(np.stack(pair))) for pair in pairs])
    latents = tokens / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return {"scaling_factor": round(1.0 / float(latents.std()), 5), "shift_factor": round(float(latents.mean()), 5)}


def _halves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().half().contiguous().cpu() for name, tensor in tensors.items()}
