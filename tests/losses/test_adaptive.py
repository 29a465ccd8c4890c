"""Temperatures and weights that learn or look, against records and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from recorded_parts import breaches, raw, tensor
from torch import Tensor, nn

import limbeck as lb
from limbeck.losses import kl, logit_mse, similarity_preserving, soft_cross_entropy
from limbeck.losses.adaptive import ConfidenceWeighted, UncertaintyWeighted
from limbeck.losses.temperatures import InstanceTemperature, LearnedTemperature, SampleTemperature
from limbeck.losses.wrap import masked, weighted
from limbeck.testing import check_loss


def logits(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("number", [0, 1])
def test_curriculum_as_recorded(number: int) -> None:
    """The sign of the reversal was inverted in a public fork; T² must have its gradient too."""
    case = raw("curriculum_temperature")[number]
    options = case["options"]
    loss = LearnedTemperature(
        kl,
        start=options["t_start"],
        span=options["t_end"],
        initial=options["scalar"],
        strength=-options["reversal"],
    ).double()
    with torch.no_grad():
        loss.theta.copy_(torch.tensor(options["scalar"], dtype=torch.float64))
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_(True)
    value = loss(student, teacher, progress=1.0)
    assert float(loss.temperature().detach()) == pytest.approx(case["temperature"], rel=1e-12)
    leaves = {"student_gradient": student, "temperature_gradient": loss.theta}
    assert not breaches(case, value, leaves)


def test_the_reversal_grows_along_a_cosine() -> None:
    """The temperature would learn against the student from the first step."""
    loss = LearnedTemperature(kl, ramp=0.2)
    found = [loss.reversal(progress) for progress in (0.0, 0.05, 0.1, 0.2, 0.9)]
    expected = [0, (1 - math.sqrt(0.5)) / 2, 0.5, 1, 1]
    assert found == pytest.approx(expected, abs=1e-12)
    assert LearnedTemperature(kl, ramp=0).reversal(0.0) == 1


def test_the_temperature_climbs_the_loss() -> None:
    """A step of the optimizer would make the answers easier, not harder."""
    student, teacher = logits(6, 5).float(), logits(6, 5, seed=1).float()
    loss = LearnedTemperature(kl)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    before = loss(student, teacher, progress=1.0)
    before.backward()
    optimizer.step()
    assert loss(student, teacher, progress=1.0) > before
    optimizer.zero_grad()
    loss(student, teacher, progress=0.0).backward()
    assert loss.theta.grad == 0


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # the contract's
@pytest.mark.parametrize("progress", [0.0, 0.01, 1.0])
def test_learned_temperature_keeps_the_contract(progress: float) -> None:
    """Labels or masks would be lost on the way to the loss inside."""
    check_loss(LearnedTemperature(kl), progress=progress)
    check_loss(LearnedTemperature(weighted(kl, 0.3)), progress=progress)


@pytest.mark.parametrize("number", [0, 1])
def test_instance_curriculum_as_recorded(number: int) -> None:
    """A network that answers the same for all is the authors' global temperature."""
    case = raw("curriculum_temperature")[number]
    options = case["options"]
    loss = InstanceTemperature(
        kl, 10, start=options["t_start"], span=options["t_end"], strength=-options["reversal"]
    ).double()
    last = loss.network[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(options["scalar"])
    student, teacher = (tensor(case["inputs"][side]) for side in ("student", "teacher"))
    student.requires_grad_(True)
    value = loss(student, teacher, progress=1.0)
    leaves = {"student_gradient": student, "temperature_gradient": last.bias}
    assert not breaches(case, value, leaves)


def test_instance_temperatures_in_numpy() -> None:
    """A sample's temperature would reach another, or its square be missing."""
    torch.manual_seed(0)
    student, teacher = logits(5, 4), logits(5, 4, seed=1)
    loss = InstanceTemperature(kl, 4, width=3, start=0.5, span=7.0).double()
    w1, b1, w2, b2 = (p.detach().numpy() for p in loss.parameters())
    total = 0.0
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        theta = w2 @ np.maximum(w1 @ np.concatenate([s, t]) + b1, 0) + b2
        hot = float(0.5 + 7.0 / (1 + np.exp(-theta[0])))
        q, p = (np.exp(x / hot) / np.exp(x / hot).sum() for x in (s, t))
        total += hot**2 * float((p * np.log(p / q)).sum()) / 5
    assert float(loss(student, teacher, progress=0.5).detach()) == pytest.approx(total, rel=1e-10)


def test_instance_gradients_by_differences() -> None:
    """The student would be taught through the network, or the network not be turned round."""
    torch.manual_seed(0)
    student, teacher = logits(3, 4).requires_grad_(True), logits(3, 4, seed=1)
    loss = InstanceTemperature(kl, 4, width=3, strength=0.3, ramp=0).double()
    with torch.no_grad():
        fixed = loss.temperature(student, teacher)[:, None]

    def at_fixed(s: Tensor) -> Tensor:
        return (fixed[:, 0] ** 2 * kl(s / fixed, teacher / fixed, reduction="none")).mean()

    loss(student, teacher, progress=1.0).backward()
    step = 1e-6
    for i, j in ((0, 0), (1, 3), (2, 1)):
        moved = torch.zeros(3, 4, dtype=torch.float64)
        moved[i, j] = step
        slope = (at_fixed(student + moved) - at_fixed(student - moved)).detach() / (2 * step)
        assert float(student.grad[i, j]) == pytest.approx(float(slope), rel=1e-5, abs=1e-9)
    with torch.no_grad():
        for parameter in loss.parameters():
            for place in range(min(3, parameter.numel())):
                values = []
                for sign in (1, -1):
                    parameter.view(-1)[place] += sign * step
                    values.append(float(loss(student, teacher, progress=1.0)))
                    parameter.view(-1)[place] -= sign * step
                slope = -0.3 * (values[0] - values[1]) / (2 * step)
                found = float(parameter.grad.view(-1)[place])
                assert found == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_instance_temperatures_under_a_mask() -> None:
    """What is masked, NaN for example, would reach the network's weights."""
    torch.manual_seed(0)
    loss = InstanceTemperature(kl, 4)
    student, teacher = logits(2, 3, 4).float(), logits(2, 3, 4, seed=1).float()
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    expected = loss(student[mask], teacher[mask], progress=1.0)
    student[~mask] = torch.nan
    value = loss(student, teacher, progress=1.0, mask=mask)
    assert torch.isclose(value, expected)
    value.backward()
    assert all(torch.isfinite(p.grad).all() for p in loss.parameters())


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # the contract's
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_instance_temperature_keeps_the_contract(progress: float) -> None:
    """Labels or masks would be lost on the way to the loss inside."""
    torch.manual_seed(0)
    check_loss(InstanceTemperature(kl, 5), shapes=[((4, 5), (4, 5))], progress=progress)
    check_loss(InstanceTemperature(kl, 5), shapes=[((2, 3, 5), (2, 3, 5))], progress=progress)


def test_sample_temperature_against_a_loop() -> None:
    """One sample's temperature would reach another, or T² be that of the mean."""
    student, teacher = logits(5, 4), logits(5, 4, seed=1)
    expected = []
    for s, t in zip(student, teacher, strict=True):
        spread = float(np.std(t.numpy()))
        expected.append(float(kl(s[None], t[None], temperature=spread)))
    loss = SampleTemperature(kl)
    value = loss(student, teacher)
    assert float(value) == pytest.approx(np.mean(expected), rel=1e-10)
    each = loss(student, teacher, reduction="none")
    assert each.tolist() == pytest.approx(expected, rel=1e-10)


def test_a_constant_rule_is_the_plain_temperature() -> None:
    """The value's scale would change with the wrapper."""
    student, teacher = logits(2, 5, 4), logits(2, 5, 4, seed=1)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()
    loss = SampleTemperature(kl, lambda s, t: torch.full(t.shape[:-1], 4.0))
    value = loss(student, teacher, mask=mask)
    assert torch.isclose(value, kl(student, teacher, temperature=4.0, mask=mask))


def test_a_learned_rule_is_trained() -> None:
    """A network inside would be missing from the optimizer."""

    class Rule(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 1)

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            both = torch.cat([student, teacher], dim=-1)
            return 1 + nn.functional.softplus(self.layer(both)).squeeze(-1)

    loss = SampleTemperature(kl, Rule())
    loss(torch.randn(5, 4), torch.randn(5, 4)).backward()
    assert [name for name, _ in loss.named_parameters()] == ["rule.layer.weight", "rule.layer.bias"]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in loss.parameters())


