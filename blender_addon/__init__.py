"""The Blender side of Maquette. The extension's root package calls `register` and `unregister`.

Nothing is imported here, so that a tool can import one module of the package (`scene.capture`) without the rest.
"""

from __future__ import annotations


def register() -> None:
    """Add classes, properties and handlers to Blender and start the pump."""
    from . import registration

    registration.register()


def unregister() -> None:
    """Stop the backend and take everything out of Blender again, in the opposite order."""
    from . import registration

    registration.unregister()
