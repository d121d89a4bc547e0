"""The loss curve of a run as a picture, drawn with Pillow alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = (960, 480)
MARGIN = 56
COLOURS = ((66, 114, 196), (221, 132, 82), (85, 168, 104), (196, 78, 82), (129, 114, 179))


def plot_log(log: Path, picture: Path) -> None:
    """Draw every loss of `log` (JSON lines with `step`) over the steps, on a logarithmic scale, into `picture`."""
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.strip()] if log.exists() else []
    names = [n for n in dict.fromkeys(k for row in rows for k in row) if n not in ("step", "seconds", "gradient_norm")]
    curves = {n: [(row["step"], row[n]) for row in rows if row.get(n, 0) > 0] for n in names}
    curves = {n: c for n, c in curves.items() if len(c) > 1}
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((MARGIN, MARGIN // 2, SIZE[0] - MARGIN, SIZE[1] - MARGIN), outline=(180, 180, 180))
    if curves:
        values = [math.log10(v) for c in curves.values() for _, v in c]
        low, high = min(values), max(max(values), min(values) + 1e-6)
        last = max(s for c in curves.values() for s, _ in c)
        for index, (name, curve) in enumerate(curves.items()):
            colour = COLOURS[index % len(COLOURS)]
            points = [
                (
                    MARGIN + (SIZE[0] - 2 * MARGIN) * step / last,
                    SIZE[1] - MARGIN - (SIZE[1] - 1.5 * MARGIN) * (math.log10(value) - low) / (high - low),
                )
                for step, value in curve
            ]
            draw.line(points, fill=colour, width=2)
            draw.text((MARGIN + 8, MARGIN // 2 + 6 + 14 * index), f"{name}: {curve[-1][1]:.4g}", fill=colour)
        draw.text((4, SIZE[1] - MARGIN - 6), f"{10**low:.2g}", fill=(60, 60, 60))
        draw.text((4, MARGIN // 2), f"{10**high:.2g}", fill=(60, 60, 60))
        draw.text((SIZE[0] - MARGIN - 40, SIZE[1] - MARGIN + 8), f"{last} steps", fill=(60, 60, 60))
    image.save(picture)
