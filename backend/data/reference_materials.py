"""Grounds, walls, skies and lights of training scenes, as Blender's own nodes. Runs in Blender's Python only.

Patterns are told in metres of a world in which the object's longest side is 1: some 70 pixels of a 128 pixel picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import bpy
import numpy as np

Rng = np.random.Generator
Color = Sequence[float]


class Nodes:
    """The nodes of one material or world."""

    def __init__(self, owner: Any) -> None:
        if not owner.node_tree:
            owner.use_nodes = True
        self.tree = owner.node_tree
        self.tree.nodes.clear()

    def add(self, kind: str, inputs: dict[str, Any] | None = None, **settings: Any) -> Any:
        """A node `kind` with attributes `settings`; an input is a value or the socket that feeds it."""
        node = self.tree.nodes.new(kind)
        for name, value in settings.items():
            setattr(node, name, value)
        for name, value in (inputs or {}).items():
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, node.inputs[name])
            else:
                node.inputs[name].default_value = value
        return node

    def places(self, scale: Color = (1.0, 1.0, 1.0), turn: Color = (0.0, 0.0, 0.0)) -> Any:
        """Object coordinates, scaled and turned, as a socket."""
        found = self.add("ShaderNodeTexCoord").outputs["Object"]
        return self.add("ShaderNodeMapping", {"Vector": found, "Scale": scale, "Rotation": turn}).outputs[0]

    def noise(self, scale: float, detail: float = 3.0, where: Any = None) -> Any:
        """Smooth noise in 0..1 with features of 1 / scale."""
        inputs = {"Scale": scale, "Detail": detail, "Vector": where if where is not None else self.places()}
        return self.add("ShaderNodeTexNoise", inputs).outputs[0]

    def ramp(self, value: Any, low: Color, high: Color, start: float = 0.3, end: float = 0.7) -> Any:
        """The colour `low` where `value` is below `start`, `high` above `end`."""
        node = self.add("ShaderNodeValToRGB", {0: value})
        ends = node.color_ramp.elements
        ends[0].position, ends[1].position = start, end
        ends[0].color, ends[1].color = (*low, 1.0), (*high, 1.0)
        return node.outputs[0]

    def multiply(self, first: Any, second: Any, amount: float = 1.0) -> Any:
        """The product of two colours."""
        node = self.add("ShaderNodeMix", data_type="RGBA", blend_type="MULTIPLY")
        node.inputs[0].default_value = amount
        self.tree.links.new(first, node.inputs[6])  # inputs 6, 7 and output 2 are the colours' of this node
        self.tree.links.new(second, node.inputs[7])
        return node.outputs[2]

    def bricks(self, colors: tuple[Color, Color], joint: Color, size: tuple[float, float], gap: float,
               offset: float, where: Any) -> Any:  # fmt: skip
        """Rows of bricks of `size` (width, height) with joints `gap` wide; every second row moved by `offset`."""
        inputs = {
            "Vector": where, "Color1": (*colors[0], 1.0), "Color2": (*colors[1], 1.0), "Mortar": (*joint, 1.0),
            "Scale": 1.0, "Mortar Size": gap, "Mortar Smooth": 0.1, "Brick Width": size[0], "Row Height": size[1],
        }  # fmt: skip
        return self.add("ShaderNodeTexBrick", inputs, offset=offset).outputs[0]

    def surface(self, color: Any, roughness: float, height: Any = None, depth: float = 0.02) -> None:
        """End in a plain surface; `height` 0..1 makes it bumpy by `depth`."""
        inputs = {"Base Color": color, "Roughness": roughness}
        if height is not None:
            inputs["Normal"] = self.add("ShaderNodeBump", {"Height": height, "Distance": depth}).outputs[0]
        shader = self.add("ShaderNodeBsdfPrincipled", inputs)
        self.add("ShaderNodeOutputMaterial", {"Surface": shader.outputs[0]})


def _near(rng: Rng, color: Color, spread: float = 0.2) -> list[float]:
    """A colour somewhat like `color`: brighter or darker, and each channel by itself a little."""
    factor = rng.uniform(1.0 - spread, 1.0 + spread) * rng.uniform(1.0 - spread / 4, 1.0 + spread / 4, 3)
    return [float(min(1.0, value * one)) for value, one in zip(color, factor, strict=True)]


def _darker(color: Color, factor: float) -> list[float]:
    return [value * factor for value in color]


def _wood(nodes: Nodes, rng: Rng, turn: Color = (0.0, 0.0, 0.0)) -> None:
    base = _near(rng, ((0.36, 0.2, 0.09), (0.22, 0.13, 0.07), (0.45, 0.33, 0.2))[rng.integers(3)])
    where = nodes.places(turn=turn)
    width = float(rng.uniform(0.14, 0.28))
    planks = nodes.bricks((base, _darker(base, 0.6)), _darker(base, 0.15), (1.7, width), 0.012, 0.5, where)
    grain = nodes.noise(3.0, 4.0, nodes.places((1.0, 14.0, 14.0), turn))
    nodes.surface(nodes.multiply(planks, nodes.ramp(grain, (0.5,) * 3, (1.2,) * 3)), 0.5, planks, 0.01)


def _grass(nodes: Nodes, rng: Rng) -> None:
    base = _near(rng, (0.1, 0.22, 0.04))
    patches = nodes.ramp(nodes.noise(1.6), _near(rng, base), _near(rng, (0.2, 0.27, 0.06)))
    blades = nodes.noise(38.0, 4.0, nodes.places((1.0, 0.45, 1.0), (0.0, 0.0, float(rng.uniform(0, math.pi)))))
    nodes.surface(nodes.multiply(patches, nodes.ramp(blades, (0.35,) * 3, (1.5,) * 3, 0.38, 0.62)), 0.9, blades, 0.06)


def _sand(nodes: Nodes, rng: Rng) -> None:
    base = _near(rng, (0.62, 0.47, 0.28))
    turn = (0.0, 0.0, float(rng.uniform(0, math.pi)))
    inputs = {"Vector": nodes.places(turn=turn), "Scale": 1.6, "Distortion": 6.0, "Detail": 2.0}
    waves = nodes.add("ShaderNodeTexWave", inputs).outputs[1]
    grains = nodes.ramp(nodes.noise(90.0, 2.0), _darker(base, 0.75), base)
    nodes.surface(nodes.multiply(grains, nodes.ramp(waves, (0.8,) * 3, (1.05,) * 3, 0.0, 1.0)), 0.95, waves, 0.04)


def _snow(nodes: Nodes, rng: Rng) -> None:
    drifts = nodes.noise(2.2, 3.0)
    nodes.surface(nodes.ramp(drifts, (0.74, 0.79, 0.87), (0.9, 0.92, 0.95)), 0.8, drifts, 0.12)


def _cobbles(nodes: Nodes, rng: Rng) -> None:
    where, scale = nodes.places(), float(rng.uniform(5.0, 8.0))
    inputs = {"Vector": where, "Scale": scale, "Randomness": 0.6}
    edge = nodes.add("ShaderNodeTexVoronoi", inputs, feature="DISTANCE_TO_EDGE").outputs[0]
    stone = nodes.add("ShaderNodeTexVoronoi", inputs, feature="F1").outputs[1]
    grey = nodes.ramp(stone, _near(rng, (0.07, 0.07, 0.08)), _near(rng, (0.15, 0.145, 0.14)), 0.1, 0.9)
    domes = nodes.ramp(edge, (0.1,) * 3, (1.0,) * 3, 0.01, 0.09)
    nodes.surface(nodes.multiply(grey, domes), 0.16, domes, 0.05)


def _tiles(nodes: Nodes, rng: Rng) -> None:
    pairs = (((0.7, 0.68, 0.62), (0.62, 0.6, 0.55)), ((0.55, 0.2, 0.12), (0.45, 0.17, 0.1)),
             ((0.72, 0.72, 0.72), (0.08, 0.09, 0.1)), ((0.2, 0.38, 0.45), (0.6, 0.68, 0.7)))  # fmt: skip
    first, second = (_near(rng, color) for color in pairs[rng.integers(len(pairs))])
    side = float(rng.uniform(0.22, 0.42))
    tiles = nodes.bricks((first, second), (0.28, 0.27, 0.25), (side, side), 0.014, 0.0, nodes.places())
    nodes.surface(tiles, 0.22, tiles, 0.005)


def _concrete(nodes: Nodes, rng: Rng) -> None:
    base = _near(rng, (0.36, 0.36, 0.35))
    stains = nodes.ramp(nodes.noise(2.5, 6.0), _darker(base, 0.6), base, 0.35, 0.65)
    speckles = nodes.ramp(nodes.noise(60.0, 2.0), (0.8,) * 3, (1.1,) * 3)
    nodes.surface(nodes.multiply(stains, speckles), 0.85)


def _brick_wall(nodes: Nodes, rng: Rng) -> None:
    base = _near(rng, ((0.4, 0.13, 0.08), (0.48, 0.28, 0.16), (0.3, 0.28, 0.27))[rng.integers(3)])
    bricks = nodes.bricks((base, _darker(base, 0.55)), (0.5, 0.47, 0.43), (0.3, 0.11), 0.014, 0.5, nodes.places())
    nodes.surface(bricks, 0.9, bricks, 0.01)


def _plaster_wall(nodes: Nodes, rng: Rng) -> None:
    base = _near(
        rng, ((0.75, 0.73, 0.68), (0.66, 0.5, 0.32), (0.42, 0.5, 0.52), (0.6, 0.36, 0.3))[rng.integers(4)], 0.1
    )
    stains = nodes.noise(1.3, 5.0)
    nodes.surface(nodes.ramp(stains, _darker(base, 0.8), base), 0.95, nodes.noise(25.0), 0.01)


def _wooden_wall(nodes: Nodes, rng: Rng) -> None:
    _wood(nodes, rng, (0.0, 0.0, math.pi / 2))


GROUND_MAKERS: dict[str, Callable[[Nodes, Rng], None]] = {
    "wooden planks": _wood, "grass": _grass, "sand": _sand, "snow": _snow, "wet cobblestones": _cobbles,
    "tiles": _tiles, "concrete": _concrete,
}  # fmt: skip
WALL_MAKERS: dict[str, Callable[[Nodes, Rng], None]] = {
    "brick wall": _brick_wall, "plaster wall": _plaster_wall, "wooden wall": _wooden_wall,
}  # fmt: skip


def material(kind: str, rng: Rng) -> bpy.types.Material:
    """A new material of a ground or wall, in colours of its own."""
    made = bpy.data.materials.new(kind)
    (GROUND_MAKERS | WALL_MAKERS)[kind](Nodes(made), rng)
    return made


def sky(world: bpy.types.World, horizon: Color, zenith: Color, strength: float, clouds: float = 0.0) -> None:
    """A sky from `horizon` up to `zenith` (linear light); `clouds` 0..1 in front of it."""
    nodes = Nodes(world)
    direction = nodes.add("ShaderNodeTexCoord").outputs["Generated"]
    height = nodes.add("ShaderNodeSeparateXYZ", {0: direction}).outputs[2]
    color = nodes.ramp(height, horizon, zenith, 0.0, 0.5)
    if clouds:
        flat = nodes.add("ShaderNodeMapping", {"Vector": direction, "Scale": (1.0, 1.0, 3.0)}).outputs[0]
        veil = nodes.add("ShaderNodeMix", data_type="RGBA")
        cover = nodes.ramp(nodes.noise(2.6, 5.0, flat), (0.0,) * 3, (clouds,) * 3, 0.5, 0.68)
        nodes.tree.links.new(cover, veil.inputs[0])
        nodes.tree.links.new(color, veil.inputs[6])
        veil.inputs[7].default_value = (0.9, 0.9, 0.92, 1.0)
        color = veil.outputs[2]
    shader = nodes.add("ShaderNodeBackground", {"Color": color, "Strength": strength})
    nodes.add("ShaderNodeOutputWorld", {"Surface": shader.outputs[0]})
    world.cycles.sampling_method = (
        "NONE"  # a smooth sky needs no importance map, whose making takes longer than it saves
    )
