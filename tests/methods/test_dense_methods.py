"""Methods for maps, boxes and edges, on toy models and toy tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck.errors import InputError
from limbeck.losses.dense import focal_global, pair_wise
from limbeck.methods import about
from limbeck.methods.dense import cwd_logits, detection, fgd, ld, segmentation, set_detection
from limbeck.methods.method import Method
from limbeck.testing import check_method

CLASSES, SIZE = 4, 16


@dataclass(frozen=True)
class Segmentation:
    """A label for each pixel."""

    name: str = "segmentation"
    selection: str = "accuracy"
    higher_is_better: bool = True

    def named(self, batch: Any) -> dict[str, Any]:
        return batch if isinstance(batch, Mapping) else {"inputs": batch[0], "targets": batch[1]}

    def inputs(self, batch: Any) -> Any:
        return batch["inputs"]

    def targets(self, batch: Any) -> Tensor:
        return batch["targets"]

    def mask(self, batch: Any) -> None:
        return None

    def count(self, batch: Any) -> int:
        return len(batch["targets"])

    def label_loss(self, logits: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(F.interpolate(logits.float(), (SIZE, SIZE)), batch["targets"])

    def check(self, batch: Any) -> None: ...

    def check_logits(self, logits: Tensor, whose: str) -> None:
        assert logits.ndim == 4

    def meter(self) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Detection(Segmentation):
    """Boxes (B, N, 4); the answer is one number for each image, for simplicity: how many."""

    name: str = "detection"

    def label_loss(self, logits: Tensor, batch: Any) -> Tensor:
        return (logits.float().mean((1, 2, 3)) - batch["targets"].shape[1]).square().mean()


class Segmenter(nn.Module):
    """Images to logits (B, K, H, W) at half or a quarter of their size."""

    def __init__(self, width: int, stride: int = 2) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, stride=stride), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.classify = nn.Conv2d(width, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.body(images))


class Detector(nn.Module):
    """A pyramid of two levels whose parts are named as in MMDetection; edges over five bins."""

    def __init__(self, width: int, levels: int = 2) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.stem = nn.Conv2d(3, width, 3, padding=1, stride=2)
        convs = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, padding=1)}) for _ in range(levels)
        )
        self.neck = nn.ModuleDict({"fpn_convs": convs})
        self.edges, self.classify = nn.Conv2d(width, 20, 1), nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images).relu()
        for level in self.neck["fpn_convs"]:
            x = level["conv"](x)
            x, logits, edges = F.avg_pool2d(x, 2), self.classify(x), self.edges(x)
        places = edges.flatten(2).transpose(1, 2).reshape(len(images), -1, 5)
        classes = logits.flatten(2).transpose(1, 2)
        return {"logits": logits, "edges": places, "classes": classes}


class Queried(nn.Module):
    """Four queries, each with three classes and a box."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width, 4 * (3 + 4))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found = self.head(self.stem(images).relu().mean((2, 3))).unflatten(1, (4, 7))
        return {
            "logits": found[:, None],
            "classes": found[..., :3],
            "boxes": found[..., 3:].sigmoid(),
        }


