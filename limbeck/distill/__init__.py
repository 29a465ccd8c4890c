"""Learning: a distiller turns batches into a loss, and a loop of our own trains it."""

from limbeck.distill.distiller import Distilled, Distiller
from limbeck.distill.loop import Fitted, fit
from limbeck.distill.plan import Plan, autocast, plan

__all__ = ["Distilled", "Distiller", "Fitted", "Plan", "autocast", "fit", "plan"]
