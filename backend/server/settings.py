"""What a backend is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

JSON_LIMIT_BYTES = 1024 * 1024
"""A job request is a few hundred bytes; pictures travel as blobs."""

BLOB_LIMIT_BYTES = 1024 * 1024 * 1024
"""Larger than any picture or mesh the add-on sends, smaller than what would fill a disk by mistake."""


@dataclass(frozen=True)
class Settings:
    """Settings of one backend process. `port` is the bound one; `docs` serves the OpenAPI pages (behind the token)."""

    data: Path
    token: str
    port: int
    device: str = "cpu"
    docs: bool = False
    json_limit: int = JSON_LIMIT_BYTES
    blob_limit: int = BLOB_LIMIT_BYTES
