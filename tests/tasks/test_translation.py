"""What a batch of sentences means, and how translations are judged."""

from __future__ import annotations

import pytest
import torch
from pairs import pairs
from torch import nn

from limbeck.data import Arrays, Jagged
from limbeck.data.jagged import Texts
from limbeck.data.languages import Languages
from limbeck.data.tokens import Tokenizer
from limbeck.errors import InputError
from limbeck.tasks import Producing, Restating, Task, Translation
from limbeck.testing import check_task

pytest.importorskip("sacrebleu")
READ, WRITTEN = ([pair[side] for pair in pairs()[:6]] for side in (0, 1))


@pytest.fixture(scope="module")
def task() -> Translation:
    tokens = Tokenizer.train([*READ, *WRITTEN], "bpe-cased", size=320, length=16)
    return Translation(Languages.of(tokens, tokens), vocab=tokens.vocab)


@pytest.fixture
def samples(task: Translation) -> Arrays:
    given, wanted = task.reader.answers(WRITTEN)
    return Arrays(
        {
            "inputs": {"source": task.reader.inputs(READ), "target": given},
            "targets": wanted,
            "reference": Texts.of(WRITTEN).bytes,
        },
        torch.arange(6),
    )


def _batch(samples: Arrays) -> dict:
    return next(samples.batches([torch.arange(len(samples))], 0, 0))


def test_contract(task: Translation, samples: Arrays) -> None:
    """Without it, padding could count, or parts of a batch not add up."""
    assert isinstance(task, Task)
    assert isinstance(task, Producing)
    assert isinstance(task, Restating)
    batch = _batch(samples)
    assert batch["inputs"].keys() == {
        "input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"
    }  # fmt: skip
    check_task(task, batch, torch.randn(*batch["targets"].shape, task.vocab))


def test_what_a_decoder_is_given_is_one_place_late(task: Translation, samples: Arrays) -> None:
    """Without it, a model would be shown the token that it is to predict, and learn nothing."""
    batch = _batch(samples)
    given, wanted = batch["inputs"]["decoder_input_ids"], batch["targets"]
    rows = [[token for token in row if token != -100] for row in wanted.tolist()]
    for row, shown in zip(rows, given.tolist(), strict=True):
        assert shown[: len(row)] == [task.reader.start, *row[:-1]]
        assert row[-1] == task.reader.end
    assert task.reader.written(rows) == WRITTEN


def test_bleu_and_chrf_are_those_of_sacrebleu(task: Translation) -> None:
    """Without it, a number in a report could not be compared with any other."""
    import sacrebleu

    said = [WRITTEN[0], WRITTEN[1].replace("Ein", "Der"), *WRITTEN[3:], "Tee"]
    found = task.judged(said, WRITTEN)
    assert found.metrics == {
        "bleu": sacrebleu.corpus_bleu(said, [WRITTEN]).score,
        "chrf": sacrebleu.corpus_chrf(said, [WRITTEN]).score,
    }
    assert 0 < found.metrics["bleu"] < 100
    assert any("case:mixed" in note and "version:" in note for note in found.details["notes"])
    assert task.closeness(WRITTEN[0], WRITTEN[0]) == 1.0 > task.closeness("Tee", WRITTEN[0])


class Parrot(nn.Module):
    """Writes what it is told to, and notes how it was asked."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows, self.asked = rows, {}

    def generate(self, **options: object) -> torch.Tensor:
        self.asked = options
        return self.rows


def test_what_is_produced_ends_where_the_model_ended_it(task: Translation, samples: Arrays) -> None:
    """Without it, padding and whatever stands after the end would be judged too."""
    batch, start = _batch(samples), torch.full((6, 1), task.reader.start)
    wanted = batch["targets"].masked_fill(batch["targets"] == -100, task.reader.end)
    model = Parrot(torch.cat((start, wanted, torch.full((6, 2), 9)), dim=1))
    assert task.produced(model, batch) == task.references(batch) == WRITTEN
    assert (model.asked["num_beams"], model.asked["max_new_tokens"]) == (4, 16)
    with pytest.raises(InputError, match=r"Linear has no generate\(\)"):
        task.produced(nn.Linear(1, 1), batch)


def test_restated_samples_differ_in_what_is_written_alone(
    task: Translation, samples: Arrays
) -> None:
    """Without it, a student could be given the reference while it is to write another text."""
    other = WRITTEN[::-1]
    found = task.restated(samples, other)
    batch, before = _batch(found), _batch(samples)
    assert (
        task.reader.written(
            [[token for token in row if token >= 0] for row in batch["targets"].tolist()]
        )
        == other
    )
    assert torch.equal(batch["inputs"]["input_ids"], before["inputs"]["input_ids"])
    assert torch.equal(batch["id"], before["id"])
    given, _ = task.reader.answers(other)
    assert torch.equal(batch["inputs"]["decoder_input_ids"], given.dense()["decoder_input_ids"])
    assert found.fingerprint() != samples.fingerprint()
    assert isinstance(found.fields["targets"], Jagged)


def test_a_tokenizer_must_know_where_a_text_ends() -> None:
    """Without it, models would write until they may write no more."""
    plain = Tokenizer.train(READ, "bpe", size=300)
    with pytest.raises(InputError, match="no token for the end of a text"):
        Languages.of(plain, plain)
