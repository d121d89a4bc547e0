"""RefAny3D's network: Flux over the sequence of text, two noisy pictures and the views of a mesh (spec sections 5-8).

The weights are those of diffusers' `FluxTransformer2DModel`, under their published names; the forward here is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from backend.contract.errors import MaquetteError

from . import positions
from .attention import Mask
from .blocks import Forward, double_block, noise_of, single_block
from .kv_cache import ConditionCache, PreparedConditions
from .lora import LoraSet
from .modulation import kind_vectors, modulate, time_vector
from .positions import VIEWS, Sizes
from .routing import Routing

Watch = Callable[[str, Tensor], None]
"""Told the states [B, L, D] of the whole sequence by name: `x_embed`, `double0`, ..., `single0`, ..."""


Conditions = Tensor | PreparedConditions | ConditionCache


class RefAny3DTransformer(nn.Module):
    """The whole network.

    base: FluxTransformer2DModel; its blocks are given our forward. default, coord: the LoRAs, None for none.
    domain_embedder: None for none. points False: trained without point maps. independent: trained with the mask that
    lets `cache_conditions` be exact. shared_positions, shift: see `positions.view_ids`.
    """

    def __init__(
        self,
        base: Any,
        default: LoraSet | None,
        coord: LoraSet | None,
        domain_embedder: nn.Module | None,
        *,
        points: bool = True,
        independent: bool = False,
        shared_positions: bool = True,
        shift: int | None = None,
    ) -> None:
        super().__init__()
        self.base, self.default, self.coord, self.domain_embedder = base, default, coord, domain_embedder
        self.points, self.independent = points, independent
        self.shared_positions, self.shift = shared_positions, shift
        self.checkpointing = False
        """Make every block's states again for the gradient instead of keeping them."""
        self.axes = tuple(base.config.axes_dims_rope)
        self.guided = bool(base.config.guidance_embeds)
        self._turns: dict[Any, Tensor] = {}
        for number, block in enumerate(base.transformer_blocks):
            block.forward = partial(double_block, block, f"transformer_blocks.{number}", number)
        for number, block in enumerate(base.single_transformer_blocks):
            count = len(base.transformer_blocks) + number
            block.forward = partial(single_block, block, f"single_transformer_blocks.{number}", count)

    @property
    def own_parameters(self) -> Iterable[nn.Parameter]:
        """What RefAny3D trains: both LoRAs and the domain embedder."""
        parts = (self.default, self.coord, self.domain_embedder)
        return [parameter for part in parts if part is not None for parameter in part.parameters()]

    def prepare(
        self,
        conditions: Tensor,
        pooled: Tensor,
        condition_guidance: float = 1.0,
        grid: tuple[int, int] | None = None,
        copies: int = 1,
    ) -> PreparedConditions:
        """Do for `conditions` [B, 2N, T, C] and `pooled` [B, P] what is the same in every step of a picture.

        copies: how many equal views each of the N stands for, exactly: equal pictures in equal places have equal states
        in every block, so one of them is enough. Not for weights whose views stand apart: ValueError.
        """
        with torch.no_grad():
            views, sizes = self._view_sizes(conditions, copies)
            tokens, vectors = self._views(conditions, pooled, condition_guidance, sizes)
        return PreparedConditions(tokens, vectors, views, self.points, self._grid(conditions.shape[2], grid), copies)

    def cache_conditions(
        self,
        conditions: Tensor,
        pooled: Tensor,
        condition_guidance: float = 1.0,
        grid: tuple[int, int] | None = None,
        copies: int = 1,
    ) -> ConditionCache:
        """Keys and values of `conditions` in every block. Errors: `MaquetteError` bad_input unless `independent`.

        copies: as in `prepare`. With gradients where they are enabled: in training one mesh's views serve several noisy
        pictures at once.
        """
        if not self.independent:
            raise MaquetteError(
                "bad_input",
                "Only weights trained with independent views can keep them from step to step; turn the cache off.",
            )
        views, sizes = self._view_sizes(conditions, copies)
        tokens, vectors = self._views(conditions, pooled, condition_guidance, sizes)
        cache = ConditionCache(views, self.points, self._grid(conditions.shape[2], grid), copies)
        turns = self._rotary(sizes, cache.grid, tokens.device)
        run = Forward(self.routing, sizes, vectors, turns, views, Mask.INDEPENDENT, cache=cache, filling=True)
        self._blocks(tokens, None, run, None)
        return cache

    def predict(
        self,
        latents_rgb: Tensor,
        latents_coord: Tensor | None,
        conditions: Conditions,
        text: Tensor,
        pooled: Tensor,
        t: Tensor | float,
        guidance: Tensor | float | None = None,
        masked: bool = True,
        *,
        condition_guidance: float = 1.0,
        grid: tuple[int, int] | None = None,
        watch: Watch | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Velocities of the noisy picture and of the noisy point map, [B, T, C] each (noise minus picture).

        latents_rgb, latents_coord: [B, T, C], packed tokens; the second None where the weights have no point maps.
        conditions: [B or 1, 2N, T, C], first N colour views, then their N point maps in the same order (N pictures
        where the weights have no point maps); or what `prepare` or `cache_conditions` made of them.
        text: [B, L, E]; pooled: [B, P], fed to every branch. t: [B] or a number, 0..1 (1 is noise).
        guidance: [B] or a number for text and noise, `condition_guidance` for the views; both are ignored where the
        base has no guidance embedder. masked: by the table that the weights were trained with; False lets everything
        see everything, as the second pass of the published image guidance does.
        grid: rows and columns of the tokens, by default a square. watch: told the states after every block.
        """
        batch, tokens = latents_rgb.shape[:2]
        device = latents_rgb.device
        prepared = conditions if isinstance(conditions, PreparedConditions) else None
        cache = conditions if isinstance(conditions, ConditionCache) else None
        if isinstance(conditions, Tensor):
            views, view_sizes = self._view_sizes(conditions)
            view_tokens, view_vectors = self._views(conditions, pooled, condition_guidance, view_sizes)
            grid, copies = self._grid(tokens, grid), 1
        else:
            views, grid, copies = conditions.views, conditions.grid, conditions.copies
            if prepared is not None:
                view_tokens, view_vectors = prepared.tokens, prepared.vectors
        whole = positions.sequence(text.shape[1], tokens, views, self.points)
        sizes = whole if cache is None else whole._replace(rgb_views=0, point_views=0)

        noise = latents_rgb if latents_coord is None else torch.cat([latents_rgb, latents_coord], 1)
        image = self.routing.linear(self.base.x_embedder, "x_embedder", noise, noise_of(sizes))
        vectors = functional.silu(self._main_vectors(t, guidance, pooled, batch, sizes, noise))
        if cache is None:
            image = torch.cat([image, view_tokens.expand(batch, -1, -1)], 1)
            vectors = torch.cat([vectors, view_vectors.expand(batch, -1, -1)], 1)
        mask = Mask.NONE if not masked else Mask.INDEPENDENT if self.independent else Mask.TRAINED
        if cache is not None and mask is not Mask.INDEPENDENT:
            raise ValueError("kept views can be used only under the independent mask")
        run = Forward(
            self.routing, sizes, vectors, self._rotary(sizes, grid, device), views, mask,
            prepared=None if torch.is_grad_enabled() else prepared, cache=cache, copies=copies,
        )  # fmt: skip
        words = self.base.context_embedder(text)
        if watch is not None:
            watch("x_embed", torch.cat([words, image], 1))
        states = self._blocks(image, words, run, watch)
        out = self._last(states, run)
        if latents_coord is None:
            return out, None
        return out[:, :tokens], out[:, tokens:]

    @property
    def routing(self) -> Routing:
        """Which LoRA acts on which tokens."""
        return Routing(self.default, self.coord)

    @torch.no_grad()
    def vectors(
        self, t: Tensor, guidance: Tensor | None, pooled: Tensor, sizes: Sizes, condition_guidance: float = 1.0
    ) -> Tensor:
        """The vector [B, kinds, D] of every kind with tokens, as the blocks are given it before SiLU."""
        main = self._main_vectors(t, guidance, pooled, len(pooled), sizes, pooled)
        return torch.cat([main, self._view_vectors(pooled, condition_guidance, sizes.only(*VIEWS))], 1)

    def _grid(self, tokens: int, grid: tuple[int, int] | None) -> tuple[int, int]:
        found = grid or (isqrt(tokens), isqrt(tokens))
        if found[0] * found[1] != tokens:
            raise ValueError(f"{tokens} tokens are no grid of {found[0]} x {found[1]}")
        return found

    def _view_sizes(self, conditions: Tensor, copies: int = 1) -> tuple[int, Sizes]:
        """How many views `conditions` [B, pictures, T, C] are, and the sizes of a sequence of them alone."""
        if copies > 1 and not self.shared_positions:
            raise ValueError("views that stand apart are not alike; give every one of them")
        pictures, tokens = conditions.shape[1:3]
        kinds = 2 if self.points else 1
        if pictures % kinds:
            raise ValueError(f"{pictures} condition pictures are no views with their point maps")
        views = pictures // kinds
        return views, positions.sequence(0, tokens, views, self.points).only(*VIEWS)

    def _views(self, conditions: Tensor, pooled: Tensor, guidance: float, sizes: Sizes) -> tuple[Tensor, Tensor]:
        """Embedded tokens [B, sizes.total, D] of the conditions and their vectors [B, kinds, D] through SiLU."""
        tokens = self.routing.linear(self.base.x_embedder, "x_embedder", conditions.flatten(1, 2), sizes)
        return tokens, functional.silu(self._view_vectors(pooled[: len(conditions)], guidance, sizes))

    def _view_vectors(self, pooled: Tensor, guidance: float, sizes: Sizes) -> Tensor:
        """Vectors [B, kinds, D] of the views."""
        zero = torch.zeros(len(pooled), device=pooled.device)
        told = torch.full_like(zero, guidance) if self.guided else None
        return kind_vectors(None, time_vector(self.base, zero, told, pooled), self.domain_embedder, sizes)

    def _main_vectors(
        self, t: Tensor | float, guidance: Tensor | float | None, pooled: Tensor, batch: int, sizes: Sizes, like: Tensor
    ) -> Tensor:
        """Vectors [B, kinds, D] of text and noise."""

        def row(value: Tensor | float) -> Tensor:
            return torch.as_tensor(value, dtype=torch.float32, device=like.device).expand(batch)

        if self.guided and guidance is None:
            raise ValueError("this base model wants a guidance value")
        told = row(guidance) if self.guided and guidance is not None else None
        vector = time_vector(self.base, row(t), told, pooled.expand(batch, -1))
        return kind_vectors(vector, None, self.domain_embedder, sizes._replace(rgb_views=0, point_views=0))

    def _rotary(self, sizes: Sizes, grid: tuple[int, int], device: torch.device) -> Tensor:
        """Turns [L, d/2] of every token of a sequence."""
        key = (sizes, grid, device)
        if key not in self._turns:
            noise = positions.noise_ids(*grid)
            pictures = sizes.views // len(noise)
            ids = torch.cat(
                [
                    positions.text_ids(sizes.text),
                    *([noise] * (sizes.noise // len(noise))),
                    positions.view_ids(*grid, pictures, self.shared_positions, self.shift),
                ]
            )
            self._turns = {key: positions.rotary_turns(ids, self.axes).to(device)}
        return self._turns[key]

    def _blocks(self, image: Tensor, text: Tensor | None, run: Forward, watch: Watch | None) -> Tensor:
        """States of the noise [B, run.sizes.noise, D], or of the whole sequence if watched, after all blocks."""
        save = self.checkpointing and torch.is_grad_enabled()

        def call(block: Any, *given: Any) -> Any:
            return checkpoint(block, *given, use_reentrant=False) if save else block(*given)

        for number, block in enumerate(self.base.transformer_blocks):
            image, text = call(block, image, text, run)
            if watch is not None:
                watch(f"double{number}", image if text is None else torch.cat([text, image], 1))
        hidden = image if text is None else torch.cat([text, image], 1)
        singles = self.base.single_transformer_blocks
        for number, block in enumerate(singles):
            last = number == len(singles) - 1 and watch is None and not run.filling
            hidden = call(block, hidden, run, noise_of(run.sizes) if last else None)
            if watch is not None:
                watch(f"single{number}", hidden)
        noise = run.sizes.noise
        return hidden if hidden.shape[1] == noise else hidden[:, run.sizes.text : run.sizes.main]

    def _last(self, states: Tensor, run: Forward) -> Tensor:
        """Velocities [B, noise, C] of the noise's states."""
        sizes, norm = noise_of(run.sizes), self.base.norm_out
        text = run.sizes.present.text
        rows = norm.linear(run.vectors[:, text : text + sizes.present.total])
        scale, shift = rows.chunk(2, -1)
        out: Tensor = self.base.proj_out(modulate(norm.norm(states), sizes, shift, scale))
        return out
