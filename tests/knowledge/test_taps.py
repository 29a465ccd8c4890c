"""Taps: the tensor that was there, in the pass that ran anyway, and nothing left behind."""

from __future__ import annotations

import copy
import gc
import io
import shutil
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from processes import together
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import limbeck as lb
from limbeck.errors import InputError
from limbeck.knowledge import Tap, Taps


class Block(nn.Module):
    """Convolution, batch norm, ReLU in place, with a way around."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1)
        self.bn = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Net(nn.Module):
    """Two blocks and a classifier; ``how`` says how its blocks are run."""

    def __init__(self, how: str = "plain", inplace: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer1, self.layer2 = Block(3, 4), Block(4, 6)
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(6 * 16, 5)
        self.how = how
        for block in (self.layer1, self.layer2):
            block.relu.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.layer1, self.layer2):
            if self.how == "plain":
                x = block(x)
            elif self.how == "no_grad":
                with torch.no_grad():
                    x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.how == "reentrant")
        return self.fc(self.pool(x).flatten(1))


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def prepared(model: nn.Module, names: list[str], inputs: Any = None) -> Taps:
    taps = Taps(model, names)
    taps.prepare(images(2) if inputs is None else inputs)
    return taps


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# -- how they are written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layer3", ("layer3", "output", ())),
        ("fc:input", ("fc", "input", ())),
        ("fc:output", ("fc", "output", ())),
        ("encoder.layer.5[0]", ("encoder.layer.5", "output", (0,))),
        ("attn:input[mask]", ("attn", "input", ("mask",))),
        ("output[hidden_states][-3]", ("output", "output", ("hidden_states", -3))),
        ("stage[-1]", ("stage", "output", (-1,))),
    ],
)
def test_parse(text: str, expected: tuple[str, str, tuple[Any, ...]]) -> None:
    """A path would be taken for a name, or a number for a key."""
    tap = Tap.parse(text)
    assert (tap.module, tap.side, tap.path) == expected
    assert tap.text == text


@pytest.mark.parametrize("text", ["", "a:b", "a[", "a]", "a[]", "[0]", "a:input:output", "a[0]b"])
def test_what_is_no_tap(text: str) -> None:
    """A slip of the pen would be looked up as a module's name."""
    with pytest.raises(InputError, match="is not a tap"):
        Tap.parse(text)


class Untouchable(Net):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("it ran")


@pytest.mark.parametrize(
    ("name", "near"), [("layer3", "layer2"), ("layer1.conv2", "layer1.conv"), ("fcc:input", "fc")]
)
def test_wrong_names_are_told_before_anything_runs(name: str, near: str) -> None:
    """The mistake would appear after the data was read and the teacher trained."""
    with pytest.raises(InputError, match="did you mean") as caught:
        Taps(Untouchable(), ["logits", name])
    assert repr(near) in str(caught.value)
    assert "Untouchable" in str(caught.value)


def test_a_wrong_name_in_a_method() -> None:
    """The distiller would accept it until the first batch."""
    match = lb.Match("layer9", "layer1", lb.losses.hint)
    task = lb.tasks.Classification(5)
    with pytest.raises(InputError, match="'layer9' is not known"):
        lb.Distiller(Net(), Untouchable(), task=task, method=match)


# -- what they capture


def by_hand(model: Net, x: Tensor) -> dict[str, Tensor]:
    """Compute the same places without hooks, out of place."""
    found: dict[str, Tensor] = {"layer1:input": x}
    for name in ("layer1", "layer2"):
        block = getattr(model, name)
        found[f"{name}.conv"] = block.conv(x)
        found[f"{name}.bn"] = block.bn(found[f"{name}.conv"])
        x = found[name] = found[f"{name}.relu"] = F.relu(found[f"{name}.bn"])
        found[f"{name}.relu:input"] = found[f"{name}.bn"]
    found["penultimate"] = found["fc:input"] = model.pool(x).flatten(1)
    found["logits"] = found["output"] = found["fc"] = model.fc(found["fc:input"])
    found["stage[0]"] = found["stage[-2]"] = found["layer2"]
    return found


