"""`python -m tests.fakes.full_disk` is the backend's `serve` on a disk without room for a file above 100 kB.

Only the write border is replaced: syncing such a file fails as the kernel would.
"""

from __future__ import annotations

import errno
import os
import sys

from backend.jobs import files
from backend.server import serve

ROOM_BYTES = 100_000


def sync_file(descriptor: int) -> None:
    """`files.sync_file` on the full disk."""
    if os.fstat(descriptor).st_size > ROOM_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


if __name__ == "__main__":
    files.sync_file = sync_file
    sys.exit(serve.main(sys.argv[1:]))
