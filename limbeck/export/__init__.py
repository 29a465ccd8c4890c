"""From a trained network to a file that another runtime runs, checked against the network."""

from limbeck.export.card import card
from limbeck.export.formats import Format, get, names
from limbeck.export.parity import Parity, compared
from limbeck.export.script import script
from limbeck.export.whole import Signature, Whole

__all__ = [
    "Format",
    "Parity",
    "Signature",
    "Whole",
    "card",
    "compared",
    "get",
    "names",
    "script",
]
