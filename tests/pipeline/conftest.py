"""A recipe that runs in two seconds, and the command line as users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture
def limbeck(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``limbeck ...`` in a process of its own, in an empty folder."""

    def run(*words: str, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "limbeck", *words], cwd=tmp_path, capture_output=True,
            text=True, timeout=300, check=False, env=os.environ | options.pop("env", {}), **options,
        )  # fmt: skip

    return run
