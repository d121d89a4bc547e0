"""Create from text: one object of the panel's sentence, or one of every line of a list. Plain functions first."""

from __future__ import annotations

import dataclasses
import time
import uuid
from pathlib import Path
from typing import Any

import bpy

from ...backend.contract.errors import MaquetteError
from ..engines import TEXT
from ..runtime.intent import ApplyIntent, intent_to_json
from ..runtime.job_store import JobRecord
from ..text_properties import LONGEST_PROMPT
from . import requesting
from .common import reports_failures

MOST_SENTENCES = 200  # jobs at once; each takes some half a minute and stays in the list
ROW_SPACING = 1.4  # from one object of a row to the next, in sizes
TITLE_LENGTH = 40  # characters of an object's name; Blender keeps 63 bytes


def text_job(scene: bpy.types.Scene) -> JobRecord:
    """Start the job that makes the Create panel's sentence. Errors: `MaquetteError` with one sentence."""
    settings = scene.maquette_create
    prompt = clean_prompt(settings.prompt)
    if not prompt:
        raise MaquetteError("bad_input", 'There is no text. Say what to make, for example "a wooden chair".')
    return requesting.submit_record(text_record(settings, prompt, _intent(scene, settings)))


def text_jobs(scene: bpy.types.Scene) -> list[JobRecord]:
    """Start one job for each sentence of the panel's list; the results stand in a row along the world's X axis.

    Errors: `MaquetteError` with one sentence.
    """
    settings = scene.maquette_create
    prompts = listed_sentences(settings)
    records = []
    for index, prompt in enumerate(prompts):
        offset = (index * ROW_SPACING * settings.size, 0.0, 0.0)
        record = text_record(settings, prompt, dataclasses.replace(_intent(scene, settings), offset=offset))
        records.append(requesting.submit_record(record))
    return records


def listed_sentences(settings: bpy.types.PropertyGroup) -> list[str]:
    """The sentences of the text datablock if one is chosen, else of the text file; empty lines are left out.

    Errors: `MaquetteError` when neither is chosen, the file cannot be read, or there are none, too many or too long
    ones.
    """
    if settings.sentences is not None:
        name, lines = settings.sentences.name, [line.body for line in settings.sentences.lines]
    elif settings.sentence_file.strip():
        path = Path(bpy.path.abspath(settings.sentence_file))
        name, lines = path.name, _lines_of(path)
    else:
        raise MaquetteError("bad_input", "There is no list. Choose a text with one sentence a line, or a .txt file.")
    prompts = [prompt for prompt in (clean_prompt(line) for line in lines) if prompt]
    if not prompts:
        raise MaquetteError("bad_input", f'"{name}" has no sentences. Write one a line.')
    if len(prompts) > MOST_SENTENCES:
        text = f'"{name}" has {len(prompts)} sentences; {MOST_SENTENCES} can be made at once. Split the list.'
        raise MaquetteError("bad_input", text)
    for number, prompt in enumerate(prompts, start=1):
        if len(prompt) > LONGEST_PROMPT:
            text = f'Sentence {number} of "{name}" is longer than {LONGEST_PROMPT} characters. Shorten it.'
            raise MaquetteError("bad_input", text)
    return prompts


def text_record(settings: bpy.types.PropertyGroup, prompt: str, intent: ApplyIntent) -> JobRecord:
    """The job that makes `prompt` as the Create panel says."""
    parameters: dict[str, Any] = {
        "prompt": prompt, "seed": settings.seed, "steps": settings.steps or None, "weights": settings.weights,
    }  # fmt: skip
    return JobRecord(
        uuid.uuid4().hex, title_of(prompt), settings.text_engine, TEXT,
        parameters | requesting.object_parameters(settings), intent_to_json(intent), "", time.time(),
    )  # fmt: skip


def clean_prompt(text: str) -> str:
    """The text in one line, without what is invisible around its words."""
    return " ".join(text.replace("\ufeff", " ").split())


def title_of(prompt: str) -> str:
    """A short name for what `prompt` asks for, cut between words."""
    title = prompt.strip(" .!?\"'")
    if len(title) <= TITLE_LENGTH:
        return title or prompt[:TITLE_LENGTH]
    return title[: TITLE_LENGTH + 1].rsplit(" ", 1)[0][:TITLE_LENGTH]


def _intent(scene: bpy.types.Scene, settings: bpy.types.PropertyGroup) -> ApplyIntent:
    return requesting.intent_of(scene, settings, "NONE")  # a sentence has no camera


def _lines_of(path: Path) -> list[str]:
    if path.is_dir() or not path.is_file():
        raise MaquetteError("bad_input", f'The text file "{path.name}" was not found. Choose another one.')
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        text = f'"{path.name}" cannot be read as text. Save it as plain text in UTF-8.'
        raise MaquetteError("bad_input", text, repr(error)) from error


class MAQUETTE_OT_generate_all(bpy.types.Operator):
    bl_idname = "maquette.generate_all"
    bl_label = "Generate All"
    bl_description = "Make an object of every line of the list in the background; they are put in a row, one undo each"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        records = text_jobs(context.scene)
        self.report({"INFO"}, f"{len(records)} objects are being made. You can go on working.")
        return {"FINISHED"}


CLASSES = (MAQUETTE_OT_generate_all,)
