"""What the figures of the page draw, and in which colours; numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from limbeck.report import counts, figures
from limbeck.report.figures import DARK, LIGHT, Curve
from limbeck.report.scatter import Point, against

TEXT_COLOURS = ("ink", "quiet", "teacher", "student", "control")


def test_accuracy_of_a_class_is_its_mean_over_seeds() -> None:
    """Rows and columns exchanged would show precision as accuracy; an empty class would be 0."""
    tables = [
        [[8, 2, 0], [1, 3, 0], [0, 0, 0]],  # 0.8, 0.75, no samples
        [[6, 0, 4], [2, 2, 0], [0, 0, 0]],  # 0.6, 0.5
    ]
    found = counts.class_accuracies(tables)
    assert found[:2] == pytest.approx([0.7, 0.625])
    assert math.isnan(found[2])


def test_difference_of_confusions() -> None:
    """The student's new errors would be shown as the teacher's, or counts compared with means."""
    student = [[[8, 2], [1, 3]], [[6, 4], [1, 3]]]  # 0.2 and 0.4 of the first label are wrong
    teacher = [[[9, 1], [2, 2]]]  # 0.1, and half of the second
    found = counts.confusion_difference(student, teacher)
    assert found[0, 1] == pytest.approx(0.2)
    assert found[1, 0] == pytest.approx(-0.25)
    assert np.isnan(np.diagonal(found)).all()


def test_top_pairs_are_the_largest_in_either_direction() -> None:
    """The list would hold only new errors, or pairs in which nothing changed."""
    nan = math.nan
    difference = np.array([[nan, 0.1, 0.0], [-0.4, nan, 0.2], [nan, nan, nan]])
    assert counts.top_pairs(difference, 5) == [(1, 0), (1, 2), (0, 1)]
    assert counts.top_pairs(difference, 2) == [(1, 0), (1, 2)]


def test_bins_are_added_up_over_seeds() -> None:
    """A mean of means would give a bin with one sample the weight of one with a thousand."""
    one = [[0, 0.0, 0], [2, 1.2, 1], [10, 9.0, 10]]
    other = [[0, 0.0, 0], [8, 4.8, 5], [0, 0.0, 0]]
    # Bin 2: 10 samples, 6.0 / 10 sure, 6 / 10 right. Bin 3: 10 samples, 0.9, all right.
    assert counts.bins([one, other]) == pytest.approx(np.array([[0.6, 0.6, 10], [0.9, 1.0, 10]]))


def test_calibration_error() -> None:
    """The page would contradict the metric in its own table."""
    # |9 − 8| + |6 − 7| = 2 of 20 samples.
    assert counts.calibration_error([[10, 9.0, 8], [0, 0.0, 0], [10, 6.0, 7]]) == pytest.approx(0.1)


def test_calibration_agrees_with_the_metric_that_the_run_measured(run: dict[str, Any]) -> None:
    """Bins read in the wrong order would still draw a plausible curve."""
    for role, seeds in run["details"]["measured"].items():
        metric = run["report"]["models"][role]["quality"]["ece"]["values"]
        found = [counts.calibration_error(entry["reliability"]) for entry in seeds]
        assert found == pytest.approx(metric, abs=1e-4)


def test_spaced_labels_keep_their_order_and_their_place() -> None:
    """Names would stand on one another, or beside another one's line."""
    found = figures.spaced([3.0, 1.0, 1.1, 9.0], 1.0)
    assert found == pytest.approx([3.0, 0.55, 1.55, 9.0])
    pressed = figures.spaced([0.0, 0.1, 0.2], 1.0)
    assert pressed == pytest.approx([-0.9, 0.1, 1.1])


@pytest.mark.parametrize(
    ("low", "high"), [(1, 1e6), (4e3, 6e5), (0.08, 0.12), (0.99, 1.01), (7, 30), (2e6, 2.2e6)]
)
def test_ticks_of_a_logarithmic_axis(low: float, high: float) -> None:
    """An axis between 0.08 and 0.12 would have no number at all, and a wide one too many."""
    ticks = figures.log_ticks(low, high)
    assert 2 <= len(ticks) <= 5
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(ticks)


def test_the_marked_epoch_is_the_best_one() -> None:
    """An epoch counted from 0 would be marked beside the line that it belongs to."""
    line = Curve("student", "student, seed 0", [10.0, 60.0, 70.0, 65.0], best=2)
    course, mark = figures.curves([line], "%").data
    assert (list(course.x), list(course.y)) == ([1, 2, 3, 4], [10.0, 60.0, 70.0, 65.0])
    assert (list(mark.x), list(mark.y)) == ([3], [70.0])


