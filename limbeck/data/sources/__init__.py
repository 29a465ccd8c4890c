"""Where data comes from: each source is a function that returns :class:`limbeck.data.Data`.

A source of one's own is any function that returns ``Data``, named in a recipe as
``data: {build: "package.module:function"}``.
"""

from collections.abc import Callable

from limbeck.data.sources.arrays import digits, numpy
from limbeck.data.sources.clips import clips, panned_stills
from limbeck.data.sources.coco import coco
from limbeck.data.sources.images import huggingface, image_folder, parquet
from limbeck.data.sources.interactions import interactions
from limbeck.data.sources.language import language
from limbeck.data.sources.masks import mask_folder
from limbeck.data.sources.rows import diabetes, table
from limbeck.data.sources.scenes import digit_scenes
from limbeck.data.sources.several import several_digits
from limbeck.data.sources.speech import speech
from limbeck.data.sources.split import complete
from limbeck.data.sources.texts import text
from limbeck.data.sources.translation import translation
from limbeck.data.sources.visual import captions, visual_questions
from limbeck.data.splits import Data
from limbeck.errors import unknown

__all__ = [
    "captions",
    "clips",
    "complete",
    "diabetes",
    "digit_scenes",
    "digits",
    "get",
    "huggingface",
    "image_folder",
    "interactions",
    "language",
    "mask_folder",
    "names",
    "numpy",
    "panned_stills",
    "parquet",
    "several_digits",
    "speech",
    "table",
    "text",
    "translation",
    "visual_questions",
]

_SOURCES: dict[str, Callable[..., Data]] = {
    "captions": captions,
    "clips": clips,
    "diabetes": diabetes,
    "coco": coco,
    "digit_scenes": digit_scenes,
    "digits": digits,
    "huggingface": huggingface,
    "image_folder": image_folder,
    "interactions": interactions,
    "language": language,
    "mask_folder": mask_folder,
    "numpy": numpy,
    "panned_stills": panned_stills,
    "parquet": parquet,
    "several_digits": several_digits,
    "speech": speech,
    "table": table,
    "text": text,
    "translation": translation,
    "visual_questions": visual_questions,
}


def names() -> list[str]:
    """Return the names of all sources, sorted."""
    return sorted(_SOURCES)


def get(name: str) -> Callable[..., Data]:
    """Return the source of that name; an unknown name lists near ones."""
    if name not in _SOURCES:
        raise unknown("data source", name, _SOURCES)
    return _SOURCES[name]
