"""One file from a server or from a folder into its place: whole and checked, or not there at all.

Bytes go into `NAME.part` beside the place. A download that was cut goes on where it stopped (HTTP Range), also after a
restart. Only a file of the right size and checksum is renamed into place; one with a wrong checksum is removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from backend.catalog.catalog import SMALL_FILE_BYTES, CatalogFile
from backend.contract.errors import Cancelled, MaquetteError

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 60.0  # a server that says nothing for this long is gone
NETWORK_BYTES = 64 * 1024  # a cut loses less than one such piece
PART_BYTES = 1024 * 1024
TRIES = 5  # without a new byte between them
PAUSE_SECONDS = 1.0  # before the first further try; doubles
SPARE_BYTES = 256 * 1024 * 1024  # left free on the disk for journals, logs and Blender itself
PART_SUFFIX = ".part"


@dataclass(frozen=True)
class Watch:
    """Who looks on: `progress` hears how many bytes of the present file are there, `cancelled` is asked often."""

    progress: Callable[[int], None] = lambda done: None
    cancelled: Callable[[], bool] = lambda: False

    def check(self) -> None:
        """Errors: `Cancelled`."""
        if self.cancelled():
            raise Cancelled


def check_space(folder: Path, needed: int) -> None:
    """Errors: `MaquetteError` disk_full, before a byte is written, when `needed` bytes do not fit into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise MaquetteError(
            "disk_full",
            f"This needs {gigabytes(needed + SPARE_BYTES)} and only {gigabytes(free)} are free. Free some space or "
            "choose another data folder.",
            str(folder),
            "free_disk",
        )


def gigabytes(count: int) -> str:
    """`count` bytes for an artist: "5.6 GB", "176 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 1):.0f} MB"


def download_file(url: str, target: Path, file: CatalogFile, watch: Watch, session: requests.Session) -> None:
    """Bring `file` from `url` to `target`, going on with what an earlier try left.

    Errors: `MaquetteError` offline, disk_full, bad_input (wrong size or checksum), `Cancelled`. After a cancel or a cut
    the bytes stay for the next try; after a wrong checksum they are gone.
    """
    import requests  # a second on a cold start, which the server need not wait for

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART_SUFFIX)
    failures, before, checksum = 0, -1, file.sha256
    while True:
        watch.check()
        size = part.stat().st_size if part.exists() else 0
        failures = failures + 1 if size <= before else 0
        before = size
        try:
            checksum = _fetch(url, part, file, watch, session) or checksum
            break
        except (requests.RequestException, _Cut) as error:
            logger.warning("%s: %r after %d bytes", file.path, error, part.stat().st_size if part.exists() else 0)
            if failures + 1 >= TRIES:
                raise MaquetteError(
                    "offline",
                    f"{target.name} cannot be downloaded. Check the connection and press Install again; it goes on "
                    "where it stopped.",
                    f"{url}: {error!r}",
                    "install_model",
                ) from error
            _pause(PAUSE_SECONDS * 2**failures, watch)
        except OSError as error:
            raise _disk_error(error, target) from error
    settle(part, target, file, checksum, watch)


def _pause(seconds: float, watch: Watch) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watch.check()
        time.sleep(0.1)


class _Cut(Exception):
    """The answer ended before its announced end, or was not an answer to what was asked."""


def _fetch(url: str, part: Path, file: CatalogFile, watch: Watch, session: requests.Session) -> str:
    """One request, appended to `part`. Returns the SHA-256 that the server names for the file, or ""."""
    have = part.stat().st_size if part.exists() else 0
    if file.bytes and have >= file.bytes:
        if have == file.bytes:
            return ""
        part.unlink()
        have = 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    timeout = (CONNECT_SECONDS, SILENCE_SECONDS)
    with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == 416:  # nothing after our last byte: it is whole, or it is another file
            checksum = _named_checksum(response)
            if file.small or (not file.bytes and not checksum):
                part.unlink()
                raise _Cut("the server has no such range")
            return checksum
        if response.status_code in (401, 403, 404, 410):
            raise MaquetteError(
                "offline",
                f"The server does not give out {Path(file.path).name}. Choose another model source in the preferences, "
                "or import the files from a folder.",
                f"{url}: status {response.status_code}",
                "install_model",
            )
        if response.status_code not in (200, 206):
            raise _Cut(f"status {response.status_code}")
        start = _range_start(response) if response.status_code == 206 else 0
        if start not in (0, have):
            raise _Cut(f"asked for byte {have}, got byte {start}")
        total = start + int(response.headers.get("Content-Length", -1 - start))
        if file.bytes and total not in (-1, file.bytes):
            raise _wrong(part, file, f"The server's {Path(file.path).name} has {total} bytes, not {file.bytes}")
        with open(part, "r+b" if have and start else "wb") as stream:
            stream.seek(start)
            _copy(response, stream, start, file, watch)
            done = stream.tell()
        if total >= 0 and done < total:
            raise _Cut(f"{done} of {total} bytes")
        return _named_checksum(response)


def _copy(response: requests.Response, stream: BinaryIO, start: int, file: CatalogFile, watch: Watch) -> None:
    done = start
    for chunk in response.iter_content(NETWORK_BYTES):
        watch.check()
        stream.write(chunk)
        done += len(chunk)
        if (file.bytes and done > file.bytes) or (file.small and done > SMALL_FILE_BYTES):
            raise _Cut(f"more than {file.bytes or SMALL_FILE_BYTES} bytes")
        watch.progress(done)


def _range_start(response: requests.Response) -> int:
    """The first byte of a partial answer: `Content-Range: bytes 100-199/200`."""
    words = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(words) if words.isdigit() else -1


def _named_checksum(response: requests.Response) -> str:
    """The SHA-256 that a server of large files names in its answer or in the redirection to it; "" if none does."""
    for answer in (response, *response.history):
        for name in ("X-Linked-Etag", "X-Checksum-Sha256"):
            value = answer.headers.get(name, "").strip('W/"').lower()
            if len(value) == 64 and set(value) <= set("0123456789abcdef"):
                return value
    return ""


def settle(part: Path, target: Path, file: CatalogFile, checksum: str, watch: Watch) -> None:
    """Check the finished `part` and rename it to `target`. Errors: `MaquetteError` bad_input; then `part` is gone."""
    problem = check_file(part, file, checksum, watch)
    if problem:
        raise _wrong(part, file, problem)
    try:
        with open(part, "r+b") as stream:  # Windows syncs only what may be written
            os.fsync(stream.fileno())
        os.replace(part, target)
    except OSError as error:
        raise _disk_error(error, target) from error
    logger.info("%s: %d bytes, checked", target, target.stat().st_size)


def check_file(path: Path, file: CatalogFile, checksum: str, watch: Watch) -> str:
    """What is wrong with the bytes at `path`, as the beginning of a sentence; "" when they are right."""
    size, name = path.stat().st_size, Path(file.path).name
    if file.bytes and size != file.bytes:
        return f"{name} has {size} bytes, not {file.bytes}"
    if file.small:
        return "" if _is_json(path) else f"{name} is not the description that belongs there"
    if name.endswith(".safetensors") and safetensors_bytes(path) != size:
        return f"{name} is cut off or no file of weights"
    if checksum:
        found = file_sha256(path, watch)
        if not found.startswith(checksum):
            return f"{name} is damaged: its checksum begins with {found[:12]}, not {checksum[:12]}"
    return ""


def file_sha256(path: Path, watch: Watch) -> str:
    """The SHA-256 of the file. Errors: OSError, `Cancelled`."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in _chunks(stream):
            watch.check()
            digest.update(chunk)
    return digest.hexdigest()