def test_a_learned_rule_gets_the_whole_gradient() -> None:
    """Every loss cuts the gradient of its teacher, which is divided by the temperature too."""
    student, teacher = logits(5, 4), logits(5, 4, seed=1)
    hot = torch.full((5,), 3.0, dtype=torch.float64, requires_grad=True)
    SampleTemperature(kl, lambda s, t: hot)(student, teacher).backward()
    for place in (0, 3):
        values = []
        for sign in (1, -1):
            moved = hot.detach().clone()
            moved[place] += sign * 1e-6
            values.append(SampleTemperature(kl, lambda s, t, m=moved: m)(student, teacher))
        slope = float(values[0] - values[1]) / 2e-6
        assert float(hot.grad[place]) == pytest.approx(slope, rel=1e-5)


def test_a_flat_teacher_does_not_divide_by_zero() -> None:
    """Equal logits have no spread."""
    student = torch.randn(3, 4, requires_grad=True)
    value = SampleTemperature(kl)(student, torch.ones(3, 4))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("form", ["label", "maximum", "entropy"])
def test_confidence_against_a_loop(form: str) -> None:
    """A weight would be that of the student, or of another class."""
    student, teacher, targets = logits(5, 4), logits(5, 4, seed=1), torch.tensor([0, 3, 3, 1, 2])
    total = 0.0
    for s, t, y in zip(student.numpy(), teacher.numpy(), targets, strict=True):
        p = np.exp(t / 2) / np.exp(t / 2).sum()
        weight = {
            "label": p[y],
            "maximum": max(p),
            "entropy": 1 + sum(x * math.log(x) for x in p) / math.log(4),
        }[form]
        total += weight * ((s - t) ** 2).sum()
    loss = ConfidenceWeighted(logit_mse, form=form, temperature=2.0)
    value = loss(student, teacher, targets=targets)
    assert float(value) == pytest.approx(total / 5, rel=1e-10)


