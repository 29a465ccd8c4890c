"""The loss of detectors against a loop over places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.errors import InputError
from limbeck.losses import detection


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
