"""Language modelling: what models write after a prompt, and how that is judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from language import llama, story, sums, write_rows
from torch import Tensor, nn

from limbeck import tasks
from limbeck.data import Data
from limbeck.data.sources import language
from limbeck.errors import InputError
from limbeck.tasks import LanguageModelling, Producing, Restating, Task, Writing
from limbeck.tasks.generating import prompts, write
from limbeck.tasks.language_modelling import final_number
from limbeck.testing import check_task


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("asked")
    write_rows(folder / "train.jsonl", [{"prompt": q, "answer": a} for q, a in sums(20)])
    return language(folder, tokenizer="characters", length=48)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("plain")
    (folder / "story.txt").write_text(story(80), encoding="utf-8")
    return language(folder, tokenizer="characters", length=24, asked=8)


def task_of(data: Data, **options: Any) -> LanguageModelling:
    facts = data.facts["targets"]
    return LanguageModelling(facts["tokenizer"], facts["vocab"], facts["asked"], **options)


def batch_of(data: Data, count: int) -> dict[str, Any]:
    return next(data.train.batches([torch.arange(count)], view=0, seed=0))


def model_of(data: Data) -> nn.Module:
    torch.manual_seed(1)
    return llama(data.facts["targets"]["vocab"]).eval()


def one_by_one(model: nn.Module, prompt: Tensor, length: int, end: int) -> list[int]:
    """Return the likeliest token each time, without padding or memory."""
    row = prompt.tolist()
    while len(row) < length:
        row.append(int(model(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
        if row[-1] == end:
            break
    return row[len(prompt) :]


def test_keeps_the_contract(asked: Data) -> None:
    """Everything about logits must be as the task of tokens has it."""
    task, batch = task_of(asked), batch_of(asked, 6)
    vocab = asked.facts["targets"]["vocab"]
    check_task(task, batch, torch.randn(*batch["targets"].shape, vocab))
    assert all(isinstance(task, kind) for kind in (Task, Producing, Restating, Writing))
    assert tasks.get("language_modelling") is LanguageModelling


def test_writing_is_the_same_as_one_by_one(asked: Data, plain: Data) -> None:
    """Padding before shorter prompts, or a memory of others, would change what models write."""
    for data, count in ((asked, 7), (plain, 3)):
        task, batch, model = task_of(data), batch_of(data, count), model_of(data)
        length, end = data.reader.length, data.reader.end
        found = prompts(batch["inputs"], batch["targets"], task.asked)
        expected = [one_by_one(model, prompt, length, end) for prompt in found]
        assert task.produced(model, batch) == [data.reader.decode(row) for row in expected]
        written = write(model, found, length=length, end=end, padding=data.reader.padding)
        assert [row.tolist() for row in written] == expected


def test_prompts_and_references(asked: Data, plain: Data) -> None:
    """A prompt that holds the answer, or a reference that lacks its beginning, measures nothing."""
    batch = batch_of(asked, 5)
    rows = [sums(20)[number] for number in batch["id"].tolist()]
    found = prompts(batch["inputs"], batch["targets"], 0)
    assert [asked.reader.decode(row) for row in found] == [f"{question}\n" for question, _ in rows]
    assert task_of(asked).references(batch) == [answer for _, answer in rows]
    batch, task = batch_of(plain, 2), task_of(plain)
    begun = prompts(batch["inputs"], batch["targets"], task.asked)
    texts = [plain.reader.decode(row) for row in begun]
    whole = [t + r for t, r in zip(texts, task.references(batch), strict=True)]
    assert whole == [story(80)[:25], story(80)[24:49]]
    with pytest.raises(InputError, match="one sample in each row"):
        prompts({"input_ids": found[0], "position_ids": found[0]}, batch["targets"], 0)


def test_what_a_model_writes_counts_for_the_teacher_alone(asked: Data) -> None:
    """A student that learnt its own text as a label would confirm itself in every mistake."""
    task, batch, model = task_of(asked), batch_of(asked, 6), model_of(asked)
    made = task.written(model, batch, temperature=1.0, seed=3)
    again = task.written(model, batch, temperature=1.0, seed=3)
    other = task.written(model, batch, temperature=1.0, seed=4)
    ids = made["inputs"]["input_ids"]
    assert torch.equal(ids, again["inputs"]["input_ids"])
    assert not torch.equal(ids[:, :40], other["inputs"]["input_ids"][:, :40])
    assert (made["targets"] == -100).all()
    assert torch.equal(made["id"], batch["id"])
    for row, prompt in enumerate(prompts(batch["inputs"], batch["targets"], 0)):
        size = int(made["inputs"]["attention_mask"][row].sum())
        assert torch.equal(ids[row, : len(prompt)], prompt)
        assert made["counted"][row].nonzero().flatten().tolist() == [*range(len(prompt) - 1, size)]
    logits = model(**made["inputs"]).logits
    assert float(task.label_loss(logits, task.named(made)).detach()) == 0.0
    assert int(task.count(made)) == int(made["counted"].sum())


def test_a_teachers_texts_become_what_is_predicted(asked: Data, plain: Data) -> None:
    """Sequence-level distillation would teach the references, or prompts, or no end."""
    task = task_of(asked)
    texts = [f"{n} it is" for n in range(len(asked.train))]
    made: Any = task.restated(asked.train, texts)
    assert torch.equal(made.ids, asked.train.ids)
    batch = next(made.batches([torch.arange(4)], view=0, seed=0))
    assert task.references(batch) == texts[:4]
    assert (batch["targets"] == asked.reader.end).sum(1).tolist() == [1] * 4
    asks = prompts(batch["inputs"], batch["targets"], 0)
    before = prompts(batch_of(asked, 4)["inputs"], batch_of(asked, 4)["targets"], 0)
    assert all(torch.equal(one, other) for one, other in zip(asks, before, strict=True))
    going: Any = task_of(plain).restated(plain.train.subset(torch.arange(2)), ["aaaa", "cats"])
    batch = next(going.batches([torch.arange(2)], view=0, seed=0))
    said = [plain.reader.decode(row[row != -100]) for row in batch["targets"]]
    assert said == ["aaaa", "cats"]


def test_judgements(asked: Data, plain: Data) -> None:
    """GSM8K counts a number; another spelling of it is right, a longer one is not."""
    found = [final_number(text) for text in ("#### 1,000", "so 3.50", "7 #### -2 and 9", "")]
    assert found == ["1000", "3.5", "-2", None]
    task = task_of(asked, judge="number")
    judged = task.judged(["a #### 7", "it is 7", "70", "none"], ["x #### 7"] * 4)
    assert dict(judged.metrics) == {"exact_match": 0.5}
    assert (task.headline, task.selection) == ("exact_match", "loss")
    assert dict(task_of(asked).judged([" a b ", "ab"], ["a b", "a b"]).metrics) == {
        "exact_match": 0.5
    }
    open_ended = task_of(plain)
    assert (open_ended.headline, open_ended.higher_is_better) == ("loss", False)
    assert open_ended.closeness("the cat the", "The dog, the") == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="did you mean 'number'"):
        task_of(asked, judge="numbr")
    with pytest.raises(InputError, match="a Linear cannot write"):
        task.produced(nn.Linear(2, 2), batch_of(asked, 2))


def test_numbers_of_gsm8k(data_root: Path) -> None:
    """A pattern that misses some of the answers as they are would cap every model's score."""
    table = pytest.importorskip("pyarrow.parquet")
    file = data_root / "lm_gsm8k" / "test.parquet"
    if not file.is_file():
        pytest.skip("no lm_gsm8k in the folder of real data")
    answers = table.read_table(file)["answer"].to_pylist()
    expected = [text.rsplit("#### ", 1)[1].replace(",", "") for text in answers]
    assert [final_number(text) for text in answers] == expected
    assert json.dumps(expected[:3]) == '["18", "3", "70000"]'