def test_confidence_needs_what_it_names() -> None:
    """Weights of another kind would be used in silence."""
    with pytest.raises(ValueError, match="without targets"):
        ConfidenceWeighted(kl)(torch.randn(2, 3), torch.randn(2, 3))
    with pytest.raises(ValueError, match="has no reduction"):
        ConfidenceWeighted(similarity_preserving)
    with pytest.raises(ValueError, match="has no reduction"):
        SampleTemperature(similarity_preserving)
    with pytest.raises(ValueError, match="logit_mse has no temperature"):
        LearnedTemperature(logit_mse)


@pytest.mark.parametrize(
    "loss",
    [
        SampleTemperature(kl),
        ConfidenceWeighted(kl),
        ConfidenceWeighted(kl, form="maximum", temperature=4.0),
        ConfidenceWeighted(logit_mse, form="entropy"),
    ],
)
def test_keeps_the_contract(loss: nn.Module) -> None:
    """Masks, chunks, half precision or the teacher's gradient would be wrong in silence."""
    check_loss(loss)


def test_uncertainty_keeps_the_contract() -> None:
    """A mask that keeps nothing would still move the variance."""
    loss = UncertaintyWeighted(soft_cross_entropy, log_variance=0.3)
    check_loss(loss, shapes=[((6, 5), (6, 5))])
    check_loss(loss, shapes=[((4, 3, 5), (4, 3, 5))], targets=torch.zeros(4, 3, dtype=torch.int64))