@pytest.mark.parametrize("training", [False, True])
def test_the_tensor_that_was_there(training: bool) -> None:
    """ReLU in place overwrites its input: a tap before it would show what is after it."""
    model, x = Net().train(training), images()
    names = [*by_hand(copy.deepcopy(model), x)]
    taps = prepared(model, names)
    expected = by_hand(copy.deepcopy(model), x)
    output, found = taps.capture(lambda: model(x))
    assert torch.equal(output, found["logits"])
    assert list(found) == names
    for name in names:
        assert torch.allclose(found[name], expected[name], atol=1e-6), name
    assert (found["layer1.bn"] < 0).any()
    assert (found["layer1.relu:input"] < 0).any()
    assert not (found["layer1"] < 0).any()


@pytest.mark.parametrize("name", ["layer1.bn", "layer1.relu:input", "layer1.conv", "layer2"])
def test_gradients_through_a_tap(name: str) -> None:
    """A copy made to protect a tensor would cut its gradient, or take another's."""
    given = []
    for inplace in (True, False):
        model = Net(inplace=inplace).train()
        taps = prepared(model, [name])
        output, found = taps.capture(lambda model=model: model(images()))
        (found[name].square().mean() + output.square().mean()).backward()
        given.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*given, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_only_what_is_overwritten_is_copied() -> None:
    """Every feature map would be held twice."""
    model = Net()
    kept: dict[str, Tensor] = {}
    for name in ("layer1", "layer1.conv"):
        module = dict(model.named_modules())[name]
        module.register_forward_hook(lambda m, a, out, name=name: kept.update({name: out}))
    taps = prepared(model, ["layer1", "layer1.conv", "layer1.bn"])
    _, found = taps.capture(lambda: model(images()))
    assert found["layer1"] is kept["layer1"]
    assert found["layer1.conv"] is kept["layer1.conv"]


class Overwriting(nn.Module):
    """Overwrites in every way that there is."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.last, self.way = nn.Linear(4, 4), nn.Linear(4, 2), way
        self.drop = nn.Dropout(0.5, inplace=True) if way == "dropout" else nn.Identity()
        self.view = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        view = self.view(x.view(-1, 2, 2))
        if self.way == "functional":
            F.relu_(x)
        elif self.way == "residual":
            x += 3.0
        elif self.way == "through a view":
            view.mul_(2.0)
        elif self.way == "part":
            x[:, 0] = 7.0
        return self.last(self.drop(x))


@pytest.mark.parametrize("tap", ["first", "view"])
@pytest.mark.parametrize(
    "way", ["functional", "residual", "through a view", "part", "dropout", "nothing"]
)
def test_every_way_to_overwrite(way: str, tap: str) -> None:
    """Dropout in place overwrites in training alone, which a dry run in eval mode does not see."""
    model, x = Overwriting(way).train(), torch.randn(5, 4)
    taps = prepared(model, [tap], torch.randn(2, 4))
    with torch.no_grad():
        expected = model.first(x)
        _, found = taps.capture(lambda: model(x))
    assert torch.equal(found[tap].view(5, 4), expected)


class Structured(nn.Module):
    """Takes and returns what models take and return."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Attention(), nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        hidden, maps = self.body(x, mask=mask)
        answer = {"attention": maps, "deep": [hidden, hidden * 2]}
        return {"loss": None, "logits": self.head(hidden), "states": answer}


class Attention(nn.Module):
    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        return x * 2, {"weights": x * 3, "mask": mask}


@pytest.mark.parametrize(
    ("tap", "times"),
    [
        ("body[0]", 2),
        ("body[1][weights]", 3),
        ("body:input", 1),
        ("body:input[0]", 1),
        ("body:input[mask]", 5),
        ("output[states][deep][1]", 4),
        ("output[states][attention][weights]", 3),
        ("output[states][deep][-2]", 2),
        ("head:input", 2),
    ],
)
def test_places_inside_tuples_and_mappings(tap: str, times: int) -> None:
    """The first tensor would be taken whatever was asked for."""
    model, x = Structured(), torch.randn(3, 4)
    inputs = {"x": x, "mask": x * 5}
    taps = prepared(model, [tap, "logits"], inputs)
    output, found = taps.capture(lambda: model(**inputs))
    assert torch.equal(found[tap], x * times)
    assert found["logits"] is output["logits"]


