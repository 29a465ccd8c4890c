"""What a served model's answers are worth, against labels: three students of each, on SST-2.

    python examples/with_server.py FOLDER && python benchmarks/served_labels.py FOLDER

The first command writes the answers into ``server_example/store``, which the second reads.
"""

from __future__ import annotations

import statistics
import sys
from importlib import import_module
from pathlib import Path

import pyarrow.parquet
import torch

import limbeck as lb

SEEDS = range(3)


def main() -> None:
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    example = import_module("with_server")
    tables = [pyarrow.parquet.read_table(folder / f"{part}.parquet") for part in ("train", "test")]
    train, test = (
        example.samples(table["sentence"].to_pylist(), table["label"].to_pylist())
        for table in (tables[0].slice(50_000, 4_000), tables[1])
    )
    replay = lb.Teacher.replay(example.OUT / "store")
    few = train.subset(torch.arange(400))
    for name, *given in (
        ("4,000 answers", replay, lb.methods.kd(temperature=1, alpha=1), train),
        ("4,000 labels", None, None, train),
        ("400 labels", None, None, few),
    ):
        found = [example.learned(*given, test, seed=seed) for seed in SEEDS]
        accuracy, loss = zip(*found, strict=True)
        mean, spread = statistics.mean, statistics.stdev
        print(
            f"{name:<14} accuracy {mean(accuracy):.1%} ± {spread(accuracy):.1%}"
            f"  loss {mean(loss):.3f} ± {spread(loss):.3f}"
        )


if __name__ == "__main__":
    main()
