"""The backend's command line: `python -m backend serve | generate | batch | evaluate | train | models | systems`.

Each command is imported only when it is asked for, so `--help` needs no torch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence

from backend.contract.errors import MaquetteError

logger = logging.getLogger("backend")

COMMANDS = {
    "serve": ("backend.server.serve:main", "run the backend process that the extension talks to"),
    "generate": ("backend.systems.command:main", "make a 3D object from a picture, with its camera, or from text"),
    "batch": ("backend.systems.batch_command:main", "make an object of every line of a text file, or of every photo"),
    "evaluate": ("backend.evaluation.cupid:main", "measure a system on unseen views of a folder of GLB files"),
    "train": ("backend.training.cli:main", "train a stage of a system"),
    "models": ("backend.catalog.command:main", "list, install, import or remove published weights"),
    "systems": ("", "list the systems and whether they are ready"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Explained failures end with status 1 and one sentence."""
    parser = argparse.ArgumentParser(prog="python -m backend", description="Maquette's backend.")
    parser.add_argument("--log-level", default=os.environ.get("MAQUETTE_LOG_LEVEL", "INFO"), help="default: INFO")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, explanation) in COMMANDS.items():
        commands.add_parser(name, help=explanation, description=explanation, add_help=name == "systems")
    options, rest = parser.parse_known_args(arguments)
    # Before torch is loaded: its threads must sleep, not spin, while they wait. Spinning beside another busy process
    # (Blender, say) made one training step thirteen times slower on two cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(
        level=options.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        if options.command == "systems":
            return list_systems()
        module, _, function = COMMANDS[options.command][0].partition(":")
        return int(getattr(importlib.import_module(module), function)(rest) or 0)
    except MaquetteError as error:
        logger.error("%s%s", error, f" ({error.failure.detail})" if error.failure.detail else "")
        return 1
    except KeyboardInterrupt:
        logger.error("Interrupted.")
        return 130


def list_systems() -> int:
    """Write every system's description as JSON to standard output."""
    from backend.contract.messages import to_json
    from backend.systems import registry

    json.dump([to_json(info) for info in registry.list_systems()], sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
