"""Methods between maps: taps, published weights, and stages of their own."""

from __future__ import annotations

from typing import Any

import pytest
import staged
import torch
from staged import STAGES, TASK, batch, prepared, steps
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses.maps import flow
from limbeck.losses.margins import channel_margins, measured_margins, norm_before
from limbeck.losses.schedules import value_at
from limbeck.methods import Method, about
from limbeck.methods.activation import ab, before_activation, ofd
from limbeck.methods.maps import block_wise, cwd, freekd, fsp, nst
from limbeck.students import zoo
from limbeck.testing import check_method

METHODS = [nst, fsp, ab, ofd, cwd, freekd, block_wise]


def network(width: int) -> nn.Module:
    return staged.network(width, norm=True)


def own_terms(method: Method, count: int = 12) -> list[float]:
    """Return the weighted sum of a method's own terms, step by step, without the label's."""
    return steps(prepared(method.with_label_weight(0.0), norm=True), count)


@pytest.mark.parametrize("make", METHODS)
def test_keeps_the_contract(make: Any) -> None:
    """A method would train its teacher, or leave its own adapters untrained."""
    check_method(make())


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (nst, {"kernel": "gaussian"}),
        (fsp, {"pooling": "average"}),
        (ofd, {"margins": [-0.1, -0.2, -0.3]}),
        (cwd, {"student": STAGES[1:], "teacher": STAGES[1:], "temperature": 1.0}),
        (freekd, {"levels": 1, "tokens": 2}),
        (block_wise, {"weights": [1.0, 2.0, 3.0]}),
    ],
)
def test_keeps_the_contract_with_options(make: Any, options: dict[str, Any]) -> None:
    """An option would reach no loss."""
    check_method(make(**options))


@pytest.mark.parametrize("make", METHODS)
def test_its_own_term_falls(make: Any) -> None:
    """Gradients of the wrong sign, or into nothing, would go unnoticed beside the label's."""
    values = own_terms(make())
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize("make", METHODS)
def test_its_citation(make: Any) -> None:
    """The catalogue would show another paper, or a cost that is not there."""
    cited = about(make.__name__)
    assert (cited.family, cited.needs) == ("feature", "features")
    assert cited.cost == ("modules" if make in (ab, ofd) else "small")
    assert str(cited.year) in str(make.__doc__)
    assert make().name == make.__name__


# -- what they come to


@pytest.mark.parametrize(
    ("make", "weights"),
    [
        (nst, [50.0, 50.0, 50.0]),
        (fsp, [50.0, 50.0]),
        (ab, [0.00075, 0.0015, 0.003]),
        (ofd, [0.00025, 0.0005, 0.001]),
        (cwd, [3.0]),
        (freekd, [1.0, 1.0, 1.0]),
        (block_wise, [1.0]),
    ],
)
def test_published_weights(make: Any, weights: list[float]) -> None:
    """Another weight than its source's would be another method."""
    method = make()
    assert [match.weight for match in method.matches] == pytest.approx(weights)
    assert method.label_weight is None


@pytest.mark.parametrize("make", [nst, ab, ofd, freekd])
def test_a_match_for_each_stage(make: Any) -> None:
    """A stage would be compared with another, or left out."""
    pairs = [(match.student, match.teacher) for match in make().matches]
    assert pairs == [(stage, stage) for stage in STAGES]
    [named] = make(student=["layer1"], teacher=["features.4"]).matches
    assert (named.student, named.teacher) == ("layer1", "features.4")


def test_matches_of_several_stages() -> None:
    """Flow would be measured between stages that do not follow each other."""
    pairs = [("stage[-3]", "stage[-2]"), ("stage[-2]", "stage[-1]")]
    assert [match.student for match in fsp().matches] == pairs
    assert [match.teacher for match in fsp().matches] == pairs
    [blocks] = block_wise().matches
    assert blocks.students == blocks.teachers == tuple(STAGES)
    [last] = cwd().matches
    assert (last.student, last.options["temperature"]) == ("stage[-1]", 4.0)


def test_boundaries_always_have_a_connector() -> None:
    """After a ReLU, a student of the teacher's width could not be negative anywhere."""
    distiller = lb.Distiller(network(4), network(4), task=TASK, method=ab()).prepare(batch())
    assert len(distiller.adapters()) == 3
    assert all("conv1x1" in text for text in distiller.adapters().values())


def test_flow_is_on_the_benchmarks_scale() -> None:
    """The weight 50 would meet a sum over thousands of entries."""
    models = network(4), network(4)
    distiller = lb.Distiller(*models, task=TASK, method=fsp()).prepare(batch())
    assert distiller.adapters() == {}
    models[1][1].weight.data.fill_(2.0)
    out = distiller.eval()(batch())
    own, theirs = (
        [known[tap] for tap in STAGES[:2]] for known in (out.student, out.teacher) if known
    )
    summed = flow(own, theirs)
    assert summed > 0
    found = out.terms["flow stage[-3] stage[-2]"]
    assert torch.isclose(found, summed / (own[0].shape[1] * own[1].shape[1]))


