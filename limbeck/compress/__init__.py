"""Making a trained network smaller: fewer channels, fewer bits.

Needs the extras ``limbeck[compress]`` (pruning) and ``limbeck[onnx]`` (files of integers).
"""

from limbeck.compress.mixed import Mixed, mixed
from limbeck.compress.prune import IMPORTANCES, Importance, Scope, prune, rounds
from limbeck.compress.qat import FakeQuantization, fake_quantize_weight
from limbeck.compress.quantize import RANGES, Range, Ranges, dynamic, static, weights_only

__all__ = [
    "IMPORTANCES",
    "RANGES",
    "FakeQuantization",
    "Importance",
    "Mixed",
    "Range",
    "Ranges",
    "Scope",
    "dynamic",
    "fake_quantize_weight",
    "mixed",
    "prune",
    "rounds",
    "static",
    "weights_only",
]
