"""What report.json says: sums worked out by hand, and the verdict's words."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.report.summary import spread, summarise, verdict


def model(values: list[float], metric: str = "accuracy", **cost: float) -> dict[str, Any]:
    found = {"parameters": 100, "throughput_per_s": 10.0} | cost
    return {"quality": {metric: spread(values)}, "cost": found}


def report(
    teacher: dict[str, Any],
    student: dict[str, Any],
    control: dict[str, Any] | None = None,
    *,
    metric: str = "accuracy",
    higher: bool = True,
) -> dict[str, Any]:
    models = {"teacher": teacher, "student": student} | ({"control": control} if control else {})
    return {"models": models, "selection": {"metric": metric, "higher_is_better": higher}}


TEACHER = model([0.95], parameters=4000, throughput_per_s=100.0)


def student(*values: float) -> dict[str, Any]:
    return model(list(values), parameters=500, throughput_per_s=350.0)


def test_spread_is_the_sample_deviation() -> None:
    """Dividing by n instead of n − 1 would make every ± too small, most of all for two seeds."""
    # Squares of the deviations from 5: 9, 1, 1, 9; 20 / 3 = 6.6667, its root 2.5820.
    found = spread([2.0, 4.0, 6.0, 8.0])
    assert found["mean"] == 5.0
    assert found["std"] == pytest.approx(2.5819889)
    assert found["values"] == [2.0, 4.0, 6.0, 8.0]


def test_one_value_has_no_deviation() -> None:
    """A deviation of 0 from one seed would claim a certainty that nobody measured."""
    assert spread([0.5]) == {"mean": 0.5, "std": None, "values": [0.5]}


def test_the_first_sentence_compares_with_the_teacher() -> None:
    """A ratio upside down would praise a student that is larger and slower than its teacher."""
    assert verdict(report(TEACHER, student(0.90, 0.92))) == (
        "The student reaches 91.0% accuracy, its teacher 95.0%, "
        "with 8.0 times fewer parameters and 3.5 times the throughput."
    )


def test_a_clear_gain() -> None:
    """The teacher's whole benefit would go unsaid, or be called noise."""
    # Gains 0.02, 0.03, 0.04: mean 0.03, deviation 0.01.
    said = verdict(report(TEACHER, student(0.90, 0.92, 0.94), student(0.88, 0.89, 0.90)))
    assert said.endswith(
        "Without a teacher the same network reaches 89.0% accuracy: "
        "the teacher added 3.00 points over 3 seeds."
    )


def test_a_clear_loss() -> None:
    """A teacher that harms would be reported as noise, or its harm as a gain."""
    # Gains −0.02, −0.03, −0.04.
    said = verdict(report(TEACHER, student(0.88, 0.89, 0.90), student(0.90, 0.92, 0.94)))
    assert said.endswith("the teacher took away 3.00 points over 3 seeds.")


def test_within_the_noise() -> None:
    """A gain smaller than its own spread over seeds would be sold as a result."""
    # Gains 0.04, −0.02: mean 0.01, deviation 0.0424.
    said = verdict(report(TEACHER, student(0.92, 0.88), student(0.88, 0.90)))
    assert said.endswith("a difference of 1.00 points over 2 seeds, which is within the noise.")


def test_gains_are_taken_seed_by_seed() -> None:
    """Comparing with the spread of the scores would bury a gain that every single seed shows."""
    # Scores spread by 0.08, but each seed gains 0.010, 0.011, 0.012.
    said = verdict(report(TEACHER, student(0.810, 0.891, 0.972), student(0.80, 0.88, 0.96)))
    assert said.endswith("the teacher added 1.10 points over 3 seeds.")


def test_one_seed_proves_nothing() -> None:
    """A single lucky seed would read like evidence."""
    said = verdict(report(TEACHER, student(0.92), student(0.90)))
    assert said.endswith("a difference of 2.00 points on one seed, which proves nothing.")


def test_without_a_control_nothing_is_credited_to_the_teacher() -> None:
    """The page would claim a gain over a network that was never trained."""
    assert "Without a teacher" not in verdict(report(TEACHER, student(0.92)))


def test_less_may_be_better() -> None:
    """For a loss or a perplexity, a worse student would be called a gain."""
    teacher = model([10.0], "perplexity", parameters=1200, throughput_per_s=1.0)
    ours = model([12.0, 12.5], "perplexity", throughput_per_s=12.0)
    control = model([14.0, 14.1], "perplexity")
    # Gains 2.0 and 1.6: mean 1.8, deviation 0.2828.
    said = verdict(report(teacher, ours, control, metric="perplexity", higher=False))
    assert said == (
        "The student reaches a perplexity of 12.250, its teacher 10.000, with 12 times fewer "
        "parameters and 12 times the throughput. Without a teacher the same network reaches a "
        "perplexity of 14.050: the teacher improved it by 1.800 over 2 seeds."
    )


def test_what_was_not_measured_is_left_out() -> None:
    """A figure that is null would end the run in a traceback, after hours of training."""
    unknown = student(0.92) | {"cost": {"parameters": 500, "throughput_per_s": None}}
    assert verdict(report(TEACHER, unknown)).endswith("with 8.0 times fewer parameters.")


def test_a_larger_student_is_called_larger() -> None:
    """'0.5 times fewer parameters' would pass for a saving."""
    large = model([0.92], parameters=8000, throughput_per_s=50.0)
    assert "with 2.0 times more parameters and 0.5 times the" in verdict(report(TEACHER, large))


def test_summary_of_an_evaluation() -> None:
    """A figure under the wrong role, or a forgotten one, would look like a measurement."""
    found = {
        "quality": [{"accuracy": 0.9}, {"accuracy": 0.8}],
        "fidelity": [{"agreement": 0.7, "kl": 0.2}, {"agreement": 0.9, "kl": 0.4}],
        "last_quality": [{"accuracy": 0.7}, {"accuracy": 0.9}],
    }
    one = {"quality": [{"accuracy": 0.95}], "fidelity": [{"agreement": 1.0, "kl": 0.0}]}
    small, large = ({"parameters": n, "throughput_per_s": 1.0} for n in (1, 2))
    results = {
        "models": {"teacher": one, "student": found, "control": found},
        "cost": {"teacher": large, "student": small},
        "samples": 7,
    }
    made = summarise(
        results,
        task="classification",
        seeds=[3, 4],
        selection="accuracy",
        higher_is_better=True,
        stages=[{"name": "teacher", "seconds": 1.0, "skipped": True}],
        machine={"device": "cpu"},
    )
    models = made["models"]
    assert list(models) == ["teacher", "student", "control"]
    assert models["teacher"]["cost"] == large
    assert models["student"]["cost"] == models["control"]["cost"] == small
    assert models["student"]["quality"]["accuracy"]["mean"] == pytest.approx(0.85)
    assert models["student"]["last_quality"]["accuracy"]["mean"] == pytest.approx(0.8)
    assert "last_quality" not in models["teacher"]
    assert models["student"]["fidelity"]["kl"] == pytest.approx(0.3)
    assert models["student"]["fidelity"]["values"]["agreement"] == [0.7, 0.9]
    assert (made["test_samples"], made["seeds"]) == (7, [3, 4])
    assert made["verdict"].startswith("The student reaches 85.0% accuracy")
