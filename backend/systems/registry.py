"""Which systems there are. Nothing heavy is imported before a system is asked for.

MAQUETTE_EXTRA_SYSTEMS="module:Class,module:Class" adds systems for tests and for development.
"""

from __future__ import annotations

import functools
import importlib
import os

from backend.contract.errors import MaquetteError
from backend.contract.messages import SystemInfo
from backend.systems.base import System

EXTRA_VARIABLE = "MAQUETTE_EXTRA_SYSTEMS"

_SYSTEMS = {
    "cupid": "backend.systems.cupid.pipeline:CupidSystem",
    "kiss3dgen": "backend.systems.kiss3dgen.pipeline:KissSystem",
    "refany3d": "backend.systems.refany3d.pipeline:RefAny3DSystem",
}


def _places() -> dict[str, str]:
    """Every system's name and its "module:Class"; an extra system is named by its class's `name`."""
    places = dict(_SYSTEMS)
    for place in filter(None, (item.strip() for item in os.environ.get(EXTRA_VARIABLE, "").split(","))):
        places[_load_class(place).name] = place
    return places


def _load_class(place: str) -> type[System]:
    module, _, name = place.partition(":")
    loaded: type[System] = getattr(importlib.import_module(module), name)
    return loaded


@functools.cache
def _instance(place: str) -> System:
    return _load_class(place)()


def system_names() -> tuple[str, ...]:
    """The names that `get_system` knows; the built-in ones are not imported for this."""
    return tuple(_places())


def get_system(name: str) -> System:
    """The system `name`; one instance a process, so that its networks are loaded once. Errors: bad_input."""
    places = _places()
    if name not in places:
        known = ", ".join(places)
        raise MaquetteError("bad_input", f"There is no engine called {name!r}; choose one of: {known}.")
    return _instance(places[name])


def list_systems() -> tuple[SystemInfo, ...]:
    """What every system says about itself; loads no weights."""
    return tuple(get_system(name).info() for name in system_names())
