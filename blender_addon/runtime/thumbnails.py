"""Small pictures for the job list: of the work so far, then of the result. Loaded by the pump, never while drawing.

Blender decodes a picture when it is first drawn. Main thread only.
"""

from __future__ import annotations

from pathlib import Path

import bpy.utils.previews


class Thumbnails:
    """Icon numbers by job; the result's picture comes before a preview."""

    def __init__(self) -> None:
        self._collection = bpy.utils.previews.new()

    def load(self, job_id: str, path: Path) -> None:
        """Load the picture of a job once; a picture that is not there is simply not shown."""
        if job_id not in self._collection and path.is_file():
            self._collection.load(job_id, str(path), "IMAGE")

    def load_preview(self, job_id: str, path: Path) -> None:
        """Show the picture of a running job at `path`, or show it again because the file has changed."""
        key = _preview_key(job_id)
        if key in self._collection:
            self._collection[key].reload()
        elif path.is_file():
            self._collection.load(key, str(path), "IMAGE")

    def icon(self, job_id: str) -> int:
        """The icon's number, 0 for none."""
        picture = self._collection.get(job_id) or self._collection.get(_preview_key(job_id))
        return picture.icon_id if picture is not None else 0

    def close(self) -> None:
        """Free all pictures."""
        bpy.utils.previews.remove(self._collection)


def _preview_key(job_id: str) -> str:
    return f"{job_id}/preview"
