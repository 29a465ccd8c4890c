"""Who learns: small reference models, models shrunk from a teacher, adapters, saved students."""

from limbeck.students import zoo
from limbeck.students.adapters import Alignment, align
from limbeck.students.build import Blueprint, load, load_weights, read_weights, save
from limbeck.students.embeddings import inherit_embeddings
from limbeck.students.lora import Lora
from limbeck.students.low_rank import LowRankEmbedding
from limbeck.students.reuse import Reuse, Reused, reuse_classifier
from limbeck.students.shrink import shrink, shrink_rule

__all__ = [
    "Alignment",
    "Blueprint",
    "Lora",
    "LowRankEmbedding",
    "Reuse",
    "Reused",
    "align",
    "inherit_embeddings",
    "load",
    "load_weights",
    "read_weights",
    "reuse_classifier",
    "save",
    "shrink",
    "shrink_rule",
    "zoo",
]
