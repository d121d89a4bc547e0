"""From what a person types, or a photo shows, to what the transformer reads (spec section 3).

The trigger sentence is added where the text is encoded (`text.py`). Before that a language model may spell a prompt
out view by view, and a captioner may describe a photo; both are optional, found where the catalogue names them, and
without them the text passes as it is and the report says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from backend.catalog.catalog import models_folder

logger = logging.getLogger(__name__)

REWRITER = "qwen2_7b_instruct"
CAPTIONER = "florence2_large"
"""Their folders below the models folder."""
MOST_TOKENS, TEMPERATURE = 512, 0.7
CAPTION_TASK, CAPTION_TOKENS, CAPTION_BEAMS = "<MORE_DETAILED_CAPTION>", 1024, 3
INSTRUCTIONS = (
    "You write prompts for a model that draws one 3D object from four sides. Answer with one line of English and "
    "nothing else. Name the object and its style as a 3D model. Then tell what is seen from the front, from the left "
    "side, from the rear and from the right side, in this order, one clause each, the same object in all four. Keep "
    "every property that the user asks for and invent only what is missing. There is no background. End with: "
    "The image is a 2x4 grid, RGB views in the upper row and their normal maps in the lower row."
)
EXAMPLES = (
    (
        "old wooden barrel",
        "A weathered wooden barrel, realistic 3D model. Front view: bulging oak staves held by three rusty iron hoops, "
        "a small tap near the bottom. Left side view: the same staves, darker and with a deep crack. Rear view: plain "
        "staves, a faded stencilled number. Right side view: staves with a patch of moss below the middle hoop. No "
        "background. The image is a 2x4 grid, RGB views in the upper row and their normal maps in the lower row.",
    ),
)


@dataclass(frozen=True)
class Prompt:
    """text: what goes to the text encoder. given: what it was made of. note: a sentence for the report, or ""."""

    text: str
    given: str
    note: str = ""


class Rewriter(Protocol):
    """Spells a prompt out."""

    def rewrite(self, text: str, seed: int) -> str:
        """One line for `text`, the same for the same seed."""
        ...


class Captioner(Protocol):
    """Describes a photo."""

    def caption(self, photo: np.ndarray) -> str:
        """Sentences for a photo [H, W, 3] in [0, 1]."""
        ...


def prepare_prompt(text: str, seed: int = 42, rewriter: Rewriter | None = None) -> Prompt:
    """What to encode for a person's `text`: rewritten by `rewriter`, or as it is, on one line."""
    given = one_line(text)
    if rewriter is None or not given:
        note = "The prompt was used as it was written; no language model is installed to spell it out." if given else ""
        return Prompt(given, given, note)
    return Prompt(one_line(rewriter.rewrite(given, seed)) or given, given)


def describe_photo(
    photo: np.ndarray, seed: int = 42, captioner: Captioner | None = None, rewriter: Rewriter | None = None
) -> Prompt:
    """What to encode for a photo [H, W, 3] that comes without words: its caption, rewritten, or nothing."""
    if captioner is None:
        return Prompt("", "", "The photo was not described in words; no captioner is installed.")
    caption = one_line(captioner.caption(photo))
    if rewriter is None:
        return Prompt(caption, caption, "The photo's caption was used as it is; no language model is installed.")
    return prepare_prompt(caption, seed, rewriter)


def one_line(text: str) -> str:
    """`text` without line breaks and double spaces."""
    return " ".join(text.split())


class QwenRewriter:
    """Qwen2-Instruct through its chat template, from a local folder."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.folder, self.device = folder, device

    def rewrite(self, text: str, seed: int) -> str:
        """One line; the model is read for the call and leaves afterwards, Flux needs the room."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        network: Any = AutoModelForCausalLM.from_pretrained(
            self.folder, local_files_only=True, dtype=_dtype(self.device), use_safetensors=True
        )
        network = network.to(self.device).eval()
        messages = [{"role": "system", "content": INSTRUCTIONS}]
        for asked, answered in EXAMPLES:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        messages.append({"role": "user", "content": text})
        tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt").to(
            self.device
        )
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            answer = network.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=MOST_TOKENS, do_sample=True,
                temperature=TEMPERATURE, pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )  # fmt: skip
        written: str = tokenizer.decode(answer[0, tokens.shape[1] :], skip_special_tokens=True)
        return written


class FlorenceCaptioner:
    """Florence-2 from a local folder; its most detailed caption."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.folder, self.device = folder, device

    def caption(self, photo: np.ndarray) -> str:
        """Sentences; the model is read for the call and leaves afterwards."""
        from PIL import Image
        from transformers import AutoProcessor, Florence2ForConditionalGeneration

        picture = Image.fromarray(np.rint(np.clip(photo, 0, 1) * 255).astype(np.uint8))
        processor = AutoProcessor.from_pretrained(self.folder, local_files_only=True)
        network: Any = Florence2ForConditionalGeneration.from_pretrained(
            self.folder, local_files_only=True, dtype=_dtype(self.device), use_safetensors=True
        )
        network = network.to(self.device).eval()
        given = processor(text=CAPTION_TASK, images=picture, return_tensors="pt").to(self.device, network.dtype)
        with torch.no_grad():
            tokens = network.generate(**given, max_new_tokens=CAPTION_TOKENS, num_beams=CAPTION_BEAMS, do_sample=False)
        written: str = processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return written


def find_rewriter(device: str = "cpu") -> Rewriter | None:
    """The language model, if its files are in the models folder."""
    folder = models_folder() / REWRITER
    return QwenRewriter(folder, device) if (folder / "config.json").exists() else None


def find_captioner(device: str = "cpu") -> Captioner | None:
    """The captioner, if its files are in the models folder."""
    folder = models_folder() / CAPTIONER
    return FlorenceCaptioner(folder, device) if (folder / "config.json").exists() else None


def _dtype(device: str) -> torch.dtype:
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
