"""How long a model takes: what is timed, and what is not."""

from __future__ import annotations

import time

import pytest
import torch

from limbeck.evaluate import timings


def test_work_that_was_asked_for_before_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a GPU, which only queues what is called, would seem half as fast as it is."""
    queue: list[float] = []

    def wait() -> None:
        time.sleep(sum(queue))
        queue.clear()

    def model(inputs: torch.Tensor) -> None:
        queue.append(0.02)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    found = timings({"queued": model}, torch.zeros(1, 2), seconds=0.0)["queued"]
    assert 20 <= found.p50_ms < 35
