"""Tables of pictures and questions: joined, cut by picture, held once, refused where damaged."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import visual
from PIL import Image

from limbeck.data import Augmentation, Flip, Loader, Normalize, Shared, readers, sources
from limbeck.errors import InputError

WORDS = {"caption": "a {} {}", "words": [list(visual.COLOURS), list(visual.SHAPES)]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return visual.write_asked(tmp_path_factory.mktemp("asked"))


def _pixels(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png))).transpose(2, 0, 1)


def test_each_question_is_about_its_picture(folder: Path) -> None:
    """Off by one, a model would learn answers about other pictures, and only learn less."""
    data = sources.visual_questions(folder)
    _, questions = visual.asked(24)
    for samples in (data.train, data.validation):
        batch = next(samples.batches([torch.arange(len(samples))], 0, 0))
        assert set(batch["inputs"]) == {"image", "input_ids", "attention_mask"}
        assert batch["inputs"]["image"].dtype == torch.uint8
        for row, number in enumerate(batch["id"].tolist()):
            _, _, png = visual.picture(questions[number]["image_id"])
            np.testing.assert_array_equal(batch["inputs"]["image"][row], _pixels(png))
            assert data.labels[batch["targets"][row]] == questions[number]["answer"]
            shown = samples.shown(row)
            assert shown["caption"] == questions[number]["question"]
            assert shown["kind"] == "picture"


def test_no_picture_is_in_two_splits_or_twice_in_memory(folder: Path) -> None:
    """By chance rows, a model would be measured on pictures that it has learnt."""
    data = sources.visual_questions(folder, validation=0.25)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [54, 18, 36]
    pictures = {name: set((s.ids // 3).tolist()) for name, s in
                (("train", data.train), ("validation", data.validation))}  # fmt: skip
    assert not pictures["train"] & pictures["validation"]
    assert len(data.train.fields["inputs"]["image"].values) == 18
    few = sources.visual_questions(folder, limit=6)
    assert len(few.train) == 6
    assert len(few.train.fields["inputs"]["image"].values) <= 6


def test_one_table_and_names_of_ones_own(tmp_path: Path) -> None:
    """Without it, only data of one layout could be read."""
    pictures, questions = visual.asked(12)
    rows = [
        {"photo": pictures[q["image_id"]]["image"]["bytes"], "asked": q["question"],
         "says": q["answer"]} for q in questions
    ]  # fmt: skip
    visual.write(tmp_path, "train-00000-of-00001", rows)
    data = sources.visual_questions(tmp_path, question="asked", answer="says", image="photo")
    assert len(data.train) + len(data.validation) + len(data.test) == 36
    values = data.train.fields["inputs"]["image"].values
    assert len(values.flatten(1).unique(dim=0)) == len(values)
    texts = sources.captions(tmp_path, image="photo", caption="asked")
    assert len(texts.labels) == 5


def test_captions_are_made_of_answers(folder: Path) -> None:
    """Without it, a caption could be untrue of its picture."""
    data = sources.captions(folder, made=WORDS)
    assert data.labels == tuple(sorted(f"a {c} {s}" for c in visual.COLOURS for s in visual.SHAPES))
    assert len(data.train) + len(data.validation) == 24
    batch = next(data.train.batches([torch.arange(len(data.train))], 0, 0))
    for row, label in enumerate(batch["targets"].tolist()):
        words = data.labels[label].split()
        image = batch["inputs"]["image"][row]
        inside = (image != 255).any(dim=0)
        assert tuple(image[:, inside][:, 0].tolist()) == visual.COLOURS[words[1]]
        assert int(inside.any(dim=1).sum()) == (8 if words[2] == "square" else 2)
    assert "caption" not in data.train.shown(0)


def test_pictures_without_a_word_of_each_kind_get_no_caption(tmp_path: Path) -> None:
    """Without it, "a red" would be a caption, and a wrong answer to a red square."""
    pictures, questions = visual.asked(12)
    told = [q for q in questions if not (q["image_id"] % 2 and q["answer"] in visual.COLOURS)]
    visual.write(tmp_path, "images-train", pictures)
    visual.write(tmp_path, "questions-train", told)
    data = sources.captions(tmp_path, made=WORDS)
    assert len(data.train) + len(data.validation) + len(data.test) == 6
    with pytest.raises(InputError, match="no caption can be made"):
        sources.captions(tmp_path, made={"caption": "a {}", "words": [["purple"]]})
    with pytest.raises(InputError, match=r"'a \{\}' for 2 lists of words"):
        sources.captions(tmp_path, made=WORDS | {"caption": "a {}"})


def _without(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != column} for row in rows]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            "no image",
            r"row 9 of train in .* is about image_id 3, and there is no such picture \(3 ",
        ),
        ("no id", "share the columns none"),
        ("twice", "two pictures of train in .* have the image_id 0"),
        ("no answers", "column of answers: 'answer' is not known"),
        ("no questions", "can hold the questions"),
        ("strange answer", "has the label 'purple'"),
        ("empty", "row 1 of train in .* has an empty text"),
        ("no pictures", "no table of train in .* holds pictures"),
        ("no training", "at least train.parquet, or questions-train.parquet"),
        ("damaged", "image 0 could not be decoded"),
    ],
)
def test_damaged_tables_are_refused(damage: str, message: str, tmp_path: Path) -> None:
    """Without it, a question could be joined with nothing, or a traceback name no row."""
    pictures, questions = visual.asked(6)
    others = visual.asked(3, 6)
    name = "elsewhere" if damage == "no training" else "train"
    if damage == "no image":
        pictures.pop(3)
    elif damage == "no id":
        questions = _without(questions, "image_id")
    elif damage == "twice":
        pictures.append(pictures[0])
    elif damage == "no answers":
        questions = _without(questions, "answer")
    elif damage == "no questions":
        questions = [_without(questions, "question")[0] | {"answer": 1}]
    elif damage == "strange answer":
        others[1][0]["answer"] = "purple"
    elif damage == "empty":
        questions[1]["question"] = " "
    elif damage == "damaged":
        pictures[0]["image"] = {"bytes": b"no PNG", "path": None}
    if damage != "no pictures":
        visual.write(tmp_path, f"images-{name}", pictures)
    visual.write(tmp_path, f"questions-{name}", questions)
    visual.write(tmp_path, "images-test", others[0])
    visual.write(tmp_path, "questions-test", others[1])
    with pytest.raises(InputError, match=message):
        sources.visual_questions(tmp_path)


def test_a_reader_reads_as_training_did(folder: Path, tmp_path: Path) -> None:
    """Without it, what ships would see other pixels than those that it learnt."""
    data = sources.visual_questions(folder)
    reader = data.reader
    assert reader is not None
    again = readers.load(tmp_path, reader.save(tmp_path))
    batch = next(Loader(data.train, 4).epoch(0))
    _, questions = visual.asked(24)
    raw = [questions[number] for number in batch["id"].tolist()]
    pairs = [(visual.picture(q["image_id"])[2], q["question"]) for q in raw]
    found = again(pairs)
    torch.testing.assert_close(found, batch["inputs"])
    assert set(again([(None, text) for _, text in pairs])) == {"input_ids", "attention_mask"}
    assert set(again([(png, None) for png, _ in pairs])) == {"image"}
    large = Image.open(io.BytesIO(pairs[0][0])).resize((40, 20))
    assert again([(large, "what?")])["image"].shape == (1, 3, 16, 16)
    with pytest.raises(InputError, match="pair 1 has no picture"):
        again([pairs[0], (None, "what?")])
    with pytest.raises(InputError, match="a list of pairs"):
        again("what?")


def test_shared_values_follow_their_rows() -> None:
    """Without it, a batch in another order would get other pictures."""
    field = Shared(torch.arange(6).view(3, 2), torch.tensor([2, 0, 2, 1]))
    some = field.index_select(0, torch.tensor([3, 0]))
    assert some.in_batch().tolist() == [[2, 3], [4, 5]]
    assert field.nbytes == 6 * 8 + 4 * 8
    assert some.fingerprint() != field.fingerprint()


def test_what_changes_pictures_alone_is_refused(folder: Path) -> None:
    """A flip could make an answer wrong; a traceback would not say so."""
    batch = next(Loader(sources.visual_questions(folder).train, 2).epoch(0))
    with pytest.raises(InputError, match=r"Leave data\.augment out"):
        Augmentation((Flip(),))(batch)
    with pytest.raises(InputError, match="Leave normalize out"):
        Normalize((0.5,), (0.5,))(batch["inputs"])
