"""The job journal: one SQLite file that every change passes through before anybody hears of it.

Any thread may call it; one lock serialises them. Changes of a job's state are synced to the disk, progress is not
(losing the last step of a running job in a power cut harms nobody).
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend.contract.errors import Failure
from backend.contract.messages import Artifact, JobEvent, JobRequest, JobSummary, from_json, to_json

logger = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE NOT NULL, state TEXT NOT NULL,
    system TEXT NOT NULL, task TEXT NOT NULL, stage TEXT NOT NULL DEFAULT '', fraction REAL NOT NULL DEFAULT 0,
    created REAL NOT NULL, started REAL NOT NULL DEFAULT 0, finished REAL NOT NULL DEFAULT 0,
    applied INTEGER NOT NULL DEFAULT 0, failure TEXT, request TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_job ON events (job_id, sequence);
CREATE TABLE IF NOT EXISTS artifacts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL,
    size INTEGER NOT NULL, media_type TEXT NOT NULL, preview INTEGER NOT NULL, UNIQUE (job_id, name, sha256));
CREATE INDEX IF NOT EXISTS artifacts_by_blob ON artifacts (sha256);
"""


class Journal:
    """Jobs, their events and their artifacts. `listener` is called after each stored event, on the caller's thread."""

    def __init__(self, path: Path) -> None:
        """Open or make the journal. Errors: `sqlite3.DatabaseError` when the file is not a journal."""
        self.listener: Callable[[JobEvent], None] = lambda event: None
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        self._connection.row_factory = sqlite3.Row
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.executescript(SCHEMA)
        except sqlite3.Error:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file; nothing may be called afterwards."""
        with self._lock:
            self._connection.close()

    def insert(self, summary: JobSummary) -> bool:
        """Add a job in whatever state `summary` has; False when it is known already."""
        request = summary.request
        with self._change(durable=True):
            cursor = self._connection.execute(
                "INSERT OR IGNORE INTO jobs (job_id, state, system, task, created, started, finished, applied, failure,"
                " request) VALUES (?,?,?,?,?,?,?,?,?,?)",
                (summary.job_id, summary.state, summary.system, summary.task, summary.created, summary.started,
                 summary.finished, int(summary.applied), _dump(summary.failure), _dump(request)),
            )  # fmt: skip
            if not cursor.rowcount:
                return False
            for artifact in summary.artifacts:
                self._insert_artifact(summary.job_id, artifact, preview=False)
        self.append(summary.job_id, "state", state=summary.state)
        return True

    def start(self, job_id: str) -> bool:
        """Move a queued job to running; False when it is no longer queued."""
        with self._change(durable=True):
            cursor = self._connection.execute(
                "UPDATE jobs SET state='running', started=? WHERE job_id=? AND state='queued'", (time.time(), job_id)
            )
        if cursor.rowcount:
            self.append(job_id, "state", state="running")
        return bool(cursor.rowcount)

    def finish(self, job_id: str, state: str, failure: Failure | None = None) -> bool:
        """Move a job that is not finished yet to its last state; False when it was finished already."""
        with self._change(durable=True):
            cursor = self._connection.execute(
                "UPDATE jobs SET state=?, finished=?, failure=?, fraction=CASE ? WHEN 'done' THEN 1 ELSE fraction END"
                " WHERE job_id=? AND state IN ('queued', 'running')",
                (state, time.time(), _dump(failure), state, job_id),
            )
            if not cursor.rowcount:
                return False
            event = self._insert_event(job_id, state, {"state": state, "failure": failure,
                                                       "message": failure.message if failure else "",
                                                       "fraction": 1.0 if state == "done" else 0.0})  # fmt: skip
        self.listener(event)
        return True

    def progress(self, job_id: str, kind: str, stage: str, fraction: float, **fields: Any) -> None:
        """Store a stage or step event together with the job's place in the work."""
        with self._change(durable=False):
            self._connection.execute(
                "UPDATE jobs SET stage=?, fraction=? WHERE job_id=?", (stage, fraction, job_id)
            )
            event = self._insert_event(job_id, kind, {"stage": stage, "fraction": fraction, **fields})
        self.listener(event)

    def add_artifact(self, job_id: str, artifact: Artifact, preview: bool) -> None:
        """Record a file the job made; a preview is not part of the result."""
        with self._change(durable=not preview):
            self._insert_artifact(job_id, artifact, preview)
            event = self._insert_event(job_id, "preview" if preview else "artifact", {"artifact": artifact})
        self.listener(event)

    def append(self, job_id: str, kind: str, **fields: Any) -> None:
        """Store an event that changes nothing else."""
        with self._change(durable=False):
            event = self._insert_event(job_id, kind, fields)
        self.listener(event)

    def mark_applied(self, job_id: str) -> None:
        """Note that the result is in a scene."""
        with self._change(durable=True):
            self._connection.execute("UPDATE jobs SET applied=1 WHERE job_id=?", (job_id,))

    def forget(self, job_id: str) -> list[str]:
        """Remove a job; returns the blobs that no other job needs."""
        with self._change(durable=True):
            blobs = {row[0] for row in self._rows("SELECT sha256 FROM artifacts WHERE job_id=?", job_id)}
            for row in self._rows("SELECT request FROM jobs WHERE job_id=?", job_id):
                blobs |= set(json.loads(row[0])["inputs"].values())
            for table in ("jobs", "events", "artifacts"):
                self._connection.execute(f"DELETE FROM {table} WHERE job_id=?", (job_id,))
            for row in self._rows("SELECT request FROM jobs"):
                blobs -= set(json.loads(row[0])["inputs"].values())
            return [b for b in sorted(blobs) if not self._rows("SELECT 1 FROM artifacts WHERE sha256=? LIMIT 1", b)]

    def summary(self, job_id: str) -> JobSummary | None:
        """One job, or None when it is unknown."""
        with self._lock:
            rows = self._rows("SELECT * FROM jobs WHERE job_id=?", job_id)
            return self._summary(rows[0]) if rows else None

    def summaries(self, state: str = "") -> list[JobSummary]:
        """All jobs, or those in `state`, oldest first."""
        with self._lock:
            rows = self._rows("SELECT * FROM jobs WHERE ?1='' OR state=?1 ORDER BY number", state)
            return [self._summary(row) for row in rows]

    def count(self, state: str) -> int:
        """How many jobs are in `state`."""
        with self._lock:
            return int(self._rows("SELECT count(*) FROM jobs WHERE state=?", state)[0][0])

    def next_queued(self) -> str:
        """The id of the job that waits longest, or the empty string."""
        with self._lock:
            rows = self._rows("SELECT job_id FROM jobs WHERE state='queued' ORDER BY number LIMIT 1")
            return str(rows[0][0]) if rows else ""

    def events(self, after: int, job_id: str = "", limit: int = 500) -> list[JobEvent]:
        """Events with a sequence above `after`, of one job or of all, in order."""
        with self._lock:
            if job_id:
                rows = self._rows("SELECT sequence, body FROM events WHERE job_id=? AND sequence>? ORDER BY sequence"
                                  " LIMIT ?", job_id, after, limit)  # fmt: skip
            else:
                rows = self._rows("SELECT sequence, body FROM events WHERE sequence>? ORDER BY sequence LIMIT ?",
                                  after, limit)  # fmt: skip
        return [from_json(JobEvent, json.loads(row["body"]) | {"sequence": row["sequence"]}) for row in rows]

    @contextmanager
    def _change(self, durable: bool) -> Iterator[None]:
        with self._lock:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        return self._connection.execute(statement, values).fetchall()

    def _insert_event(self, job_id: str, kind: str, fields: dict[str, Any]) -> JobEvent:
        event = JobEvent(0, job_id, kind, time.time(), **fields)
        cursor = self._connection.execute(
            "INSERT INTO events (job_id, body) VALUES (?,?)", (job_id, json.dumps(to_json(event)))
        )
        return JobEvent(int(cursor.lastrowid or 0), job_id, kind, event.time, **fields)

    def _insert_artifact(self, job_id: str, artifact: Artifact, preview: bool) -> None:
        self._connection.execute(
            "INSERT OR IGNORE INTO artifacts (job_id, name, sha256, size, media_type, preview) VALUES (?,?,?,?,?,?)",
            (job_id, artifact.name, artifact.sha256, artifact.size, artifact.media_type, int(preview)),
        )

    def _summary(self, row: sqlite3.Row) -> JobSummary:
        artifacts = self._rows("SELECT name, sha256, size, media_type FROM artifacts WHERE job_id=? AND preview=0"
                               " ORDER BY number", row["job_id"])  # fmt: skip
        position = 0
        if row["state"] == "queued":
            earlier = self._rows("SELECT count(*) FROM jobs WHERE state='queued' AND number<?", row["number"])
            position = 1 + int(earlier[0][0])
        return JobSummary(
            job_id=row["job_id"], state=row["state"], system=row["system"], task=row["task"], stage=row["stage"],
            fraction=row["fraction"], position=position, created=row["created"], started=row["started"],
            finished=row["finished"], applied=bool(row["applied"]),
            artifacts=tuple(Artifact(*artifact) for artifact in artifacts),
            failure=from_json(Failure, json.loads(row["failure"])) if row["failure"] else None,
            request=from_json(JobRequest, json.loads(row["request"])),
        )  # fmt: skip


def _dump(message: Any) -> str | None:
    return None if message is None else json.dumps(to_json(message))
