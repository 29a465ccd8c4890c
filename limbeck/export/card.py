"""A model card: what a file is, where it comes from, what it is worth, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["card"]

_FILL = "*(to be filled in)*"


def card(
    name: str,
    facts: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any] | None = None,
    run: str | None = None,
) -> str:
    """Return the card of the files that a run exported.

    Args:
        name: of the run.
        facts: that the files say of themselves; those of the first.
        files: ``name``, ``bytes`` and, where a file was compared with its network, ``parity``.
        report: what ``report.json`` holds, once everything is measured.
        run: how the script beside the files is called; ``None`` if there is none.
    """
    parts = [
        f"# {name}: {facts.get('name', 'student')}",
        f"A student of Limbeck {facts.get('limbeck', '')} for {facts.get('task', 'its task')}, "
        "distilled from a larger teacher.",
        _run(run),
        _files(files),
        _takes(facts),
        _origin(facts),
        _worth(report),
        _license(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _run(run: str | None) -> str:
    if run is None:
        return ""
    return f"""## Run it

With `onnxruntime` and NumPy alone; neither Limbeck nor PyTorch is needed:

```console
{run}
```"""


def _files(files: Sequence[Mapping[str, Any]]) -> str:
    head = ["## Files", "", "| file | size | against its network, on validation samples |"]
    rows = [
        f"| `{file['name']}` | {_size(file['bytes'])} | {_parity(file['parity'])} |"
        for file in files
    ]
    return "\n".join([*head, "| --- | ---: | --- |", *rows])


def _parity(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "not compared"
    metric = str(found["metric"]).replace("_", " ")
    return (
        f"logits within {found['largest']:.1g} (mean {found['mean']:.1g}), "
        f"{found['agreement']:.2%} of {found['samples']:,} answers the same, "
        f"{metric} {found['file']:.4f} for {found['network']:.4f}"
    )


def _takes(facts: Mapping[str, Any]) -> str:
    told = ["## What it takes and gives", ""]
    for name, one in facts.get("inputs", {}).items():
        seen = "" if "seen" not in one else " from {:.3g} to {:.3g}, as seen".format(*one["seen"])
        told.append(f"- `{name}`: {one['dtype']}, {_shape(one['shape'])}{seen}")
    told.append(f"- preprocessing: {facts.get('preprocessing', 'none')}")
    told.append(f"- output `{facts.get('output', 'logits')}`")
    labels = [str(label) for label in facts.get("labels", [])]
    if labels:
        more = f" and {len(labels) - 20} more" if len(labels) > 20 else ""
        told.append(f"- labels, in order: {', '.join(labels[:20])}{more}")
    return "\n".join(told)


def _shape(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def _origin(facts: Mapping[str, Any]) -> str:
    found = facts.get("provenance", {})
    teacher = found.get("teacher", {})
    args = json.dumps(teacher.get("args", {}), ensure_ascii=False)
    return f"""## Where it comes from

- data: {found.get("data", _FILL)}
- teacher: `{teacher.get("build", "")}` {args}
- method: {found.get("method", _FILL)}; `limbeck methods NAME` says what to cite
- recipe: {found.get("recipe", "")}, seed {found.get("seed", "")}, the best by validation samples
- made from: {found.get("made_from", "")}, with PyTorch {found.get("torch", "")}"""


def _worth(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return "## Quality and cost\n\nNot measured yet on test samples: `limbeck run` does it."
    metrics = list(dict.fromkeys(m for one in report["models"].values() for m in one["quality"]))
    heading = [*metrics, "agreement with the teacher", "latency, ms", "per second"]
    heading += ["energy, J", "size"]
    rows = [
        f"| | {' | '.join(one.replace('_', ' ') for one in heading)} |",
        f"| --- {'| ---: ' * len(heading)}|",
    ]
    for name, one in report["models"].items():
        cost = one["cost"]
        cells = [_spread(one["quality"].get(metric)) for metric in metrics]
        cells.append(_number(one["fidelity"].get("agreement"), ".4f"))
        cells.append(_number(cost["latency_ms"]["p50"], ".3g"))
        cells.append(_number(cost["throughput_per_s"], ",.0f"))
        cells.append(_number((cost["energy_j"] or {}).get("value"), ".3g"))
        cells.append(_size(cost["size_bytes"]))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    where, batch = report["environment"], report["models"]["student"]["cost"]["throughput_batch"]
    return "\n".join(
        [
            "## Quality and cost",
            "",
            f"On {report['test_samples']:,} test samples, which nothing had seen before; "
            f"{_count(len(report['seeds']), 'seed')}, files from the best one. The control is the "
            "student's network, trained without a teacher. Median latency of one sample, "
            f"throughput in batches of {batch}, on {where['processor']}, "
            f"{_count(where['threads'], 'thread')}.{_energy(report)}",
            "",
            *rows,
            "",
            str(report["verdict"]),
        ]
    )


def _energy(report: Mapping[str, Any]) -> str:
    """Return how the energy of one sample was found, as a further sentence."""
    found = [one["cost"]["energy_j"] for one in report["models"].values()]
    sources = dict.fromkeys(each["source"] for each in found if each)
    return f" Energy of one sample in such batches, {'; '.join(sources)}." if sources else ""


def _license(facts: Mapping[str, Any]) -> str:
    stated = facts.get("license") or {"model": "", "data": "", "teacher": ""}
    told = "\n".join(f"- {what}: {found or _FILL}" for what, found in stated.items())
    return (
        f"## License\n\n{told}\n\nA student may be bound by the licenses of its teacher and of the "
        "data: look before you pass it on."
    )


def _spread(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not measured"
    around = "" if found["std"] is None else f" ± {found['std']:.4f}"
    return f"{found['mean']:.4f}{around}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _number(value: float | None, shape: str) -> str:
    return "not measured" if value is None else format(value, shape)


def _size(count: int | None) -> str:
    return "not measured" if count is None else f"{count / 1000:,.1f} kB"
