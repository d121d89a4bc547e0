"""Small pictures of results for the job list. Loaded by the pump, never while drawing. Main thread only."""

from __future__ import annotations

from pathlib import Path

import bpy.utils.previews


class Thumbnails:
    """Icon numbers by job."""

    def __init__(self) -> None:
        self._collection = bpy.utils.previews.new()

    def load(self, job_id: str, path: Path) -> None:
        """Load the picture of a job once; a picture that is not there is simply not shown."""
        if job_id not in self._collection and path.is_file():
            self._collection.load(job_id, str(path), "IMAGE")

    def icon(self, job_id: str) -> int:
        """The icon's number, 0 for none."""
        preview = self._collection.get(job_id)
        return preview.icon_id if preview is not None else 0

    def close(self) -> None:
        """Free all pictures."""
        bpy.utils.previews.remove(self._collection)
