"""The report page: its numbers, its escaping, and what it leaves out."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from report_run import (
    HOSTILE,
    Run,
    drop,
    drop_control,
    forget_costs,
    hostile,
    looked_into,
    made,
    only_first_seed,
)


class Outline(HTMLParser):
    """The tags of a page in order, and the texts by the tag that they stand in."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open, data))

    @property
    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def specs(self) -> list[Run]:
        marked = "application/json"
        kinds = self.all("script")
        bodies = [text for tag, text in self.texts if tag == "script" and text.strip()]
        found = [
            json.loads(b) for a, b in zip(kinds, bodies, strict=True) if a.get("type") == marked
        ]
        return [spec for spec in found if "layout" in spec]


def read(source: str) -> str:
    """Return a page's own texts, without scripts and styles, in one line."""
    texts = [text for tag, text in Outline(source).texts if tag not in ("script", "style")]
    return " ".join(" ".join(texts).split())


def test_the_table_shows_what_was_measured(run: Run) -> None:
    """A cell in the wrong column, or a wrong scale, would be believed."""
    cells = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', made(run), re.DOTALL)
    rows = {title: " ".join(re.sub(r"<[^>]+>", " ", rest).split()) for title, rest in cells}
    # 0.98886; 0.97772, 0.97214, 0.961; 0.9805, 0.97772, 0.96657: from the fixture.
    assert rows["Accuracy, %"] == "98.89 97.03 ± 0.85 97.49 ± 0.74"
    assert rows["Loss, nats"] == "0.0312 0.0834 ± 0.0149 0.0862 ± 0.0015"
    assert rows["Agreement with the teacher, %"] == "— 97.77 ± 0.74 96.94 ± 0.74"
    assert rows["Parameters"] == "53,002 3,658 3,658"
    assert rows["Size of the weights"] == "213 kB 15.2 kB 15.2 kB"
    assert rows["Multiply-accumulates per sample"] == "347 k 25.4 k 25.4 k"
    assert rows["Energy per sample, mJ"] == "not measured not measured not measured"


def test_the_figures_that_stand_out(run: Run) -> None:
    """The page's largest numbers would contradict its table."""
    shown = read(made(run))
    # 0.97029 / 0.98886; 53002 / 3658; 179691 / 54346; by seed −0.278, −0.558, −0.557 points.
    gains = [0.97772 - 0.9805, 0.97214 - 0.97772, 0.961 - 0.96657]
    assert f"{100 * statistics.fmean(gains):.2f}" == "-0.46"
    for text in ("98.1%", "14.5×", "3.31×", "−0.46 ± 0.16 points"):
        assert text in shown


def test_measured_energy_and_partial_counts_are_told(run: Run) -> None:
    """An estimate would look measured, and half a count of operations like all of it."""
    cost = run["report"]["models"]["teacher"]["cost"]
    cost |= {"macs_coverage": 0.5, "energy_j": {"value": 0.0123, "source": "estimated: by power"}}
    shown = read(made(run))
    assert "347 k 50% seen" in shown
    assert "≈ 12.3" in shown
    assert "Energy estimated: by power." in shown


def test_less_may_be_better(run: Run) -> None:
    """Up would be called better for a loss, and a gain over the control a loss."""
    run["report"]["selection"] = {"metric": "loss", "higher_is_better": False}
    shown = read(made(run))
    assert "Further down is better" in shown
    # 0.083352 / 0.031182; the control's mean 0.086212 is worse by 0.00286.
    assert "2.67×" in shown
    assert "+0.00286" in shown


WAYS_TO_LACK: dict[str, tuple[Callable[[Run], Any], set[str]]] = {
    "details": (lambda run: run["details"].clear(), {"cost"}),
    "confusions": (lambda run: drop(run, "confusion"), {"training", "cost", "calibration"}),
    "reliability": (lambda run: drop(run, "reliability"), {"training", "cost", "classes"}),
    "similarity": (
        lambda run: run["details"].pop("similarity"),
        {"training", "cost", "classes", "calibration"},
    ),
    "control": (lambda run: drop_control(run), {"training", "cost", "classes", "inside"}),
    "one seed": (lambda run: only_first_seed(run), {"training", "cost", "classes", "inside"}),
    "the teacher's history": (
        lambda run: run["details"]["training"][0].update(history=[], best_epoch=None),
        {"training", "cost"},
    ),
    "validation": (
        lambda run: [e.pop("validation") for t in run["details"]["training"] for e in t["history"]],
        {"training", "cost"},
    ),
    "costs": (lambda run: forget_costs(run), {"training", "classes"}),
    "labels": (lambda run: run["details"].pop("labels"), {"classes"}),
    "other weights": (
        lambda run: [model.pop("last_quality") for model in run["report"]["models"].values()],
        {"training"},
    ),
}


