"""The files a job is made from: where they are, the copies kept in its folder, and sending them with the request.

A job's inputs are the picture (`image`), its mask (`mask`) and whatever else its task takes: `occluder`, the further
photos `image_1`, `mask_1`, ..., the object masks `mask_0`, ..., `depth`, `mesh`, `bundle`, `views`, `points`. A file is
taken from where the artist chose it, else from our copy.
"""

from __future__ import annotations

from pathlib import Path

from ...backend.contract.errors import MaquetteError
from ...backend.contract.messages import JobRequest
from .connection import SubmitJob
from .job_store import JobRecord, JobStore, kept_name

_WORDS = {"image": "picture", "mask": "mask", "occluder": "occluder mask", "depth": "depth image", "mesh": "mesh",
          "bundle": "picture of the mesh", "views": "picture of the views",
          "points": "picture of the places"}  # fmt: skip


def chosen_inputs(record: JobRecord) -> dict[str, str]:
    """Every input of the job by name, as the artist chose it."""
    main = {"image": record.image_path, "mask": record.mask_path}
    return {name: path for name, path in main.items() if path} | record.more_inputs


def input_files(store: JobStore, record: JobRecord) -> dict[str, Path]:
    """Every input of the job by name, each a file that is there.

    Errors: `MaquetteError` bad_input when one is gone from where the artist chose it and from our copies.
    """
    files = {}
    for name, path in chosen_inputs(record).items():
        found = store.input_path(record, name)
        if found is None:
            step = {"image": "choose_image", "mask": "give_mask"}.get(name, "")
            text = f'The {word_for(name)} "{Path(path).name}" was not found. Choose another one.'
            raise MaquetteError("bad_input", text, path, step)
        files[name] = found
    return files


def submission(store: JobStore, record: JobRecord) -> SubmitJob:
    """The command that sends the job. Errors: as in `input_files`."""
    request = JobRequest(record.job_id, record.system, record.task, {}, record.parameters, record.origin)
    return SubmitJob(request, input_files(store, record), store.folder(record.job_id))


def new_input_path(store: JobStore, job_id: str, name: str, suffix: str) -> Path:
    """Where to write an input that Blender itself makes for a job (a painted mask, a mesh); its folder is made.

    Errors: OSError.
    """
    folder = store.folder(job_id)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / kept_name(name, suffix)


def word_for(name: str) -> str:
    """What an artist calls the input `name`: "mask" for mask_2."""
    return _WORDS.get(name.rstrip("0123456789").rstrip("_"), "file")
