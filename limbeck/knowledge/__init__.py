"""What a model yields about a batch: captured by taps, recorded, stored, read again."""

from limbeck.knowledge.record import Knowledge
from limbeck.knowledge.stages import penultimate, stages
from limbeck.knowledge.store import Store
from limbeck.knowledge.taps import Tap, Taps
from limbeck.knowledge.write import write

__all__ = ["Knowledge", "Store", "Tap", "Taps", "penultimate", "stages", "write"]
