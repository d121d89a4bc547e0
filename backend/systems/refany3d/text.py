"""Prompts as the published model reads them (spec section 4): T5 tokens and CLIP's pooled vector of the same words."""

from __future__ import annotations

from typing import Any

import torch

from backend.systems.kiss3dgen.flux.text import CLIP_TOKENS, TextFeatures, device_of, tokenise


class PlainPrompts:
    """CLIP and T5, each told the prompt as it is; the padding is attended to, as Flux was trained."""

    def __init__(self, clip: Any, clip_tokenizer: Any, t5: Any, t5_tokenizer: Any, tokens: int) -> None:
        self.clip, self.clip_tokenizer = clip, clip_tokenizer
        self.t5, self.t5_tokenizer, self.tokens = t5, t5_tokenizer, tokens

    @torch.no_grad()
    def encode(self, texts: list[str]) -> TextFeatures:
        """T5's tokens [B, `tokens`, 4096] and CLIP's pooled [B, 768] of each text."""
        short = tokenise(self.clip_tokenizer, texts, CLIP_TOKENS)
        pooled = self.clip(short.to(device_of(self.clip))).pooler_output
        long = tokenise(self.t5_tokenizer, texts, self.tokens)
        tokens = self.t5(long.to(device_of(self.t5))).last_hidden_state
        return TextFeatures(tokens.float(), pooled.float().to(tokens.device))
