"""The add-on's own view of its jobs, kept on disk so that results can be applied after a restart.

One folder a job below `root`: `job.json` (a `JobRecord`), copies of what it was made from, and the artifacts.
Only the main thread calls the store; the connection's thread writes artifact files into the folders.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...backend.contract.errors import Failure
from ...backend.contract.messages import Artifact, MessageError, from_json, to_json
from .disk_thread import DiskThread

logger = logging.getLogger(__name__)

ACTIVE_STATES = ("sending", "queued", "running")
"""A job that still wants the backend. `sending` is the add-on's own state: the backend has not confirmed it yet."""

BUNDLE = "bundle.png"  # the artifact that shows the pictures from four sides which a result was made from
CONDITIONS = tuple(f"{kind}-{number}.png" for kind in ("view", "place") for number in range(8))
"""Small pictures of what a job of rendered pictures was given, in its folder: colours, then places."""
_VARIANT = re.compile(r"(hypothesis_|picture-)\d+\.png")
_PROGRESS = {"stage", "fraction", "position", "message", "waiting"}


@dataclass(frozen=True)
class JobRecord:
    """One job. `origin` says what to do with the result (`intent.ApplyIntent` as JSON); `fraction` is in [0, 1].

    `more_inputs` maps the names of inputs beside image and mask to file paths (`inputs` lists them).

    `downloaded` means every artifact lies in the job's folder; `applied` counts how often the result was applied.
    """

    job_id: str
    title: str
    system: str
    task: str
    parameters: dict[str, Any]
    origin: dict[str, Any]
    image_path: str
    created: float
    mask_path: str = ""
    state: str = "sending"
    stage: str = ""
    fraction: float = 0.0
    position: int = 0
    message: str = ""
    input_sha256: str = ""
    input_name: str = ""
    artifacts: tuple[Artifact, ...] = ()
    downloaded: bool = False
    applied: int = 0
    waiting: str = ""
    failure: Failure | None = None
    report: dict[str, Any] = field(default_factory=dict)
    more_inputs: dict[str, str] = field(default_factory=dict)

    @property
    def variants(self) -> tuple[str, ...]:
        """The pictures of the result's variants, best first; empty when there is only one."""
        return tuple(item.name for item in self.artifacts if _VARIANT.fullmatch(item.name))

    @property
    def active(self) -> bool:
        """Whether the job is still being worked on."""
        return self.state in ACTIVE_STATES


class JobStore:
    """All jobs, newest first. `revision` grows with every change, so that panels redraw only then.

    `disk` writes changes in their order on its own thread, so that a slow disk never holds the caller; None writes at
    once. New jobs are always written at once, because the artist must know when that fails.
    """

    def __init__(self, root: Path, disk: DiskThread | None = None) -> None:
        self.root = root
        self._disk = disk
        self.revision = 0
        self._records: dict[str, JobRecord] = {}

    def load(self) -> None:
        """Read every job below the root. A folder that cannot be read is left alone and named in the log."""
        self.root.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.root.glob("*/job.json")):
            try:
                record = from_json(JobRecord, json.loads(path.read_text("utf-8")))
            except (OSError, ValueError, MessageError) as error:
                logger.warning("The job in %s cannot be read: %s", path.parent, error)
                continue
            self._records[record.job_id] = record
        self.revision += 1

    def all(self) -> list[JobRecord]:
        """Every job, newest first."""
        return sorted(self._records.values(), key=lambda record: record.created, reverse=True)

    def get(self, job_id: str) -> JobRecord | None:
        """The job `job_id`, or None."""
        return self._records.get(job_id)

    def put(self, record: JobRecord) -> JobRecord:
        """Keep `record` and write it to disk. Errors: OSError when the folder cannot be written."""
        self._write(record)
        self._records[record.job_id] = record
        self.revision += 1
        return record

    def update(self, job_id: str, **changes: Any) -> JobRecord | None:
        """Change some fields. Only a change that must survive a restart is written: progress is not.

        A write that fails is logged; the change is kept in memory.
        """
        old = self._records.get(job_id)
        if old is None:
            return None
        new = dataclasses.replace(old, **changes)
        if new == old:
            return old
        changed = {name for name in changes if getattr(new, name) != getattr(old, name)}
        if not changed <= _PROGRESS:
            self._later(lambda: self._write(new))
        self._records[job_id] = new
        self.revision += 1
        return new

    def touch(self) -> None:
        """Have the panels drawn again: something beside the records changed."""
        self.revision += 1

    def remove(self, job_id: str) -> None:
        """Forget the job and delete its folder."""
        if self._records.pop(job_id, None) is not None:
            self._later(lambda: shutil.rmtree(self.folder(job_id), ignore_errors=True))
            self.revision += 1

    def folder(self, job_id: str) -> Path:
        """The job's folder."""
        return self.root / job_id

    def artifact_path(self, job_id: str, name: str) -> Path:
        """Where the artifact `name` lies once it is downloaded."""
        return self.folder(job_id) / name

    def input_path(self, record: JobRecord, name: str = "image") -> Path | None:
        """An input's file: where the artist chose it, else our copy; None when both are gone."""
        chosen = {"image": record.image_path, "mask": record.mask_path, **record.more_inputs}.get(name, "")
        path = Path(chosen)
        kept = record.input_name if name == "image" else kept_name(name, path.suffix)
        for candidate in (path, self.folder(record.job_id) / (kept or "missing")):
            if chosen and candidate.is_file():
                return candidate
        return None

    def _later(self, task: Callable[[], None]) -> None:
        if self._disk is None:
            _logged(task)
        else:
            self._disk.submit(lambda: _logged(task))

    def _write(self, record: JobRecord) -> None:
        folder = self.folder(record.job_id)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "job.json.part"
        temporary.write_text(json.dumps(to_json(record), indent=1), "utf-8")
        os.replace(temporary, folder / "job.json")


def kept_name(name: str, suffix: str) -> str:
    """What the copy of the input `name` is called in a job's folder: input.png, input_mask.png."""
    return ("input" if name == "image" else f"input_{name}") + suffix.lower()


def _logged(task: Callable[[], None]) -> None:
    try:
        task()
    except OSError:
        logger.exception("A job cannot be written; it is kept in memory")
