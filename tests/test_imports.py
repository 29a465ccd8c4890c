"""Users' code is found by its name, told apart by its content, and blamed for its own errors."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from limbeck.errors import InputError
from limbeck.imports import attribute, call_theirs, code_digest, is_path, needed, portrait

MODULE = """
def make(size=1):
    return ["made"] * size

def fails():
    raise KeyError("theirs")

class Home:
    value = 3
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the current folder."""
    (tmp_path / "their_module.py").write_text(MODULE)
    (tmp_path / "their_broken_module.py").write_text("import math\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("their_")]:
        del sys.modules[name]


@pytest.mark.parametrize(("name", "found"), [("a.b:c", True), ("kd", False), ("a.b", False)])
def test_is_path(name: str, found: bool) -> None:
    """A method's name would be imported."""
    assert is_path(name) is found


@pytest.mark.usefixtures("theirs")
def test_attribute() -> None:
    """Code beside the recipe would only be found with PYTHONPATH."""
    assert attribute("their_module:make")(2) == ["made", "made"]
    assert attribute("their_module:Home.value") == 3


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("their_module:mak", "did you mean 'make'"),
        ("their_module:Home.valu", "did you mean 'value'"),
        ("no_such_module:make", "'no_such_module' could not be imported: ModuleNotFoundError"),
        ("their_broken_module:make", r"ZeroDivisionError.*their_broken_module\.py, line 2"),
    ],
)
@pytest.mark.usefixtures("theirs")
def test_what_is_not_there(name: str, told: str) -> None:
    """A traceback through importlib would hide the typing error in a recipe."""
    with pytest.raises(InputError, match=told):
        attribute(name)


@pytest.mark.usefixtures("theirs")
def test_their_errors() -> None:
    """A mistake in users' code would look like one of ours."""
    with pytest.raises(
        InputError, match=r"x failed: KeyError: 'theirs' \(their_module\.py, line 6"
    ):
        call_theirs("x", attribute("their_module:fails"), {})
    with pytest.raises(InputError, match=r"x failed: TypeError.*colour"):
        call_theirs("x", attribute("their_module:make"), {"colour": 1})
    assert call_theirs("x", attribute("their_module:make"), {"size": 3}) == ["made"] * 3


def test_what_packages_log_while_imported_is_not_shown(
    theirs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines about other packages' compiled code would stand in the middle of a run's progress."""
    noise = "import logging\nlogging.getLogger(__name__).critical('cannot load x.so')\n"
    package = theirs / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text(noise)
    (package / "later.py").write_text(noise)
    (package / "broken.py").write_text(noise + "import no_such_module\n")
    monkeypatch.syspath_prepend(str(theirs))
    found = needed("their_package", "text", "later")
    assert (found.__name__, found.later.__name__) == ("their_package", "their_package.later")
    with pytest.raises(InputError, match="their_package could not be imported: No module named"):
        needed("their_package", "text", "broken")
    assert not caplog.records
    logging.getLogger("their_package").warning("heard again")
    assert [record.message for record in caplog.records] == ["heard again"]


def test_code_digest(theirs: Path) -> None:
    """A stage would be skipped though the code that made it has changed."""
    before = code_digest("their_module:make")
    assert before == code_digest("their_module:fails")
    (theirs / "their_module.py").write_text(MODULE + "# changed\n")
    assert code_digest("their_module:make") != before
    assert code_digest("math:sqrt") == "unknown"


def _adds(by: int, *, times: int = 1):
    def add(x: int) -> int:
        return (x + by) * times

    return add


def _plain(x: int) -> int:
    return x


ONE, OTHER, THIRD = (lambda x: x + 1), (lambda x: x * 1), (lambda x: x + 2)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (_plain, _plain, True),
        (_adds(1), _adds(1), True),
        (_adds(1), _adds(2), False),
        (_adds(1), _adds(1, times=2), False),
        (_plain, _adds(1), False),
        (ONE, OTHER, False),
        (ONE, THIRD, False),
        (partial(_plain, x=1), partial(_plain, x=1), True),
        (partial(_plain, x=1), partial(_plain, x=2), False),
        (partial(_plain, 1), partial(_plain, x=1), False),
        (partial(_adds(1)), partial(_adds(2)), False),
        ("inputs", "inputs", True),
        ("inputs", "targets", False),
        (None, "None", False),
    ],
)
def test_portraits(one: object, other: object, same: bool) -> None:
    """Two preprocessing functions would pass for one, or one for two in every process."""
    assert (portrait(one) == portrait(other)) is same
    for thing in (one, other):
        assert "0x" not in portrait(thing)


def test_portraits_follow_the_file(theirs: Path) -> None:
    """A constant beside the function would change its answers and not its portrait."""
    before = portrait(attribute("their_module:make"))
    (theirs / "their_module.py").write_text(MODULE + "MEAN = 3\n")
    assert portrait(attribute("their_module:make")) != before


def test_naming_the_tasks_does_not_load_the_metrics() -> None:
    """Without it, ``limbeck --help`` takes seconds, and a broken torchvision breaks everything."""
    code = "import sys, limbeck.tasks; print('torchmetrics' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
