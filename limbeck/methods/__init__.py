"""Papers as compositions of matches: each function returns matches and a label weight."""

import inspect
from collections.abc import Callable
from dataclasses import asdict

from limbeck.errors import unknown
from limbeck.methods.about import About
from limbeck.methods.activation import ab, before_activation, ofd
from limbeck.methods.adaptive import (
    afd,
    confidence_weighted,
    ctkd,
    sample_temperature,
    semckd,
    uncertainty_weighted,
)
from limbeck.methods.blocks import distilbert, minilm, pkd, tinybert
from limbeck.methods.contrast import affinity, crd, prototype
from limbeck.methods.dense import cwd_logits, detection, fgd, ld, segmentation, set_detection
from limbeck.methods.divergences import (
    binary,
    jensen_shannon,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    total_variation,
    uld,
)
from limbeck.methods.feature import at, fitnets, sp
from limbeck.methods.guided import ft, mgd, pretrain_paraphraser, review, vid
from limbeck.methods.heads import cat, ofa, simkd, srrl
from limbeck.methods.levels import mlkd
from limbeck.methods.logits import dist, dkd, lskd, nkd, skd, ttm, wsld, wttm
from limbeck.methods.maps import block_wise, cwd, freekd, fsp, nst
from limbeck.methods.match import Match
from limbeck.methods.method import Method, about, as_method, described, is_described
from limbeck.methods.prompts import pretrain_prompt
from limbeck.methods.ranking import listwise, margin_mse, rd, rrd
from limbeck.methods.relations import cc, cka, ickd, pkt, rkd
from limbeck.methods.response import hard_label, kd, logit_mse, none, probability_mse, soft_hard
from limbeck.methods.sequences import ctc, ctc_sequence, minillm, policy, seqkd
from limbeck.methods.teacher_free import label_refinement, tfkd, uskd
from limbeck.methods.views import pretrain_view_head, rotations, sskd

__all__ = [
    "About",
    "Match",
    "Method",
    "ab",
    "about",
    "afd",
    "affinity",
    "as_method",
    "at",
    "before_activation",
    "binary",
    "block_wise",
    "cat",
    "catalogue",
    "cc",
    "cka",
    "confidence_weighted",
    "crd",
    "ctc",
    "ctc_sequence",
    "ctkd",
    "cwd",
    "cwd_logits",
    "described",
    "detection",
    "dist",
    "distilbert",
    "dkd",
    "fgd",
    "fitnets",
    "freekd",
    "fsp",
    "ft",
    "get",
    "hard_label",
    "ickd",
    "jensen_shannon",
    "kd",
    "label_refinement",
    "ld",
    "listwise",
    "logit_mse",
    "lskd",
    "margin_mse",
    "mgd",
    "minillm",
    "minilm",
    "mlkd",
    "names",
    "nkd",
    "none",
    "nst",
    "ofa",
    "ofd",
    "pkd",
    "pkt",
    "policy",
    "pretrain_paraphraser",
    "pretrain_prompt",
    "pretrain_view_head",
    "probability_mse",
    "prototype",
    "rd",
    "reverse_kl",
    "review",
    "rkd",
    "rotations",
    "rrd",
    "sample_temperature",
    "segmentation",
    "semckd",
    "seqkd",
    "set_detection",
    "simkd",
    "skd",
    "skewed_kl",
    "skewed_reverse_kl",
    "soft_hard",
    "sp",
    "srrl",
    "sskd",
    "tfkd",
    "tinybert",
    "total_variation",
    "ttm",
    "uld",
    "uncertainty_weighted",
    "uskd",
    "vid",
    "wsld",
    "wttm",
]

_METHODS: dict[str, Callable[..., Method]] = {
    name: make
    for name in __all__
    if inspect.isfunction(make := globals().get(name)) and is_described(make)
}


def names() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(_METHODS)


def catalogue() -> dict[str, dict[str, object]]:
    """Return what each method says of itself, by name: for ``limbeck methods``.

    >>> catalogue()["kd"]["source"]
    'arXiv:1503.02531'
    """
    return {
        name: {
            "name": name,
            "summary": (inspect.getdoc(make) or "").partition("\n")[0],
            "text": f"{name}{inspect.signature(make)}\n\n{inspect.getdoc(make)}",
            "bibtex": about(name).bibtex,
            **asdict(about(name)),
        }
        for name, make in sorted(_METHODS.items())
    }


def get(name: str) -> Callable[..., Method]:
    """Return the method of that name; an unknown name lists near ones.

    >>> get("kd") is kd
    True
    """
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    return _METHODS[name]