@pytest.mark.parametrize(
    ("tap", "told"),
    [
        ("body", "tuple of 2.*'body\\[0\\]'"),
        ("body[1]", "mapping with 'weights'"),
        ("body[2]", "no \\[2\\] in a tuple of 2"),
        ("body[1][weight]", "no \\[weight\\] in a mapping with 'weights'"),
        ("body:input[mask]", "NoneType"),
    ],
)
def test_places_that_hold_no_tensor(tap: str, told: str) -> None:
    """The error would come from a loss, about a tuple."""
    with pytest.raises(InputError, match=told):
        prepared(Structured(), [tap], torch.randn(2, 4))


@pytest.mark.parametrize("tap", ["output", "output[states]", "output[nothing]"])
def test_outputs_that_are_no_tensor(tap: str) -> None:
    """The same for what the model returns, which is looked at when it has run."""
    model = Structured()
    taps = prepared(model, [tap], torch.randn(2, 4))
    with pytest.raises(InputError, match="tap 'output"):
        taps.capture(lambda: model(torch.randn(2, 4)))


def test_a_module_called_like_a_reserved_name() -> None:
    """A model with a part named ``output`` could not tap it."""
    model = nn.Sequential()
    model.add_module("output", nn.Linear(4, 3))
    model.add_module("act", nn.ReLU())
    x = torch.randn(5, 4)
    taps = prepared(model, ["output", "output:output"], x)
    _, found = taps.capture(lambda: model(x))
    assert torch.equal(found["output"], model(x))
    assert torch.equal(found["output:output"], model[0](x))


@pytest.mark.parametrize(
    ("tap", "told"),
    [
        ("stage[2]", "from 0 to 1"),
        ("stage[-3]", "from 0 to 1"),
        ("stage", "layer2"),
        ("stage[a]", "0"),
    ],
)
def test_stages_that_are_not_there(tap: str, told: str) -> None:
    """An IndexError would not name the stages that the model has."""
    with pytest.raises(InputError, match=told):
        prepared(Net(), [tap])


class Counting(nn.Module):
    """Runs its part as often as it is told, and less in training if it is told so."""

    def __init__(self, times: int, in_training: int | None = None) -> None:
        super().__init__()
        self.part, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)
        self.times, self.in_training = times, times if in_training is None else in_training

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.in_training if self.training else self.times):
            x = self.part(x)
        return x


@pytest.mark.parametrize(("times", "told"), [(0, "does not run"), (2, "runs 2 times")])
def test_modules_that_run_twice_or_never(times: int, told: str) -> None:
    """One of two calls would be matched, at random; or a KeyError in the middle of training."""
    model = Counting(times)
    with pytest.raises(InputError, match=told):
        prepared(model, ["part"], torch.randn(2, 4))
    assert hooks(model) == 0


def test_modules_that_do_not_run_this_time() -> None:
    """A layer dropped at random (stochastic depth) would be a KeyError."""
    model = Counting(1, in_training=0).train()
    taps = prepared(model, ["part"], torch.randn(2, 4))
    with pytest.raises(InputError, match="did not run in this pass"):
        taps.capture(lambda: model(torch.randn(2, 4)))


# -- under what trains


def test_autocast() -> None:
    """A tap would be float32 under autocast, at twice the memory; or its gradient be lost."""
    model = Net().train()
    taps = prepared(model, ["layer1.conv", "logits"])
    with torch.autocast("cpu", torch.bfloat16):
        _, found = taps.capture(lambda: model(images()))
    assert found["layer1.conv"].dtype == torch.bfloat16
    assert found["logits"].dtype == torch.bfloat16
    found["layer1.conv"].float().square().mean().backward()
    assert model.layer1.conv.weight.grad is not None
    assert model.layer1.conv.weight.grad.abs().sum() > 0


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def step(model: nn.Module, taps: Taps, run: Callable[[Tensor], Tensor]) -> Tensor:
    model.zero_grad()
    output, found = taps.capture(lambda: run(images()))
    loss = output.square().mean() + sum(found[name].square().mean() for name in found)
    loss.backward()
    return loss.detach()


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


