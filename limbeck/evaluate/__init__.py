"""What a model is worth and what it costs."""

from limbeck.evaluate.cost import Cost, Timing, costs, peak_memory, size_bytes, timings
from limbeck.evaluate.examples import Differing
from limbeck.evaluate.produced import Produced, produce
from limbeck.evaluate.quality import Measured, evaluate
from limbeck.evaluate.similarity import cka, layer_similarity, natural_taps
from limbeck.knowledge.model import macs

__all__ = [
    "Cost",
    "Differing",
    "Measured",
    "Produced",
    "Timing",
    "cka",
    "costs",
    "evaluate",
    "layer_similarity",
    "macs",
    "natural_taps",
    "peak_memory",
    "produce",
    "size_bytes",
    "timings",
]
