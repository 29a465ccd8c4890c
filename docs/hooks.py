"""What the site gets when it is built: tables made from the code, and formulas as MathML.

In a page, a line ``<!-- generated: NAME -->`` becomes what the function NAME of ``generated.py``
returns. Formulas between ``$$`` become MathML, which browsers show without any script, and arXiv
ids become links.
"""

from __future__ import annotations

import html
import re
from typing import Any

import generated
from latex2mathml.converter import convert

__all__ = ["on_page_content", "on_page_markdown"]

_PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_FORMULA = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_PAPER = re.compile(r"(<(pre|code|a)\b.*?</\2>|<[^>]+>)|\barXiv:(\d{4}\.\d{4,5})", re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the generated parts into a page."""
    return _PLACE.sub(lambda place: getattr(generated, place[1])(), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turn the formulas of a page into MathML, and the papers that it names into links."""

    def shown(formula: re.Match[str]) -> str:
        return f'<div class="formula">{convert(html.unescape(formula[1]), display="block")}</div>'

    def linked(found: re.Match[str]) -> str:
        tag, _, paper = found.groups()
        return tag or f'<a href="https://arxiv.org/abs/{paper}">arXiv:{paper}</a>'

    return _PAPER.sub(linked, _FORMULA.sub(shown, content))
