"""Texts that a model wrote, one or more for each prompt, in a file that can be gone on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import InputError
from limbeck.teachers.served.client import Reply
from limbeck.teachers.served.cost import Usage
from limbeck.teachers.served.journal import Journal, Row

if TYPE_CHECKING:
    from limbeck.teachers.served.prompting import Prompting
    from limbeck.teachers.served.server import Served

__all__ = ["Answers", "Prompts", "generate"]

Prompts = Sequence[str] | Mapping[int, str] | Mapping[str, str]
"""Texts, whose ids are their places; or texts by id."""

_Name = tuple[int | str, int]


@dataclass(frozen=True)
class Answers(Sequence[Row]):
    """What a model answered, in the order of the prompts.

    Attributes:
        path: the file, JSON lines.
        rows: by field: ``id``, ``sample``, ``prompt``, ``answer``, ``finish``, ``usage``,
            ``settings``.
    """

    path: Path
    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"Answers({len(self)} in {self.path}; {self.usage.told(None)})"

    @property
    def texts(self) -> list[str]:
        """The answers alone."""
        return [row["answer"] for row in self.rows]

    @property
    def cut(self) -> int:
        """How many answers ended because they were as long as allowed."""
        return sum(row["finish"] == "length" for row in self.rows)

    @property
    def usage(self) -> Usage:
        """What all of them have used, those of earlier calls too."""
        return sum((Usage.of(row) for row in self.rows), Usage())


def named(prompts: Prompts, samples: int) -> dict[_Name, str]:
    """Return the prompts by id and number of the sample.

    >>> named(["a", "b"], 2)
    {(0, 0): 'a', (0, 1): 'a', (1, 0): 'b', (1, 1): 'b'}
    """
    if isinstance(prompts, str):
        raise InputError("one text instead of a list of prompts", remedy="Put it into a list.")
    found = prompts.items() if isinstance(prompts, Mapping) else enumerate(prompts)
    return {(name, sample): text for name, text in found for sample in range(samples)}


def generate(
    server: Served,
    prompting: Prompting,
    wanted: Mapping[_Name, str],
    to: str | Path,
    sampling: Mapping[str, Any],
    seed: int,
    show: bool,
) -> Answers:
    """Ask for what the file does not hold yet, and put the finished file in order."""
    settings = server.fingerprint("generate", prompting.fingerprint(), sampling, seed)
    journal = Journal(to, settings, ("id", "sample"))
    journal.load()
    _same_prompts(journal, wanted)
    questions = {
        name: server.question(
            {**prompting.body(text), **sampling, "seed": seed + name[1]}, f"prompt {name[0]!r}"
        )
        for name, text in wanted.items()
    }

    def read(name: _Name, reply: Reply) -> Row:
        text, finish = _written(reply)
        prompt = wanted[name]
        return {
            "id": name[0], "sample": name[1], "prompt": prompt, "answer": text, "finish": finish,
        }  # fmt: skip

    server.collect(questions, journal, read, "answers" if show else None)
    journal.sort(questions)
    return Answers(Path(to), [journal[name] for name in questions])


def _same_prompts(journal: Journal, wanted: Mapping[_Name, str]) -> None:
    """Refuse a file in which an id belongs to another prompt."""
    for name, text in wanted.items():
        if name in journal and journal[name]["prompt"] != text:
            raise InputError(
                f"{journal.path} holds an answer to another prompt with the id {name[0]!r}: "
                f"{journal[name]['prompt'][:60]!r}, now {text[:60]!r}",
                consequence="Answers would be given to prompts that are not theirs.",
                remedy="Give another file, or ids that stay with their prompts.",
            )


def _written(reply: Reply) -> tuple[str, str | None]:
    """Return the text of a reply from either API, and why it ended."""
    first = reply["choices"][0]
    text = first["message"].get("content") if "message" in first else first.get("text")
    if not isinstance(text, str):
        raise InputError(
            f"the server's answer has no text: {str(first)[:200]}",
            remedy="Look whether the model answers in another field, for example with tool calls.",
        )
    return text, first.get("finish_reason")
