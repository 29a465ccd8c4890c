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
    >>> print(citation(methods.kd()))
    @article{hinton2015distilling,
      title = {Distilling the Knowledge in a Neural Network},
      author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
      journal = {arXiv preprint arXiv:1503.02531},
      year = {2015},
    }
    """
    if isinstance(what, (str, Path)):
        what = load(str(what))
    method = build.method(what) if isinstance(what, Recipe) else as_method(what)
    entries = dict.fromkeys(source.bibtex for source in method.sources if source.bibtex)
    return "\n\n".join(entries)
