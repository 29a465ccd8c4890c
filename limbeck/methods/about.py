"""What a method says of itself: its paper, its family, what it needs and costs."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from limbeck.methods.people import PEOPLE

__all__ = ["About", "Cost", "Family"]

Family = Literal[
    "response", "feature", "relation", "contrast", "sequence", "ranking", "dense", "adaptive"
]
Cost = Literal["none", "small", "modules", "memory"]
_UNTOLD = {"a", "an", "on", "the", "to", "is", "be", "how", "what", "with"}


@dataclass(frozen=True)
class About:
    """What a method says of itself.

    Attributes:
        title: of the paper.
        authors: of the paper, as cited: ``Hinton, Vinyals, Dean`` or ``Romero et al.``
        year: of publication.
        source: arXiv id or venue.
        family: the chapter it belongs to.
        needs: what it must be given: ``logits``, ``features``, ``labels``, ...
        cost: what it adds to a step: ``none`` worth speaking of; ``small``: sums over features or
            over pairs of samples; ``modules``: layers that are trained and left behind; ``memory``:
            a bank with an entry for each sample.

    >>> About("FitNets", "Romero et al.", 2015, "arXiv:1412.6550", "feature", "features").key
    'romero2015fitnets'
    """

    title: str
    authors: str
    year: int
    source: str
    family: Family
    needs: str
    cost: Cost = "none"

    @property
    def key(self) -> str:
        """The name under which BibTeX knows it: first author, year, first telling word."""
        words = [w for w in re.findall(r"[a-z0-9]+", self.title.lower()) if w not in _UNTOLD]
        first = unicodedata.normalize("NFKD", re.split(r"[, ]", self.authors.lower())[0])
        author = re.sub(r"[^a-z]", "", first)
        return f"{author}{self.year}{words[0] if words else ''}"

    @property
    def people(self) -> str:
        """The authors as BibTeX wants them: in full where they are known, else as cited."""
        if self.key in PEOPLE:
            return PEOPLE[self.key]
        everyone = self.authors.removesuffix(" et al.").split(", ")
        return " and ".join([*everyone, *(["others"] if "et al." in self.authors else [])])

    @property
    def bibtex(self) -> str:
        """An entry for a bibliography; empty if there is no paper."""
        if not self.source:
            return ""
        where = (
            f"  journal = {{arXiv preprint {self.source}}},"
            if self.source.startswith("arXiv:")
            else f"  howpublished = {{{self.source}}},"
        )
        return "\n".join(
            (
                f"@misc{{{self.key}," if "howpublished" in where else f"@article{{{self.key},",
                f"  title = {{{self.title}}},",
                f"  author = {{{self.people}}},",
                where,
                f"  year = {{{self.year}}},",
                "}",
            )
        )

    def __str__(self) -> str:
        return f"{self.authors} {self.year}, “{self.title}”, {self.source}"
