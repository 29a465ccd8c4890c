"""Coloured pictures with questions and answers for tests, made in a moment."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SHAPES = ("square", "bar")
SIZE = 16


def picture(number: int) -> tuple[str, str, bytes]:
    """Return a colour, a shape, and the PNG of a picture with that shape in that colour."""
    colour, shape = list(COLOURS)[number % 3], SHAPES[number // 3 % 2]
    pixels = np.full((SIZE, SIZE, 3), 255, np.uint8)
    top = number % 5
    pixels[top : top + (8 if shape == "square" else 2), 2:10] = COLOURS[colour]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return colour, shape, file.getvalue()


def asked(count: int, first: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows of pictures, and of three questions about each with their answers."""
    pictures, questions = [], []
    for number in range(first, first + count):
        colour, shape, png = picture(number)
        pictures.append({"image_id": number, "image": {"bytes": png, "path": None}})
        told = {
            f"what color is the {shape}?": colour,
            "what shape is there?": shape,
            f"is there a {shape}?": "yes",
        }
        questions += [{"image_id": number, "question": q, "answer": a} for q, a in told.items()]
    return pictures, questions


def write(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a Parquet file."""
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / f"{name}.parquet")


def write_asked(folder: Path) -> Path:
    """Write tables of questions and of pictures: 24 pictures to train with, 12 to test."""
    for split, count, first in (("train", 24, 0), ("test", 12, 24)):
        pictures, questions = asked(count, first)
        write(folder, f"images-{split}", pictures)
        write(folder, f"questions-{split}", questions)
    return folder