BACKENDS = [
    "eager",
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
    ),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled(backend: str) -> None:
    """Hooks would be ignored, break the graph, or make every step compile anew."""
    names = ["layer1.bn", "layer1.relu:input", "layer2", "fc:input"]
    plain, model = Net().train(), Net().train()
    expected = [float(step(plain, prepared(plain, names), plain)) for _ in range(3)]
    taps, compiled = prepared(model, names), torch.compile(model, backend=backend)
    found = [float(step(model, taps, compiled))]
    after_first = counters["stats"]["unique_graphs"]
    found += [float(step(model, taps, compiled)) for _ in range(2)]
    assert found == pytest.approx(expected, rel=1e-4)
    for one, other in zip(gradients(model), gradients(plain), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == after_first == 1
    assert taps._store is None


def test_checkpointing() -> None:
    """Recomputed activations would be captured again, or their gradient be counted twice."""
    names = ["layer1.bn", "layer1", "layer2.conv", "layer2.relu:input"]
    plain, model = Net("plain").train(), Net("recomputed").train()
    for network in (plain, model):
        step(network, prepared(network, names), network)
    for one, other in zip(gradients(model), gradients(plain), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # in the dry run
def test_reentrant_checkpointing() -> None:
    """Inside, the first pass runs without gradients: the match would teach nothing, in silence."""
    model = Net("reentrant").train()
    taps = prepared(model, ["layer1.conv"])
    with pytest.raises(InputError, match="use_reentrant=False"):
        step(model, taps, lambda x: model(x.requires_grad_(True)))
    taps.remove()
    outside = prepared(model, ["pool", "logits"])
    plain = Net("plain").train()
    step(model, outside, lambda x: model(x.requires_grad_(True)))
    step(plain, prepared(plain, ["pool", "logits"]), plain)
    for one, other in zip(gradients(model), gradients(plain), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_frozen_part() -> None:
    """A part that runs under no_grad cannot be taught; as a teacher it can still be asked."""
    model = Net("no_grad").train()
    taps = prepared(model, ["layer2"])
    with pytest.raises(InputError, match="ran without gradients"):
        taps.capture(lambda: model(images()))
    with torch.no_grad():
        assert taps.capture(lambda: model(images()))[1]["layer2"].shape == (4, 6, 8, 8)


def _losses(rank: int, count: int, names: list[str]) -> dict[str, Any]:
    """Train one step of a share of the batch, as data parallelism does."""
    method = [lb.Match(name, name, lb.losses.attention_transfer, weight=10.0) for name in names]
    method += [lb.Match("layer1", "layer2", lb.losses.hint, features="mean")]
    method += [lb.Match("logits", "logits", lb.losses.kl)]
    torch.manual_seed(0)
    distiller = lb.Distiller(
        Net().eval(), Net().eval(), task=lb.tasks.Classification(5), method=method
    )
    x, y = images(8), torch.arange(8) % 5
    distiller.prepare((x, y))
    with torch.no_grad():
        for parameter in distiller.student.parameters():
            parameter.add_(0.1)
    model: nn.Module = DistributedDataParallel(distiller) if count > 1 else distiller
    share = 8 // count
    part = slice(rank * share, (rank + 1) * share)
    out = model((x[part], y[part]))
    out.loss.backward()
    found = {name: p.grad for name, p in distiller.named_parameters()}
    return {"gradients": found, "hooks": hooks(distiller.student)}


def test_data_parallel() -> None:
    """Hooks on a wrapped module would see nothing, or gradients would not be averaged."""
    [whole] = [_losses(0, 1, ["layer1", "layer2"])]
    for part in together(_losses, 2, ["layer1", "layer2"]):
        assert part["hooks"] == whole["hooks"] > 0
        for name, gradient in whole["gradients"].items():
            assert torch.allclose(part["gradients"][name], gradient, atol=1e-6), name


# -- what they leave behind


def test_nothing_is_kept_alive_after_the_step() -> None:
    """Every step's feature maps would stay in memory until the next."""
    model = Net().train()
    taps = prepared(model, ["layer1.bn", "layer2", "logits"])
    output, found = taps.capture(lambda: model(images()))
    watched = [weakref.ref(tensor) for tensor in (output, *found.values())]
    sum(tensor.sum() for tensor in found.values()).backward()
    del output, found
    assert [ref() for ref in watched] == [None] * len(watched)
    assert taps._store is None


def test_a_pass_outside_captures_nothing() -> None:
    """Validation would fill the store of the last training step."""
    model = Net()
    taps = prepared(model, ["layer1"])
    out = model(images())
    ref = weakref.ref(out)
    assert taps._store is None
    del out
    assert ref() is None


def test_a_failing_pass_closes_the_store() -> None:
    """The next pass would find the tensors of the one that failed."""
    model = Net()
    taps = prepared(model, ["layer1"])

    def failing() -> None:
        model(images())
        raise KeyError

    with pytest.raises(KeyError):
        taps.capture(failing)
    assert taps._store is None
    assert taps.capture(lambda: model(images()))[1]["layer1"].shape == (4, 4, 8, 8)


def test_hooks_go_when_told() -> None:
    """The student that ships would carry hooks that cannot be pickled."""
    model = Net()
    taps = prepared(model, ["layer1", "layer2:input", "layer2.bn"])
    assert hooks(model) == 3
    taps.remove()
    assert hooks(model) == 0
    torch.save(model, io.BytesIO())
    taps.prepare(images(2))
    assert hooks(model) == 3


def test_hooks_go_with_their_owner() -> None:
    """Trying one method after another on a model would pile up hooks."""
    model = Net()
    taps = prepared(model, ["layer1", "layer2:input"])
    ref = weakref.ref(taps)
    gc.disable()
    try:
        del taps
        assert ref() is None  # no cycle: it does not wait for the collector
    finally:
        gc.enable()
    assert hooks(model) == 0


def test_the_model_does_not_keep_its_taps() -> None:
    """Nor does an owner that is gone still write anywhere."""
    model = Net()
    for _ in range(3):
        prepared(model, ["layer1"]).capture(lambda: model(images()))
    gc.collect()
    assert hooks(model) == 0
    assert not any("hook" in key for key in model.state_dict())


def test_two_sets_of_taps() -> None:
    """A teacher asked for two sets of taps would answer the first with the second."""
    model, x = Net(), images()
    one, other = prepared(model, ["layer1", "logits"]), prepared(model, ["layer1", "layer2"])
    first, second = one.capture(lambda: model(x))[1], other.capture(lambda: model(x))[1]
    assert set(first) == {"layer1", "logits"}
    assert set(second) == {"layer1", "layer2"}
    assert torch.equal(first["layer1"], second["layer1"])
    del one
    assert other.capture(lambda: model(x))[1]["layer2"].shape == (4, 6, 8, 8)


def test_preparing_changes_nothing() -> None:
    """Batch norm would count the dry run; dropout would draw from the generator."""
    model = nn.Sequential(Net().train(), nn.Dropout(0.5)).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    prepared(model, ["0.layer1", "0.layer2.bn", "stage[0]", "penultimate"], images(2))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_preparing_twice() -> None:
    """Every hook would be put on twice."""
    model = Net()
    taps = prepared(model, ["layer1"])
    taps.prepare(images(2))
    assert hooks(model) == 1


def test_names_given_twice() -> None:
    """Two matches on one layer would need two captures of it."""
    taps = prepared(Net(), ["layer1", "logits", "layer1"])
    assert taps.names == ("layer1", "logits")


def test_a_tap_costs_no_second_pass() -> None:
    """The model would run once for the answer and once for the taps."""
    model, runs = Net(), []
    model.register_forward_hook(lambda *_: runs.append(1))
    taps = prepared(model, ["layer1", "logits", "penultimate"])
    runs.clear()
    taps.capture(lambda: model(images()))
    assert len(runs) == 1
