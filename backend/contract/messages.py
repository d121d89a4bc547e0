"""The messages on the wire, as frozen dataclasses with strict JSON both ways.

`to_json` gives plain dictionaries; `from_json` refuses unknown fields, missing fields and wrong types with a
`MessageError` that names the field. Nothing here knows about HTTP.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .errors import Failure

JOB_STATES = ("queued", "running", "done", "failed", "cancelled")
TERMINAL_STATES = ("done", "failed", "cancelled")
EVENT_KINDS = ("state", "stage", "step", "preview", "artifact", "message", "done", "failed", "cancelled")
TERMINAL_EVENTS = ("done", "failed", "cancelled")

SHA256 = re.compile(r"[0-9a-f]{64}")
JOB_ID = re.compile(r"[0-9a-f]{32}")
ARTIFACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}\.[a-z0-9]{1,8}")

MessageType = TypeVar("MessageType")


class MessageError(ValueError):
    """A message that does not have the agreed form; the text names the field."""


@dataclass(frozen=True)
class Handshake:
    """The one line the backend prints once its port is bound."""

    port: int
    pid: int
    protocol: int
    build: str


@dataclass(frozen=True)
class Artifact:
    """A finished file of a job. Its bytes are the blob `sha256`."""

    name: str
    sha256: str
    size: int
    media_type: str

    def __post_init__(self) -> None:
        require(ARTIFACT_NAME.fullmatch(self.name), "name", "a plain file name")
        require(SHA256.fullmatch(self.sha256), "sha256", "64 hexadecimal digits")


@dataclass(frozen=True)
class JobRequest:
    """What to make. `inputs` maps an input's name to an uploaded blob's sha256; `parameters` are plain JSON values.

    `job_id` is chosen by the client (32 hexadecimal digits), so that sending the same request twice makes one job.
    `origin` is opaque to the backend (the add-on keeps the scene's name and the placement there).
    """

    job_id: str
    system: str
    task: str
    inputs: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(JOB_ID.fullmatch(self.job_id), "job_id", "32 hexadecimal digits")
        for name, sha256 in self.inputs.items():
            require(SHA256.fullmatch(sha256), f"inputs.{name}", "64 hexadecimal digits")


@dataclass(frozen=True)
class JobSummary:
    """One row of the job list. `fraction` is in [0, 1]; times are Unix seconds, 0 when not reached yet."""

    job_id: str
    state: str
    system: str
    task: str
    stage: str = ""
    fraction: float = 0.0
    position: int = 0
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    applied: bool = False
    artifacts: tuple[Artifact, ...] = ()
    failure: Failure | None = None
    request: JobRequest | None = None

    def __post_init__(self) -> None:
        require(self.state in JOB_STATES, "state", "one of " + ", ".join(JOB_STATES))


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job. `sequence` grows by one over all jobs of a backend's journal."""

    sequence: int
    job_id: str
    kind: str
    time: float
    state: str = ""
    stage: str = ""
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    message: str = ""
    artifact: Artifact | None = None
    failure: Failure | None = None

    def __post_init__(self) -> None:
        require(self.kind in EVENT_KINDS, "kind", "one of " + ", ".join(EVENT_KINDS))


@dataclass(frozen=True)
class SystemInfo:
    """One engine as the panel offers it."""

    name: str
    title: str
    tasks: tuple[str, ...]
    stages: tuple[str, ...]
    ready: bool
    missing: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Health:
    """The backend's own state."""

    protocol: int
    build: str
    pid: int
    device: str
    worker: str
    queued: int
    running: int
    uptime: float


def to_json(message: Any) -> dict[str, Any]:
    """A message as plain JSON values (nested messages become dictionaries, tuples become lists)."""
    return {f.name: _plain(getattr(message, f.name)) for f in dataclasses.fields(message)}


def from_json(message_type: type[MessageType], data: Any) -> MessageType:
    """The message of type `message_type` that `data` describes.

    Errors: `MessageError` for anything but exactly the agreed fields and types.
    """
    if not isinstance(data, dict):
        raise MessageError(f"{message_type.__name__} must be an object")
    hints = typing.get_type_hints(message_type)
    fields = {f.name: f for f in dataclasses.fields(message_type)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise MessageError(f"{message_type.__name__} does not know the field {unknown[0]!r}")
    values = {}
    for name, f in fields.items():
        if name in data:
            values[name] = _typed(hints[name], data[name], f"{message_type.__name__}.{name}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise MessageError(f"{message_type.__name__} needs the field {name!r}")
    return message_type(**values)


def require(condition: object, name: str, expected: str) -> None:
    """Raise `MessageError` naming the field `name` unless `condition` is truthy."""
    if not condition:
        raise MessageError(f"{name} must be {expected}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _typed(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise MessageError(f"{where} must be a list")
        return tuple(_typed(arguments[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise MessageError(f"{where} must be an object")
        return {key: _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise MessageError(f"{where} must be of type {hint.__name__}")
