"""The command line: parse, call, print.

Exit status: 0 done; 2 what the user gave was wrong; 130 interrupted, and can be resumed; 1 a fault
of Limbeck's own.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck._version import __version__
from limbeck.commands import store
from limbeck.errors import InputError

__all__ = ["app", "main"]

_INTERRUPTED = 130  # the status that shells give a command which Ctrl-C ended

app = typer.Typer(
    name="limbeck",
    help="Distil a large accurate model into a small fast one that you can ship.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(store.app, name="store")

RecipeName = Annotated[
    str, typer.Argument(help="A bundled recipe, a YAML file, or a run's folder.")
]
Changes = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe.")
]
Out = Annotated[Path | None, typer.Option(help="The run's folder; by default runs/NAME.")]
RunName = Annotated[Path, typer.Argument(help="The folder of a run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Let another recipe take the folder over.")
]
Reuse = Annotated[
    Path | None, typer.Option(help="Take over the stages of another run that are the same.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"limbeck {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Distil a large accurate model into a small fast one that you can ship."""


@app.command()
def run(
    recipe: RecipeName,
    changes: Changes = [],  # noqa: B006 (typer copies it)
    out: Out = None,
    resume: Resume = False,
    replace: Replace = False,
    reuse: Reuse = None,
) -> None:
    """Do all that a recipe says: teacher, knowledge, students, controls, evaluation, report."""
    _run(recipe, changes, out, resume=resume, replace=replace, reuse=reuse)


def _stopping(name: str, until: str, told: str) -> None:
    """Add the command that does a recipe up to a stage."""

    def command(
        recipe: RecipeName,
        changes: Changes = [],  # noqa: B006
        out: Out = None,
        resume: Resume = False,
        replace: Replace = False,
        reuse: Reuse = None,
    ) -> None:
        _run(recipe, changes, out, until=until, resume=resume, replace=replace, reuse=reuse)

    app.command(name, help=told)(command)


_stopping("teach", "teacher", "Train a recipe's teacher, and stop.")
_stopping("extract", "knowledge", "Write down what a recipe's teacher knows, and stop.")
_stopping("distill", "distill", "Train a recipe's students and controls, and stop.")
_stopping("compress", "compress", "Make a recipe's student smaller, as it says, and stop.")


@app.command()
def export(
    recipe: RecipeName,
    to: Annotated[
        list[str], typer.Option(metavar="FORMAT", help="onnx, program, executorch, huggingface.")
    ] = [],  # noqa: B006
    changes: Changes = [],  # noqa: B006
    out: Out = None,
    resume: Resume = False,
    replace: Replace = False,
    reuse: Reuse = None,
) -> None:
    """Write a recipe's or a run's student as files for other runtimes, and stop.

    Formats are added to those of the recipe.
    """
    wanted = _formats(recipe, changes, to)
    more = {"resume": resume, "replace": replace, "reuse": reuse}
    folder = _run(recipe, [*changes, wanted], out, until="export", **more)
    if _is_main():
        measures = f"limbeck run {folder} measures them on the test samples."
        typer.echo(f"Files and their card: {folder / 'export'}. {measures}")


@app.command()
def evaluate(folder: RunName) -> None:
    """Measure the models of a run again, and write its report anew."""
    from limbeck import pipeline
    from limbeck.console import Terminal

    terminal = Terminal()
    _show_result(pipeline.evaluate(folder, console=terminal), terminal)


@app.command()
def report(folder: RunName) -> None:
    """Write the page of a finished run anew."""
    from limbeck import pipeline

    typer.echo(f"Report: {pipeline.report(folder)}")


@app.command()
def compare(
    recipe: RecipeName,
    ratios: Annotated[
        str, typer.Option(help="Shares of the teacher's parameters, with commas between.")
    ] = "1/3,1/10,1/30",
    changes: Changes = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="The folder; by default runs/NAME-compared.")
    ] = None,
) -> None:
    """Compare ways to make a recipe's teacher smaller: distil, prune, quantize, and together."""
    from limbeck import pipeline
    from limbeck.console import Terminal, table_of_ways
    from limbeck.distill import keep_freed
    from limbeck.files import read_json
    from limbeck.recipe import load

    loaded = load(recipe, changes)
    shares = [pipeline.ratio(text) for text in ratios.split(",")]
    folder = out or Path("runs") / f"{loaded.name}-compared"
    terminal = Terminal()
    terminal.begin(loaded.name, loaded.about, folder)
    keep_freed()
    pipeline.compare(loaded, shares, folder, console=terminal)
    table_of_ways(read_json(folder / "compare.json"), terminal.rich)
    typer.echo(f"\nReport: {folder / 'compare.html'}")


