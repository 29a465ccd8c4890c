"""Texts for language models: what is predicted is what is meant to be, and nothing else."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from language import CHAT, llama, story, sums, write_rows
from torch import Tensor

import limbeck as lb
from limbeck import tasks
from limbeck.data import readers
from limbeck.data.language_tokenizer import LanguageTokenizer
from limbeck.data.sources import language
from limbeck.errors import InputError


def batch_of(samples: Any, count: int) -> dict[str, Any]:
    return next(samples.batches([torch.arange(count)], view=0, seed=0))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    (folder / "story.txt.gz").write_bytes(gzip.compress(story(120).encode()))
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    for name, count in (("train", 24), ("test", 8)):
        rows = [{"question": q, "answer": a} for q, a in sums(count)]
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


def test_plain_texts_become_one_stream(plain: Path) -> None:
    """A target that is not the next token would teach nothing; a gap would lose text."""
    data = language(plain, tokenizer="characters", length=32, asked=8)
    splits = [data.train, data.validation, data.test]
    found = [batch_of(samples, len(samples)) for samples in splits]
    for batch in found:
        ids, targets = batch["inputs"]["input_ids"], batch["targets"]
        assert torch.equal(ids[:, 1:], targets[:, :-1])
        assert torch.equal(ids[1:, 0], targets[:-1, -1])
    texts = [data.reader.decode(batch["inputs"]["input_ids"].flatten()) for batch in found]
    whole = story(120)
    places = [whole.index(text) for text in texts]
    assert places == sorted(places)  # the end of the text is for testing
    ends = [place + len(text) for place, text in zip(places, texts, strict=True)]
    assert ends[0] <= places[1]
    assert ends[1] <= places[2]
    assert [round(len(text) / len(whole), 1) for text in texts[1:]] == [0.1, 0.1]
    assert data.test.shown(1) == {"kind": "text", "text": texts[2][32:40]}
    longer = language(plain, tokenizer="characters", length=32, asked=9)
    assert longer.fingerprint() != data.fingerprint()  # its models are asked other things


@pytest.mark.parametrize("tokenizer", ["bpe", "characters"])
def test_only_answers_are_predicted(asked: Path, tokenizer: str) -> None:
    """Students would learn to ask questions; without an end they would never stop."""
    data = language(asked, tokenizer=tokenizer, vocab=300, length=64)
    assert (len(data.train), len(data.validation), len(data.test)) == (22, 2, 8)
    batch = batch_of(data.test, 8)
    for row, (question, answer) in enumerate(sums(8)):
        targets, ids = batch["targets"][row], batch["inputs"]["input_ids"][row]
        counts = targets != -100
        assert data.reader.decode(targets[counts]) == answer
        assert targets[counts][-1] == data.reader.end
        assert torch.equal(ids[1:][counts[:-1]], targets[:-1][counts[:-1]])
        assert not counts[batch["inputs"]["attention_mask"][row] == 0].any()
        assert data.test.shown(row)["text"] == f"{question}\n"


def loss_sum(model: torch.nn.Module, batch: dict[str, Any]) -> Tensor:
    logits = model(**batch["inputs"]).logits.flatten(0, 1)
    return F.cross_entropy(logits, batch["targets"].flatten(), ignore_index=-100, reduction="sum")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_samples_do_not_see_one_another(asked: Path, kind: str) -> None:
    """Without it, an answer would depend on a stranger's question before it."""
    apart = language(asked, tokenizer="characters", length=96)
    packed = language(asked, tokenizer="characters", length=96, pack=True)
    assert len(packed.train) < len(apart.train) / 1.5
    model = llama(apart.reader.vocab) if kind == "llama" else _gpt2(apart.reader.vocab)
    model.double().eval()
    one, other = (batch_of(data.train, len(data.train)) for data in (apart, packed))
    torch.testing.assert_close(loss_sum(model, one), loss_sum(model, other), rtol=1e-9, atol=0)
    assert int((one["targets"] != -100).sum()) == int((other["targets"] != -100).sum())


def _gpt2(vocab: int) -> torch.nn.Module:
    from limbeck.students import zoo

    config = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96}
    return zoo.build("huggingface", config=config, head="causal_lm", vocab=vocab)


def test_conversations_by_the_chat_template(tmp_path: Path) -> None:
    """Each of an assistant's turns and its end are predicted, and no one else's words."""
    tokens = LanguageTokenizer.train([story(9), CHAT, "?"], "characters")
    tokens.model.chat_template = CHAT
    tokens.model.save_pretrained(str(tmp_path / "model"))
    turns = ["The cat sings.", "A dog?", "My aunt.", "sleeps"]
    roles = ["user", "assistant", "user", "assistant"]
    rows = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "train.jsonl", [{"messages": rows}] * 5)
    data = language(tmp_path / "data", tokenizer=tmp_path / "model", length=200)
    targets = batch_of(data.train, 1)["targets"][0]
    said = data.reader.model.decode(targets[targets != -100])
    assert said == "A dog?<|end|>sleeps<|end|>"
    assert data.reader.prompt("The cat?") == "user: The cat?<|end|>\nassistant: "


