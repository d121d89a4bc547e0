"""Adam for the vertices of a mesh that is remeshed as it moves: each vertex has its own moments and edge length.

After Palfinger, "Continuous remeshing for inverse rendering" (2022), with ISOMER's constants (Kiss3DGen spec 8). Steps
are measured in edge lengths: a vertex moves at most about `lr` times its reference length, and that length grows where
vertices move fast and shrinks where they rest, within `lengths`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backend.geometry.mesh_topology import find_edges, neighbour_means
from backend.geometry.remeshing import Picker, remesh

POSITION, SQUARE, SPEED, MOMENT, LENGTH = slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 8), slice(8, 9)
CHANNELS = 9
SMALL = 1e-8


@dataclass(frozen=True)
class OptimizerSettings:
    """lr: steps in edge lengths; lengths: least and most reference length; gain: how fast lengths follow the speed;
    ramp: steps (in units of 1 / (1 - beta)) until the full lr; tolerance: edges may be this much shorter or longer.
    most_faces: remeshing splits no edge beyond; None is no limit."""

    lr: float = 0.3
    lengths: tuple[float, float] = (0.02, 0.15)
    gain: float = 0.02
    ramp: float = 1.0
    laplacian: float = 0.02
    betas: tuple[float, float] = (0.8, 0.8)
    reference_speed: float = 0.3
    tolerance: float = 0.5
    gradient_limit: float = 10.0  # times the first moment, each coordinate by itself
    local_lengths: bool = False  # each vertex its own length, else one for all
    most_faces: int | None = None


class MeshOptimizer:
    """Moves `vertices` [N,3], a leaf that wants a gradient, and keeps `faces` [F,3]; `lr` may change between steps."""

    def __init__(self, vertices: Tensor, faces: Tensor, settings: OptimizerSettings) -> None:
        """vertices [N,3] float32 and faces [F,3] int64 on one device; a copy of the vertices is kept."""
        self.settings = settings
        self.lr = settings.lr
        self.steps = 0
        self.faces = faces
        self._state = vertices.new_zeros(len(vertices), CHANNELS)
        self._state[:, POSITION] = vertices.detach()
        self._state[:, LENGTH] = settings.lengths[1]
        self._edges: Tensor | None = None
        self.vertices = self._leaf()

    def state(self, channels: slice) -> Tensor:
        """Channels [N,C] of the state: POSITION, SQUARE (second moment), SPEED, MOMENT (first), LENGTH."""
        return self._state[:, channels]

    def zero_grad(self) -> None:
        """Forgets the gradient."""
        self.vertices.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step along `vertices.grad`. Errors: RuntimeError where no gradient was computed."""
        if self.vertices.grad is None:
            raise RuntimeError("The mesh has no gradient; call backward() on a loss of its vertices first.")
        use, self.steps = self.settings, self.steps + 1
        positions, moment, square = (self._state[:, part] for part in (POSITION, MOMENT, SQUARE))
        gradient = self.vertices.grad
        if use.laplacian:
            if self._edges is None:
                self._edges = find_edges(self.faces, len(positions))[0]
            away = positions - neighbour_means(positions, self._edges)
            gradient = gradient + use.laplacian * self._state[:, SPEED] * away
        if self.steps > 1:
            most = use.gradient_limit * moment.abs()
            gradient = gradient.clamp(-most, most)
        first, second = ((1 - beta) / (1 - beta**self.steps) for beta in use.betas)
        moment.lerp_(gradient, first)
        square.lerp_(gradient.square().sum(dim=1, keepdim=True), second)
        velocity = moment / (square.sqrt() + SMALL)
        speed = velocity.norm(dim=1, keepdim=True)
        self._state[:, SPEED] = speed
        ramp = min(1.0, self.steps * (1 - use.betas[0]) / use.ramp)
        lengths = self._state[:, LENGTH]
        positions -= self.lr * ramp * velocity * lengths
        change = (speed if use.local_lengths else speed.mean()) - use.reference_speed
        lengths.mul_(1 + change * use.gain).clamp_(*use.lengths)
        self.vertices.data.copy_(positions)

    @torch.no_grad()
    def remesh(self, pick: Picker | None = None) -> None:
        """One step of continuous remeshing; `vertices` is a new leaf without gradient afterwards."""
        lengths = self._state[:, 8]
        shortest, longest = lengths * (1 - self.settings.tolerance), lengths * (1 + self.settings.tolerance)
        self._state, self.faces = remesh(self._state, self.faces, shortest, longest, pick, self.settings.most_faces)
        self._edges = None
        self.vertices = self._leaf()

    def _leaf(self) -> Tensor:
        return self._state[:, POSITION].clone().requires_grad_(True)
