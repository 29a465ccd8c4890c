"""Methods for recommenders and search: the order in which the teacher puts the items of a list.

The models' answers are scores of N items for each of B users or queries, (B, N), higher is better;
both models score the same items in the same order.
"""

from __future__ import annotations

from typing import Any, Literal

from limbeck.errors import InputError
from limbeck.losses import ranking as losses
from limbeck.losses import wrap
from limbeck.methods.about import About
from limbeck.methods.match import Match
from limbeck.methods.method import Method, described
from limbeck.methods.shares import label_weight

__all__ = ["listwise", "margin_mse", "rd", "rrd"]


@described(
    About(
        "Learning to Rank: From Pairwise Approach to Listwise Approach",
        "Cao, Qin, Liu, Tsai, Li",
        2007,
        "ICML, 10.1145/1273496.1273513",
        "ranking",
        "scores",
        "small",
    )
)
def listwise(
    weight: float = 1.0,
    form: Literal["listnet", "listmle"] = "listnet",
    temperature: float = 1.0,
    lam: float = 0.0,
    present: str | None = None,
) -> Method:
    r"""Match which item comes first, or the whole order, as one likelihood over the list.

    ``listnet`` is the cross-entropy between softmax functions over the items and uses the teacher's
    scores; ``listmle`` uses its order alone. The papers rank by human judgements, here the teacher
    gives them: the weights are a starting point, without labels.

    Args:
        weight: of the loss.
        form: ``listnet``, or ``listmle`` (Xia et al. 2008).
        temperature: T: the lower, the more the top of the list counts.
        lam: λ, the label's weight.
        present: the batch's field (B, N) that is false where a shorter list is filled up.

    Raises:
        InputError: λ is negative.

    Source: Cao, Qin, Liu, Tsai, Li 2007, ICML.

    >>> listwise().matches
    (Match('logits', 'logits', listwise, weight=1.0, form='listnet', temperature=1.0),)
    """
    options: dict[str, Any] = {"form": form, "temperature": temperature}
    fields = {} if present is None else {"present": present}
    match = Match("logits", "logits", losses.listwise, weight=weight, fields=fields, **options)
    return Method((match,), label_weight(lam))


@described(
    About(
        "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
        "Hofstätter et al.",
        2020,
        "arXiv:2010.02666",
        "ranking",
        "scores",
    )
)
def margin_mse(weight: float = 1.0, lam: float = 0.0) -> Method:
    r"""Match by how much a relevant item lies above each other one: squared errors of margins.

    The first item of each list is the relevant one. What a model adds to all scores of a list does
    not count, so models of different kinds can be compared. As in the paper, no labels beside it.

    Args:
        weight: of the loss.
        lam: λ, the label's weight.

    Raises:
        InputError: λ is negative.

    Source: Hofstätter et al. 2020, arXiv:2010.02666; code: sebastian-hofstaetter/neural-ranking-kd.

    >>> margin_mse().matches
    (Match('logits', 'logits', pairwise_margin, weight=1.0),)
    """
    match = Match("logits", "logits", losses.pairwise_margin, weight=weight)
    return Method((match,), label_weight(lam))


@described(
    About(
        "Ranking Distillation: Learning Compact Ranking Models With High Performance for "
        "Recommender System",
        "Tang, Wang",
        2018,
        "arXiv:1809.07428",
        "ranking",
        "scores",
        "small",
    )
)
def rd(
    weight: float = 1.0,
    k: int = 10,
    sharpness: float = 1.0,
    mu: float = 0.1,
    warmup: float = 0.2,
    lam: float = 1.0,
    sampled: str | None = None,
    items: int | None = None,
) -> Method:
    r"""Match the teacher's first K items: they are further positives, the first most of all.

    The loss is weight·Σ w·(−log σ(score)) + λ·label. What the student already ranks as high as the
    teacher does is left alone, once a warm-up is over. The defaults are the authors', who warm up
    for 10 of 50 epochs. The student's ranks are counted within the N items that are scored, or, as
    in the paper, estimated from others that are drawn from the whole catalogue.

    Args:
        weight: α of the paper.
        k: K.
        sharpness: λ of the paper: the larger, the more the later of the K items count.
        mu: how soon a difference between ranks counts fully.
        warmup: the fraction of training in which only positions count, 0 to 1.
        lam: λ, the label's weight; the task's loss is the recommender's own.
        sampled: the student's tap (B, S) with its scores of items drawn from the catalogue, such as
            ``output[sampled]``.
        items: the catalogue's size; it comes with ``sampled``.

    Raises:
        InputError: λ is negative, the warm-up is not between 0 and 1, or one of ``sampled`` and
            ``items`` comes without the other.

    Source: Tang, Wang 2018, arXiv:1809.07428; code: graytowne/rank_distill.

    >>> rd().matches
    (Match('logits', 'logits', ranking_distillation, weight=1.0, k=10, sharpness=1.0, mu=0.1),)
    """
    if not 0 <= warmup <= 1:
        raise InputError(f"rd's warmup is {warmup}", expected="a fraction, 0 to 1")
    if (sampled is None) != (items is None):
        raise InputError(
            f"rd got sampled {sampled!r} and items {items!r}", expected="both, or neither"
        )

    def weights(progress: float) -> Any:
        return "position" if progress < warmup else "hybrid"

    loss = wrap.scheduled(losses.ranking_distillation, weights=weights)
    options: dict[str, Any] = {"k": k, "sharpness": sharpness, "mu": mu}
    if sampled is not None:
        options |= {"taps": {"sampled": sampled}, "items": items}
    match = Match("logits", "logits", loss, weight=weight, **options)
    return Method((match,), label_weight(lam))


@described(
    About(
        "DE-RRD: A Knowledge Distillation Framework for Recommender System",
        "Kang, Hwang, Kweon, Yu",
        2020,
        "arXiv:2012.04357",
        "ranking",
        "scores",
        "small",
    )
)
def rrd(weight: float = 0.001, k: int = 40, lam: float = 1.0) -> Method:
    r"""Match the order of the teacher's first K items, above all others in any order.

    The loss is weight·(−log of the likelihood of that order) + λ·label; the others' order is free.
    The authors draw K = 40 interesting items by the teacher's rank and as many uninteresting ones:
    score those. Their weight of 0.001 stands beside a loss of pairs; both are sums over a batch.

    Args:
        weight: of the likelihood.
        k: K, how many items are interesting.
        lam: λ, the label's weight; the task's loss is the recommender's own.

    Raises:
        InputError: λ is negative.

    Source: Kang, Hwang, Kweon, Yu 2020, arXiv:2012.04357; code: SeongKu-Kang/DE-RRD_CIKM20.

    >>> rrd().matches
    (Match('logits', 'logits', relaxed_ranking, weight=0.001, k=40),)
    """
    match = Match("logits", "logits", losses.relaxed_ranking, weight=weight, k=k)
    return Method((match,), label_weight(lam))
