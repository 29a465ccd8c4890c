"""Making a trained network smaller: fewer channels, layers or features, fewer bits.

Needs the extras ``limbeck[compress]`` (pruning) and ``limbeck[onnx]`` (files of integers).
"""

from limbeck.compress.factorize import factorize
from limbeck.compress.layers import shorten
from limbeck.compress.mixed import Mixed, mixed
from limbeck.compress.noise import Noise, noise
from limbeck.compress.prune import IMPORTANCES, Clock, Importance, Scope, prune, rounds
from limbeck.compress.qat import FakeQuantization, fake_quantize_weight
from limbeck.compress.quantize import RANGES, Range, Ranges, dynamic, static, weights_only

__all__ = [
    "IMPORTANCES",
    "RANGES",
    "Clock",
    "FakeQuantization",
    "Importance",
    "Mixed",
    "Noise",
    "Range",
    "Ranges",
    "Scope",
    "dynamic",
    "factorize",
    "fake_quantize_weight",
    "mixed",
    "noise",
    "prune",
    "rounds",
    "shorten",
    "static",
    "weights_only",
]
