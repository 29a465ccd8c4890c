"""Mixup and CutMix: the same mixture for teacher and student, whoever asks for it and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck as lb
from limbeck.data import Arrays, Augmentation, Crop, CutMix, Flip, Loader, Mixup
from limbeck.data.augment import Draw
from limbeck.data.random import key
from limbeck.distill.feed import pieces
from limbeck.errors import InputError
from limbeck.tasks import Classification, Multilabel
from limbeck.tasks.mixed import label_loss

BOTH = Augmentation((Crop(2), Flip(), Mixup(0.4), CutMix()), seed=3)


def pictures(count: int = 40) -> Arrays:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Arrays.of(torch.arange(count) * 5, inputs=images, targets=torch.arange(count) % 4)


def by_id(batches: Any) -> dict[int, tuple[Tensor, float, int]]:
    return {
        int(number): (image, float(share), int(other))
        for batch in batches
        for number, image, share, other in zip(
            batch["id"], batch["inputs"], batch["share"], batch["partner"], strict=True
        )
    }


def equal(one: dict[int, Any], other: dict[int, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k][0], other[k][0]) and one[k][1:] == other[k][1:] for k in one
    )


def test_a_mixture_depends_on_seed_id_and_view_alone() -> None:
    """A teacher's stored answer would be about another mixture than the student is shown."""
    data = pictures()
    whole = by_id(Loader(data, 40, augment=BOTH).epoch(1))
    assert equal(whole, by_id(Loader(data, 7, augment=BOTH).epoch(1)))
    shuffled = Loader(data, 8, shuffle=True, seed=9, augment=BOTH)
    assert equal(whole, by_id(shuffled.epoch(1)))
    assert equal(whole, by_id([*shuffled.epoch(1, start=2), *list(shuffled.epoch(1))[:2]]))
    ranks = [Loader(data, 8, shuffle=True, augment=BOTH, rank=r, world=2) for r in (0, 1)]
    assert equal(whole, {k: v for rank in ranks for k, v in by_id(rank.epoch(1)).items()})
    other_order = data.subset(torch.randperm(40))
    assert equal(whole, by_id(Loader(other_order, 8, augment=BOTH).epoch(1)))
    for other in (Loader(data, 40, augment=BOTH).epoch(2), _seeded(data, 4)):
        assert sum(torch.equal(whole[k][0], v[0]) for k, v in by_id(other).items()) < 4


def _seeded(data: Arrays, seed: int) -> Any:
    return Loader(data, 40, augment=Augmentation(BOTH.operations, seed)).epoch(1)


def test_mixup_is_the_weighted_sum_of_two_samples_of_the_set() -> None:
    """The share that weighs the labels must be that of the pixels."""
    data, augment = pictures(), Augmentation((Mixup(1.0),))
    images = data.fields["inputs"].numpy().astype(np.float64)
    labels = data.fields["targets"]
    found = next(Loader(data, 40, augment=augment).epoch(0))
    partners = augment.over(data).partners(data.ids, 0)
    assert torch.equal(found["partner"], labels[partners])
    assert len(partners.unique()) > 20
    for row, partner in enumerate(partners.tolist()):
        share = float(found["share"][row])
        wanted = np.round(share * images[row] + (1 - share) * images[partner]) / 255
        off = np.abs(found["inputs"][row].numpy() - wanted).max()
        assert off < 1.01 / 255  # half of a level may be rounded to either side


