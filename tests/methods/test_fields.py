"""Options of a loss that come from the batch or from a further tap of the student."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses import focal_global, kl, listwise, ranking_distillation, universal_logit
from limbeck.methods import Match, Method, uncertainty_weighted
from limbeck.pipeline import build
from limbeck.recipe import parse
from limbeck.tasks import Classification

ITEMS = 6


class Ranks(Classification):
    """Scores of six items, of which a sample's first is the right one."""


class Scorer(nn.Module):
    """Scores items, and four others that are drawn from a catalogue."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.items, self.others = nn.Linear(3, ITEMS), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.items(x), "sampled": self.others(x)}


def batch(**more: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 3, generator=generator)
    present = torch.arange(ITEMS) < torch.tensor([6, 2, 3, 1, 5]).unsqueeze(1)
    plain = {"inputs": inputs, "targets": torch.zeros(5, dtype=torch.int64)}
    return plain | {"there": present} | more


def distiller(method: Method | Match) -> lb.Distiller:
    return lb.Distiller(Scorer(1), Scorer(2), task=Classification(ITEMS), method=method)


def test_a_field_of_the_batch_reaches_the_loss() -> None:
    """Items that are not there would be ranked."""
    method = lb.methods.listwise(present="there")
    out = distiller(method)(batch())
    expected = listwise(out.student.logits, out.teacher.logits, present=batch()["there"])
    assert torch.equal(out.terms["listwise"], expected.detach())
    without = distiller(lb.methods.listwise())(batch())
    assert not torch.isclose(out.terms["listwise"], without.terms["listwise"])


def test_a_further_tap_of_the_student_reaches_the_loss() -> None:
    """Ranks would be counted within the few items that are scored, not in the catalogue."""
    method = lb.methods.rd(k=3, sampled="output[sampled]", items=1000, warmup=0.0)
    out = distiller(method)(batch())
    [name] = [term for term in out.terms if term != "label"]
    student, teacher = out.student, out.teacher.logits
    given: dict[str, Any] = {"k": 3, "sampled": student["output[sampled]"], "items": 1000}
    expected = ranking_distillation(student.logits, teacher, **given)
    assert torch.isclose(out.terms[name], expected.detach())
    plain = ranking_distillation(student.logits, teacher, k=3)
    assert not torch.isclose(out.terms[name], plain.detach())
    with pytest.raises(InputError, match="both, or neither"):
        lb.methods.rd(items=1000)


class Speaker(nn.Module):
    """Says the same of every token, in a vocabulary of its own."""

    def __init__(self, vocabulary: int, tokens: int) -> None:
        super().__init__()
        torch.manual_seed(vocabulary)
        self.tokens, self.layer = tokens, nn.Linear(3, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.linspace(0.5, 2, self.tokens)
        return self.layer(x).unsqueeze(1) * steps[:, None]


class Sequences(Classification):
    """Tokens without labels."""

    def check_logits(self, logits: Tensor, whose: str) -> None:
        pass

    def label_loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        return logits.sum() * 0


def test_the_teachers_mask_reaches_uld() -> None:
    """Tokens of two tokenizers would be compared place by place, padding included."""
    own = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()
    theirs = torch.tensor([[0, 1, 1, 0]] * 5).bool()
    models = Speaker(7, 4), Speaker(5, 3)
    method = lb.methods.uld(teacher="layer", teacher_mask="theirs")
    assert method.matches[0].fields == {"teacher_mask": "theirs"}
    match = Match(
        "logits", "logits", universal_logit, fields={"teacher_mask": "theirs", "mask": "own"}
    )
    task = Sequences(5)
    learner = lb.Distiller(*models, task=task, method=match)
    out = learner(batch(own=own, theirs=theirs))
    expected = universal_logit(
        out.student.logits, out.teacher.logits, mask=own, teacher_mask=theirs
    )
    assert torch.equal(out.terms["universal_logit"], expected.detach())
    assert not torch.isclose(
        out.terms["universal_logit"],
        universal_logit(out.student.logits, out.teacher.logits, mask=own).detach(),
    )


def test_a_field_stands_in_for_the_labels() -> None:
    """Boxes of a detector are not what its task calls targets."""
    match = Match("maps", "maps", focal_global, fields={"targets": "boxes"}, image=(8, 8))
    assert match.context == ()
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0]]])
    maps = torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    found = match.compare(*maps, {"targets": torch.zeros(1), **match.read({"boxes": boxes})})
    # What the task says is overwritten by what was read, as the distiller passes it.
    assert torch.equal(found, focal_global(*maps, targets=boxes, image=(8, 8)))


def test_a_batch_without_the_field() -> None:
    """It would be left out in silence, or be found out after an epoch."""
    learner = distiller(lb.methods.listwise(present="there"))
    poor = {key: value for key, value in batch().items() if key != "there"}
    with pytest.raises(InputError, match=r"no field 'there'.*'present' of listwise.*inputs, targ"):
        learner.prepare(poor)


def test_options_from_two_places() -> None:
    """One of the two would win by chance."""
    with pytest.raises(InputError, match="several places"):
        Match("logits", "logits", listwise, present=None, fields={"present": "there"})
    with pytest.raises(InputError, match="several places"):
        Match("a", "a", listwise, taps={"present": "b"}, fields={"present": "there"})
    with pytest.raises(InputError, match="option of the loss kl: 'present'"):
        Match("logits", "logits", kl, fields={"present": "there"})
    with pytest.raises(InputError, match="option of the loss kl: 'present'"):
        Match("logits", "logits", kl, taps={"present": "there"})


def test_they_are_shown() -> None:
    """Two runs that read different fields would look alike in a report."""
    match = Match("logits", "logits", listwise, fields={"present": "there"}, taps={"mask": "m"})
    assert "fields={'present': 'there'}, taps={'mask': 'm'}" in repr(match)


def test_learned_weights_pass_them_on() -> None:
    """A wrapper would drop the field, and the loss rank what is not there."""
    plain = lb.methods.listwise(present="there")
    expected = distiller(plain)(batch()).terms["listwise"]
    learner = distiller(uncertainty_weighted(plain)).prepare(batch())
    weighed = learner(batch()).terms["listwise"]
    assert torch.isclose(weighed, expected - torch.log(torch.tensor(2.0)) / 2)


def test_a_recipe_names_fields() -> None:
    """Only Python could use them."""
    logits = ["logits", "logits"]
    entry = {"match": logits, "loss": "listwise", "fields": {"present": "there"}, "weight": 2}
    models: dict[str, Any] = {"teacher": {"build": "cnn"}, "student": {"build": "cnn"}}
    recipe = parse({"name": "fields", "data": {"source": "digits"}, **models, "method": [entry]})
    [match] = build.method(recipe).matches
    assert (match.fields, match.weight) == ({"present": "there"}, 2.0)
