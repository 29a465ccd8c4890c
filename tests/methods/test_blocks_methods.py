"""Methods for Transformers, on small ones whose parts are named as in a BERT of Hugging Face."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses.blocks import patient
from limbeck.losses.blocks import tinybert as tinybert_loss
from limbeck.methods import about
from limbeck.methods.blocks import distilbert, minilm, pkd, tinybert
from limbeck.methods.method import Method
from limbeck.testing import check_method

TASK = lb.tasks.Classification(3)
STATES, ATTENTION = "output[hidden_states][{}]", "output[attentions][{}]"


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.heads = heads

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2), scores


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self = SelfAttention(width, heads)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm, self.feed = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        mixed, scores = self.attention.self(x)
        kept.append(scores)
        x = self.norm(x + mixed)
        return x + F.gelu(self.feed(x))


class Transformer(nn.Module):
    def __init__(self, depth: int, width: int, heads: int = 2) -> None:
        super().__init__()
        torch.manual_seed(depth + width)
        self.embed = nn.Embedding(11, width)
        blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.bert = nn.ModuleDict({"encoder": nn.ModuleDict({"layer": blocks})})
        self.head = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> dict[str, Any]:
        states, scores = [self.embed(ids)], list[Tensor]()
        for block in self.bert["encoder"]["layer"]:
            states.append(block(states[-1], scores))
        logits = self.head(states[-1][:, 0])
        return {"logits": logits, "hidden_states": tuple(states), "attentions": tuple(scores)}


def texts(count: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(11, (count, 5), generator=generator)
    return ids, ids[:, 0] % 3


def prepared(method: Method, own: tuple[int, int], theirs: tuple[int, int]) -> lb.Distiller:
    """Return a distiller between Transformers of given depth and width."""
    student, teacher = Transformer(*own), Transformer(*theirs)
    return lb.Distiller(teacher, student, task=TASK, method=method).prepare(texts())


# The defaults are for students of 6 (or 4) blocks under 12.
CASES: dict[str, tuple[Callable[[], Method], tuple[int, int], tuple[int, int]]] = {
    "distilbert": (distilbert, (2, 8), (4, 16)),
    "minilm": (lambda: minilm(heads=4), (6, 8), (12, 16)),
    "pkd": (pkd, (6, 8), (12, 16)),
    "tinybert": (tinybert, (4, 8), (12, 16)),
}


def test_the_list_is_complete() -> None:
    """A method that is not in the list would be checked by nothing below."""
    assert sorted(lb.methods.blocks.__all__) == sorted(CASES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_keeps_the_contract(name: str) -> None:
    """A method would train its teacher, or leave its linear layers untrained."""
    method, own, theirs = CASES[name]
    check_method(
        method(),
        student=Transformer(*own),
        teacher=Transformer(*theirs),
        batch=texts(),
        task=TASK,
    )


def test_keeps_the_contract_on_images() -> None:
    """The last states of a convolutional network are maps."""
    check_method(distilbert())


@pytest.mark.parametrize("name", sorted(CASES))
def test_says_where_it_comes_from(name: str) -> None:
    """A method without a source cannot be checked by anyone."""
    method, cited = getattr(lb.methods.blocks, name), about(name)
    text = inspect.getdoc(method) or ""
    assert str(cited.year) in text
    assert cited.source in text
    assert text.startswith("Match ")
    assert cited.family == ("response" if name == "distilbert" else "feature")
    assert method().name == name


@pytest.mark.parametrize("name", sorted(CASES))
def test_lowers_its_own_terms(name: str) -> None:
    """A sign or a tap of the teacher's on both sides would show nowhere else."""
    method, own, theirs = CASES[name]
    distiller = prepared(method().with_label_weight(0.0), own, theirs)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.003)
    first = distiller(texts()).terms
    for _ in range(30):
        optimizer.zero_grad()
        distiller(texts()).loss.backward()
        optimizer.step()
    last = distiller(texts()).terms
    assert "label" not in last
    assert all(last[key] < 0.8 * first[key] for key in first), (first, last)


