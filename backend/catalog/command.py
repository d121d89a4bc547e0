"""`python -m backend models`: what can be installed, install it, take it from a folder, remove it.

With --json standard output is one JSON object a line: {"progress": {...}}, at last {"models": [ModelInfo, ...]} or
{"error": Failure}. With --stop-with-input the end of standard input cancels: so the extension ends an install, and so
it ends when Blender dies.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.catalog.catalog import (
    CatalogModel,
    find_model,
    is_installed,
    load_catalog,
    model_source,
    models_folder,
    with_needs,
)
from backend.catalog.download import Watch, gigabytes
from backend.catalog.install import import_model, install_model, remove_model, require_licences
from backend.catalog.installs import describe
from backend.contract.errors import MaquetteError
from backend.contract.messages import to_json

logger = logging.getLogger(__name__)

SAY_SECONDS = 0.25  # between two lines of progress


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`; with --json they are a line and the status is 1."""
    options = _options(arguments)
    cancelled = threading.Event()
    if options.stop_with_input:
        threading.Thread(target=_wait_for_end, args=(cancelled,), name="input", daemon=True).start()
    speaker = _Speaker(options.json)
    try:
        _run(options, Watch(cancelled=cancelled.is_set), speaker)
    except MaquetteError as error:
        if not options.json:
            raise
        logger.warning("%s (%s)", error, error.failure.detail)
        speaker.line({"error": to_json(error.failure)})
        return 1
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m backend models", description=__doc__)
    parser.add_argument("action", choices=("list", "install", "import", "remove"))
    parser.add_argument("model", nargs="?", help="which one, by the name that `list` shows")
    parser.add_argument("--from", dest="source_folder", type=Path, help="import: the folder with the published files")
    parser.add_argument("--folder", type=Path, help="where models are kept; default: $MAQUETTE_MODELS or ~/.maquette")
    parser.add_argument("--source", help="another address with the same paths; default: $MAQUETTE_MODEL_SOURCE")
    parser.add_argument("--accept-licence", action="append", default=[], metavar="LICENCE", dest="licences",
                        help="a licence you have read and accept, by its name; give it once for each")  # fmt: skip
    parser.add_argument("--everything", action="store_true", help="also the files that only training needs")
    parser.add_argument("--json", action="store_true", help="lines for programs")
    parser.add_argument("--stop-with-input", action="store_true", help="cancel when standard input ends")
    options = parser.parse_args(arguments)
    if options.action != "list" and not options.model:
        parser.error(f"{options.action} needs the name of a model")
    if options.action == "import" and options.source_folder is None:
        parser.error("import needs --from FOLDER")
    return options


def _run(options: argparse.Namespace, watch: Watch, speaker: _Speaker) -> None:
    root = (options.folder or models_folder()).absolute()
    chosen = [find_model(options.model)] if options.model else list(load_catalog().values())
    if options.action in ("install", "import"):
        require_licences(chosen[0], options.licences)
    if options.action == "install":
        source = options.source.rstrip("/") if options.source else model_source()
        install_model(root, chosen[0], source, watch, speaker.progress, options.everything)
    elif options.action == "import":
        if not options.source_folder.is_dir():
            raise MaquetteError("bad_input", f"The folder {options.source_folder} does not exist; choose another one.")
        left = import_model(root, chosen[0], options.source_folder, watch, speaker.progress, options.everything)
        if left:
            names = " and ".join(find_model(name).title for name in left)
            raise MaquetteError(
                "model_missing", f"{chosen[0].title} was imported; {names} is still to be installed.",
                str(options.source_folder), "install_model",
            )  # fmt: skip
    elif options.action == "remove":
        remove_model(root, chosen[0])
    speaker.models(root, list(load_catalog().values()) if options.json else chosen)


class _Speaker:
    """Says how it goes, for people or for programs."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._last = 0.0

    def line(self, value: dict[str, Any]) -> None:
        """One JSON line."""
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    def progress(self, name: str, done: int, total: int) -> None:
        """Not more often than an eye can follow."""
        now = time.monotonic()
        if now - self._last < SAY_SECONDS and done < total:
            return
        self._last = now
        message = f"{name}, {gigabytes(done)} of {gigabytes(total)}" if name else "Checked"
        if self._json:
            self.line({"progress": {"fraction": done / max(total, 1), "message": message}})
        else:
            sys.stderr.write(f"\r{message}   ")

    def models(self, root: Path, models: list[CatalogModel]) -> None:
        """The entries as they stand now."""
        if self._json:
            self.line({"models": [to_json(describe(root, model)) for model in models]})
            return
        for model in models:
            size = gigabytes(sum(file.expected_bytes for part in with_needs(model) for file in part.wanted()))
            state = "installed" if is_installed(root, model) else f"{size} to install" if model.files else "by hand"
            sys.stdout.write(f"{model.id:20}{state:22}{model.licence:12}{model.purpose}\n")


def _wait_for_end(cancelled: threading.Event) -> None:
    descriptor = sys.stdin.fileno()
    while os.read(descriptor, 4096):  # raw: a buffered reader would hold a lock when the process ends
        pass
    cancelled.set()

