"""What the documentation shows works: its snippets, recipes, commands, links and names.

Blocks of ``python`` on a page run in order, in one namespace, in a folder that holds a small
finished run in ``runs/digits``. A comment ``<!-- not run: REASON -->`` above a block exempts it;
blocks that show a file (``--8<-- "examples/..."``) are left to the tests of that file.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import shutil
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from limbeck import pipeline
from limbeck.cli import app
from limbeck.recipe import Recipe, load, parse

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
SMALL = ["train.epochs=2", "teacher.train.epochs=2", "seeds=[0]", "evaluate.seconds=0.05"]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?: \{ \.)?(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
_INCLUDED = re.compile(r'--8<-- "(.+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, what is in it, and whether it is run elsewhere or not."""

    page: Path
    line: int
    kind: str
    text: str
    exempt: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT / 'docs')}:{self.line}"


def _blocks(kind: str, pages: list[Path] = PAGES) -> list[Block]:
    return [block for page in pages for block in _fenced(page) if block.kind == kind]


def _fenced(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        before = text[: found.start()].rstrip().rpartition("\n")[2]
        lines = [line.removeprefix(found["indent"]) for line in found["text"].splitlines()]
        number = text.count("\n", 0, found.start()) + 2
        shown = _INCLUDED.match(lines[0]) if lines else None
        exempt = before.strip().startswith("<!-- not run: ") or bool(shown)
        code = (ROOT / shown[1]).read_text(encoding="utf-8") if shown else "\n".join(lines) + "\n"
        yield Block(page, number, found["kind"], code, exempt)


def _commands() -> list[tuple[str, list[str]]]:
    """Return where each ``limbeck`` command stands, and its words after ``limbeck``."""
    found = []
    for block in _blocks("console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "limbeck" in words and words[0] != "python":  # that a benchmark may compare
                found.append((f"{block}: {line.strip()}", words[words.index("limbeck") + 1 :]))
    return [entry for entry in found if entry[1]]


RUNNABLE = [page for page in PAGES if _blocks("python", [page])]
RECIPES = _blocks("yaml")
COMMANDS = _commands()


def test_the_pages_hold_something_to_check() -> None:
    """Without it, a changed fence or a moved folder would switch all of these tests off."""
    assert len(PAGES) > 20
    assert len(RUNNABLE) > 3
    assert len(RECIPES) > 5
    assert len(COMMANDS) > 20


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small finished run, as readers have it after the first tutorial."""
    folder = tmp_path_factory.mktemp("reader")
    pipeline.run(load("digits", SMALL), folder / "runs" / "digits")
    return folder


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_the_snippets_of_a_page_run(
    page: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, what a newcomer copies from the documentation could fail."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    main = types.ModuleType("__main__")  # what compiles functions looks their module up
    monkeypatch.setitem(sys.modules, "__main__", main)
    for block in _blocks("python", [page]):
        if not block.exempt:
            # Empty lines in front make a traceback name the page's line.
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, str(page), "exec"), vars(main))


@pytest.mark.parametrize("block", RECIPES, ids=str)
def test_recipes_are_valid(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a recipe in the documentation could have a key that does not exist."""
    own = ROOT / "examples" / "own_code"
    monkeypatch.chdir(own)  # where the recipes' own code is
    monkeypatch.syspath_prepend(str(own))
    parts = re.split(r"^(?=\w)", block.text, flags=re.M)
    keys = dict(part.split(":", 1) for part in parts if re.match(r"\w+:", part))
    assert keys, f"{block} holds no key at the left margin"
    changed = load("digits", [f"{key}={value}" for key, value in keys.items()])
    assert isinstance(parse(changed.model_dump()), Recipe)
    pipeline.build.method(changed)
    pipeline.build.augmentation(changed.data.augment, changed.data.seed)
    for part in (changed.train, changed.teacher.train):
        pipeline.build.training(part)


@pytest.mark.parametrize(("line", "words"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_commands_are_understood(line: str, words: list[str]) -> None:
    """Without it, a command in the documentation could have an option that does not exist."""
    group = typer.main.get_command(app)
    command = group.commands.get(words[0])  # type: ignore[attr-defined]
    if command is None:
        assert words[0] in ("--help", "--version"), f"{line}: there is no such command"
        return
    given = command.make_context(words[0], words[1:]).params
    if given.get("recipe") in ("article", "cifar10", "digits"):
        load(given["recipe"], given["changes"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_links_and_names_lead_somewhere(page: Path) -> None:
    """Without it, links and the names of functions would rot, and be found out by readers."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.is_file(), f"{target} in {page.name}"
        assert not anchor or anchor in _anchors(other), f"{target} in {page.name}"
    for name in re.findall(r"\]\[(limbeck[\w.]*)\]", text):
        _named(name)
    for name in re.findall(r"^::: (\S+)$", text, flags=re.M):
        importlib.import_module(name)


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, and of the parts that are generated."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = set(re.findall(r"\{ #([\w-]+) \}", text))
    if "<!-- generated: recipe_keys -->" in text:
        found |= set(Recipe.model_fields)
    for title in re.findall(r"^#+ (.*?)(?: \{.*\})?$", text, flags=re.M):
        plain = re.sub(r"[^\w\s-]", "", title).strip().lower()
        found.add(re.sub(r"[\s-]+", "-", plain))
    return found


def _named(name: str) -> object:
    """Return what a dotted name leads to: a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


ROOMS = [
    "data", "data.sources", "distill", "evaluate", "knowledge", "losses", "methods", "pipeline",
    "report", "students", "students.zoo", "tasks", "teachers", "testing",
]  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_holds_every_public_name(room: str) -> None:
    """Without it, a new loss or teacher could be missing from the reference."""
    package = importlib.import_module(f"limbeck.{room}")
    named = {name: getattr(package, name) for name in package.__all__}
    defined = {n: x for n, x in named.items() if inspect.isclass(x) or inspect.isfunction(x)}
    assert defined
    shown = _shown()
    missing = [n for n, x in defined.items() if n not in shown.get(x.__module__, [])]
    assert not missing, f"the reference lacks {missing}"


def _shown() -> dict[str, list[str]]:
    """Return the modules that the reference shows, each with the names shown of it."""
    found = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, members in re.findall(r"^::: (\S+)\n(?:    .*members: \[(.*)\])?", text, re.M):
            plain = f"::: {name}\n    options" not in text
            found[name] = dir(importlib.import_module(name)) if plain else members.split(", ")
    return found