def test_as_many_levels_as_a_map_has() -> None:
    """Small maps would be refused, or large ones get one level."""
    model = network(4)
    distiller = lb.Distiller(network(6), model, task=TASK, method=freekd()).prepare(batch())
    assert [loss.levels for loss in distiller.losses] == [3, 2, 1]  # maps of 8, 4 and 2
    for size, levels in ((2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (32, 3)):
        shape = torch.zeros(2, 3, size, size)
        setting = lb.losses.spec.Setting(model)
        loss = lb.losses.maps.Frequency.build(shape, shape, setting, tokens=0, levels=None)
        assert loss.levels == levels
        assert loss(shape, shape) == 0


# -- a part of training of their own


@pytest.mark.parametrize("make", [ab, fsp])
def test_alone_at_first(make: Any) -> None:
    """The label would be learned in the first part, or the boundary after it."""
    method = make(alone=0.25)
    whole = make().matches
    for progress, share in ((0.0, 1.0), (0.24, 1.0), (0.25, 0.0), (1.0, 0.0)):
        found = [value_at(match.weight, progress) for match in method.matches]
        assert found == [share * match.weight for match in whole]
        assert value_at(method.label_weight, progress) == 1.0 - share
    check_method(method)
    with pytest.raises(InputError, match="weigh the label differently"):
        lb.methods.kd() + method


# -- before the activation


def test_taps_before_the_activation() -> None:
    """Taps would be after the ReLU, or in the middle of a block."""
    images = torch.zeros(2, 3, 32, 32)
    assert before_activation(zoo.build("resnet8x4"), images) == tuple(
        f"layer{number}.0.relu2:input" for number in (1, 2, 3)
    )
    found = before_activation(zoo.build("wrn_16_1"), images)
    assert found == ("layer1", "layer2", "relu:input")  # its stages end with a sum
    found = before_activation(network(4), batch()[0], count=4)
    assert found == ("2:input", "6:input", "10:input", "11")  # the last is a pooling


def test_taps_of_a_shared_activation() -> None:
    """A module that runs twice has no single input to tap."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.relu = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.b(self.relu(self.a(x))))

    model = nn.Sequential(Shared(), nn.Flatten(), nn.LazyLinear(3))
    model(batch()[0])
    assert before_activation(model, batch()[0]) == ("0",)


def test_margins_are_those_of_the_batch_norm_before() -> None:
    """The teacher's silent channels would be regressed as if they spoke."""
    images, targets = torch.randn(4, 3, 32, 32), torch.arange(4) % 3
    student, teacher = (zoo.build("resnet8", classes=3) for _ in range(2))
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    taps = {
        "student": before_activation(student, images),
        "teacher": before_activation(teacher, images),
    }
    distiller = lb.Distiller(teacher, student, task=TASK, method=ofd(**taps))
    distiller.prepare((images, targets))
    norms = [getattr(teacher, f"layer{number}")[-1].bn2 for number in (1, 2, 3)]
    for loss, norm in zip(distiller.losses, norms, strict=True):
        assert torch.equal(loss.margin, channel_margins(norm.weight, norm.bias))
    distiller.train()((images, targets)).loss.backward()
    assert all(p.grad is not None for p in distiller.losses.parameters())


def test_margins_where_no_batch_norm_is_found() -> None:
    """Margins of another layer would be taken, or the default taps be refused."""
    distiller = lb.Distiller(network(6), network(4), task=TASK, method=ofd()).prepare(batch())
    theirs = distiller.teacher.knowledge({"inputs": batch(2)[0]}, STAGES)
    for loss, stage in zip(distiller.losses, STAGES, strict=True):
        assert torch.allclose(loss.margin, measured_margins(theirs[stage]), atol=1e-6)
    given = ofd(margins=[-0.1, -0.2, -0.3])
    distiller = lb.Distiller(network(6), network(4), task=TASK, method=given).prepare(batch())
    assert [float(loss.margin[0]) for loss in distiller.losses] == pytest.approx([-0.1, -0.2, -0.3])


def test_batch_norms_by_name() -> None:
    """A batch norm that is not the last step before the tap has other statistics."""
    model = network(4)
    assert norm_before(model, "2:input", 4) is model[1]
    assert norm_before(model, "1", 4) is model[1]
    assert norm_before(model, "6:input", 8) is model[5]
    for tap, channels in (("2", 4), ("3:input", 4), ("2:input", 8), ("stage[-1]", 4), ("no", 4)):
        assert norm_before(model, tap, channels) is None
    assert norm_before(None, "2:input", 4) is None
    bare = nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.ReLU())
    assert norm_before(bare, "1:input", 4) is None
    wide = zoo.build("wrn_16_1")
    assert norm_before(wide, "relu:input", 64) is wide.bn
    assert norm_before(wide, "layer2.0.relu1:input", 16) is wide.layer2[0].bn1


def test_margins_by_hand() -> None:
    """Positive values would count, or a channel that is never negative divide by zero."""
    maps = torch.tensor([[[[-1.0, 4.0]], [[2.0, 4.0]]], [[[-3.0, 9.0]], [[2.0, 4.0]]]])
    assert measured_margins(maps).tolist() == pytest.approx([-2.0, -3.0])


# -- what is refused at once


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize(
    ("student", "teacher"), [(["a"], ["a", "b"]), ("layer1", "layer1"), ([], [])]
)
def test_taps_that_do_not_pair(make: Any, student: Any, teacher: Any) -> None:
    """A name is not a list of letters; the last tap would be left out."""
    with pytest.raises(InputError, match="two lists of taps, equally long"):
        make(student=student, teacher=teacher)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (fsp, {"student": ["a"], "teacher": ["a"]}),
        (fsp, {"alone": 1.0}),
        (ab, {"alone": -0.1}),
        (ofd, {"margins": [-1.0]}),
        (block_wise, {"weights": [1.0]}),
    ],
)
def test_impossible_options(make: Any, options: dict[str, Any]) -> None:
    """A method without a match, without a label, or with a margin too few."""
    with pytest.raises(InputError):
        make(**options)
