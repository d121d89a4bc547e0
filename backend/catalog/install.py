"""Installing a model: its files and those of what it needs, one after the other, downloaded or taken from a folder."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from backend.catalog.catalog import CatalogFile, CatalogModel, missing_files, with_needs
from backend.catalog.download import PART_SUFFIX, Watch, check_space, download_file, import_file
from backend.contract.errors import MaquetteError

logger = logging.getLogger(__name__)

Listener = Callable[[str, int, int], None]
"""Hears the name of the file that is being brought, the bytes that are there, and the bytes there will be."""

LOCK_NAME = "install.lock"


def require_licences(model: CatalogModel, accepted: Iterable[str]) -> None:
    """Errors: `MaquetteError` licence_required naming the first licence that was not accepted."""
    known = set(accepted)
    for part in with_needs(model):
        if part.licence not in known:
            raise MaquetteError(
                "licence_required",
                f"{part.title} may be used under the licence {part.licence}. Read and accept it first.",
                part.licence_url,
                "install_model",
            )


def install_model(
    root: Path, model: CatalogModel, source: str, watch: Watch, listener: Listener, everything: bool = False
) -> None:
    """Download what is missing of `model` and of what it needs into `root`. Whoever calls has the licences accepted.

    Errors: `MaquetteError` offline, disk_full, bad_input; `Cancelled`. What arrived stays for the next try.
    """
    import requests  # see download.py

    plan = _plan(root, model, everything)
    with _one_at_a_time(root), requests.Session() as session:
        check_space(root, sum(file.expected_bytes - _part_bytes(root, part, file) for part, file in plan))

        def bring_one(part: CatalogModel, file: CatalogFile, target: Path, inner: Watch) -> None:
            download_file(part.address(file, source), target, file, inner, session)

        _bring(plan, root, watch, listener, bring_one)


def import_model(
    root: Path, model: CatalogModel, folder: Path, watch: Watch, listener: Listener, everything: bool = False
) -> tuple[str, ...]:
    """Take `model` from a folder that has the published files, in the published layout or all in one place.

    What the model needs is taken too where the folder (or its neighbour of that name) has it. Returns the names of
    needed models that are still to be installed. Errors: `MaquetteError` bad_input naming the first file that is not
    there or is damaged, disk_full; `Cancelled`.
    """
    plan, left = [], []
    for part in with_needs(model):
        wanted = missing_files(root, part, everything)
        found = [(file, _find(folder, part, file)) for file in wanted]
        if part is not model and any(place is None for _, place in found):
            left.append(part.id)
            continue
        for file, place in found:
            if place is None:
                raise MaquetteError(
                    "bad_input",
                    f"{folder.name} has no {file.path}. Choose the folder that holds {model.title}'s published files.",
                    str(folder),
                )
            plan.append((part, file, place))
    places = {(part.id, file.path): place for part, file, place in plan}
    with _one_at_a_time(root):
        check_space(root, sum(place.stat().st_size for place in places.values() if not _same_disk(place, root)))

        def bring_one(part: CatalogModel, file: CatalogFile, target: Path, inner: Watch) -> None:
            import_file(places[part.id, file.path], target, file, inner)

        _bring([(part, file) for part, file, _ in plan], root, watch, listener, bring_one)
    return tuple(left)


def remove_model(root: Path, model: CatalogModel) -> None:
    """Delete the files of `model` (not of what it needs), and what a cut download left of them."""
    folder = root / model.id
    for file in model.files:
        for name in (file.path, file.path + PART_SUFFIX):
            (folder / name).unlink(missing_ok=True)
    for path in sorted((folder, *(place for place in folder.rglob("*") if place.is_dir())), reverse=True):
        with contextlib.suppress(OSError):  # not empty: somebody else's files stay
            path.rmdir()


def _plan(root: Path, model: CatalogModel, everything: bool) -> list[tuple[CatalogModel, CatalogFile]]:
    parts = with_needs(model)
    by_hand = [part for part in parts if not part.files]
    if by_hand:
        raise MaquetteError(
            "bad_input",
            f"{by_hand[0].title} has its own installation; its page says how.",
            by_hand[0].licence_url,
        )
    return [(part, file) for part in parts for file in missing_files(root, part, everything)]


def _bring(
    plan: list[tuple[CatalogModel, CatalogFile]],
    root: Path,
    watch: Watch,
    listener: Listener,
    bring_one: Callable[[CatalogModel, CatalogFile, Path, Watch], None],
) -> None:
    total = sum(file.expected_bytes for _, file in plan)
    before = 0
    for part, file in plan:
        name, done = Path(file.path).name, before
        listener(name, done, total)
        inner = Watch(partial(_told, listener, name, done, total), watch.cancelled)
        bring_one(part, file, root / part.id / file.path, inner)
        before += file.expected_bytes
    listener("", total, total)


def _told(listener: Listener, name: str, before: int, total: int, count: int) -> None:
    listener(name, before + count, total)


def _find(folder: Path, model: CatalogModel, file: CatalogFile) -> Path | None:
    places = (folder / file.path, folder / Path(file.path).name, folder / model.id / file.path,
              folder.parent / model.id / file.path)  # fmt: skip
    if model.needs or len(model.files) > 1:
        return next((place for place in places if place.is_file()), None)
    # a model of one file with a common name must not take its neighbour's
    own = [place for place in places if model.id in place.parts or place.parent == folder]
    sized = [place for place in own if place.is_file() and (not file.bytes or place.stat().st_size == file.bytes)]
    return sized[0] if sized else None


def _part_bytes(root: Path, model: CatalogModel, file: CatalogFile) -> int:
    try:
        return (root / model.id / (file.path + PART_SUFFIX)).stat().st_size
    except OSError:
        return 0


def _same_disk(place: Path, root: Path) -> bool:
    return place.resolve().stat().st_dev == root.stat().st_dev if root.exists() else False


@contextlib.contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Hold the folder's lock. Errors: `MaquetteError` when another process installs there."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / LOCK_NAME, "a+b") as stream:
        try:
            _lock(stream.fileno())
        except OSError as error:
            raise MaquetteError(
                "bad_input", "Another Blender is installing models. Wait until it is done and press Install again.",
                repr(error), "install_model",
            ) from error  # fmt: skip
        yield


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
