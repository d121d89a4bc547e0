"""What the Create panel asks for to make objects from sentences."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty, PointerProperty, StringProperty

from .engines import TEXT, items_for

LONGEST_PROMPT = 1000  # characters: more words than the text encoders read


class TextSettings:
    """A sentence, or a list of them, and how its objects are made."""

    source: EnumProperty(
        name="Make From",
        items=[
            ("PHOTO", "Photo", "A photo or drawing becomes an object"),
            ("TEXT", "Text", "A sentence becomes an object"),
        ],
    )
    prompt: StringProperty(
        name="Text",
        description='What to make, in a few plain English words: "an old wooden barrel"',
        maxlen=LONGEST_PROMPT,
    )
    text_engine: EnumProperty(name="Engine", description="The system that makes the object", items=items_for(TEXT))
    sentences: PointerProperty(
        name="Sentences", description="A text of this file with one sentence a line", type=bpy.types.Text
    )
    sentence_file: StringProperty(
        name="Text File", description="A .txt file with one sentence a line", subtype="FILE_PATH"
    )
