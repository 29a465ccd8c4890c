"""How one field of knowledge is kept on disk: every value, fewer bits, fewer numbers, or a part.

A codec turns a field of a batch into tensors to store, row by row, and back. Its name says all of
its settings: ``half``, ``full``, ``int8``, ``pca32``, ``top16``, ``top16@4``, ``sample64@4``.
"""

from limbeck.knowledge.codec.names import at, get, keeps_a_part
from limbeck.knowledge.codec.protocol import Codec

__all__ = ["Codec", "at", "get", "keeps_a_part"]