@app.command()
def demo(
    folder: RunName,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of 127.0.0.1.")] = 7860,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Ask teacher and student the same thing on a local page, and see both answer."""
    from limbeck.demo import serve

    page = serve(folder, port=port, browser=browser)
    print(f"http://127.0.0.1:{port} answers; end it with Ctrl-C.", flush=True)
    page.block_thread()


@app.command()
def bench(
    places: Annotated[
        list[Path], typer.Argument(metavar="RUN_OR_FILE...", help="Runs; .onnx, .pt2, .pte files.")
    ],
    batch: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 128,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="For each model and size.")] = 2.0,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> None:
    """Compare size and speed of finished models, each in its own runtime, timed in turn."""
    from limbeck.commands.bench import compare

    compare(places, batch=batch, threads=threads, seconds=seconds, json=json)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The new recipe's name; NAME.yaml is written.")],
    source: Annotated[
        str, typer.Option("--from", help="Begin with a bundled recipe instead.")
    ] = "",
) -> None:
    """Write a commented recipe to start from."""
    from limbeck.recipe import find, template

    file = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if file.exists():
        raise InputError(f"{file} exists already", remedy="Give another name, or delete it.")
    text = find(source)[0] if source else template(file.stem)
    file.write_text(text, encoding="utf-8")
    typer.echo(f"Wrote {file}. Next: limbeck run {file}")


@app.command()
def recipes() -> None:
    """List the recipes that come with Limbeck."""
    from limbeck.recipe import bundled

    for name, about in bundled().items():
        typer.echo(f"{name:<12} {about}")


@app.command()
def methods(
    name: Annotated[
        str, typer.Argument(help="A method or loss to explain; methods are listed without.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods of distillation, or explain one."""
    import json

    from limbeck import losses
    from limbeck.methods import catalogue

    entries, compared = catalogue(), losses.catalogue()
    if name:
        from limbeck.errors import unknown

        known = {**compared, **entries}
        if name not in known:
            raise unknown("method", name, known)
        entries = {name: known[name]}
    if as_json:
        listed = {"methods": list(entries.values()), "losses": list(compared.values())}
        typer.echo(json.dumps(entries[name] if name else listed, indent=2))
    elif name:
        typer.echo(f"{entries[name]['text']}\n\n{entries[name].get('bibtex', '')}".rstrip())
    else:
        from limbeck.console import table_of_methods

        table_of_methods(entries)


def main() -> None:
    """Run the command line, and turn errors into messages and exit statuses."""
    warnings.showwarning = _warn
    try:
        # Typer catches Ctrl-C and, in newer versions, gives back the status that it stands for.
        if app(standalone_mode=False) == _INTERRUPTED:
            raise KeyboardInterrupt
    except InputError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; the same command goes on where it stopped", _INTERRUPTED)
    except OSError as error:
        if error.errno == errno.EPIPE:
            os._exit(1)
        full = "; nothing that was finished is lost" if error.errno == errno.ENOSPC else ""
        _fail(f"{error}{full}", 2)
    except Exception as error:
        show = getattr(error, "show", None)
        if show is not None:  # the parser's own errors know how they want to be shown
            show()
            sys.exit(getattr(error, "exit_code", 2))
        traceback.print_exc()
        _fail("this is a fault of Limbeck's; please report it with the lines above", 1)


def _formats(name: str, changes: list[str], to: list[str]) -> str:
    """Return a change of a recipe that adds formats to its own; ONNX if there are none at all."""
    import json

    from limbeck.recipe import load

    known = load(name, changes).export
    kept = {form: options.model_dump(exclude_defaults=True) for form, options in known.items()}
    added = to or ([] if kept else ["onnx"])
    return f"export={json.dumps(kept | {form: {} for form in added if form not in kept})}"


def _run(name: str, changes: list[str], out: Path | None, **options: Any) -> Path:
    from limbeck.console import Terminal
    from limbeck.recipe import holds_run, load

    loaded = load(name, changes)
    known = Path(name) if out is None and holds_run(Path(name)) else out
    terminal = Terminal()
    if _is_main():
        terminal.begin(loaded.name, loaded.about, known or Path("runs") / loaded.name)
    from limbeck import pipeline
    from limbeck.distill import keep_freed

    keep_freed()
    folder = pipeline.run(loaded, known, console=terminal, **options)
    if options.get("until", "report") == "report" and _is_main():
        _show_result(folder, terminal)
    return folder


def _show_result(folder: Path, terminal: Any) -> None:
    from limbeck.files import read_json

    terminal.result(read_json(folder / "report.json"), folder / "report.html")


def _is_main() -> bool:
    """Whether this is the only process, or the first of those that Accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def _fail(message: str, status: int) -> None:
    if _is_main():
        print(f"limbeck: {message}", file=sys.stderr)
    sys.exit(status)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Show a warning as one line."""
    if _is_main():
        print(f"note: {message}", file=sys.stderr)