def test_distilbert_has_the_published_weights() -> None:
    """5, 1 and 2 with T = 2: another share would be another method."""
    distiller = prepared(distilbert(), (2, 16), (4, 16))
    out = distiller(texts())
    s, t = out.student.logits, out.teacher.logits
    soft = 4 * F.kl_div((s / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean")
    states = out.student["stage[-1]"], out.teacher["stage[-1]"]
    cosine = 1 - F.cosine_similarity(*states, dim=-1).mean()
    label = F.cross_entropy(s, texts()[1])
    assert torch.isclose(out.loss, 5 * soft + cosine + 2 * label)
    assert distilbert(label=0.5, soft=1.0).label_weight == 0.5


def test_pkd_pairs_every_second_block() -> None:
    """A shifted mapping would teach the first block what the third knows."""
    [match] = pkd().matches
    assert match.students == tuple(f"stage[{i}]" for i in range(5))
    assert match.teachers == tuple(f"stage[{i}]" for i in (1, 3, 5, 7, 9))
    assert pkd(blocks=(3, 12)).matches[0].teachers == ("stage[3]", "stage[7]")
    assert match.weight == 100.0
    assert pkd().label_weight is None
    assert (lb.methods.kd() + pkd()).label_weight == pytest.approx(0.1)


def test_pkd_is_the_authors_mean() -> None:
    """Their β is for a mean over blocks and units of the first token's states."""
    distiller = prepared(pkd(), (6, 16), (12, 16))
    assert not distiller.adapters()
    out = distiller(texts())
    sides = [
        torch.stack([F.normalize(known[tap][:, 0], dim=-1) for tap in taps], 1)
        for known, taps in zip(
            (out.student, out.teacher),
            (distiller.method.matches[0].students, distiller.method.matches[0].teachers),
            strict=True,
        )
    ]
    assert torch.isclose(out.terms["patient"], F.mse_loss(*sides))


def test_pkd_has_a_linear_layer_for_each_block() -> None:
    """One layer for all, or none, would not be trained, saved or left behind."""
    distiller = prepared(pkd(), (6, 8), (12, 16))
    assert distiller.adapters()["patient"].count("linear 8→16") == 5
    distiller(texts()).loss.backward()
    assert all(p.grad is not None for p in distiller.alignments.parameters())
    other = prepared(pkd(), (6, 8), (12, 16))
    other.load_state_dict(distiller.state_dict())
    assert torch.equal(other(texts()).loss, distiller(texts()).loss)
    assert not any("alignments" in name for name, _ in distiller.release().named_modules())


def test_patient_in_the_mean() -> None:
    """The two scales differ by layers × units, and a mask of samples must fit a single token."""
    own, theirs = (tuple(torch.randn(4, 3, 8) for _ in range(2)) for _ in range(2))
    total = patient(own, theirs, token=0)
    assert torch.isclose(patient(own, theirs, token=0, features="mean"), total / 16)
    mask = torch.tensor([True, False, True, False])
    some = [tuple(t[mask] for t in side) for side in (own, theirs)]
    value = patient(own, theirs, token=0, mask=mask)
    assert torch.isclose(value, patient(*some, token=0))


def test_tinybert_pairs_every_third_block() -> None:
    """States begin with the embeddings, attention does not: they are easily shifted."""
    states, attention = tinybert().matches
    assert states.students == tuple(STATES.format(i) for i in range(5))
    assert states.teachers == tuple(STATES.format(i) for i in (0, 3, 6, 9, 12))
    assert attention.students == tuple(ATTENTION.format(i) for i in range(4))
    assert attention.teachers == tuple(ATTENTION.format(i) for i in (2, 5, 8, 11))
    assert (states.weight, attention.weight, tinybert().label_weight) == (1.0, 1.0, None)


def test_tinybert_by_hand() -> None:
    """A block that is left out, or a weight between the parts, would go unnoticed."""
    distiller = prepared(tinybert(weight=0.5), (4, 16), (12, 16))
    out = distiller(texts())
    assert set(out.terms) == {"label", "tinybert states", "tinybert attention"}
    states, attention = (
        sum(
            F.mse_loss(out.student[s], out.teacher[t])
            for s, t in zip(match.students, match.teachers, strict=True)
        )
        for match in distiller.method.matches
    )
    assert torch.isclose(out.terms["tinybert states"], states)
    assert torch.isclose(out.terms["tinybert attention"], attention)
    assert torch.isclose(out.loss, out.terms["label"] + 0.5 * (states + attention))


def test_tinybert_with_taps() -> None:
    """A model that returns no states has modules; and each part can be left out."""
    taps = (["stage[0]"], ["stage[1]"])
    only_states = tinybert(states=taps, attention=([], []))
    assert [match.name for match in only_states.matches] == ["tinybert states"]
    distiller = prepared(only_states, (2, 8), (4, 16))
    assert distiller.adapters() == {"tinybert states": "student: linear 8→16"}
    only_attention = tinybert(states=([], []), blocks=(2, 4))
    assert [match.name for match in only_attention.matches] == ["tinybert attention"]
    prepared(only_attention, (2, 8), (4, 16))(texts()).loss.backward()


def test_tinybert_wants_equal_heads() -> None:
    """Attention of other heads would be mixed by a convolution that means nothing."""
    method = tinybert(blocks=(1, 2))
    student, teacher = Transformer(1, 8, heads=4), Transformer(2, 16, heads=2)
    with pytest.raises(InputError, match="as many attention heads"):
        lb.Distiller(teacher, student, task=TASK, method=method).prepare(texts())


def test_tinybert_takes_a_mask_of_samples() -> None:
    """A task with whole samples to leave out would meet a loss that knows tokens alone."""
    own = (torch.randn(3, 2, 4, 4), torch.randn(3, 4, 8))
    theirs = tuple(torch.randn_like(t) for t in own)
    mask = torch.tensor([True, False, True])
    some = [tuple(t[mask] for t in side) for side in (own, theirs)]
    for form in ("paper", "code"):
        value = tinybert_loss(own, theirs, mask=mask, form=form)
        assert torch.isclose(value, tinybert_loss(*some, form=form))


def test_minilm_taps_the_last_blocks_of_a_bert() -> None:
    """The order of queries, keys and values, or the block, would be another's."""
    [match] = minilm().matches
    place = "bert.encoder.layer.{}.attention.self.{}"
    parts = ("query", "key", "value")
    assert match.students == tuple(place.format(5, part) for part in parts)
    assert match.teachers == tuple(place.format(11, part) for part in parts)
    assert match.options == {"heads": 48, "form": "v2"}
    distiller = prepared(minilm(heads=4), (6, 8), (12, 16))
    assert not distiller.adapters()
    assert not any(True for _ in distiller.losses.parameters())


@pytest.mark.parametrize("form", ["v1", "v2"])
def test_minilm_by_hand(form: str) -> None:
    """v1 relates queries to keys; v2 relates each to itself."""
    distiller = prepared(minilm(heads=2, form=form, weight=0.5), (6, 8), (12, 16))
    out = distiller(texts())
    [match] = distiller.method.matches

    def relations(known: Any, taps: tuple[str, ...]) -> list[Tensor]:
        q, k, v = (known[tap].unflatten(-1, (2, -1)).transpose(1, 2) for tap in taps)
        pairs = [(q, k), (v, v)] if form == "v1" else [(q, q), (k, k), (v, v)]
        return [(a @ b.mT / a.shape[-1] ** 0.5).log_softmax(-1) for a, b in pairs]

    own, theirs = relations(out.student, match.students), relations(out.teacher, match.teachers)
    expected = sum(
        F.kl_div(s, t, reduction="none", log_target=True).sum(-1).mean()
        for s, t in zip(own, theirs, strict=True)
    )
    assert torch.isclose(out.terms["minilm"], expected)
    assert torch.isclose(out.loss, out.terms["label"] + 0.5 * expected)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (pkd, {"blocks": (5, 12)}),
        (pkd, {"blocks": (0, 12)}),
        (pkd, {"blocks": (1, 12)}),
        (pkd, {"student": ["stage[0]"]}),
        (pkd, {"student": ["a"], "teacher": ["a", "b"]}),
        (pkd, {"student": "ab", "teacher": "ab"}),
        (tinybert, {"blocks": (12, 4)}),
        (tinybert, {"states": (["a"], [])}),
        (tinybert, {"states": ([], []), "attention": ([], [])}),
        (minilm, {"student": ["a", "b", "c"], "teacher": ["a"]}),
        (minilm, {"student": "query", "teacher": "query"}),
    ],
)
def test_impossible_options(make: Any, options: dict[str, Any]) -> None:
    """Blocks would be paired by chance, or a name be taken for a list of letters."""
    with pytest.raises(InputError):
        make(**options)


