"""The page's examples: what people judge by is shown whole, and never as markup."""

from __future__ import annotations

import re
from typing import Any

from report_run import HOSTILE, IMAGE, Run, made

PICTURE = "data:image/png;base64,iVBORw0KGgo="


def _answer(name: str, share: float, right: bool | None) -> dict[str, Any]:
    return {"answer": name, "right": right, "shares": [[name, share], ["other", 1 - share]]}


def _with_examples(run: Run, shown: dict[str, str], answer: str = "good") -> Run:
    entry = {
        "id": 3, "apart": 0.8, "wanted": answer, "shown": shown,
        "answers": {
            "teacher": _answer(answer, 0.93, True),
            "student": _answer("bad", 0.871, False),
            "control": _answer("bad", 0.6, None),
        },
    }  # fmt: skip
    groups = [{"title": "The teacher is right, the student is not", "samples": [entry]}]
    run["details"]["examples"] = {"differing": 12, "of": 1821, "groups": groups}
    return run


def _section(page: str) -> str:
    found = re.search(r'<section id="examples">.*?</section>', page, re.S)
    assert found is not None
    return found[0]


def test_a_sentence_stands_beside_all_answers(run: Run) -> None:
    """Without it, nobody could judge whether a mistake is forgivable."""
    section = _section(made(_with_examples(run, {"kind": "text", "text": "fine, 很好"})))
    for told in ("fine, 很好", "good 93%", "bad 87%", "other 7%", "bad 60%", "12 of 1,821"):
        assert told in re.sub(r"<[^>]+>", "", section)
    assert section.count("✓\u00a0right") == section.count("✗\u00a0wrong") == 1


def test_a_picture_is_shown_as_one(run: Run) -> None:
    """Without it, a page about pictures would show none."""
    shown = {"kind": "picture", "src": PICTURE, "text": "a picture of 8×8"}
    section = _section(made(_with_examples(run, shown)))
    assert f'<img src="{PICTURE}" alt="a picture of 8×8">' in section


def test_samples_and_answers_are_never_markup(run: Run) -> None:
    """Without it, a sentence of the test set could run a script on the reader's machine."""
    page = made(_with_examples(run, {"kind": "text", "text": HOSTILE}, IMAGE))
    section = _section(page)
    assert "<script" not in section
    assert "<img" not in section
    assert "&lt;script&gt;" in section


def test_long_texts_are_cut(run: Run) -> None:
    """Without it, one long document would fill the page."""
    section = _section(made(_with_examples(run, {"kind": "text", "text": "word " * 5000})))
    assert len(section) < 5000


def test_a_run_without_examples_has_no_such_section(run: Run) -> None:
    """Without it, older runs and other tasks could not be shown any more."""
    assert 'id="examples"' not in made(run)
    run["details"]["examples"] = {"differing": 0, "of": 10, "groups": []}
    assert 'id="examples"' not in made(run)
