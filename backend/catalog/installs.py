"""The installs of one backend: one thread, one model at a time, their state for whoever asks or listens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from backend.catalog.catalog import (
    CatalogModel,
    find_model,
    is_installed,
    load_catalog,
    missing_files,
    package_ready,
)
from backend.catalog.download import Watch, gigabytes
from backend.catalog.install import install_model, remove_model, require_licences
from backend.contract.errors import Cancelled, Failure, MaquetteError
from backend.contract.models import ModelInfo

logger = logging.getLogger(__name__)

Work = Callable[[Watch, Callable[[str, int, int], None]], None]


@dataclass(frozen=True)
class Progress:
    """How the install of one model stands. `running` until it ended."""

    running: bool
    fraction: float = 0.0
    message: str = ""
    failure: Failure | None = None


IDLE = Progress(False)


def describe(root: Path, model: CatalogModel, progress: Progress = IDLE) -> ModelInfo:
    """How `model` stands below `root`, with the progress of an install of it."""
    missing = missing_files(root, model)
    if progress.running:
        state = "installing"
    elif is_installed(root, model):
        state = "installed"
    elif not model.files:
        state = "by_hand"
    else:
        state = "failed" if progress.failure is not None else "absent"
    return ModelInfo(
        model.id, model.title, model.purpose, model.licence, model.licence_url,
        f"{model.repository}@{model.revision[:12]}".rstrip("@"), sum(file.expected_bytes for file in missing),
        state, model.optional, model.needs, dict(model.memory_gib), progress.fraction, progress.message,
        model.package, package_ready(model), progress.failure if state == "failed" else None,
    )  # fmt: skip


class Installs:
    """Installs into `root` from `source`. `explain` turns an unexpected exception into a failure."""

    def __init__(self, root: Path, source: str, explain: Callable[[BaseException], Failure]) -> None:
        self.root = root
        self.source = source
        self._explain = explain
        self._changed = threading.Condition()
        self._revision = 0
        self._progress: dict[str, Progress] = {}
        self._current = ""
        self._cancelled = threading.Event()

    def models(self) -> list[ModelInfo]:
        """Every entry of the catalogue and how it stands."""
        return [self.info(model) for model in load_catalog().values()]

    def info(self, model: CatalogModel) -> ModelInfo:
        """One entry."""
        return describe(self.root, model, self._progress.get(model.id, IDLE))

    def install(self, model_id: str, licences: tuple[str, ...], everything: bool = False) -> ModelInfo:
        """Begin to download `model_id`, unless it is on its way already.

        Errors: `MaquetteError` licence_required, bad_input (unknown, another one is on its way).
        """
        model = find_model(model_id)
        require_licences(model, licences)

        def work(watch: Watch, listener: Callable[[str, int, int], None]) -> None:
            install_model(self.root, model, self.source, watch, listener, everything)

        return self._begin(model, work)

    def remove(self, model_id: str) -> ModelInfo:
        """Delete an installed model's files. Errors: `MaquetteError` while an install runs."""
        model = find_model(model_id)
        with self._changed:
            self._refuse_while_busy("")
        remove_model(self.root, model)
        self._set(model.id, IDLE)
        return self.info(model)

    def cancel(self, model_id: str) -> ModelInfo:
        """Stop the install of `model_id` if it runs; what arrived stays for the next one."""
        model = find_model(model_id)
        if self._current == model_id:
            self._cancelled.set()
        return self.info(model)

    def stop(self) -> None:
        """Stop whatever runs."""
        self._cancelled.set()

    def wait(self, revision: int, seconds: float) -> int:
        """Return once anything changed since `revision`, or after `seconds`; returns the present revision."""
        with self._changed:
            self._changed.wait_for(lambda: self._revision != revision, seconds)
            return self._revision

    def _begin(self, model: CatalogModel, work: Work) -> ModelInfo:
        with self._changed:
            if self._current == model.id:
                return self.info(model)
            self._refuse_while_busy(model.id)
            self._current = model.id
            self._cancelled.clear()
            self._set(model.id, Progress(True, 0.0, "Starting"))
        thread = threading.Thread(target=self._run, args=(model, work), name=f"install {model.id}", daemon=True)
        thread.start()
        return self.info(model)

    def _refuse_while_busy(self, model_id: str) -> None:
        if self._current and self._current != model_id:
            title = find_model(self._current).title
            raise MaquetteError("bad_input", f"{title} is being installed. Wait for it, or cancel it first.")

    def _run(self, model: CatalogModel, work: Work) -> None:
        def listener(name: str, done: int, total: int) -> None:
            self._tell(model, name, done, total)

        try:
            work(Watch(cancelled=self._cancelled.is_set), listener)
        except Cancelled:
            ended = Progress(False, message="Cancelled. What arrived is kept.")
        except MaquetteError as error:
            logger.warning("%s is not installed: %s (%s)", model.id, error, error.failure.detail)
            ended = Progress(False, failure=error.failure)
        except Exception as error:  # the border of this thread
            logger.exception("%s is not installed", model.id)
            ended = Progress(False, failure=self._explain(error))
        else:
            ended = Progress(False, 1.0)
        with self._changed:
            self._current = ""
            self._set(model.id, ended)

    def _tell(self, model: CatalogModel, name: str, done: int, total: int) -> None:
        said = f"{name}, {gigabytes(done)} of {gigabytes(total)}" if name else "Installed"
        known = self._progress[model.id]
        fraction = min(1.0, done / max(total, 1))
        if said != known.message or fraction - known.fraction > 0.005:
            self._set(model.id, replace(known, fraction=fraction, message=said))

    def _set(self, model_id: str, progress: Progress) -> None:
        with self._changed:
            self._progress[model_id] = progress
            self._revision += 1
            self._changed.notify_all()
