"""Freed memory that is kept; in a process of its own, as the setting is a process's."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from limbeck.distill import keep_freed

assert sys.argv[1] == "0" or keep_freed()
for round in range(21):
    if round == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(12 * 2**20).fill_(1.0)  # 48 MiB, which glibc always gives back: 12,288 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept: int) -> int:
    """Return how often the system had to give a page for blocks freed and allocated again."""
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(kept)], capture_output=True, text=True, check=True
    )
    return int(told.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again() -> None:
    """Without it, each step would wait until the system has cleared its memory."""
    assert faults(kept=1) < faults(kept=0) / 4
