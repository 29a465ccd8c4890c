"""Several labels for each sample: metrics are scikit-learn's, methods fit, sources deliver them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

import limbeck as lb
from limbeck.data import Loader, sources
from limbeck.errors import InputError
from limbeck.tasks import Comparing, Multilabel, Separable, Telling
from limbeck.testing import check_task


def answers(count: int = 90, labels: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    wanted = (torch.rand(count, labels, generator=generator) < 0.4).float()
    return torch.randn(count, labels, generator=generator) + 1.5 * wanted - 0.5, wanted


def test_keeps_the_contract() -> None:
    """Accumulated gradients, mixtures and distributed metrics rely on it."""
    logits, wanted = answers(12)
    task = Multilabel(6)
    check_task(task, (torch.randn(12, 4), wanted), logits)
    check_task(task, (torch.randn(12, 4), wanted.bool()), logits)
    assert isinstance(task, Separable)
    assert isinstance(task, Comparing)
    assert isinstance(task, Telling)
    assert lb.tasks.get("multilabel") is Multilabel


def test_metrics_are_those_of_scikit_learn() -> None:
    """A wrong average would rank models wrongly."""
    logits, wanted = answers()
    meter = Multilabel(6).meter()
    for one, other in zip(logits.split(32), wanted.split(32), strict=True):
        meter.update(one, {"inputs": one, "targets": other})
    found = meter.compute().metrics
    truth, scores = wanted.numpy().astype(int), logits.sigmoid().numpy().astype(np.float64)
    said = (logits > 0).numpy().astype(int)
    entropies = -(truth * np.log(scores) + (1 - truth) * np.log(1 - scores))
    expected = {
        "mAP": metrics.average_precision_score(truth, scores, average="macro"),
        "macro_f1": metrics.f1_score(truth, said, average="macro"),
        "micro_f1": metrics.f1_score(truth, said, average="micro"),
        "exact_accuracy": metrics.accuracy_score(truth, said),
        "loss": entropies.sum(axis=1).mean(),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_answers_are_compared_and_told_label_by_label() -> None:
    """A report would speak of the likeliest label, as if one excluded the others."""
    task = Multilabel(3, ("cat", "dog", "bird"))
    logits, other = torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([[2.0, -1.0, -1.0]])
    batch = {"inputs": logits, "targets": torch.tensor([[1, 0, 0]])}
    same, divergence = task.alike(logits, other, batch)
    p, q = 1 / (1 + np.e), 1 / (1 + 1 / np.e)  # of the dog: the reference's, the model's
    wanted = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert float(same) == pytest.approx(2 / 3)
    assert float(divergence) == pytest.approx(wanted, rel=1e-5)
    assert float(task.apart(logits, other, batch)) == pytest.approx(q - p, rel=1e-5)
    told = task.told(logits, batch, 0)
    assert (told["answer"], told["right"]) == ("cat, dog", False)
    sure = [1 / (1 + np.exp(-value)) for value in (2.0, 1.0, 1.0)]  # cat, dog, no bird
    assert told["shares"][0] == ["cat, dog", pytest.approx(np.prod(sure), rel=1e-5)]
    assert told["shares"][1] == ["cat", pytest.approx(sure[0], rel=1e-5)]
    assert task.told(other, batch, 0)["right"]
    assert task.wanted(batch, 0) == "cat"
    assert task.wanted({"targets": torch.zeros(1, 3)}, 0) == "none"


class Sure(nn.Module):
    """Says that all labels are true: the teacher's term is then the label's."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 20.0)


def test_the_method_for_several_labels_has_the_labels_scale() -> None:
    """The teacher's term would vanish beside the label's, or drown it, as C grows."""
    batch = {"inputs": torch.zeros(4, 5, requires_grad=True), "targets": torch.ones(4, 5)}
    method = lb.methods.binary()
    out = lb.Distiller(Sure(), nn.Identity(), task=Multilabel(5), method=method)(batch)
    torch.testing.assert_close(out.terms["label"], torch.tensor(5 * np.log(2)).float())
    torch.testing.assert_close(out.terms["binary_kl"], out.terms["label"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([[1, 0, 2]]), "sample 7 has 2 for bird"),
        (torch.tensor([1]), "set task.name to classification"),
        (torch.tensor([[1, 0]]), r"targets of shape \(1, 2\)"),
    ],
)
def test_wrong_targets_are_refused(targets: Tensor, message: str) -> None:
    """A class number among zeros and ones would pull the loss below any minimum."""
    task = Multilabel(3, ("cat", "dog", "bird"))
    with pytest.raises(InputError, match=f"(?s){message}"):
        task.check({"inputs": None, "targets": targets, "id": torch.tensor([7])})


