"""Messages say what was received, what was expected and what to do, in whole sentences."""

from __future__ import annotations

import pickle

import pytest

from limbeck.errors import InputError, near, unknown


def test_it_is_a_value_error() -> None:
    """Code that catches ValueError around user input would let ours through."""
    with pytest.raises(ValueError, match="epochs"):
        raise InputError("epochs is -1")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"received": "a"}, "a."),
        ({"received": "a."}, "a."),
        ({"received": "is that meant?"}, "is that meant?"),
        ({"received": "a", "expected": "b"}, "a. Expected: b."),
        ({"received": "a", "consequence": "C", "remedy": "D."}, "a. C. D."),
        (
            {"received": "a", "expected": "b", "consequence": "C", "remedy": "D"},
            "a. Expected: b. C. D.",
        ),
    ],
)
def test_parts_become_sentences(parts: dict[str, str], text: str) -> None:
    """Parts would run into one another, or end in two full stops."""
    assert str(InputError(parts.pop("received"), **parts)) == text


def test_parts_can_be_asked_for() -> None:
    """A page or a test could not take the remedy alone."""
    error = InputError("a", expected="b", consequence="c", remedy="d")
    assert (error.received, error.expected, error.consequence, error.remedy) == tuple("abcd")


def test_survives_another_process() -> None:
    """A worker process's error arrives by pickle: unpicklable ones hang or hide the message."""
    error = pickle.loads(pickle.dumps(InputError("a", expected="b", remedy="d")))
    assert isinstance(error, InputError)
    assert str(error) == "a. Expected: b. d."


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("layer5", ["conv1", "layer3", "layer4"], ["layer4", "layer3"]),
        ("temprature", ["temperature", "mask", "reduction"], ["temperature"]),
        ("zzz", ["conv1", "layer3"], []),
        ("a", [], []),
        ("stage2", [f"stage{n}" for n in (1, 2, 3, 4, 5)], ["stage2"]),
    ],
)
def test_near_names(name: str, known: list[str], expected: list[str]) -> None:
    """A hint would name nothing, or something far off."""
    found = near(name, known)
    assert found[: len(expected)] == expected
    assert len(found) <= 3
    assert bool(found) == bool(expected)


def test_unknown_lists_a_few_of_many() -> None:
    """A model of a thousand modules would fill the screen with its names."""
    message = str(unknown("tap", "x", [f"layer{n:03}" for n in range(500)]))
    assert "(500 in all)" in message
    assert message.count("layer") == 24


def test_unknown_of_nothing() -> None:
    """An empty list of names would read like a broken sentence."""
    assert str(unknown("field", "x", [])) == "field 'x' is not known. Known: none."
    assert "did you mean" not in str(unknown("field", "x", ["much", "other"]))