def import_file(source: Path, target: Path, file: CatalogFile, watch: Watch) -> None:
    """Check `source` and link it to `target` (the same bytes twice on one disk are one too many), else copy it.

    Errors: `MaquetteError` bad_input naming what is wrong, disk_full, `Cancelled`. `source` is never changed.
    """
    source = source.resolve()  # download caches are made of links
    problem = check_file(source, file, file.sha256, watch)
    if problem:
        raise MaquetteError("bad_input", f"{problem}. Choose another folder, or install it.", str(source))
    part = target.with_name(target.name + PART_SUFFIX)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError:  # another disk, or one without links
            with open(source, "rb") as incoming, open(part, "wb") as stream:
                for chunk in _chunks(incoming):
                    watch.check()
                    stream.write(chunk)
                    watch.progress(stream.tell())
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _disk_error(error, target) from error
    except Cancelled:
        part.unlink(missing_ok=True)
        raise
    watch.progress(target.stat().st_size)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(PART_BYTES):
        yield chunk


def safetensors_bytes(path: Path) -> int:
    """The size that the file's own header announces (eight bytes of length, the header, the tensors); -1 without one.
    """
    try:
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= 100_000_000:  # the format's own limit
                return -1
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return -1


def _is_json(path: Path) -> bool:
    try:
        return path.stat().st_size <= SMALL_FILE_BYTES and isinstance(json.loads(path.read_bytes()), dict)
    except ValueError:
        return False


def _wrong(part: Path, file: CatalogFile, problem: str) -> MaquetteError:
    part.unlink(missing_ok=True)
    return MaquetteError(
        "bad_input", f"{problem}. It was removed; press Install again or choose another model source.", file.path,
        "install_model",
    )  # fmt: skip


def _disk_error(error: OSError, target: Path) -> MaquetteError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MaquetteError(
            "disk_full",
            f"The disk is full: {target.name} does not fit. Free some space and press Install again; it goes on where "
            "it stopped.",
            repr(error),
            "free_disk",
        )
    return MaquetteError(
        "bad_input", f"{target.name} cannot be written to {target.parent}. Choose another data folder.", repr(error),
        "set_up",
    )  # fmt: skip
