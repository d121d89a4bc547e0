"""How quick the differentiable rasteriser is, for `build.py bench`.

`python -m backend.rendering.differentiable_bench [--threads N]` draws a closed mesh of 20,000 triangles, which is
as wide as three quarters of the picture, in 4 views of 512 x 512 pixels, with its positions as colours and an alpha.
It prints a JSON line: seconds of a forward pass (rasterise, interpolate, antialias), of its parts, and of the gradient
to the vertices after it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backend.nn.devices import best_device
from backend.rendering.differentiable import antialias, interpolate, rasterize

SEGMENTS = 100
"""Of the ball: twice its square are the triangles."""

SIZE = 512
VIEWS = 4
DISTANCE, FIELD = 2.5, math.radians(30)
NEAR, FAR = 0.1, 1000.0


def lumpy_ball() -> tuple[Tensor, Tensor]:
    """A closed mesh in the cube [-0.5,0.5]^3: vertices [N,3], faces [20000,3]."""
    around = torch.arange(SEGMENTS) * (2 * math.pi / SEGMENTS)
    down = torch.arange(1, SEGMENTS + 1) * (math.pi / (SEGMENTS + 1))
    theta, phi = torch.meshgrid(down, around, indexing="ij")
    radius = 0.5 - 0.03 * (1 + (6 * phi).sin() * (5 * theta).sin())
    rings = radius[..., None] * torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1)
    poles = torch.tensor([[0.0, 0.0, 0.47], [0.0, 0.0, -0.47]])
    index = torch.arange(SEGMENTS * SEGMENTS).view(SEGMENTS, SEGMENTS)
    a, b, c, d = index[:-1], index[1:], index[1:].roll(-1, 1), index[:-1].roll(-1, 1)
    top, bottom = (torch.full((SEGMENTS,), SEGMENTS * SEGMENTS + pole) for pole in (0, 1))
    faces = [torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)]
    faces.append(torch.stack([top, index[0], index[0].roll(-1)], -1))
    faces.append(torch.stack([index[-1], bottom, index[-1].roll(-1)], -1))
    return torch.cat([rings.reshape(-1, 3), poles]), torch.cat([part.reshape(-1, 3) for part in faces])


def views_to_clip() -> Tensor:
    """World to clip [V,4,4] of cameras around the z axis that look at the middle."""
    scale = 1 / math.tan(FIELD / 2)
    rows = [[scale, 0, 0, 0], [0, scale, 0, 0], [0, 0, (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)]]
    projection = torch.tensor([*rows, [0, 0, 1, 0]])
    cameras = torch.zeros(VIEWS, 4, 4)
    for camera, angle in zip(cameras, torch.arange(VIEWS) * (2 * math.pi / VIEWS), strict=True):
        sine, cosine = math.sin(angle), math.cos(angle)
        camera[:] = torch.tensor([[cosine, sine, 0, 0], [0, 0, -1, 0], [-sine, cosine, 0, DISTANCE], [0, 0, 0, 1]])
    return projection @ cameras


def measure(
    device: torch.device | None = None, repeats: int = 5, clock: Callable[[], float] = time.perf_counter
) -> dict[str, object]:
    """The shortest of `repeats` passes after one that does not count, as numbers for JSON."""
    device = device or torch.device("cpu")
    vertices, faces = (part.to(device) for part in lumpy_ball())
    matrices = views_to_clip().to(device)
    took: list[list[float]] = []
    for _ in range(repeats + 1):
        times = [_now(device, clock)]
        moved = vertices.clone().requires_grad_()
        ones = torch.ones_like(moved[:, :1])
        clip = torch.cat([moved, ones], 1) @ matrices.transpose(1, 2)
        fragments = rasterize(clip, faces, (SIZE, SIZE))
        times.append(_now(device, clock))
        image = interpolate(fragments, torch.cat([moved, ones], 1), faces)
        times.append(_now(device, clock))
        image = antialias(image, fragments, clip, faces)
        times.append(_now(device, clock))
        image.square().mean().backward()
        times.append(_now(device, clock))
        took.append([stop - start for start, stop in zip(times, times[1:], strict=False)])
    best = min(took[1:], key=sum)
    names = ("rasterize_seconds", "interpolate_seconds", "antialias_seconds", "backward_seconds")
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "triangles": len(faces),
        "views": VIEWS,
        "size": SIZE,
        "covered_pixels": len(fragments.pixels),
        "forward_seconds": round(sum(best[:3]), 4),
        **{name: round(value, 4) for name, value in zip(names, best, strict=True)},
    }


def _now(device: torch.device, clock: Callable[[], float]) -> float:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return clock()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=str(best_device()))
    parser.add_argument("--threads", type=int, default=2, help="threads of a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--processor-time", action="store_true", help="count the processor's time, all threads together"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor_time else time.perf_counter
    sys.stdout.write(json.dumps(measure(torch.device(options.device), options.repeats, clock)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
