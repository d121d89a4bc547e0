"""Fixtures of the backend tier: one shared backend, and fresh ones for tests that harm theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backend.backend_process import BackendProcess


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    """A backend that many tests share."""
    process = BackendProcess(tmp_path_factory.mktemp("shared"))
    yield process
    process.close()


@pytest.fixture
def start_backend(tmp_path: Path) -> Iterator[Callable[..., BackendProcess]]:
    """Starts backends over this test's own folder and ends those that are left."""
    started: list[BackendProcess] = []

    def start(**options: Any) -> BackendProcess:
        started.append(BackendProcess(tmp_path / "data", **options))
        return started[-1]

    yield start
    for process in started:
        process.close()
