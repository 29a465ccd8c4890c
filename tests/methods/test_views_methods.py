"""SSKD: batches of rotated views, and the head of the teacher that is trained first."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.knowledge import write
from limbeck.losses.views import SelfSupervised, ViewHead, telling_apart
from limbeck.methods import Match, Method, about, at, kd, pretrain_view_head, rotations, sskd
from limbeck.testing import check_loss, check_method

TASK = lb.tasks.Classification(5)


def network(width: int) -> nn.Module:
    """Return a network with batch normalisation, which sees whatever is in a batch."""
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 5),
    )  # fmt: skip


def images(count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 3, 8, 8, generator=generator)
    return inputs, torch.arange(count) % 5, torch.arange(count)


def by_hand(distiller: lb.Distiller, head: ViewHead, own_head: nn.Module) -> Tensor:
    """Return the loss as the authors' loop has it: rows in fours, cosines in two nested loops."""
    inputs, targets, _ = images()
    rows = torch.stack([torch.rot90(x, k, (1, 2)) for x in inputs for k in range(4)])
    student, teacher = distiller.student, distiller.teacher.module
    features = student[:-1](rows)
    logits, theirs = student[-1](features), teacher(rows)
    label = F.cross_entropy(logits[::4], targets)
    soft = 16 * F.kl_div(
        F.log_softmax(logits[::4] / 4, 1), F.softmax(theirs[::4] / 4, 1), reduction="batchmean"
    )
    turned = [i for i in range(len(rows)) if i % 4]
    tf = 16 * F.kl_div(
        F.log_softmax(logits[turned] / 4, 1), F.softmax(theirs[turned] / 4, 1),
        reduction="batchmean",
    )  # fmt: skip

    def cosines(told: Tensor) -> Tensor:
        plain = range(0, 24, 4)
        return torch.stack(
            [torch.stack([F.cosine_similarity(told[i], told[j], 0) for j in plain]) for i in turned]
        )

    own, other = cosines(own_head(features)), cosines(head(teacher[:-1](rows)))
    log_p = F.log_softmax(other.detach() / 0.5, 1)
    rank = [int((row > row[i // 4]).sum()) for i, row in zip(turned, other, strict=True)]
    wrong = sum(r > 0 for r in rank)
    worth = sorted(range(18), key=lambda k: (rank[k], -float(log_p[k, turned[k] // 4])))
    keep = worth[: 18 - wrong + int(0.75 * wrong)]
    assert 0 < len(keep) < 18
    ss = 0.25 * F.kl_div(
        F.log_softmax(own[keep] / 0.5, 1), log_p[keep].exp(), reduction="batchmean"
    )
    return 0.1 * label + 0.9 * soft + 2.7 * tf + 10 * ss


def prepared(method: Method) -> lb.Distiller:
    distiller = lb.Distiller(network(8), network(4), task=TASK, method=method)
    torch.manual_seed(3)
    return distiller.prepare(images())


def test_the_loss_is_the_authors() -> None:
    """Rows would be interleaved another way, or the label see rotated images."""
    torch.manual_seed(1)
    head = ViewHead(32)
    distiller = prepared(sskd(head)).train()
    [module] = [part for part in distiller.losses if isinstance(part, SelfSupervised)]
    loss = distiller(images()).loss
    expected = by_hand(distiller, head, module.head)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_rotations_are_the_authors() -> None:
    """The plain view would not come first, or the turns go the other way."""
    inputs = images()[0]
    views = rotations({"inputs": inputs})
    assert views.shape == (6, 4, 3, 8, 8)
    assert torch.equal(views[:, 0], inputs)
    assert torch.equal(views[:, 1], inputs.transpose(2, 3).flip(2))
    assert torch.equal(views[:, 2], inputs.flip((2, 3)))
    for strange in (torch.zeros(2, 3, 8, 9), torch.zeros(2, 3), {"left": 1}):
        with pytest.raises(InputError, match="square images"):
            rotations({"inputs": strange})


@pytest.mark.parametrize("head", [None, ViewHead(64)])
def test_keeps_the_contract(head: ViewHead | None) -> None:
    """The teacher would learn, or the heads would not, or ship."""
    batch = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    student, teacher = network(4), network(16)
    check_method(sskd(head), student=student, teacher=teacher, batch=batch, task=TASK)


def test_says_where_it_comes_from() -> None:
    """A method without a source cannot be checked by anyone."""
    cited, text = about("sskd"), inspect.getdoc(sskd) or ""
    assert cited.source in text
    assert str(cited.year) in text


def test_other_matches_and_what_is_returned_see_the_plain_view() -> None:
    """A method that is added would learn from rotated images, with a label for one in four."""
    feature = at(student=["0"], teacher=["0"])
    plain, distiller = prepared(kd()).eval(), prepared(sskd() + feature).eval()
    distiller.student.load_state_dict(plain.student.state_dict())
    out, alone = distiller(images()), plain(images())
    assert out.student.logits.shape == (6, 5)
    assert torch.allclose(out.student.logits, alone.student.logits, atol=1e-5)
    assert torch.allclose(out.terms["label"], alone.terms["label"], atol=1e-5)
    added = prepared(feature).eval()
    names = [name for name in out.terms if "attention" in name]
    assert names
    for name in names:
        assert torch.allclose(out.terms[name], added(images()).terms[name], atol=1e-5)
    assert out.count == 6


def test_a_step_is_worth_four() -> None:
    """Threads and compilation are chosen by the work of a step."""
    assert prepared(sskd()).work(images()) == 4 * prepared(kd()).work(images())


def test_views_of_two_methods() -> None:
    """One of two kinds of views would be shown to both."""

    def mirrored(batch: Any) -> Tensor:
        return torch.stack([batch["inputs"], batch["inputs"].flip(3)], 1)

    other = Method((Match("logits", "logits", lb.losses.kl, views=True),), views=mirrored)
    assert prepared(other)(images()).loss.ndim == 0
    assert (sskd() + kd(alpha=0.9)).views is rotations
    assert (kd(alpha=0.9) + sskd()).views is rotations
    assert (sskd() + sskd()).views is rotations
    with pytest.raises(InputError, match="different views"):
        sskd() + other


def test_a_store_cannot_see_rotations(tmp_path: Any) -> None:
    """The answer to the plain image would be taken for that to its rotations."""
    inputs, targets, _ = images()
    write(tmp_path / "store", lb.Teacher(network(8)), (inputs, targets), taps=["logits"])
    replay = lb.Teacher.replay(tmp_path / "store")
    method = Method((Match("logits", "logits", lb.losses.kl, views=True),), views=rotations)
    with pytest.raises(InputError, match="as a module does and a store does not"):
        lb.Distiller(replay, network(4), task=TASK, method=method).prepare(images())


def test_the_head_learns_to_tell_rotations_apart() -> None:
    """The student would follow noise."""
    teacher, (inputs, targets, _) = network(8), images(32)
    options: dict[str, Any] = {"batch_size": 16, "seed": 1}
    before = torch.random.get_rng_state()
    fresh = pretrain_view_head(teacher, (inputs, targets), epochs=0, **options)
    head = pretrain_view_head(teacher, (inputs, targets), epochs=30, **options)
    again = pretrain_view_head(teacher, (inputs, targets), epochs=30, **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    for key, value in head.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    features = teacher[:-1](rotations({"inputs": inputs}).flatten(0, 1))
    values = [float(telling_apart(each(features)).detach()) for each in (fresh, head)]
    assert values[1] < 0.9 * values[0]
    assert not any(p.requires_grad for p in head.parameters())
    assert not any(part.training for part in teacher.modules())


def test_a_head_is_copied_and_frozen() -> None:
    """Two students would train the head that both learn from."""
    head = ViewHead(32)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    distiller = prepared(sskd(head)).train()
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=1.0)
    distiller(images()).loss.backward()
    optimizer.step()
    assert all(torch.equal(head.state_dict()[key], value) for key, value in before.items())
    [module] = [part for part in distiller.losses if isinstance(part, SelfSupervised)]
    assert torch.equal(module.teacher_head.layers[0].weight, before["layers.0.weight"])
    with pytest.raises(InputError, match="trained on the tapped features"):
        prepared(sskd(ViewHead(7)))


def test_without_a_head_one_learns_alongside() -> None:
    """Its own error would be multiplied by the weight, or the transfer loss reach it."""
    distiller = prepared(sskd(similarity=5.0)).train()
    [module] = [part for part in distiller.losses if isinstance(part, SelfSupervised)]
    distiller(images()).loss.backward()
    features = distiller.teacher.module[:-1](rotations({"inputs": images()[0]}).flatten(0, 1))
    expected = torch.autograd.grad(
        telling_apart(module.teacher_head(features)), module.teacher_head.parameters()
    )
    for parameter, gradient in zip(module.teacher_head.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_telling_apart_by_hand() -> None:
    """Two samples in a plane: one rotation points at its own, one at the other."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    low, high = torch.tensor([1.0, 0.0]).softmax(0).log().tolist()[::-1]
    assert float(telling_apart(x, views=2)) == pytest.approx(-(low + high) / 2)


def test_the_module_keeps_the_contract() -> None:
    """Half precision, or a gradient into the teacher's features."""
    torch.manual_seed(0)
    check_loss(SelfSupervised(6, 7), shapes=[((3, 4, 6), (3, 4, 7))])


def test_impossible_options() -> None:
    """A ratio above 1 would keep more views than there are."""
    for options in ({"similarity": 0.0}, {"ratio": 2.0}, {"transformed_ratio": -1.0}):
        with pytest.raises(InputError, match="shares from 0 to 1"):
            sskd(**options)
    with pytest.raises(InputError, match="a row for each view"):
        pretrain_view_head(network(4), images()[:2], tap="0", epochs=1)
