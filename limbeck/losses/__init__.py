"""Comparing what the student computes with what the teacher computes.

Every loss is ``NAME(student, teacher, *, ...)``: the mean over samples (or unmasked tokens) of the
sum over classes or features that its paper states, with T² inside where there is a temperature.
Where a loss has parameters or a memory, a module beside it has the name in capitals, as
:class:`Variational` beside :func:`variational`.
"""

import inspect
from collections.abc import Callable
from dataclasses import asdict

from torch import Tensor

from limbeck.errors import unknown
from limbeck.losses import schedules, wrap
from limbeck.losses.adaptive import ConfidenceWeighted, UncertaintyWeighted
from limbeck.losses.blocks import minilm, patient, tinybert
from limbeck.losses.classifiers import class_activation, one_for_all, simkd, softmax_regression
from limbeck.losses.contrast import Contrastive, affinity_mimic, contrastive
from limbeck.losses.decoupled import dkd, nkd, weighted_soft_label
from limbeck.losses.dense import FocalGlobal, focal_global, localization, pair_wise, pixel_wise
from limbeck.losses.detectors import detection, set_detection
from limbeck.losses.divergences import (
    binary_kl,
    jensen_shannon,
    policy,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    total_variation,
    universal_logit,
)
from limbeck.losses.exits import ClassActivation, OneForAll, SimKD, SoftmaxRegression
from limbeck.losses.features import attention_transfer, cosine_hint, hint
from limbeck.losses.fused import FusedLinear, FusedTerms, fused_linear, fused_linear_terms
from limbeck.losses.heads import FrozenClassifier, ReusedClassifier
from limbeck.losses.levels import multi_level_logit
from limbeck.losses.logits import hard_label, kl, logit_mse, probability_mse, soft_cross_entropy
from limbeck.losses.maps import (
    Frequency,
    activation_boundary,
    block_wise,
    channel_wise,
    flow,
    frequency,
    neuron_selectivity,
)
from limbeck.losses.policy_gradient import minillm
from limbeck.losses.predict import (
    MaskedGenerative,
    Review,
    Variational,
    masked_generative,
    review,
    variational,
)
from limbeck.losses.prototypes import (
    Prototypes,
    class_means,
    cluster_prototypes,
    nearest_prototype,
    prototype,
)
from limbeck.losses.ranking import listwise, pairwise_margin, ranking_distillation, relaxed_ranking
from limbeck.losses.relations import (
    correlation_congruence,
    inter_channel,
    kernel_alignment,
    probabilistic_transfer,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from limbeck.losses.selection import (
    AttentionSelection,
    SemanticCalibration,
    attention_selection,
    semantic_calibration,
)
from limbeck.losses.sequence import ctc_aligned, ctc_sequence, sequence_level
from limbeck.losses.sparse import SparseLogits
from limbeck.losses.spec import Setting, Spec, declare, spec_of
from limbeck.losses.standardized import (
    dist,
    logit_standardized_kl,
    spherical,
    transformed_teacher,
    weighted_transformed_teacher,
)
from limbeck.losses.teacher_free import (
    UniversalSelfKD,
    label_refinement,
    universal_self_kd,
    virtual_teacher,
)
from limbeck.losses.temperatures import InstanceTemperature, LearnedTemperature, SampleTemperature
from limbeck.losses.towers import TowerFeatures
from limbeck.losses.transfer import (
    FactorTransfer,
    Overhaul,
    Paraphraser,
    Translator,
    factor_transfer,
    overhaul,
)
from limbeck.losses.views import (
    SelfSupervised,
    ViewHead,
    self_supervised,
    self_supervised_logits,
)
from limbeck.losses.vocabulary import align_vocabulary

__all__ = [
    "AttentionSelection",
    "ClassActivation",
    "ConfidenceWeighted",
    "Contrastive",
    "FactorTransfer",
    "FocalGlobal",
    "Frequency",
    "FrozenClassifier",
    "FusedLinear",
    "FusedTerms",
    "InstanceTemperature",
    "LearnedTemperature",
    "MaskedGenerative",
    "OneForAll",
    "Overhaul",
    "Paraphraser",
    "Prototypes",
    "ReusedClassifier",
    "Review",
    "SampleTemperature",
    "SelfSupervised",
    "SemanticCalibration",
    "Setting",
    "SimKD",
    "SoftmaxRegression",
    "SparseLogits",
    "Spec",
    "TowerFeatures",
    "Translator",
    "UncertaintyWeighted",
    "UniversalSelfKD",
    "Variational",
    "ViewHead",
    "activation_boundary",
    "affinity_mimic",
    "align_vocabulary",
    "attention_selection",
    "attention_transfer",
    "binary_kl",
    "block_wise",
    "catalogue",
    "channel_wise",
    "class_activation",
    "class_means",
    "cluster_prototypes",
    "contrastive",
    "correlation_congruence",
    "cosine_hint",
    "ctc_aligned",
    "ctc_sequence",
    "declare",
    "detection",
    "dist",
    "dkd",
    "factor_transfer",
    "flow",
    "focal_global",
    "frequency",
    "fused_linear",
    "fused_linear_terms",
    "get",
    "hard_label",
    "hint",
    "inter_channel",
    "jensen_shannon",
    "kernel_alignment",
    "kl",
    "label_refinement",
    "listwise",
    "localization",
    "logit_mse",
    "logit_standardized_kl",
    "masked_generative",
    "minillm",
    "minilm",
    "multi_level_logit",
    "names",
    "nearest_prototype",
    "neuron_selectivity",
    "nkd",
    "one_for_all",
    "overhaul",
    "pair_wise",
    "pairwise_margin",
    "patient",
    "pixel_wise",
    "policy",
    "probabilistic_transfer",
    "probability_mse",
    "prototype",
    "ranking_distillation",
    "relaxed_ranking",
    "reverse_kl",
    "review",
    "rkd_angle",
    "rkd_distance",
    "schedules",
    "self_supervised",
    "self_supervised_logits",
    "semantic_calibration",
    "sequence_level",
    "set_detection",
    "similarity_preserving",
    "simkd",
    "skewed_kl",
    "skewed_reverse_kl",
    "soft_cross_entropy",
    "softmax_regression",
    "spec_of",
    "spherical",
    "tinybert",
    "total_variation",
    "transformed_teacher",
    "universal_logit",
    "universal_self_kd",
    "variational",
    "virtual_teacher",
    "weighted_soft_label",
    "weighted_transformed_teacher",
    "wrap",
]

_LOSSES: dict[str, Callable[..., Tensor]] = {
    name: loss
    for name in __all__
    if inspect.isfunction(loss := globals().get(name)) and spec_of(loss).source
}


def names() -> list[str]:
    """Return the names of all losses, sorted."""
    return sorted(_LOSSES)


def catalogue() -> dict[str, dict[str, object]]:
    """Return what each loss says of itself, by name: for ``limbeck methods --json``.

    >>> catalogue()["kl"]["family"]
    'response'
    """
    return {
        name: {
            "name": name,
            "summary": (inspect.getdoc(loss) or "").partition("\n")[0],
            "text": f"{name}{inspect.signature(loss)}\n\n{inspect.getdoc(loss)}",
            **asdict(spec_of(loss)),
        }
        for name, loss in sorted(_LOSSES.items())
    }


def get(name: str) -> Callable[..., Tensor]:
    """Return the loss of that name; an unknown name lists near ones.

    >>> get("kl") is kl
    True
    """
    if name not in _LOSSES:
        raise unknown("loss", name, _LOSSES)
    return _LOSSES[name]
