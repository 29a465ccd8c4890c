"""Learning: a distiller turns batches into a loss, and a loop of our own trains it."""

from limbeck.distill.distiller import Distilled, Distiller
from limbeck.distill.heap import keep_freed
from limbeck.distill.loop import Fitted, fit
from limbeck.distill.on_policy import OnPolicy
from limbeck.distill.plan import Plan, autocast, plan

__all__ = [
    "Distilled",
    "Distiller",
    "Fitted",
    "OnPolicy",
    "Plan",
    "autocast",
    "fit",
    "keep_freed",
    "plan",
]