def scenes(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return images, torch.randint(CLASSES, (count, SIZE, SIZE), generator=generator)


def boxed(count: int = 8) -> tuple[Tensor, Tensor]:
    boxes = torch.tensor([[1.0, 2.0, 9.0, 14.0], [4.0, 0.0, 12.0, 6.0], [0.0, 0.0, 0.0, 0.0]])
    return scenes(count)[0], boxes.expand(count, 3, 4).clone()


LEVELS = [f"neck.fpn_convs.{level}.conv" for level in range(2)]


def toy_fgd(**options: Any) -> Method:
    return fgd((SIZE, SIZE), student=LEVELS, teacher=LEVELS, **options)


CASES: dict[str, tuple[Callable[..., Method], Callable[[int], nn.Module], Any, Any]] = {
    "cwd_logits": (cwd_logits, Segmenter, Segmentation(), scenes),
    "detection": (detection, Detector, Detection(), boxed),
    "fgd": (toy_fgd, Detector, Detection(), boxed),
    "ld": (lambda **options: ld(bins=5, **options), Detector, Detection(), boxed),
    "segmentation": (segmentation, Segmenter, Segmentation(), scenes),
    "set_detection": (set_detection, Queried, Detection(), boxed),
}


def prepared(name: str, own: int = 4, theirs: int = 8, **options: Any) -> lb.Distiller:
    method, model, task, batch = CASES[name]
    torch.manual_seed(0)
    return lb.Distiller(model(theirs), model(own), task=task, method=method(**options)).prepare(
        batch()
    )


def test_the_list_is_complete() -> None:
    """A method that is not in the list would be checked by nothing below."""
    assert sorted(lb.methods.dense.__all__) == sorted(CASES)
    assert isinstance(Segmentation(), lb.tasks.Task)


@pytest.mark.parametrize("name", sorted(CASES))
def test_keeps_the_contract(name: str) -> None:
    """A method would train its teacher, or leave its own modules untrained."""
    method, model, task, batch = CASES[name]
    check_method(method(), student=model(4), teacher=model(8), batch=batch(), task=task)


@pytest.mark.parametrize("name", sorted(CASES))
def test_says_where_it_comes_from(name: str) -> None:
    """A method without a source cannot be checked by anyone."""
    method, cited = getattr(lb.methods.dense, name), about(name)
    text = inspect.getdoc(method) or ""
    assert cited.source in text
    assert str(cited.year) in text
    assert text.startswith("Match ")
    assert cited.family == "dense"
    assert CASES[name][0]().name == name
    assert CASES[name][0]().label_weight is None


@pytest.mark.parametrize("name", sorted(CASES))
def test_lowers_its_own_terms(name: str) -> None:
    """A sign or a tap of the teacher's on both sides would show nowhere else."""
    more = {"pair": 300.0, "patches": 4} if name == "segmentation" else {}  # all regions are alike
    distiller = prepared(name, **more)
    distiller.method = distiller.method.with_label_weight(0.0)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.01)
    batch = CASES[name][3]()
    first = distiller(batch).terms
    for _ in range(60):
        optimizer.zero_grad()
        distiller(batch).loss.backward()
        optimizer.step()
    last = distiller(batch).terms
    assert len(last) == len(distiller.method.matches)
    assert all(last[key] < 0.9 * first[key] for key in first), (first, last)


def test_ld_has_the_authors_weight() -> None:
    """Theirs is for a mean over bins, where the loss has a sum; T² is inside."""
    distiller = prepared("ld")
    out = distiller(boxed())
    own, theirs = (known["output[edges]"] / 10 for known in (out.student, out.teacher))
    each = 100 * F.kl_div(own.log_softmax(-1), theirs.softmax(-1), reduction="none").mean(-1)
    assert torch.isclose(out.loss, out.terms["label"] + 0.25 * each.mean())
    assert ld().matches[0].weight == 0.25 / 17
    assert not distiller.adapters()


def test_fgd_is_built_for_each_level() -> None:
    """Options would not reach the modules, or the boxes not the loss."""
    distiller = prepared("fgd", alpha=0.01, beta=0.02, gamma=0.03, relation=0.04, attention=0.8)
    assert len(distiller.losses) == 2
    weights = {"alpha": 0.01, "beta": 0.02, "gamma": 0.03, "relation": 0.04}
    assert all(loss.weights == weights and loss.attention == 0.8 for loss in distiller.losses)
    out = distiller(boxed())
    expected = 0
    for loss, tap in zip(distiller.losses, LEVELS, strict=True):
        own, theirs = loss.align(out.student[tap]), out.teacher[tap]
        contexts = loss.student_context(own), loss.teacher_context(theirs)
        options: dict[str, Any] = {"contexts": contexts, "attention": 0.8, **weights}
        options |= {"targets": boxed()[1], "image": (SIZE, SIZE)}
        expected = expected + focal_global(own, theirs, **options)
    assert torch.isclose(out.loss, out.terms["label"] + expected)


def test_fgd_finds_the_pictures_size_in_the_batch() -> None:
    """A recipe would have to repeat what the data says, and boxes be scaled by a stale number."""
    told = prepared("fgd", beta=0.02, relation=0.1)
    asking = lb.Distiller(
        Detector(8), Detector(4), task=Detection(), method=fgd(student=LEVELS, teacher=LEVELS,
                                                              beta=0.02, relation=0.1)
    ).prepare(boxed())  # fmt: skip
    asking.load_state_dict(told.state_dict())
    asking.teacher.module.load_state_dict(told.teacher.module.state_dict())
    assert torch.equal(asking(boxed()).loss, told(boxed()).loss)
    loss = lb.losses.FocalGlobal(3, 3)
    with pytest.raises(InputError, match="boxes in pixels"):
        loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), targets=torch.zeros(1, 1, 4))


