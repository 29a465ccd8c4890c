"""What all tests share: a seed for each, and the folder of real data where there is one."""

from __future__ import annotations

import os
from pathlib import Path

# Tests compute on small tensors, often in processes of their own: more threads only wait for
# one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data: the folder in LIMBECK_DATA, or ``shared/data`` beside the checkout."""
    named = os.environ.get("LIMBECK_DATA")
    root = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not root.is_dir():
        pytest.skip("no real data: set LIMBECK_DATA to a folder that holds some")
    return root