@pytest.mark.parametrize("log", [False, True])
def test_names_of_lines_stand_inside_the_frame(log: bool) -> None:
    """Plotly drops an annotation outside the range, and a line would have no name."""
    ends = {"teacher": 98.0, "student": 97.9, "control": 97.8}
    lines = [Curve(role, role, [50.0, 90.0, 95.0, 97.0, end]) for role, end in ends.items()]
    layout = figures.curves(lines, log=log).layout
    assert [note.text for note in layout.annotations] == list(ends)
    low, high = layout.yaxis.range
    assert all(low <= note.y <= high for note in layout.annotations)


def test_outliers_do_not_flatten_the_curves() -> None:
    """One exploding first epoch would press everything else into a line."""
    values = [9000.0, *np.linspace(30, 20, 20).tolist()]
    low, high = figures.curves([Curve("student", "", values, best=20)]).layout.yaxis.range
    assert low < 20
    assert 30 < high < 60


def test_a_failed_seed_stays_in_the_frame() -> None:
    """Cutting outliers off would hide exactly the training that went wrong."""
    good = [Curve("student", "", [90.0 + n / 10 for n in range(20)], best=19) for _ in range(4)]
    bad = Curve("student", "", [10.0] * 20, best=0)
    assert figures.curves([*good, bad]).layout.yaxis.range[0] < 10


def test_equal_costs_stand_side_by_side() -> None:
    """Student and control would hide one another; the teacher must not move."""
    points = [
        Point("teacher", 1000.0, [99.0]),
        Point("student", 10.0, [97.0, 95.0]),
        Point("control", 10.0, [94.0, 96.0]),
    ]
    drawn = against(points, str, "size")
    places = {trace.text[0].strip(): trace for trace in drawn.data if trace.text}
    assert places["teacher"].x[0] == pytest.approx(1000.0)
    assert places["student"].x[0] < 10.0 < places["control"].x[0]
    assert places["student"].y[0] == 96.0
    assert places["student"].error_y.array[0] == pytest.approx(math.sqrt(2))
    assert [list(trace.y) for trace in drawn.data if not trace.text][1] == [97.0, 95.0]


def test_classes_and_their_gains() -> None:
    """Class names that are digits would become positions, and gains stand at the wrong class."""
    scores = {"control": [50.0, 80.0], "student": [60.0, 79.0]}
    drawn = figures.classes(["7", "3"], scores, "control")
    assert list(drawn.layout.yaxis.ticktext) == ["7", "3"]
    assert list(drawn.layout.yaxis.tickvals) == [1, 0]
    assert [(note.y, note.text) for note in drawn.layout.annotations] == [(1, "+10.0"), (0, "−1.0")]


def test_similarity_has_the_teacher_down() -> None:
    """Transposed, the map would name the wrong layers without looking wrong."""
    sides: dict[str, list[Any]] = {"first": ["a", "b"], "second": ["x", "y", "z"]}
    drawn = figures.similarity(sides | {"cka": [[1, 2, 3], [4, 5, 6]]}, "student")
    assert list(drawn.layout.yaxis.ticktext) == ["a", "b"]
    assert list(drawn.layout.xaxis.ticktext) == ["x", "y", "z"]
    assert drawn.data[0].z[1][2] == 6
    assert drawn.data[0].customdata[1][2] == "teacher b, student z"


# Colours


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read(theme: dict[str, str]) -> None:
    """A prettier shade would be unreadable to many, in the theme that its author does not use."""
    for name in TEXT_COLOURS:
        assert contrast(theme[name], theme["paper"]) >= 4.5, name
    for role in ("teacher", "student", "control"):
        assert contrast(theme["ink"], theme[f"{role}_tint"]) >= 4.5, role


def test_every_colour_has_a_dark_counterpart_of_its_own() -> None:
    """The script exchanges colours by value: two equal ones would end up in one dark shade."""
    assert list(LIGHT) == list(DARK)
    assert len(set(LIGHT.values())) == len(LIGHT)


# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as seen without one kind of cone.
DEFICIENCIES = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(colour: str, seen: list[list[float]]) -> np.ndarray[Any, Any]:
    parts = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    xyz = np.array(to_xyz) @ np.clip(np.array(seen) @ linear, 0, 1) / [0.9505, 1, 1.0888]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("seen", DEFICIENCIES.values(), ids=DEFICIENCIES)
def test_roles_differ_for_the_colour_blind(theme: dict[str, str], seen: list[list[float]]) -> None:
    """Teacher and student would have the same colour for one man in twelve."""
    roles = [lab(theme[role], seen) for role in ("teacher", "student", "control")]
    distances = [np.linalg.norm(roles[a] - roles[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(distances) > 20
