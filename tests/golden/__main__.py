"""``python -m tests.golden DIR``: replay every golden case of a folder, one line a case.

Exit status 1 when a case misses its tolerance, is unknown or cannot be replayed, or when the folder holds none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from tests.golden import (
    cupid_dense,
    cupid_sparse,
    kiss3dgen_flux,
    kiss3dgen_isomer,
    kiss3dgen_lrm,
    kiss3dgen_projection,
    refany3d_networks,
    refany3d_sampling,
)
from tests.golden.replay import Replay, list_cases, replay_case

REPLAYS: dict[str, Replay] = {
    **cupid_dense.REPLAYS,
    **cupid_sparse.REPLAYS,
    **kiss3dgen_flux.REPLAYS,
    **kiss3dgen_isomer.REPLAYS,
    **kiss3dgen_lrm.REPLAYS,
    **kiss3dgen_projection.REPLAYS,
    **refany3d_networks.REPLAYS,
    **refany3d_sampling.REPLAYS,
}


def main(arguments: list[str] | None = None) -> int:
    """Replay and report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description="Replay golden vectors.")
    parser.add_argument("folder", type=Path, help="folder of <case>.json and <case>.npz files")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    cases = list_cases(options.folder)
    results = []
    for path in cases:
        result = replay_case(path, REPLAYS)
        sys.stdout.write(result.line() + "\n")
        sys.stdout.flush()
        results.append(result)
    failed = sum(not result.passed for result in results)
    sys.stdout.write(f"{len(results)} cases, {failed} failed\n" if results else "no golden case in this folder\n")
    return 0 if results and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
