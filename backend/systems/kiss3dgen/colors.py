"""Names of colours: what an object's main colour is called, and an object in another hue.

Captions of the dataset rarely name colours, so training names them from the pixels; the evaluation of edits ("make it
red") reads them back the same way.
"""

from __future__ import annotations

import colorsys
import re

import numpy as np

HUES = {
    "red": 0.0, "orange": 30.0, "yellow": 56.0, "green": 120.0, "cyan": 180.0, "blue": 220.0, "purple": 280.0,
    "pink": 325.0,
}  # fmt: skip
"""Hue in degrees of each named colour; a hue is called by the nearest."""
GREYS = ("black", "grey", "white")
NAMES = (*HUES, "brown", *GREYS)
SATURATED = 0.25  # less is a grey
DARK, BRIGHT = 0.2, 0.82  # value of what is called black, and white if it is grey
BROWN_VALUE = 0.68  # an orange or red darker than this, and not very saturated or darker still, is brown
_WORD = re.compile(r"\b(" + "|".join([*NAMES, "gray", "golden", "violet", "teal", "beige"]) + r")\b")


def to_hsv(rgb: np.ndarray) -> np.ndarray:
    """Colours [...,3] in [0,1] as hue (degrees), saturation and value [...,3]."""
    high, low = rgb.max(-1), rgb.min(-1)
    span = high - low
    safe = np.maximum(span, 1e-6)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    hue = np.where(
        high == red,
        (green - blue) / safe % 6.0,
        np.where(high == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    return np.stack([hue * 60.0, span / np.maximum(high, 1e-6), high], -1)


def name_color(rgb: np.ndarray) -> str:
    """What the colour [3] in [0,1] is called."""
    hue, saturation, value = to_hsv(np.asarray(rgb, np.float64))
    if value < DARK:
        return "black"
    if saturation < SATURATED:
        return "white" if value > BRIGHT else "grey"
    distance = {name: abs((hue - place + 180.0) % 360.0 - 180.0) for name, place in HUES.items()}
    nearest = min(distance, key=lambda name: distance[name])
    if nearest in ("orange", "red") and 8.0 < hue < 50.0 and value < BROWN_VALUE:
        return "brown"
    return nearest


def main_color(rgb: np.ndarray, mask: np.ndarray) -> str | None:
    """The name that most pixels share: rgb [...,3] in [0,1], mask [...] bool. None where less than 40 % agree."""
    pixels = rgb[mask]
    if not len(pixels):
        return None
    coarse, counts = np.unique(np.rint(pixels * 15).astype(np.int64), axis=0, return_counts=True)
    votes: dict[str, int] = {}
    for color, count in zip(coarse / 15.0, counts, strict=True):
        name = name_color(color)
        votes[name] = votes.get(name, 0) + int(count)
    best = max(votes, key=lambda name: votes[name])
    return best if votes[best] >= 0.4 * len(pixels) else None


def turn_hue(rgb: np.ndarray, degrees: float) -> np.ndarray:
    """Colours [...,3] in [0,1] with their hue turned; greys stay."""
    matrix = _hue_matrix(degrees)
    return np.clip(rgb @ matrix.T, 0.0, 1.0)


def _hue_matrix(degrees: float) -> np.ndarray:
    """A rotation [3,3] of RGB about the grey axis."""
    angle = np.radians(degrees)
    third, root = 1.0 / 3.0, np.sqrt(1.0 / 3.0)
    along, across = np.cos(angle) + (1.0 - np.cos(angle)) * third, (1.0 - np.cos(angle)) * third
    plus, minus = across + root * np.sin(angle), across - root * np.sin(angle)
    return np.array([[along, minus, plus], [plus, along, minus], [minus, plus, along]])


def names_a_color(caption: str) -> bool:
    """Whether the caption already says a colour."""
    return bool(_WORD.search(caption.lower()))


def with_color(caption: str, color: str) -> str:
    """The caption with the colour before its noun: "a chair" -> "a red chair", "sugar" -> "red sugar"."""
    match = re.match(r"(an?|the)\s+", caption, re.IGNORECASE)
    rest = caption[match.end() :] if match else caption
    if not match:
        return f"{color} {rest}"
    article = "the" if match.group(1).lower() == "the" else ("an" if color[0] in "aeiou" else "a")
    return f"{article} {color} {rest}"


def color_of(name: str) -> tuple[float, float, float]:
    """A typical colour in [0,1] of a name. Errors: KeyError for a name that is not in NAMES."""
    if name in GREYS:
        value = {"black": 0.08, "grey": 0.5, "white": 0.95}[name]
        return value, value, value
    if name == "brown":
        return 0.45, 0.27, 0.13
    return colorsys.hsv_to_rgb(HUES[name] / 360.0, 0.75, 0.85)
