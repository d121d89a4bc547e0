"""`python -m backend train SYSTEM --stage NAME --data DIR --minutes M [--resume] [--export]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

OWN_OPTIONS = {
    "photos": "kiss3dgen", "degraded": "kiss3dgen", "random": "cupid", "limit": "cupid",
    **dict.fromkeys(("assets", "start", "views", "without", "frozen", "independent", "plain", "objects"), "refany3d"),
}  # fmt: skip
"""Options that only one system knows, and which."""


def main(argv: Sequence[str]) -> int:
    """Train one stage of one system; prints its last measures as JSON. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="backend train", description=__doc__)
    parser.add_argument("system", choices=["cupid", "kiss3dgen", "refany3d"])
    parser.add_argument("--stage", required=True)
    parser.add_argument(
        "--data", type=Path, required=True,
        help="folder of shards (python -m backend.data.prepare, .bundles or .reference_scenes)",
    )  # fmt: skip
    parser.add_argument("--photos", type=Path, default=None, help="kiss3dgen: shards of the same objects' photos")
    parser.add_argument(
        "--degraded", type=Path, default=None, help="kiss3dgen: bundles made with --degraded, for the controlnet stage"
    )
    parser.add_argument("--assets", type=Path, default=None, help="refany3d: folder of the scenes' objects, for lora")
    parser.add_argument("--start", type=Path, default=None, help="refany3d: folder of the exported base to start from")
    parser.add_argument("--views", type=int, default=8, choices=(4, 6, 8), help="refany3d: views of an object")
    parser.add_argument(
        "--without", nargs="+", default=[], choices=("points", "positions", "domain-lora"),
        help="refany3d: ablations: no point maps, no shared positions, one LoRA",
    )  # fmt: skip
    parser.add_argument("--frozen", action="store_true", help="refany3d: the base does not learn in lora, as published")
    parser.add_argument(
        "--independent",
        action="store_true",
        help="refany3d: views see themselves only and can be kept from step to step",
    )
    parser.add_argument("--plain", type=float, default=0.5, help="refany3d: share of lora's pictures on white")
    parser.add_argument("--objects", type=int, default=None, help="refany3d: objects that have such pictures, at most")
    parser.add_argument("--out", type=Path, default=Path("build/training"), help="folder of the runs")
    parser.add_argument("--config", default="mini", help="mini, full or a JSON file")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, default=0, help="end after so many steps instead of --minutes")
    parser.add_argument("--limit", type=int, default=None, help="use only so many objects of each split")
    parser.add_argument(
        "--random", action="store_true",
        help="a trial of one's machine: frozen networks get random weights, nothing is validated or saved",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument("--export", action="store_true", help="write the averaged weights to backend/weights/mini")
    parser.add_argument("--export-to", type=Path, default=None, help="folder for --export instead of that one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0, help="learning rate; 0 takes the stage's own")
    parser.add_argument("--total", type=int, default=100_000, help="steps of the cosine schedule")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    options = vars(arguments)
    system = options.pop("system")
    for name, owner in OWN_OPTIONS.items():
        if system != owner and options.pop(name) != parser.get_default(name):
            parser.error(f"--{name} is for {owner}; leave it out")
    if system == "cupid":
        from backend.systems.cupid.train import TrainRequest, train

        result = train(TrainRequest(**options))
    elif system == "kiss3dgen":
        from backend.systems.kiss3dgen.train import train as train_kiss
        from backend.systems.kiss3dgen.train_stage import KissTrainRequest

        result = train_kiss(KissTrainRequest(**options))
    else:
        from backend.systems.refany3d.train import RefAny3DTrainRequest
        from backend.systems.refany3d.train import train as train_refany3d

        options["without"] = tuple(options["without"])
        result = train_refany3d(RefAny3DTrainRequest(**options))
    sys.stdout.write(json.dumps(result) + "\n")
    return 0
