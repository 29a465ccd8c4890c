"""What a run came to: ``report.json``, and one page that needs nothing else."""

from limbeck.report.page import render
from limbeck.report.summary import environment, summarise, verdict

__all__ = ["environment", "render", "summarise", "verdict"]
