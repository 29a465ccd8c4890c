"""Methods for tokens, frames and steps, on a tiny Transformer and a task with a mask."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck.data.samples import as_batch
from limbeck.errors import InputError
from limbeck.methods import about, sequences
from limbeck.methods.method import Method
from limbeck.tasks import Task
from limbeck.testing import check_method

WORDS = 7
NAMES = ["ctc", "ctc_sequence", "minillm", "policy", "seqkd"]
LOSSES = {
    "ctc": "ctc_aligned", "ctc_sequence": "ctc_sequence", "minillm": "minillm",
    "policy": "policy", "seqkd": "sequence_level",
}  # fmt: skip


@dataclass(frozen=True)
class Tokens:
    """One of the words for each token; the label −1 stands in the padding."""

    name: str = "tokens"
    selection: str = "accuracy"
    higher_is_better: bool = True

    def named(self, batch: Any) -> Any:
        return batch if isinstance(batch, dict) else as_batch(batch, "inputs", "targets")

    def inputs(self, batch: Any) -> Any:
        return batch["inputs"]

    def targets(self, batch: Any) -> Tensor:
        labels: Tensor = batch["targets"]
        return labels

    def mask(self, batch: Any) -> Tensor:
        return self.targets(batch) >= 0

    def count(self, batch: Any) -> Tensor:
        return self.mask(batch).sum()

    def label_loss(self, logits: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(logits.float().mT, self.targets(batch), ignore_index=-1)

    def check(self, batch: Any) -> None: ...

    def check_logits(self, logits: Tensor, whose: str) -> None:
        assert logits.ndim == 3

    def meter(self) -> Any:
        raise NotImplementedError


class Speaker(nn.Module):
    """One Transformer block between an embedding and a head."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.embed = nn.Embedding(WORDS, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True)
        self.head = nn.Linear(width, WORDS)
        self.scale = scale

    def forward(self, words: Tensor) -> Tensor:
        answer: Tensor = self.scale * self.head(self.block(self.embed(words)))
        return answer


def made(name: str, **options: Any) -> Method:
    method = getattr(sequences, name)(**options)
    assert isinstance(method, Method)
    return method


def sentences(count: int = 6, length: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(WORDS, (count, length), generator=generator)
    labels = (words + 1) % WORDS
    labels[1, 3:], labels[4, 1:] = -1, -1
    return words, labels


def distilled(method: Method, *, width: int = 8) -> lb.Distiller:
    return lb.Distiller(Speaker(16, scale=2.0), Speaker(width), task=Tokens(), method=method)


def test_the_list_is_complete() -> None:
    """A method that is not in the list would be checked by nothing below."""
    assert sorted(sequences.__all__) == NAMES
    assert isinstance(Tokens(), Task)


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name: str) -> None:
    """A method would train its teacher, or fail on tokens or on single answers."""
    check_method(made(name))
    check_method(
        made(name), student=Speaker(8), teacher=Speaker(16), batch=sentences(), task=Tokens()
    )


@pytest.mark.parametrize("name", NAMES)
def test_says_whose_it_is(name: str) -> None:
    """A method without a source could not be checked by anyone."""
    cited = about(name)
    text = inspect.getdoc(getattr(sequences, name)) or ""
    assert str(cited.year) in text
    assert cited.source in text
    assert made(name).sources == (cited,)


@pytest.mark.parametrize(
    ("name", "weight", "options", "label"),
    [
        ("ctc", 0.9, {"blank": 0, "context": 0, "temperature": 1.0}, 0.1),
        ("ctc_sequence", 0.5, {"blank": 0}, 0.5),
        ("minillm", 1.0, {"normalized": True}, 1.0),
        ("policy", 1.0, {"temperature": 0.01}, 0.0),
        ("seqkd", 1.0, {}, 0.0),
    ],
)
def test_weights(name: str, weight: float, options: dict[str, Any], label: float) -> None:
    """A weight of another paper would be taken for this one's."""
    method = made(name)
    [match] = method.matches
    assert (match.name, match.weight, match.options) == (LOSSES[name], weight, options)
    assert method.label_weight == label


