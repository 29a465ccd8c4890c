"""What the tests of the report share."""

from __future__ import annotations

from typing import Any

import pytest
import report_run


@pytest.fixture
def run() -> dict[str, Any]:
    """A real run, cut down; each test may change its own."""
    return report_run.load()
