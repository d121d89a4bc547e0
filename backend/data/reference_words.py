"""What the scenes that RefAny3D learns from are made of, and what is said of them.

A scene stands on a ground, in a light, in some weather, in front of the sky or a wall, alone or with neighbours; its
caption names all of them ("a barrel on wet cobblestones at night"). Only numpy: Blender's Python reads this too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GROUNDS = ("wooden planks", "grass", "sand", "snow", "wet cobblestones", "tiles", "concrete")
LIGHTS = ("day", "dusk", "night", "studio")
WEATHERS = ("clear", "overcast", "fog")
BACKGROUNDS = ("open", "brick wall", "plaster wall", "wooden wall")
MOST_NEIGHBOURS = 3

LIGHT_PHRASES = {"day": "in daylight", "dusk": "at dusk", "night": "at night", "studio": "in a studio"}
WEATHER_PHRASES = {"clear": "", "overcast": "under a grey sky", "fog": "in fog"}
LIGHT_CHANCES = (0.4, 0.2, 0.2, 0.2)
WEATHER_CHANCES = {"day": (0.5, 0.25, 0.25), "dusk": (0.7, 0.0, 0.3), "night": (0.75, 0.0, 0.25), "studio": (1, 0, 0)}
NEIGHBOUR_CHANCES = (0.5, 0.25, 0.15, 0.1)
WALL_CHANCE = 0.4
SHORT_WORDS = 3  # a neighbour is named when its caption has no more: the text encoder of mini reads 16 tokens


@dataclass(frozen=True)
class SceneWords:
    """One scene in words of the lists above, and how many neighbours are wanted."""

    ground: str
    light: str
    weather: str
    background: str
    neighbours: int

    def numbers(self) -> np.ndarray:
        """Places in the four lists and the count of neighbours, int8 [5]."""
        places = (
            GROUNDS.index(self.ground), LIGHTS.index(self.light), WEATHERS.index(self.weather),
            BACKGROUNDS.index(self.background), self.neighbours,
        )  # fmt: skip
        return np.array(places, dtype=np.int8)

    @staticmethod
    def of_numbers(numbers: np.ndarray) -> SceneWords:
        """The inverse of `numbers`."""
        ground, light, weather, background, neighbours = (int(number) for number in numbers)
        return SceneWords(GROUNDS[ground], LIGHTS[light], WEATHERS[weather], BACKGROUNDS[background], neighbours)


def draw_words(rng: np.random.Generator) -> SceneWords:
    """A random scene. A studio has no weather and no wall, and fog hides walls, so these are not combined."""
    light = LIGHTS[rng.choice(len(LIGHTS), p=LIGHT_CHANCES)]
    weather = WEATHERS[rng.choice(len(WEATHERS), p=WEATHER_CHANCES[light])]
    wall = light != "studio" and weather != "fog" and rng.uniform() < WALL_CHANCE
    background = BACKGROUNDS[rng.integers(1, len(BACKGROUNDS))] if wall else BACKGROUNDS[0]
    neighbours = int(rng.choice(len(NEIGHBOUR_CHANCES), p=NEIGHBOUR_CHANCES))
    return SceneWords(GROUNDS[rng.integers(len(GROUNDS))], light, weather, background, neighbours)


def caption(item: str, words: SceneWords, neighbours: Sequence[str] = ()) -> str:
    """What a scene shows: `item` is the object's caption, `neighbours` those of what stands around it."""
    parts = [item]
    if len(neighbours) == 1 and len(neighbours[0].split()) <= SHORT_WORDS:
        parts.append(f"beside {neighbours[0]}")
    elif neighbours:
        parts.append("among other things")
    parts += [f"on {words.ground}", LIGHT_PHRASES[words.light], WEATHER_PHRASES[words.weather]]
    if words.background != "open":
        parts.append(f"by a {words.background}")
    return " ".join(part for part in parts if part)