# -- what they come to


def by_hand(name: str, s: Tensor, t: Tensor) -> float:
    """Return the loss of one token."""
    log_q = s.log_softmax(-1)
    if name == "seqkd":
        return -float(log_q[int(t.argmax())])
    if name == "minillm":  # of texts that nobody wrote
        return float((log_q.exp() * (log_q - t.log_softmax(-1))).sum())
    sharp = 0.01 if name == "policy" else 1.0
    if name == "ctc" and int(t.argmax()) == 0:
        return 0.0
    p = (t / sharp).softmax(-1)
    return float((torch.xlogy(p, p) - p * log_q).sum())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ctc_sequence"])
def test_padding_does_not_count(name: str) -> None:
    """Tokens that are none would teach, or divide the sum."""
    distiller, (words, labels) = distilled(made(name)), sentences()
    out = distiller((words, labels))
    assert out.teacher is not None
    kept = (labels >= 0).nonzero().tolist()
    assert len(kept) == 24
    s, t = out.student.logits.detach().double(), out.teacher.logits.double()
    expected = sum(by_hand(name, s[row, place], t[row, place]) for row, place in kept) / 24
    assert float(out.terms[LOSSES[name]]) == pytest.approx(expected, rel=1e-4)


def test_the_share_of_the_transcript() -> None:
    """The teacher's share would be added to the label's instead of taken from it."""
    out = distilled(made("ctc", alpha=0.25, context=1))(sentences())
    expected = 0.75 * out.terms["label"] + 0.25 * out.terms["ctc_aligned"]
    assert torch.isclose(out.loss, expected)
    alone = distilled(made("ctc", alpha=1.0, context=1))(sentences())
    assert sorted(alone.terms) == ["ctc_aligned"]


def test_what_the_teacher_decoded_as_ids() -> None:
    """A teacher that returns text would have to return logits too."""

    class Decoder(nn.Module):
        """Answers with logits, and with the words that it decoded."""

        def __init__(self) -> None:
            super().__init__()
            self.speaker = Speaker(16)
            self.decode = Reversed()

        def forward(self, words: Tensor) -> Tensor:
            self.decode(words)
            answer: Tensor = self.speaker(words)
            return answer

    class Reversed(nn.Module):
        def forward(self, words: Tensor) -> Tensor:
            return words.flip(1)

    words, labels = sentences()
    student = Speaker(8)
    method = made("seqkd", teacher="decode")
    out = lb.Distiller(Decoder(), student, task=Tokens(), method=method)((words, labels))
    wanted = words.flip(1).masked_fill(labels < 0, -1)
    expected = F.cross_entropy(student(words).mT, wanted, ignore_index=-1)
    assert torch.isclose(out.loss, expected, rtol=1e-5)


# -- training


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_teachers_part(name: str) -> None:
    """A sign or a cut gradient would lead the student away from the teacher."""
    distiller = distilled(made(name).with_label_weight(0.0))
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.01)
    values = []
    for _ in range(50):
        out = distiller(sentences())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        values.append(float(out.terms[LOSSES[name]]))
    assert values[-1] < 0.5 * values[0]


# -- what is refused


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ctc", {"alpha": 1.1}),
        ("ctc", {"alpha": -0.1}),
        ("minillm", {"lam": -1.0}),
        ("policy", {"lam": -1.0}),
        ("seqkd", {"lam": -1.0}),
    ],
)
def test_impossible_shares(name: str, options: dict[str, Any]) -> None:
    """A negative share teaches the opposite, in silence."""
    with pytest.raises(InputError):
        made(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ctc", {"blank": WORDS}),
        ("ctc", {"context": -1}),
        ("ctc", {"temperature": 0.0}),
        ("policy", {"temperature": 0.0}),
    ],
)
def test_impossible_options_are_told_before_training(name: str, options: dict[str, Any]) -> None:
    """They would be found out in the first epoch."""
    with pytest.raises(InputError):
        distilled(made(name, **options)).prepare(sentences())
