"""Cutting a set: in proportion, by id alone, and hardly moved by samples that come later."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limbeck.data import Arrays, Data, carve
from limbeck.errors import InputError


def labelled(counts: list[int], start: int = 0) -> Arrays:
    targets = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    return Arrays.of(torch.arange(len(targets)) + start, inputs=targets * 1.0, targets=targets)


def classes(samples: Arrays) -> list[int]:
    return torch.bincount(samples.column("targets"), minlength=3).tolist()


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**33])
def test_in_proportion(fraction: float, seed: int) -> None:
    """A rare class would be missing from the validation set."""
    data = labelled([100, 40, 20])
    stays, cut = carve(data, fraction, seed=seed)
    assert classes(cut) == [round(100 * fraction), round(40 * fraction), round(20 * fraction)]
    assert sorted([*stays.ids.tolist(), *cut.ids.tolist()]) == list(range(160))
    for part in (stays, cut):
        assert part.ids.tolist() == sorted(part.ids.tolist())
        assert torch.equal(part.column("targets"), data.column("targets")[part.ids])


def test_the_same_whatever_the_order() -> None:
    """A data set listed in another order would leak test samples into training."""
    data = labelled([30, 30])
    turned = data.subset(torch.randperm(60))
    assert set(carve(data, 0.3)[1].ids.tolist()) == set(carve(turned, 0.3)[1].ids.tolist())


def test_seeds_cut_differently() -> None:
    """The seed would do nothing."""
    cuts = {tuple(carve(labelled([50, 50]), 0.2, seed=seed)[1].ids.tolist()) for seed in range(5)}
    assert len(cuts) == 5


def test_appended_samples_move_few() -> None:
    """A grown data set would be cut anew: yesterday's test samples would be trained on."""
    before, after = labelled([200]), labelled([220])
    old, new = (set(carve(data, 0.2)[1].ids.tolist()) for data in (before, after))
    assert len(old - new) <= 20
    assert len(old & new) >= 30
    for count in (1, 2, 3):
        one = set(carve(labelled([200 + count]), 0.2)[1].ids.tolist())
        assert len(old - one) <= count


@pytest.mark.parametrize("counts", [[1, 1], [2], [1, 1, 1, 1], [3]])
@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_neither_part_is_empty(counts: list[int], fraction: float) -> None:
    """A tiny set would give an empty validation set, and a crash an hour later."""
    stays, cut = carve(labelled(counts), fraction)
    assert len(stays) >= 1
    assert len(cut) >= 1


def test_without_classes() -> None:
    """Sets without labels could not be cut."""
    data = Arrays.of(inputs=torch.randn(50, 3))
    stays, cut = carve(data, 0.2, by=None)
    assert (len(stays), len(cut)) == (40, 10)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_impossible_fractions(fraction: float) -> None:
    """An empty part would be made in silence."""
    with pytest.raises(ValueError, match="fraction"):
        carve(labelled([5, 5]), fraction)


def test_one_sample_cannot_be_cut() -> None:
    """The only sample would be trained on and tested with."""
    with pytest.raises(ValueError, match="at least two samples"):
        carve(labelled([1]), 0.5)


def everything(train: int = 100, others: int = 60) -> Data:
    parts = [labelled([n // 2, n - n // 2], start) for n, start in ((train, 0), (others, 500))]
    return Data(parts[0], parts[1], parts[1].subset(torch.arange(10)), ("a", "b"), "x")


@pytest.mark.parametrize("most", [1, 10, 80, 1000])
def test_limited(most: int) -> None:
    """``limit: 100`` on a folder sorted by class would train on one class alone."""
    data = everything()
    few = data.limited(most)
    assert len(few.train) == min(most, 100)
    assert len(few.validation) == min(max(1, most // 2), 60)
    assert len(few.test) == min(max(1, most // 2), 10)
    assert set(few.train.ids.tolist()) <= set(data.train.ids.tolist())
    assert few.train.ids.tolist() == sorted(few.train.ids.tolist())
    if most >= 10:
        assert 0 < few.train.column("targets").double().mean() < 1
    assert (few.labels, few.name) == (data.labels, data.name)
    assert few.train.ids.tolist() == data.limited(most).train.ids.tolist()


@pytest.mark.parametrize("field", ["train", "validation", "test", "labels"])
def test_fingerprint(field: str) -> None:
    """A changed test set would not make the stages anew."""
    data = everything()

    def changed(ids: Tensor) -> Data:
        parts = vars(data) | {
            field: ("b", "a") if field == "labels" else getattr(data, field).subset(ids)
        }
        return Data(**parts)

    assert data.fingerprint() == everything().fingerprint()
    assert changed(torch.arange(9)).fingerprint() != data.fingerprint()


def test_hidden_labels_are_gone_and_the_rest_in_proportion() -> None:
    data = Data(labelled([60, 30, 10]), labelled([5, 5, 5]), labelled([5, 5, 5]))
    few = data.hiding(20)
    assert classes(few.labelled) == [12, 6, 2]
    assert len(few.train) == 100
    assert (few.train.column("targets") == -1).sum() == 80
    assert torch.equal(few.validation.column("targets"), data.validation.column("targets"))
    assert data.labelled is data.train


def test_more_labels_than_there_are() -> None:
    data = Data(labelled([6, 3, 1]), labelled([5, 5, 5]), labelled([5, 5, 5]))
    with pytest.raises(InputError, match="labels of 10 samples, and the training set has 10"):
        data.hiding(10)
