"""Running a function in several processes that talk to one another over gloo."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def together(function: Callable[..., Any], count: int, *args: Any) -> list[Any]:
    """Call ``function(rank, count, *args)`` in ``count`` processes; return what each returned."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_one, (count, folder, function, args), nprocs=count)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(count)]


def _one(rank: int, count: int, folder: str, function: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count
    )
    try:
        torch.save(function(rank, count, *args), Path(folder) / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
