"""Small pictures for the job list: of the work so far, then of the result and its variants. Loaded by the pump, never
while drawing. A picture from four sides is twice as wide as high; it is shown as two squares (`wide_pictures`).

Blender decodes a picture when it is first drawn. Every job has a collection of its own, which is freed with the job.
Main thread only.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import bpy.utils.previews

from .job_store import BUNDLE, CONDITIONS
from .wide_pictures import half_paths

RESULT, PREVIEW = "result", "preview"


class Thumbnails:
    """Icon numbers by job and picture; the result's picture comes before a preview."""

    def __init__(self) -> None:
        self._jobs: dict[str, bpy.utils.previews.ImagePreviewCollection] = {}

    def load(self, job_id: str, path: Path, name: str = RESULT) -> None:
        """Load a picture of a job once; a picture that is not there is simply not shown."""
        if not self.has(job_id, name) and path.is_file():
            self._job(job_id).load(name, str(path), "IMAGE")

    def load_all(self, job_id: str, folder: Path, variants: Iterable[str]) -> None:
        """Load the pictures of a finished job in `folder`; `variants` are the files of its gallery."""
        self.load(job_id, folder / "thumbnail.png")
        for half in half_paths(folder / BUNDLE):
            self.load(job_id, half, half.stem)
        for name in (*CONDITIONS, *variants):
            self.load(job_id, folder / name, name)

    def load_preview(self, job_id: str, path: Path) -> None:
        """Show the picture of a running job at `path`, or show it again because the file has changed."""
        for name, picture in ((PREVIEW, path), *((half.stem, half) for half in half_paths(path))):
            if self.has(job_id, name):
                self._jobs[job_id][name].reload()
            else:
                self.load(job_id, picture, name)

    def halves(self, job_id: str, picture: str) -> tuple[int, ...]:
        """The icons of the halves of a wide picture of the job (its file's name), none for no such picture."""
        names = [half.stem for half in half_paths(Path(picture))]
        return tuple(self.icon(job_id, name) for name in names if self.has(job_id, name))

    def has(self, job_id: str, name: str) -> bool:
        """Whether the picture is loaded."""
        return name in self._jobs.get(job_id, {})

    def icon(self, job_id: str, name: str = "") -> int:
        """The icon's number, 0 for none. Without a `name` that of the result, else of the work so far."""
        pictures = self._jobs.get(job_id, {})
        picture = pictures.get(name) if name else pictures.get(RESULT) or pictures.get(PREVIEW)
        return picture.icon_id if picture is not None else 0

    def forget(self, job_id: str) -> None:
        """Free the pictures of a job."""
        collection = self._jobs.pop(job_id, None)
        if collection is not None:
            bpy.utils.previews.remove(collection)

    def close(self) -> None:
        """Free all pictures."""
        for job_id in list(self._jobs):
            self.forget(job_id)

    def _job(self, job_id: str) -> bpy.utils.previews.ImagePreviewCollection:
        if job_id not in self._jobs:
            self._jobs[job_id] = bpy.utils.previews.new()
        return self._jobs[job_id]