def test_the_reader_comes_back(plain: Path, tmp_path: Path) -> None:
    """A shipped student could not read a prompt, or would read another one."""
    reader = language(plain, vocab=300, length=16, asked=4).reader
    again = readers.load(tmp_path, reader.save(tmp_path))
    prompts = ["The cat sings", "A", "The cat sings very very very well on day 3. " * 3]
    found, expected = again(prompts), reader(prompts)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found["attention_mask"].sum(1).tolist()[2] == 16
    assert found["attention_mask"][1, -1] == 1  # padded before the text
    assert reader.decode(found["input_ids"][0]) == prompts[0]
    text = "ÄÖ — 😀\n\ttabs  and   spaces"
    assert reader.decode(reader.stream([text])) == text
    with pytest.raises(InputError, match="a list of texts"):
        reader("The cat")


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, "neither in"),
        ({"a.txt": "x", "b.jsonl": '{"text": "y"}'}, {}, "either texts"),
        ({"test.txt": "x" * 99}, {}, "Expected: at least train"),
        ({"a.txt": "short"}, {}, "texts of [0-9]+ tokens"),
        ({"a.txt": "x" * 999}, {"asked": 32}, "32 tokens of a block of 32"),
        ({"a.txt": "x" * 999}, {"tokenizer": "bpee"}, "no tokenizer could be read from bpee"),
        ({"train.jsonl": '{"q": "x", "a": "y"}'}, {}, "the columns q, a"),
        ({"train.jsonl": '{"prompt": "x", "answer": ""}'}, {}, "row 0 of train in .* under answer"),
        ({"train.jsonl": '{"messages": [{"role": "user"}]}\n' * 9}, {}, "a conversation"),
        ({"train.jsonl": '{"prompt": "x", "answer": "y"}\n' * 9}, {"template": "chat"}, "no chat"),
        (
            {"train.jsonl": '{"prompt": "x", "answer": "y"}\n' * 9},
            {"template": "?"},
            "the template",
        ),
        (
            {"train.jsonl": f'{{"prompt": "{"xy" * 50}", "answer": "y"}}\n' * 9},
            {},
            "no answer begins within the first 32 tokens",
        ),
    ],
)
def test_wrong_input(
    files: dict[str, str], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Without it, users would meet errors of libraries, or train on nothing."""
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        language(tmp_path, **{"tokenizer": "characters", "length": 32, "asked": 8, **options})


def tokens_in(batch: dict[str, Any], field: str, targets: str, row: int) -> tuple[Tensor, Tensor]:
    """Return all tokens of a row, with the one after it, and which of them are to be predicted."""
    ids = batch[field]["input_ids"][row]
    if "attention_mask" in batch[field]:
        ids = ids[batch[field]["attention_mask"][row].bool()]
    wanted = batch[targets][row][: len(ids)]
    known = torch.where(wanted == -100, ids.roll(-1), wanted)
    return torch.cat([ids[:1], known]), wanted != -100


@pytest.mark.parametrize("kind", ["plain", "asked"])
def test_a_teacher_with_other_tokens_reads_the_same(
    kind: str, plain: Path, asked: Path, tmp_path: Path
) -> None:
    """Places of other texts would be compared, without a word."""
    folder = asked
    if kind == "plain":
        folder = tmp_path
        for number in range(3):
            text = f"Größe {number}: é\n" + story(20)
            (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    wanted = {"tokenizer": "bpe", "teacher_tokenizer": "characters", "vocab": 300, "asked": 8}
    data = language(folder, length=48, **wanted)
    own, other = data.reader, data.facts["targets"]["teacher_tokenizer"]
    assert data.facts["teacher_inputs"]["vocab"] == other.vocab < own.vocab
    ended = False
    for samples in (data.train, data.validation, data.test):
        batch = batch_of(samples, len(samples))
        for row in range(len(samples)):
            mine, counts = tokens_in(batch, "inputs", "targets", row)
            theirs, count = tokens_in(batch, "teacher_inputs", "teacher_targets", row)
            assert own.model.decode(mine) == other.model.decode(theirs)
            told = own.model.decode(mine[1:][counts]), other.model.decode(theirs[1:][count])
            assert told[0] == told[1] or kind == "plain"
            ended |= kind == "plain" and own.end in mine.tolist()[1:-1]
    assert ended == (kind == "plain")


def test_answers_in_other_tokens_are_compared_in_their_order(asked: Path) -> None:
    """The distance would be one between a prompt and an answer: against a loop in NumPy."""
    data = language(asked, tokenizer="bpe", teacher_tokenizer="characters", vocab=300, length=48)
    task = tasks.LanguageModelling(**data.facts["targets"])
    torch.manual_seed(0)
    teacher = llama(data.facts["teacher_inputs"]["vocab"], width=64)
    student = llama(data.facts["inputs"]["vocab"])
    batch = batch_of(data.train, 4)
    distiller = lb.Distiller(
        lb.Teacher(teacher, inputs="teacher_inputs"), student, task=task, method=lb.methods.uld()
    )
    value = float(distiller(batch).terms["universal_logit"])
    distances = []
    for row in range(4):
        q, p = (
            model(**batch[field]).logits[row].softmax(-1).detach().numpy()[batch[name][row] != -100]
            for model, field, name in (
                (student, "inputs", "targets"), (teacher, "teacher_inputs", "teacher_targets")
            )
        )  # fmt: skip
        for one, theirs in zip(q, p, strict=False):  # the n-th of the one and of the other
            sides = np.zeros((2, max(len(one), len(theirs))))
            sides[0, : len(one)], sides[1, : len(theirs)] = (
                np.sort(one)[::-1],
                np.sort(theirs)[::-1],
            )
            distances.append(np.abs(sides[0] - sides[1]).sum())
        assert len(q) != len(p)
    assert value == pytest.approx(np.mean(distances), rel=1e-4)