@pytest.mark.parametrize("lacking", WAYS_TO_LACK)
def test_what_a_run_lacks_is_left_out(run: Run, lacking: str) -> None:
    """A run of another kind would have no page at all, or one with empty sections."""
    remove, remain = WAYS_TO_LACK[lacking]
    remove(run)
    source = made(run)
    outline = Outline(source)
    assert remain | {"numbers", "recipe"} <= outline.ids
    optional = {"confusions": "classes", "reliability": "calibration", "similarity": "inside"}
    assert optional.get(lacking) not in outline.ids
    linked = {a["href"] for tag, a in outline.tags if tag == "a"}
    sections = {a["id"] for tag, a in outline.tags if tag == "section"}
    assert linked == {f"#{section}" for section in sections}
    assert not re.search(r"\bNone\b|\bnan\b|Undefined|\[\]", read(source))


def test_one_seed_has_no_deviation(run: Run) -> None:
    """± 0.00 would claim a certainty that one seed cannot give."""
    only_first_seed(run)
    assert "±" not in read(made(run))


def test_what_the_page_does_not_know_is_left_out(run: Run) -> None:
    """A task with details of its own would break the page, or be drawn as something else."""
    before = made(run)
    for seeds in run["details"]["measured"].values():
        for entry in seeds:
            entry["attention_entropy"] = {"deep": [1, 2, {"strange": None}]}
    assert made(run) == before


def test_many_classes_become_a_list(run: Run) -> None:
    """A map of a thousand classes would be megabytes of grey."""
    generator = np.random.default_rng(0)
    for seeds in run["details"]["measured"].values():
        for entry in seeds:
            entry["confusion"] = generator.integers(0, 9, (200, 200)).tolist()
    run["details"]["labels"] = [f"class {n}" for n in range(200)]
    source = made(run)
    assert "Shown are the 30 most changed of 200 classes." in read(source)
    drawn = [spec for spec in Outline(source).specs() if spec["layout"]["height"] > 700]
    assert [len(spec["layout"]["yaxis"]["ticktext"]) for spec in drawn] == [30]
    assert "Points more often" in read(source)


def test_markup_from_a_run_stays_text(run: Run) -> None:
    """A label in someone's data set would run its script in the reader's browser."""
    clean, dirty = Outline(made(run)), Outline(made(hostile(run)))
    for tag in ("script", "style", "img"):
        assert len(dirty.all(tag)) == len(clean.all(tag)), tag
    assert not any("onerror" in attributes for _, attributes in dirty.tags)
    assert dirty.texts.count(("h1", HOSTILE)) == 1
    ticks = [t for spec in dirty.specs() for t in spec["layout"]["yaxis"].get("ticktext", [])]
    assert not any("<" in str(tick) for tick in ticks)
    assert any("&lt;/script&gt;" in str(tick) for tick in ticks)


def test_what_is_inside_is_told_and_stays_text(run: Run) -> None:
    """Without it, a panel could blame another layer, or a class's name could run its script."""
    assert not {"differences", "maps", "rounding"} & Outline(made(run)).ids
    clean, dirty = Outline(made(looked_into(run))), Outline(made(looked_into(run, HOSTILE)))
    for tag in ("script", "style", "img", "button"):
        assert len(dirty.all(tag)) == len(clean.all(tag)), tag
    told = read(made(looked_into(run)))
    assert "Of 30 test samples with a label, 3 are lost" in told
    assert "4 samples, 2 with a rim" in told
    assert "Most changes in one ." in told
    assert "38.7 45.0 0.0000" in told
    assert "1.2% (teacher) and 0.4% (student)" in told
    assert "The teacher is no PyTorch module and cannot be looked into" in told
    parts = [span for span in clean.all("span") if span.get("style", "") is not None]
    shares = [span["style"] for span in parts if (span.get("style") or "").startswith("--share")]
    assert shares == ["--share: 100%", "--share: 40%"] * 3


def test_the_page_is_small_and_made_quickly(run: Run) -> None:
    """Plotly inlined twice would make a page that no mail takes; a slow one stalls every run."""
    made(run)
    began = time.perf_counter()
    source = made(run)
    assert time.perf_counter() - began < 2
    assert len(source.encode()) < 6_000_000
    assert source.count("plotly.js v") == 1


def test_the_outline_can_be_followed_without_eyes(run: Run) -> None:
    """A screen reader would jump over a level, or read a table as loose numbers."""
    tags = Outline(made(run)).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(a.get("scope") in ("col", "row", "rowgroup") for tag, a in tags if tag == "th")
    plots = [a for tag, a in tags if tag == "div" and a.get("class") == "plot"]
    assert len(plots) == 11
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in plots)
    assert ("html", {"lang": "en"}) in tags
    assert "<title>digits · Limbeck</title>" in made(run)
