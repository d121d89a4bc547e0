"""`python -m backend train SYSTEM --stage NAME --data DIR --minutes M [--resume] [--export]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Train one stage of one system; prints its last measures as JSON. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="backend train", description=__doc__)
    parser.add_argument("system", choices=["cupid"])
    parser.add_argument("--stage", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards (python -m backend.data.prepare)")
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

    from backend.systems.cupid.train import TrainRequest, train

    options = vars(arguments)
    options.pop("system")
    result = train(TrainRequest(**options))
    sys.stdout.write(json.dumps(result) + "\n")
    return 0
