"""What to cite for a method or a run."""

from __future__ import annotations

from pathlib import Path

from limbeck.methods import Match, Method, as_method
from limbeck.pipeline import build
from limbeck.recipe import Recipe, load

__all__ = ["citation"]


def citation(what: Recipe | Method | Match | str | Path) -> str:
    """Return BibTeX entries for the papers behind a method, a recipe or a run.

    Args:
        what: a method, a recipe, the name or file of a recipe, or the folder of a run.

    >>> from limbeck import methods
    >>> print(citation(methods.fitnets()))
    @article{romero2015fitnets,
      title = {FitNets: Hints for Thin Deep Nets},
      author = {Romero and others},
      journal = {arXiv preprint arXiv:1412.6550},
      year = {2015},
    }
    """
    if isinstance(what, (str, Path)):
        what = load(str(what))
    method = build.method(what) if isinstance(what, Recipe) else as_method(what)
    return "\n\n".join(source.bibtex for source in method.sources if source.bibtex)
