"""Messages about what can be installed: one entry of the catalogue with its state, and the request to install it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import Failure
from .messages import require

MODEL_STATES = ("absent", "installing", "installed", "failed", "by_hand")


@dataclass(frozen=True)
class ModelInfo:
    """One entry. `bytes` is what installing would still bring, entries in `needs` not counted; `memory` in GiB a
    profile; `fraction` and `message` tell how an install goes; `failure` is why the last one ended.

    `by_hand`: the artist installs it with its own tools; `package_ready` says whether its Python package is there.
    """

    id: str
    title: str
    purpose: str
    licence: str
    licence_url: str
    source: str
    bytes: int
    state: str
    optional: bool = False
    needs: tuple[str, ...] = ()
    memory: dict[str, float] = field(default_factory=dict)
    fraction: float = 0.0
    message: str = ""
    package: str = ""
    package_ready: bool = True
    failure: Failure | None = None

    def __post_init__(self) -> None:
        require(self.state in MODEL_STATES, "state", "one of " + ", ".join(MODEL_STATES))


@dataclass(frozen=True)
class InstallRequest:
    """Install a model with what it needs. `licences` names every licence the person has accepted.

    `everything` brings the files too that only training needs.
    """

    licences: tuple[str, ...] = ()
    everything: bool = False
