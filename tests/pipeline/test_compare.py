"""Comparing ways to make a model smaller: sizes, budgets, and what is said of them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from limbeck import pipeline, recipe
from limbeck.errors import InputError
from limbeck.pipeline.compare import width_for
from limbeck.report.comparison import Found, summarise, told
from limbeck.students import shrink, zoo

TINY = Path(__file__).with_name("tiny.yaml")
CHOSEN = {"metric": "accuracy", "higher_is_better": True}


def found(way: str, ratio: float, size: int, *scores: float) -> list[Found]:
    return [
        Found(way, ratio, seed, score, size, 1.0, 100.0, 0.002, "")
        for seed, score in enumerate(scores)
    ]


def test_the_best_within_a_budget_and_how_sure_that_is() -> None:
    """Without it, a lead within the noise could be sold as a winner, or a file too large."""
    models = [
        *found("teacher", 1.0, 1000, 0.95, 0.95, 0.95),
        *found("prune", 0.5, 500, 0.94, 0.94, 0.94),
        *found("distil", 0.1, 100, 0.90, 0.91, 0.92),
        *found("train alone", 0.1, 100, 0.85, 0.88, 0.86),
        *found("prune", 0.1, 105, 0.91, 0.89, 0.92),
    ]
    report = {"selection": CHOSEN, "test_samples": 10, "environment": {}, "models": {}}
    summary = summarise({}, models, [1 / 2, 1 / 10, 1 / 100], report)
    half, tenth, least = summary["best"]
    assert (half["way"], half["next"], half["clear"]) == ("prune", "distil", True)
    assert (tenth["way"], tenth["next"], tenth["clear"]) == ("distil", "prune", False)
    assert tenth["lead"]["mean"] == pytest.approx(0.01 / 3)
    assert least["way"] is None
    assert "1/10" in told(tenth, "accuracy")
    assert "within the noise" in told(tenth, "accuracy")
    assert "more than the deviation" in told(half, "accuracy")
    assert "none of the files" in told(least, "accuracy")
    equal = tenth | {"lead": {"mean": 0.0, "std": 0.0}}
    assert told(equal, "accuracy").endswith("no better than prune.")


def test_the_width_that_has_a_share_of_the_parameters() -> None:
    """Without it, ways would be compared at sizes that differ."""
    model = zoo.build("cnn", classes=10, image=(1, 8, 8), channels=[32, 64], hidden=[128])

    def size(network) -> int:
        return sum(weight.numel() for weight in network.parameters())

    for share in (1 / 3, 1 / 10):
        width = width_for(model, share)
        assert 0.8 * share < size(shrink(model, width=width)) / size(model) <= share
    with pytest.raises(InputError, match="a ratio of"):
        width_for(model, 1e-6)


@pytest.mark.parametrize("text", ["2", "0", "1/0", "a tenth"])
def test_a_ratio_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        pipeline.ratio(text)


def test_all_ways_are_tried_at_equal_sizes(tmp_path: Path) -> None:
    """Without it, a way could be left out, or a pruned network be larger than a distilled one."""
    wide = "teacher.args={channels: [16, 32], hidden: [64]}"
    changes = ["evaluate.seconds=0.01", "train.epochs=1", "teacher.train.epochs=1", wide]
    small = recipe.load(str(TINY), changes)
    out = pipeline.compare(small, [Fraction(1, 3)], tmp_path / "compared")
    summary = json.loads((out / "compare.json").read_text())
    sizes = {model["way"]: model["size_bytes"] for model in summary["models"]}
    assert len(sizes) == 9
    assert sizes["distil"] == pytest.approx(sizes["prune"], rel=0.2)
    assert sizes["distil"] < sizes["teacher"] / 2
    assert sizes["quantize"] < sizes["teacher"]
    assert all(len(model["score"]["values"]) == 1 for model in summary["models"])
    page = (out / "compare.html").read_text()
    assert "prune, then distil, quantize" in page
    assert "one seed, which proves nothing" in page


def test_a_teacher_that_is_no_network_is_refused(tmp_path: Path) -> None:
    """Without it, a comparison would train for an hour and then fail."""
    forest = "teacher={build: 'sklearn.ensemble:RandomForestClassifier'}"
    with pytest.raises(InputError, match="no network that the recipe builds"):
        pipeline.compare(recipe.load(str(TINY), [forest]), [Fraction(1, 3)], tmp_path)