def test_uncertainty_as_recorded() -> None:
    """The factor ½, or the sign of the logarithm, would be lost."""
    [case] = raw("uncertainty_weights")
    terms = tensor(case["inputs"]["terms"]).requires_grad_(True)
    starts = tensor(case["inputs"]["log_variance"]).tolist()

    def one(student: Tensor, teacher: Tensor) -> Tensor:
        return student.sum()

    wrapped = [UncertaintyWeighted(one, log_variance=s).double() for s in starts]
    for module, start in zip(wrapped, starts, strict=True):
        module.log_variance.data.fill_(start)
    values = [w(terms[n : n + 1], terms[:1]) for n, w in enumerate(wrapped)]
    assert not breaches(case, sum(values), {"terms_gradient": terms})
    sum(values).backward()
    found = [float(w.log_variance.grad) for w in wrapped]
    assert found == pytest.approx(case["log_variance_gradient"], rel=1e-9)


def test_uncertainty_settles_at_the_loss() -> None:
    """At the optimum σ² is the loss: the weights balance terms of any scale."""
    loss = UncertaintyWeighted(logit_mse)
    student, teacher = torch.full((2, 4), 3.0), torch.zeros(2, 4)
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    assert float(loss.log_variance.detach().exp()) == pytest.approx(36.0, rel=1e-3)


def test_parameters_inside_a_wrapped_loss_are_found() -> None:
    """A module hidden behind a weight would not be trained, moved or saved."""
    inner = LearnedTemperature(kl)
    outer = UncertaintyWeighted(weighted(inner, 2.0))
    assert {id(p) for p in outer.parameters()} == {id(inner.theta), id(outer.log_variance)}
    value = outer(torch.randn(3, 4), torch.randn(3, 4), progress=1.0)
    value.backward()
    assert inner.theta.grad != 0
    again = UncertaintyWeighted(LearnedTemperature(kl))
    again.load_state_dict(UncertaintyWeighted(LearnedTemperature(kl)).state_dict())


def test_what_the_batch_brings_reaches_the_loss_inside() -> None:
    """Targets, ids, mask and progress would stop at the wrapper."""
    seen: dict[str, Any] = {}

    def curious(
        student: Tensor, teacher: Tensor, *, ids: Tensor, targets: Tensor, progress: float
    ) -> Tensor:
        seen.update(ids=ids, targets=targets, progress=progress)
        return (student - teacher).square().sum()

    match = lb.Match("logits", "logits", UncertaintyWeighted(curious))
    model = nn.Linear(4, 3)
    task = lb.tasks.Classification(3)
    distiller = lb.Distiller(model, nn.Linear(4, 3), task=task, method=match)
    batch = torch.randn(4, 4), torch.arange(4) % 3, torch.arange(4) + 7
    distiller(batch).loss.backward()
    assert seen["ids"].tolist() == [7, 8, 9, 10]
    assert seen["targets"].tolist() == [0, 1, 2, 0]
    assert seen["progress"] == 0.0
    names = [name for name, _ in distiller.named_parameters() if name.startswith("losses")]
    assert names == ["losses.0.log_variance"]


def test_wrapped_once_more() -> None:
    """The wrappers of limbeck.losses.wrap must take these, as any loss."""
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    keep = torch.tensor([True, False, True, True])
    loss = UncertaintyWeighted(similarity_preserving)
    value = masked(loss)(student, teacher, mask=keep)
    assert torch.isclose(value, loss(student[keep], teacher[keep]))
