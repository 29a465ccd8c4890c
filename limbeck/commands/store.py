"""``limbeck store``: look at a knowledge store, check it, turn it into a table and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from limbeck.knowledge import Store

__all__ = ["app"]

app = typer.Typer(help="Look at a knowledge store, check it, convert it.", no_args_is_help=True)

StorePath = Annotated[str, typer.Argument(help="The store's folder, or a URL that fsspec knows.")]


@app.command()
def info(
    path: StorePath, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show what a store holds, how large it is, and what it was made from."""
    from limbeck.knowledge import Store

    told = _told(Store.open(path))
    typer.echo(json.dumps(told, indent=2) if as_json else _text(told))


@app.command()
def verify(path: StorePath) -> None:
    """Read every file of a store, and compare its checksum with the index."""
    from limbeck.knowledge import Store

    store = Store.open(path)
    store.verify()
    count = len(store.index["files"])
    typer.echo(f"{store.path}: {count} files, {store.bytes:,} bytes, all as they were written")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A store, or a table to make one of.")],
    target: Annotated[
        str, typer.Argument(help="FILE.parquet, a new folder for datasets, or a new store.")
    ],
    codec: Annotated[
        str, typer.Option(help="How a new store keeps the columns of a table from elsewhere.")
    ] = "half",
) -> None:
    """Turn a store into a Parquet file or a folder of datasets, or such a table into a store."""
    from limbeck.knowledge.convert import convert as turn

    turn(source, target, codec=codec)
    typer.echo(f"Wrote {target}")


def _told(store: Store) -> dict[str, Any]:
    """Return what there is to say about a store."""
    rows = len(store) * store.views
    return {
        "path": str(store.path),
        "format": store.index["format"],
        "samples": len(store),
        "views": store.views,
        "fields": {
            name: {
                "codec": told["codec"],
                "shape": told["shape"],
                "jagged": bool(told.get("jagged")),
                "bytes": sum(part.width for part in store.parts(name).values()),
            }
            for name, told in store.index["fields"].items()
        },
        "mask": store.index.get("mask"),
        "files": len(store.index["files"]),
        "bytes": store.size,
        "bytes_per_row": store.size / rows,
        "writings": len(store.index["segments"]),
        "fingerprints": store.index["fingerprints"],
    }


def _text(told: dict[str, Any]) -> str:
    views = f" × {told['views']} views" if told["views"] > 1 else ""
    added = f", added in {told['writings']} writings" if told["writings"] > 1 else ""
    lines = [f"{told['path']}: {told['samples']:,} samples{views}{added}", ""]
    lines.append(f"{'field':<24}{'codec':<12}{'row':<20}{'bytes':>8}")
    for name, field in told["fields"].items():
        shape = " × ".join(map(str, field["shape"])) or "1"
        unit = " a token" if field["jagged"] else ""
        lines.append(f"{name:<24}{field['codec']:<12}{shape + unit:<20}{field['bytes']:>8}")
    lines += [
        "",
        f"{told['bytes_per_row']:.1f} bytes per sample{' and view' if views else ''}, all included "
        f"({told['bytes']:,} bytes in {told['files'] + 1} files)",
        "",
        "made from",
    ]
    lines += [f"  {subject:<16}{mark}" for subject, mark in told["fingerprints"].items()]
    if told["mask"]:
        lines.append(f"  {'mask':<16}{told['mask']}")
    return "\n".join(lines)