def test_with_hugging_face() -> None:
    """The names of its parts and of its outputs are promised in the docstrings."""
    transformers = pytest.importorskip("transformers")

    def bert(depth: int, width: int) -> nn.Module:
        config = transformers.BertConfig(
            vocab_size=11, hidden_size=width, num_hidden_layers=depth, num_attention_heads=2,
            intermediate_size=16, num_labels=3, max_position_embeddings=8,
            output_hidden_states=True, output_attentions=True, attn_implementation="eager",
        )  # fmt: skip
        return transformers.BertForSequenceClassification(config)

    task = lb.tasks.Classification(3, input_names=("input_ids",), target_name="labels")
    batch = {"input_ids": texts(4)[0], "labels": texts(4)[1]}
    tiny = tinybert(blocks=(2, 4)) + pkd(blocks=(2, 4))
    last = minilm(
        heads=4,
        student=[f"bert.encoder.layer.1.attention.self.{part}" for part in ("query", "value")],
        teacher=[f"bert.encoder.layer.3.attention.self.{part}" for part in ("query", "value")],
    )
    method = (tiny + last + distilbert()).with_label_weight(2.0)
    distiller = lb.Distiller(lb.Teacher(bert(4, 16)), bert(2, 8), task=task, method=method).prepare(
        batch
    )
    out = distiller(batch)
    out.loss.backward()
    assert len(out.terms) == 7
    assert all(p.grad is not None for p in distiller.alignments.parameters())
