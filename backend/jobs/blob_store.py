"""Content-addressed files: a blob's name is the SHA-256 of its bytes, so it can be neither wrong nor overwritten."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from backend.contract.errors import MaquetteError
from backend.contract.messages import SHA256
from backend.jobs import files

SPARE_BYTES = 64 * 1024 * 1024
"""Free space an upload must leave, so that the journal and the logs can still be written."""


class BlobStore:
    """Blobs below `folder`, in 256 sub-folders by their first two digits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the blob lies, whether it exists or not. Errors: `MaquetteError` bad_input for a malformed name."""
        if not SHA256.fullmatch(sha256):
            raise MaquetteError("bad_input", "A blob's name must be 64 hexadecimal digits.")
        return self.folder / sha256[:2] / sha256

    def exists(self, sha256: str) -> bool:
        """Whether the blob is here."""
        return self.path(sha256).is_file()

    def read(self, sha256: str) -> bytes:
        """The blob's bytes, checked. Errors: `MaquetteError` bad_input when absent or damaged on the disk."""
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError:
            raise MaquetteError(
                "bad_input", "An input of this job is gone. Choose the picture again.", sha256, "choose_image"
            ) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            self.remove(sha256)
            raise MaquetteError(
                "bad_input", "An input of this job is damaged. Choose the picture again.", sha256, "choose_image"
            )
        return data

    def put(self, data: bytes) -> str:
        """Store `data`; returns its name. Errors: OSError (a full disk among others)."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.exists(sha256):
            with self.writer(sha256) as writer:
                writer.write(data)
                writer.commit()
        return sha256

    def writer(self, sha256: str) -> BlobWriter:
        """A writer for the blob that shall be `sha256`; use it as a context."""
        path = self.path(sha256)
        path.parent.mkdir(exist_ok=True)
        return BlobWriter(path)

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes fit on the disk with `SPARE_BYTES` left."""
        return shutil.disk_usage(self.folder).free >= size + SPARE_BYTES

    def remove(self, sha256: str) -> None:
        """Delete the blob if it is here."""
        self.path(sha256).unlink(missing_ok=True)

    def remove_all(self, names: Iterable[str]) -> None:
        """Delete each named blob that is here."""
        for sha256 in names:
            self.remove(sha256)


class BlobWriter:
    """Bytes on their way into the store. What was not committed is deleted when the context ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._temporary = files.temporary_path(path.parent)
        self._stream = open(self._temporary, "wb", buffering=0)
        self._hash = hashlib.sha256()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`. Errors: OSError."""
        view = memoryview(data)
        self._hash.update(view)
        self.size += len(view)
        while view:  # an unbuffered file may take less than it was given
            view = view[self._stream.write(view) :]

    def commit(self) -> None:
        """Check the hash, sync, rename. Errors: `MaquetteError` bad_input on a wrong hash, OSError."""
        if self._hash.hexdigest() != self.path.name:
            raise MaquetteError("bad_input", "The uploaded bytes do not match their checksum. Send them again.")
        files.sync_file(self._stream.fileno())
        self._stream.close()
        if not self.path.exists():  # the same bytes may have arrived twice; Windows cannot replace an open file
            os.replace(self._temporary, self.path)
        files.sync_folder(self.path.parent)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._temporary.unlink(missing_ok=True)