def test_shares_have_the_larger_half_of_the_beta_distribution() -> None:
    """Another distribution would mix far more or far less than the papers do."""
    draw = Draw(key(0, torch.arange(20000), 0), 0)
    for alpha in (0.2, 1.0, 3.0):
        share = Mixup(alpha).mix(torch.zeros(20000, 1), torch.zeros(20000, 1), draw)[1]
        wanted = np.random.default_rng(0).beta(alpha, alpha, 200000)
        wanted = np.quantile(np.maximum(wanted, 1 - wanted), [0.1, 0.5, 0.9])
        np.testing.assert_allclose(np.quantile(share, [0.1, 0.5, 0.9]), wanted, atol=0.01)


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels() -> None:
    """Labels would be weighed by another area than was pasted."""
    count, size = 300, 10
    draw = Draw(key(1, torch.arange(count), 0), 0)
    own, other = torch.zeros(count, 2, size, size), torch.ones(count, 2, size, size)
    mixed, share = CutMix().mix(own, other, draw)
    for row in range(count):
        rows, columns = np.nonzero(mixed[row, 0].numpy())
        assert torch.equal(mixed[row, 0], mixed[row, 1])
        assert float(share[row]) == pytest.approx(1 - len(rows) / size**2)
        if len(rows):  # a rectangle is as large as what it spans
            assert len(rows) == np.ptp(rows) * np.ptp(columns) + np.ptp(rows) + np.ptp(columns) + 1
    assert 0.5 <= float(share.min()) < 0.6
    assert float(share.max()) == 1.0
    with pytest.raises(InputError, match="cutmix met inputs of shape"):
        CutMix().mix(own.flatten(1), other.flatten(1), draw)


def test_labels_are_mixed_as_the_samples_are() -> None:
    """The label loss would be that of one of the two samples."""
    torch.manual_seed(0)
    logits, share = torch.randn(6, 4), torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    one, other = torch.randint(4, (6,)), torch.randint(4, (6,))
    batch = {"inputs": logits, "targets": one, "partner": other, "share": share}
    mixture = share[:, None] * F.one_hot(one, 4) + (1 - share)[:, None] * F.one_hot(other, 4)
    for smoothing in (0.0, 0.1):
        task = Classification(4, label_smoothing=smoothing)
        wanted = F.cross_entropy(logits, mixture, label_smoothing=smoothing)
        torch.testing.assert_close(label_loss(task, logits, batch), wanted)
        # Accumulation: the parts add up to the whole.
        parts = pieces(batch | {"logits": logits}, 3)
        summed = sum(label_loss(task, part["logits"], part) / 3 for part in parts)
        torch.testing.assert_close(summed, wanted)
    several = batch | {"targets": F.one_hot(one, 4), "partner": F.one_hot(other, 4)}
    wanted = F.binary_cross_entropy_with_logits(logits, mixture, reduction="sum") / 6
    torch.testing.assert_close(label_loss(Multilabel(4), logits, several), wanted)


def test_a_store_of_mixtures_is_exact(tmp_path: Path) -> None:
    """The teacher's answer to a mixture is not the mixture of its answers."""
    data, augment = pictures(), Augmentation((Flip(), Mixup(1.0)), seed=2)
    teacher = lb.Teacher(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4))
    )
    options = {"augment": augment, "views": 2, "codec": "full"}
    lb.knowledge.write(tmp_path / "store", teacher, data, **options, rows_per_shard=8, batch_size=8)
    replay = lb.Teacher.replay(tmp_path / "store")
    batch = next(Loader(data, 10, shuffle=True, augment=augment, views=2).epoch(1))
    torch.testing.assert_close(replay.knowledge(batch).logits, teacher.knowledge(batch).logits)
    replay.check(data, augment)
    for samples, other in (
        (data.subset(torch.arange(30)), augment),  # other partners
        (data, Augmentation((Flip(), Mixup(0.5)), seed=2)),
        (data, Augmentation((Flip(),), seed=2)),
    ):
        with pytest.raises(InputError, match="another augmentation"):
            replay.check(samples, other)


def test_wrong_uses_are_refused_before_training() -> None:
    """A batch would be mixed twice over, not at all, or be told one label of two."""
    with pytest.raises(InputError, match=r"stands after one that mixes: .*Flip"):
        Augmentation((Mixup(), Flip()))
    for wrong in (0, -1.0, True):
        with pytest.raises(InputError, match="mixup is"):
            Mixup(wrong)
    data = pictures()
    with pytest.raises(InputError, match="there is no other"):
        BOTH(next(Loader(data, 4).epoch(0)))

    class Plain:  # a task that cannot say each sample's loss
        name = "plain"

    with pytest.raises(InputError, match=r"samples are mixed .* in the task plain"):
        label_loss(Plain(), torch.zeros(2, 4), {"share": torch.ones(2), "partner": torch.ones(2)})
