"""The losses of detectors against loops over places, and over all ways to pair."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from limbeck.errors import InputError
from limbeck.losses import detection, set_detection


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def test_against_a_loop_over_places() -> None:
    """Without it, edges could be weighed by another place's certainty."""
    generator = np.random.default_rng(0)
    own, theirs = (
        (generator.normal(size=(2, 5, 3)), generator.normal(size=(2, 20, 4)) * 2) for _ in range(2)
    )
    own[0][1], theirs[0][1] = -9.0, -9.0  # a picture in which the teacher sees nothing
    expected = []
    for sample in range(2):
        total = sure_all = 0.0
        for place in range(5):
            p, q = (1 / (1 + np.exp(-side[0][sample, place] / 1.5)) for side in (theirs, own))
            total += 1.5**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum()
            sure = (1 / (1 + np.exp(-theirs[0][sample, place]))).max()
            sure_all += sure
            for edge in range(4 * place, 4 * place + 4):
                p, q = (_softmax(side[1][sample, edge] / 3) for side in (theirs, own))
                total += 0.5 * sure * 9 * (p * np.log(p / q)).sum()
        expected.append(total / max(1.0, sure_all))
    found = detection(
        tuple(map(torch.from_numpy, own)),
        tuple(map(torch.from_numpy, theirs)),
        edges=0.5,
        temperature=1.5,
        edge_temperature=3.0,
        reduction="none",
    )
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_edges_of_other_places_are_refused() -> None:
    """Without it, edges would be weighed by chance."""
    pair = torch.zeros(1, 5, 3), torch.zeros(1, 16, 4)
    with pytest.raises(InputError, match=r"detection got \(1, 5, 3\) and \(1, 16, 4\)"):
        detection(pair, pair)


def _apart(own: np.ndarray, theirs: np.ndarray) -> float:
    """Return 5 · L1 + 2 · (1 − generalised IoU) of two boxes given by middle, width and height."""
    edges = []
    for x, y, width, height in (own, theirs):
        edges.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    (a, b, c, d), (e, f, g, h) = edges
    both = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    either = (c - a) * (d - b) + (g - e) * (h - f) - both
    around = (max(c, g) - min(a, e)) * (max(d, h) - min(b, f))
    general = both / either - (around - either) / around
    return float(5 * np.abs(own - theirs).sum() + 2 * (1 - general))


@pytest.mark.parametrize(("queries", "others"), [(4, 4), (4, 2), (3, 5)])
def test_sets_are_paired_as_cheaply_as_can_be(queries: int, others: int) -> None:
    """Without it, a box could be compared with that of another object."""
    generator = np.random.default_rng(0)
    own, theirs = (
        (generator.normal(size=(2, count, 3)) * 2, generator.uniform(0.1, 0.9, (2, count, 4)))
        for count in (queries, others)
    )
    expected = []
    for sample in range(2):
        classes, boxes = theirs[0][sample], theirs[1][sample]
        order = np.argsort(-classes.max(1))[:queries]  # the surest, if there are too many
        classes, boxes = classes[order], boxes[order]
        p = np.concatenate([1 / (1 + np.exp(-classes / 2)), np.zeros((queries - len(order), 3))])
        sure = np.concatenate([1 / (1 + np.exp(-classes.max(1))), np.zeros(queries - len(order))])
        q = 1 / (1 + np.exp(-own[0][sample] / 2))

        def cost(row: int, column: int) -> float:
            with np.errstate(divide="ignore", invalid="ignore"):
                yes = np.where(p[row] > 0, p[row] * np.log(p[row] / q[column]), 0)  # noqa: B023
            no = (1 - p[row]) * np.log((1 - p[row]) / (1 - q[column]))  # noqa: B023
            total = (sure[row] + 0.3 * (1 - sure[row])) * 4 * (yes + no).sum()  # noqa: B023
            if row < len(boxes):  # noqa: B023
                total += sure[row] * _apart(own[1][sample][column], boxes[row])  # noqa: B023
            return float(total)

        ways = itertools.permutations(range(queries))
        least = min(sum(cost(row, column) for row, column in enumerate(way)) for way in ways)
        expected.append(least / max(1.0, sure.sum()))
    found = set_detection(
        tuple(map(torch.from_numpy, own)),
        tuple(map(torch.from_numpy, theirs)),
        temperature=2.0,
        nothing=0.3,
        reduction="none",
    )
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_sets_of_other_classes_are_refused() -> None:
    """Without it, cats would be compared with dogs, or a box be left without a class."""
    pair = torch.zeros(1, 5, 3), torch.zeros(1, 5, 4)
    with pytest.raises(InputError, match=r"set_detection got \(1, 5, 3\), .*the same classes"):
        set_detection(pair, (torch.zeros(1, 5, 2), torch.zeros(1, 5, 4)))
