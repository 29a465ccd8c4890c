"""Random numbers that are a pure function of what they are asked for."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from limbeck.data.random import _GOLDEN, _mix, _signed, key, permutation, uniform

WORD = 2**64


def splitmix64(state: int) -> int:
    """The reference, in Python's unbounded integers (Steele, Lea, Flood 2014; Vigna's C code)."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


@pytest.mark.parametrize(
    ("seed", "outputs"),
    [
        # published: the outputs for seed 0 (Java's SplittableRandom, Vigna's splitmix64.c) ...
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        # ... and for 1234567, as listed by Rosetta Code
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]),
    ],
)
def test_mixing_is_splitmix64(seed: int, outputs: list[int]) -> None:
    """A slip in a shift or a sign would leave numbers that look random and are not."""
    states = [_signed(seed + number * (_GOLDEN % WORD)) for number in (1, 2, 3)]
    found = _mix(torch.tensor(states)).tolist()
    assert [value % WORD for value in found] == outputs
    assert [splitmix64(seed + n * 0x9E3779B97F4A7C15) for n in range(3)] == outputs


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**62, -5, 10**30])
@pytest.mark.parametrize("view", [0, 1, 2, 29, 10**6])
def test_keys_against_unbounded_integers(seed: int, view: int) -> None:
    """Overflow would be an error, or differ between plain numbers and tensors of views."""
    ids = torch.tensor([0, 1, 49_999, 2**40, -3])
    golden = 0x9E3779B97F4A7C15

    def expected(sample: int) -> int:
        mixed = splitmix64(sample + golden * seed)
        return splitmix64(mixed + view * golden)

    for views in (view, torch.full_like(ids, view)):
        assert [k % WORD for k in key(seed, ids, views).tolist()] == [
            expected(sample) for sample in ids.tolist()
        ]


def test_keys_do_not_collide() -> None:
    """Two samples, or two views, would always be cropped alike."""
    ids = torch.arange(2000)
    keys = torch.cat([key(seed, ids, view) for seed in range(5) for view in range(20)])
    assert len(keys.unique()) == len(keys)


@pytest.mark.parametrize("way", ["samples", "views", "seeds", "streams"])
def test_uniform_is_uniform(way: str) -> None:
    """Crops would pile up on one side; successive views would be alike."""
    many = torch.arange(20_000)
    one = torch.zeros_like(many)
    draws = {
        "samples": lambda: uniform(key(0, many, 0), 0),
        "views": lambda: uniform(key(0, one, many), 0),
        "seeds": lambda: torch.cat([uniform(key(s, one[:1], 0), 0) for s in range(4000)]),
        "streams": lambda: torch.cat([uniform(key(0, one[:1], 0), s) for s in range(4000)]),
    }[way]()
    x = draws.numpy()
    assert x.min() >= 0
    assert x.max() < 1
    counts = np.histogram(x, bins=50, range=(0, 1))[0]
    chi2 = ((counts - len(x) / 50) ** 2 / (len(x) / 50)).sum()
    assert chi2 < 95  # 49 degrees of freedom: exceeded once in 10,000
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5 / np.sqrt(len(x))


def test_streams_and_views_are_independent() -> None:
    """A flip would go with every crop to the left."""
    ids = torch.arange(20_000)
    columns = [uniform(key(0, ids, view), stream) for view in (0, 1) for stream in (0, 1, 16)]
    correlations = np.corrcoef(np.stack([c.numpy() for c in columns]))
    assert np.abs(correlations - np.eye(6)).max() < 5 / np.sqrt(len(ids))


def test_all_53_bits_are_used() -> None:
    """Few distinct values would make coarse draws."""
    draws = uniform(key(0, torch.arange(10_000), 0), 0)
    assert draws.dtype == torch.float64
    assert len(draws.unique()) == 10_000
    assert ((draws * 2**53) % 2).mean().item() == pytest.approx(0.5, abs=0.05)


def test_nothing_depends_on_the_batch() -> None:
    """A sample's numbers would change with its neighbours, so that nothing could be replayed."""
    ids = torch.randperm(1000)
    whole = uniform(key(3, ids, 2), 5)
    for part in (ids[:1], ids[500:507], ids.flip(0)):
        rows = [ids.tolist().index(i) for i in part.tolist()]
        assert torch.equal(uniform(key(3, part, 2), 5), whole[rows])


def test_the_global_generator_is_left_alone() -> None:
    """Drawing would disturb dropout and initialisation."""
    before = torch.get_rng_state()
    uniform(key(0, torch.arange(10), 0), 0)
    permutation(10, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_permutation(count: int) -> None:
    """A sample would be seen twice in an epoch, or never."""
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (2**40, 7)):
        assert sorted(permutation(count, seed, epoch).tolist()) == list(range(count))


def test_permutations_differ() -> None:
    """Epochs, or runs with other seeds, would repeat one order."""
    orders = {
        tuple(permutation(1000, seed, epoch).tolist()) for seed in (0, 1) for epoch in range(5)
    }
    assert len(orders) == 10
    assert torch.equal(permutation(1000, 0, 1), permutation(1000, 0, 1))


def test_permutation_is_the_same_in_another_process() -> None:
    """Processes would each shuffle in their own way and see the same samples twice."""
    code = "from limbeck.data.random import permutation; print(permutation(9, 4, 7).tolist())"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.strip() == str(permutation(9, 4, 7).tolist())


def test_shuffles_are_fair() -> None:
    """Some samples would come early in every epoch."""
    places = torch.stack([permutation(10, 0, epoch).argsort() for epoch in range(2000)]).double()
    assert (places.mean(0) - 4.5).abs().max() < 5 * 2.9 / 2000**0.5
