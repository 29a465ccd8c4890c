"""The page of the playground, made with Gradio."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.data.asking import Ask
from limbeck.data.shown import Shown
from limbeck.demo.answers import Answer, Playground
from limbeck.errors import InputError
from limbeck.imports import needed

__all__ = ["build", "serve"]

_STYLE = """
.asked img {image-rendering: pixelated; height: 9rem; border-radius: 6px}
.asked .text {font-size: 1.1rem}
.answers {display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr))}
.answers > div {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .8rem}
.answers h3 {margin: 0; font-size: .95rem; opacity: .75}
.answers .said {font-size: 1.35rem; font-weight: 600; margin: .2rem 0; overflow-wrap: anywhere}
.answers .time {opacity: .75; font-size: .85rem; margin-top: .6rem}
.answers .share {display: grid; grid-template-columns: 40% 1fr 3.5rem; gap: .5rem;
  align-items: center; font-size: .9rem}
.answers .bar {background: #3b6fb6; height: .55rem; border-radius: 3px; min-width: 1px}
.answers .share span:last-child {text-align: right; font-variant-numeric: tabular-nums}
"""


def build(folder: str | Path) -> Any:
    """Return the page as Gradio's ``Blocks``.

    Args:
        folder: of a finished run.

    Raises:
        InputError: the run is not finished, or Gradio (``limbeck[demo]``) is not installed.
    """
    gradio = needed("gradio", "demo")
    ground = Playground(folder)
    with gradio.Blocks(title=f"Limbeck: {ground.run.recipe.name}", analytics_enabled=False) as page:
        gradio.Markdown(f"# {ground.run.recipe.name}\n{ground.run.recipe.about}")
        with gradio.Tab("Test samples"):
            _samples(gradio, ground)
        if ground.asking is not None:
            with gradio.Tab("Your own"):
                _own(gradio, ground, ground.asking.asks())
    return page


def serve(folder: str | Path, *, port: int = 7860, browser: bool = True) -> Any:
    """Show the page on this machine alone, and return it; its ``close()`` ends that.

    Args:
        folder: of a finished run.
        port: of 127.0.0.1.
        browser: whether to open one.

    Raises:
        InputError: as :func:`build`, or the port is taken.
    """
    gradio = needed("gradio", "demo")
    page = build(folder)
    try:
        page.launch(
            server_name="127.0.0.1",
            server_port=port,
            inbrowser=browser,
            share=False,
            quiet=True,
            footer_links=[],
            css=_STYLE,
            theme=gradio.themes.Default(
                primary_hue="blue",
                font=["system-ui", "sans-serif"],
                font_mono=["ui-monospace", "monospace"],
            ),
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise InputError(
            f"port {port} cannot be used", remedy=f"Name another: --port {port + 1}."
        ) from error
    return page


def _own(gradio: Any, ground: Playground, asks: Mapping[str, Ask]) -> None:
    """Lay out what a person gives, and the answers to it."""
    fields = [_field(gradio, name, ask) for name, ask in asks.items()]
    button = gradio.Button("Ask", variant="primary")
    said = gradio.HTML(elem_id="own")

    def answer(*values: Any) -> str:
        given = dict(zip(asks, values, strict=True))
        absent = [n for n, v in given.items() if v is None or v == "" or v == []]
        if absent:
            raise gradio.Error(f"{absent[0]} is missing.")
        try:
            return _answered(ground.answers(ground.given(given)))
        except InputError as error:
            raise gradio.Error(str(error)) from error

    button.click(answer, fields, said)


def _samples(gradio: Any, ground: Playground) -> None:
    """Lay out the choice of a test sample, and the answers to it."""
    with gradio.Row():
        row = gradio.Slider(0, len(ground) - 1, value=0, step=1, label="Test sample")
    said = gradio.HTML(elem_id="sample")

    def answer(number: float) -> str:
        found, wanted = ground.shown(int(number))
        label = f"<p>Label: <b>{html.escape(wanted)}</b></p>" if wanted else ""
        told = _answered(ground.answers(ground.sample(int(number))))
        return f'<div class="asked">{_shown(found)}{label}</div>{told}'

    row.change(answer, row, said, show_progress="hidden", trigger_mode="always_last")
    said.value = answer(0)


def _field(gradio: Any, name: str, ask: Ask) -> Any:
    """Return the component for one thing that a person gives."""
    kinds = {
        "text": lambda: gradio.Textbox(label=name, lines=3),
        "picture": lambda: gradio.Image(label=name, type="filepath", height=240),
        "sound": lambda: gradio.Audio(label=name, type="filepath"),
        "number": lambda: gradio.Number(label=name, value=ask.value or 0),
        "one": lambda: gradio.Dropdown(list(ask.options), label=name, value=ask.options[0]),
        "several": lambda: gradio.Dropdown(list(ask.options), label=name, multiselect=True),
    }
    return kinds[ask.kind]()


def _answered(answers: Sequence[Answer]) -> str:
    """Return the answers side by side."""
    return f'<div class="answers">{"".join(map(_one, answers))}</div>'


def _one(answer: Answer) -> str:
    drawn = f'<div class="asked">{_shown(answer.drawn)}</div>' if answer.drawn else ""
    shares = "".join(
        f'<div class="share"><span>{html.escape(what)}</span>'
        f'<span><div class="bar" style="width: {100 * share:.1f}%"></div></span>'
        f"<span>{share:.1%}</span></div>"
        for what, share in answer.shares
    )
    return (
        f"<div><h3>{html.escape(answer.model)}</h3>"
        f'<div class="said">{html.escape(answer.text)}</div>{drawn}{shares}'
        f'<div class="time">{answer.milliseconds:.2f} ms</div></div>'
    )


def _shown(found: Shown) -> str:
    """Return how a sample is shown, as HTML."""
    text = html.escape(found.get("text", ""))
    parts = {
        "picture": f'<img src="{html.escape(found.get("src", ""))}" alt="{text}">',
        "audio": f'<audio controls src="{html.escape(found.get("src", ""))}"></audio>',
    }
    caption = f'<p class="text">{html.escape(found["caption"])}</p>' if "caption" in found else ""
    return parts.get(found["kind"], f'<p class="text">{text}</p>') + caption