def table(folder: Path, split: str, **columns: Any) -> None:
    from io import BytesIO

    from PIL import Image

    count, encoded = len(next(iter(columns.values()))), []
    for number in range(count):
        buffer = BytesIO()
        Image.new("L", (4, 4), number * 9).save(buffer, format="PNG")
        encoded.append(buffer.getvalue())
    pq.write_table(pa.table({"img": encoded, **columns}), folder / f"{split}.parquet")


LISTS = [[0], [2, 0], [], [1], [2], [0, 1]] * 3
WANTED = [[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("form", ["numbers", "names", "columns"])
def test_tables_with_several_labels(form: str, tmp_path: Path) -> None:
    """Labels would be given to other classes in another split, or lost."""
    names = ("ant", "bee", "cow")
    for split, rows in (("train", LISTS), ("test", LISTS[:6])):
        if form == "columns":
            bits = {n: [int(k in row) for row in rows] for k, n in enumerate(names)}
            table(tmp_path, split, **bits)
        else:
            told = [[names[k] if form == "names" else k for k in row] for row in rows]
            table(tmp_path, split, tags=told)
    label = list(names) if form == "columns" else "tags"
    data = sources.parquet(tmp_path, label=label, validation=0.2)
    assert data.labels == (names if form != "numbers" else ("0", "1", "2"))
    assert data.test.column("targets").tolist() == WANTED
    assert next(Loader(data.train, 4).epoch(0))["targets"].shape == (4, 3)
    assert len(data.train) + len(data.validation) == 18


@pytest.mark.parametrize(
    ("columns", "label", "message"),
    [
        ({"tags": [["a"], None]}, "tags", "row 1 of train in .* has no tags"),
        ({"a": [0, 1], "b": [0, 3]}, ["a", "b"], "row 1 of train .* has 3 in the column b"),
        ({"tags": ["a", "b"]}, "tags", "holds string"),
        ({"tags": [[0, -1], [1]]}, "tags", "row 0 of train in .* has the class -1"),
    ],
)
def test_wrong_tables_are_explained(
    columns: dict[str, Any], label: Any, message: str, tmp_path: Path
) -> None:
    """Without it, a wrong column would end in an error of tensors."""
    table(tmp_path, "train", **columns)
    with pytest.raises(InputError, match=message):
        sources.parquet(tmp_path, label=label)


def test_pictures_of_several_digits_show_what_their_labels_say() -> None:
    """The example would teach something else, or its test pictures would be known from training."""
    data = sources.several_digits(pictures=200)
    again = sources.several_digits(pictures=200)
    assert data.fingerprint() == again.fingerprint()
    sizes = [len(part) for part in (data.train, data.validation, data.test)]
    assert sizes == [200, 50, 100]
    single = sources.digits()
    for part, digits in ((data.train, single.train), (data.test, single.test)):
        known = {
            tuple(image.flatten().tolist()): int(label)
            for image, label in zip(digits.column("inputs"), digits.column("targets"), strict=True)
        }
        for image, wanted in zip(part.column("inputs"), part.column("targets"), strict=True):
            quarters = [image[0, r : r + 8, c : c + 8] for r in (0, 8) for c in (0, 8)]
            shown = {known[tuple(q.flatten().tolist())] for q in quarters if q.any()}
            assert shown == set(wanted.nonzero().flatten().tolist())
            assert shown


@pytest.mark.parametrize("method", ["kd", "dkd", "dist"])
def test_methods_for_one_class_out_of_several_are_refused(method: str) -> None:
    """Without it, a teacher's sureness of one label would be taught as doubt of the others."""
    wanted = answers(8)[1]
    batch = (torch.randn(8, 4), wanted)
    models = [nn.Linear(4, 6), nn.Linear(4, 6)]
    chosen = lb.methods.get(method)()
    distiller = lb.Distiller(lb.Teacher(models[0]), models[1], task=Multilabel(6), method=chosen)
    with pytest.raises(InputError, match="Set method to binary"):
        distiller(batch)


@pytest.mark.parametrize("method", ["binary", "logit_mse", "rkd"])
def test_methods_that_fit_several_labels_are_taken(method: str) -> None:
    """Without it, the refusal could reach methods that compare each label by itself."""
    wanted = answers(8)[1]
    models = [nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6)) for _ in range(2)]
    taps = {"student": "0", "teacher": "0"} if method == "rkd" else {}
    chosen = lb.methods.get(method)(**taps)
    distiller = lb.Distiller(lb.Teacher(models[0]), models[1], task=Multilabel(6), method=chosen)
    assert torch.isfinite(distiller((torch.randn(8, 4), wanted)).loss)