def test_fgd_has_the_authors_defaults() -> None:
    """Another scale would drown the detector's own losses."""
    matches = fgd((800, 1333)).matches
    assert [match.student for match in matches] == [
        f"neck.fpn_convs.{level}.conv" for level in range(5)
    ]
    told = {key: matches[0].options[key] for key in ("alpha", "beta", "gamma", "relation")}
    assert told == {"alpha": 1e-3, "beta": 5e-4, "gamma": 1e-3, "relation": 5e-6}
    assert matches[0].options["attention"] == 0.5


def test_fgd_trains_saves_and_leaves_its_modules() -> None:
    """A resumed training would begin with new context blocks, or they would ship."""
    distiller = prepared("fgd", relation=0.1)
    before = {key: value.clone() for key, value in distiller.losses.state_dict().items()}
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.001)
    distiller(boxed()).loss.backward()
    optimizer.step()
    after = distiller.losses.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    for level in range(2):  # the blocks add nothing at first: their first layers learn later
        last = {f"{level}.{side}_context.transform.3.bias" for side in ("student", "teacher")}
        assert {f"{level}.align.weight"} | last <= changed
    other = prepared("fgd", relation=0.1)
    other.load_state_dict(distiller.state_dict())
    assert torch.equal(other(boxed()).loss, distiller(boxed()).loss)
    assert "losses.1.student_context.attend.weight" in distiller.state_dict()
    shipped = distiller.release()
    assert not any("context" in name for name, _ in shipped.named_modules())


def test_segmentation_by_hand() -> None:
    """Classes would be taken for positions, or a weight hang at the other part."""
    distiller = prepared("segmentation", pixel=3.0, pair=5.0, temperature=2.0)
    out = distiller(scenes())
    own, theirs = out.student.logits / 2, out.teacher.logits / 2
    each = F.kl_div(own.log_softmax(1), theirs.softmax(1), reduction="none").sum(1)
    pixels = 4 * each.mean()
    regions = pair_wise(out.student["stage[-1]"], out.teacher["stage[-1]"])
    assert torch.isclose(out.loss, out.terms["label"] + 3 * pixels + 5 * regions)
    assert [match.weight for match in segmentation().matches] == [10.0, 10.0]


@pytest.mark.parametrize("method", [segmentation(), cwd_logits()])
def test_logits_of_other_sizes_are_averaged(method: Method) -> None:
    """A teacher at a finer grid is the usual case."""
    distiller = lb.Distiller(
        Segmenter(8, stride=1), Segmenter(4), task=Segmentation(), method=method
    ).prepare(scenes())
    assert "teacher: pool to 8×8" in next(iter(distiller.adapters().values()))
    distiller(scenes()).loss.backward()


def test_cwd_logits_by_hand() -> None:
    """Each class is a distribution over positions, not each position over classes."""
    distiller = prepared("cwd_logits")
    out = distiller(scenes())
    own, theirs = (known.logits.flatten(2) / 4 for known in (out.student, out.teacher))
    each = F.kl_div(own.log_softmax(2), theirs.softmax(2), reduction="none").sum(2)
    assert torch.isclose(out.loss, out.terms["label"] + 3 * 16 * each.mean())


def test_cwd_logits_refuses_other_classes() -> None:
    """A convolution between classes would stand where an error belongs."""
    student = Segmenter(4)
    student.classify = nn.Conv2d(4, CLASSES + 1, 1)
    distiller = lb.Distiller(Segmenter(8), student, task=Segmentation(), method=cwd_logits())
    with pytest.raises(InputError, match="the same shape"):
        distiller.prepare(scenes())


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (ld, {"bins": 0}),
        (fgd, {"image": (0, 8)}),
        (fgd, {"image": (8, 8, 8)}),
        (fgd, {"image": (8, 8), "student": ["a"], "teacher": ["a", "b"]}),
        (fgd, {"image": (8, 8), "student": "neck", "teacher": "neck"}),
    ],
)
def test_impossible_options(make: Any, options: dict[str, Any]) -> None:
    """Levels would be left out without a word, or a division by zero come late."""
    with pytest.raises(InputError):
        make(**options)
