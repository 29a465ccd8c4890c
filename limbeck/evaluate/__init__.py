"""What a model is worth and what it costs."""

from limbeck.evaluate.bench import Contender, bench, invented
from limbeck.evaluate.cost import Cost, Timing, costs, peak_memory, timings
from limbeck.evaluate.embeddings import Aligned, aligned, last_features
from limbeck.evaluate.examples import Differing
from limbeck.evaluate.groups import Groups
from limbeck.evaluate.produced import Produced, produce, taught
from limbeck.evaluate.quality import Measured, evaluate
from limbeck.evaluate.runtimes import Network, Runner, opened, size_bytes
from limbeck.evaluate.saliency import Traced, integrated_gradients, traced
from limbeck.evaluate.similarity import cka, layer_similarity, natural_taps
from limbeck.knowledge.model import macs

__all__ = [
    "Aligned",
    "Contender",
    "Cost",
    "Differing",
    "Groups",
    "Measured",
    "Network",
    "Produced",
    "Runner",
    "Timing",
    "Traced",
    "aligned",
    "bench",
    "cka",
    "costs",
    "evaluate",
    "integrated_gradients",
    "invented",
    "last_features",
    "layer_similarity",
    "macs",
    "natural_taps",
    "opened",
    "peak_memory",
    "produce",
    "size_bytes",
    "taught",
    "timings",
    "traced",
]
