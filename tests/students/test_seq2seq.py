"""The model that reads and writes: what padding, memory and beams must not change."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.students import shrink, zoo
from limbeck.students.zoo import Seq2Seq

START, END, MOST = 2, 3, 7


def _model(**args: object) -> Seq2Seq:
    torch.manual_seed(1)
    settings = {"vocab": 7, "width": 8, "depth": 2, "heads": 2, "positions": 12} | args
    model = zoo.build("seq2seq", **settings, start=START, end=END).double().eval()
    assert isinstance(model, Seq2Seq)
    with torch.no_grad():  # so that it is sure of something, and ends now and then
        for weight in model.parameters():
            weight.mul_(2.0)
        model.norm.bias += model.embedding.weight[END]
    return model


def _batch(lengths: list[int], width: int) -> dict[str, Tensor]:
    ids = torch.randint(4, 7, (len(lengths), width), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


LENGTHS = [6, 1, 3, 5, 2, 4, 6, 3]


def test_padding_and_neighbours_change_nothing() -> None:
    """Without it, a translation would depend on which other sentences are in the batch."""
    model, batch = _model(), _batch(LENGTHS, 6)
    given = torch.randint(4, 7, (8, 5))
    with torch.no_grad():
        together = model(**batch, decoder_input_ids=given)
        garbled = batch | {"input_ids": batch["input_ids"] + 5 * (1 - batch["attention_mask"])}
        torch.testing.assert_close(model(**garbled, decoder_input_ids=given), together)
        for row, length in enumerate(LENGTHS):
            alone = {name: t[row : row + 1, :length] for name, t in batch.items()}
            found = model(**alone, decoder_input_ids=given[row : row + 1, :3])
            torch.testing.assert_close(found[0], together[row, :3])


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_remembered_equals_what_is_computed_anew(beams: int) -> None:
    """Without it, tokens could look at the wrong beam's past, or at a wrong place."""
    model, batch = _model(), _batch(LENGTHS, 6)
    options = {"num_beams": beams, "max_new_tokens": MOST}
    with_memory = model.generate(**batch, **options)
    assert torch.equal(with_memory, model.generate(**batch, **options, use_cache=False))
    assert (with_memory == END).any()
    assert (with_memory[:, 0] == START).all()


def _slow(model: Seq2Seq, batch: dict[str, Tensor], beams: int, penalty: float) -> list[int]:
    """Search as the documentation says, one sentence and one list at a time."""
    going: list[tuple[float, list[int]]] = [(0.0, [START])]
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, MOST + 1):
        found = []
        for score, row in going:
            logits = model(**batch, decoder_input_ids=torch.tensor([row]))[0, -1]
            likely = logits.log_softmax(0).tolist()
            found += [(score + more, [*row, token]) for token, more in enumerate(likely)]
        found.sort(key=lambda pair: -pair[0])
        going = [pair for pair in found if pair[1][-1] != END][:beams]
        ended += [(s / length**penalty, row) for s, row in found[:beams] if row[-1] == END]
        if len(ended) >= beams:
            break
    if len(ended) < beams:
        ended += [(score / MOST**penalty, row) for score, row in going]
    return max(ended)[1]


@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (2, 0.0), (3, 1.0), (4, 2.0)])
def test_beams_against_a_search_with_lists(beams: int, penalty: float) -> None:
    """Without it, a batched search could drop a beam, or compare lengths wrongly, and still run."""
    model, batch = _model(), _batch(LENGTHS, 6)
    found = model.generate(
        **batch, num_beams=beams, max_new_tokens=MOST, length_penalty=penalty
    ).tolist()
    lengths = set()
    with torch.no_grad():
        for row, length in enumerate(LENGTHS):
            alone = {name: t[row : row + 1, :length] for name, t in batch.items()}
            wanted = _slow(model, alone, beams, penalty)
            assert found[row][: len(wanted)] == wanted
            assert not any(found[row][len(wanted) :])
            lengths.add(len(wanted))
    assert len(lengths) > 1


def test_one_beam_is_greedy() -> None:
    """Without it, the two ways of searching could disagree about where a sentence ends."""
    from limbeck.students.zoo._search import beams
    from limbeck.students.zoo.seq2seq import _Writing

    model, batch = _model(), _batch(LENGTHS, 6)
    with torch.no_grad():
        decoder = _Writing(model, *model.encode(**batch))
        found = beams(
            decoder, torch.full((8,), START), count=1, end=END, padding=0, most=MOST,
            length_penalty=1.0,
        )  # fmt: skip
    assert torch.equal(found, model.generate(**batch, max_new_tokens=MOST))


def test_every_weight_learns_and_the_config_builds_it_again() -> None:
    """Without it, a part could be left out of the forward pass, or of the blueprint."""
    model = _model(source_vocab=9, dropout=0.0, decoder_depth=1).train()
    given = torch.randint(4, 7, (3, 5))
    model(**_batch([5, 6, 2], 6), decoder_input_ids=given).square().sum().backward()
    for name, weight in model.named_parameters():
        still = name.endswith("key.bias")  # a softmax does not see what is added to all its inputs
        assert weight.grad is not None
        assert still or weight.grad.abs().sum() > 0, name
    config = json.loads(json.dumps(model.config))
    again = zoo.build(config["build"], **config["args"])
    state = {name: t.shape for name, t in model.state_dict().items()}
    assert {name: t.shape for name, t in again.state_dict().items()} == state
    assert len(again.decoder) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 12}, "1 to 11 tokens"),
        ({"num_beams": 0}, "at least one beam"),
    ],
)
def test_what_cannot_be_written_is_refused(options: dict[str, int], message: str) -> None:
    """Without it, a search could end in an index that is out of range."""
    with pytest.raises(InputError, match=message):
        _model().generate(**_batch([3], 3), **options)
    with pytest.raises(InputError, match="end is token 3"):
        zoo.build("seq2seq", vocab=3, width=8, start=0, end=3)


def test_a_smaller_one_is_derived() -> None:
    """Without it, the student of a translation could not be named as a share of its teacher."""
    model = _model(width=16, heads=4, depth=4, decoder_depth=2, hidden=24)
    small = shrink(model, depth=0.5, width=0.5).eval()
    given = torch.randint(4, 7, (8, 5))
    assert small(**_batch(LENGTHS, 6), decoder_input_ids=given).shape == (8, 5, 7)
    sizes = {name: small.config["args"][name] for name in ("depth", "decoder_depth", "width")}
    assert sizes == {"depth": 2, "decoder_depth": 1, "width": 8}
