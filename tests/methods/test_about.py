"""What a method says of itself, and what there is to cite."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import limbeck as lb
from limbeck import methods
from limbeck.console import table_of_methods
from limbeck.methods import About, about
from limbeck.methods.people import PEOPLE

NAMES = methods.names()
# What these cannot know by themselves.
NEEDS = {
    "crd": {"n_data": 64},
    "prototype": {"n_classes": 5},
    "semckd": {"batch_size": 8},
}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_every_method_can_be_cited(name: str) -> None:
    """A user's bibliography would have a hole, or an entry that BibTeX refuses."""
    info = about(name)
    assert info.title
    assert info.authors
    assert info.source
    assert 1950 < info.year < 2030
    entry = info.bibtex
    assert entry.startswith("@")
    assert entry.count("{") == entry.count("}")
    for field in ("title", "author", "year"):
        assert f"\n  {field} = {{" in entry
    assert info in methods.get(name)(**NEEDS.get(name, {})).sources


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_the_authors_in_full_are_those_cited(name: str) -> None:
    """An entry would carry the authors of another paper of the same group and year."""
    info = about(name)
    families = [person.partition(",")[0] for person in PEOPLE[info.key].split(" and ")]
    cited = info.authors.removesuffix(" et al.").split(", ")
    if info.authors.endswith(" et al."):
        assert len(families) > 2
        families = families[: len(cited)]
    assert families == cited
    assert all(", " in person for person in info.people.split(" and "))


def test_a_paper_is_cited_once() -> None:
    """Two methods of one paper would give two entries of one key, which BibTeX refuses."""
    entries = [about(name).bibtex for name in NAMES if about(name).source]
    keys = {about(name).key for name in NAMES if about(name).source}
    assert len(set(entries)) == len(keys)
    both = lb.citation(methods.lskd() + methods.sample_temperature(alpha=0.9))
    assert both.count("@article") == 1


def test_bibtex_by_hand() -> None:
    """Authors joined by commas would be one author with a strange name."""
    info = About("On the Way", "Ada, Bob", 2021, "ICLR 2021", "feature", "features")
    assert info.bibtex == (
        "@misc{ada2021way,\n  title = {On the Way},\n  author = {Ada and Bob},\n"
        "  howpublished = {ICLR 2021},\n  year = {2021},\n}"
    )


def test_a_sum_cites_both_and_each_once() -> None:
    """Half of a combination would go uncited."""
    both = lb.citation(methods.kd() + methods.at() + methods.kd())
    assert both.count("@article") == 2
    assert "hinton2015distilling" in both
    assert "zagoruyko2017paying" in both


def test_what_a_recipe_cites() -> None:
    """A run could not be cited from its recipe."""
    assert "1503.02531" in lb.citation("digits")
    assert "1312.6184" in lb.citation("article")
    assert lb.citation(methods.none()) == ""


def test_the_table_shows_every_method() -> None:
    """A family that is left out would hide its methods."""
    out = io.StringIO()
    table_of_methods(methods.catalogue(), Console(file=out, width=120))
    lines = [line.split()[0] for line in out.getvalue().splitlines() if line.split()]
    assert set(NAMES) <= set(lines)
