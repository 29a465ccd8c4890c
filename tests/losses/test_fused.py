"""The output layer fused with a loss gives what the loss gives on all logits, without them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import limbeck as lb
from limbeck import losses
from limbeck.errors import InputError
from limbeck.losses import FusedLinear, SparseLogits, fused, fused_linear, fused_linear_terms, wrap

B, T, D, E, V = 3, 5, 4, 6, 12

CASES: list[tuple[str, dict[str, Any]]] = [
    ("kl", {"temperature": 2.0}),
    ("reverse_kl", {"temperature": 0.7}),
    ("jensen_shannon", {"beta": 0.3}),
    ("skewed_kl", {"alpha": 0.2, "temperature": 3.0}),
    ("skewed_reverse_kl", {"alpha": 0.1}),
    ("soft_cross_entropy", {"temperature": 4.0}),
    ("hard_label", {}),
    ("total_variation", {}),
    ("logit_mse", {}),
    ("dkd", {"targets": True}),
]


class Pair:
    """A student and a teacher up to their output layers, with a mask and labels."""

    def __init__(self, dtype: torch.dtype = torch.float64, bias: bool = True) -> None:
        self.hidden = torch.randn(B, T, D, dtype=dtype, requires_grad=True)
        self.head = nn.Linear(D, V, bias=bias, dtype=dtype)
        self.known = torch.randn(B, T, E, dtype=dtype)
        self.known_head = nn.Linear(E, V, dtype=dtype)
        self.mask = torch.rand(B, T) > 0.4
        self.mask[0, 0] = True
        self.labels = torch.randint(V, (B, T))

    @property
    def leaves(self) -> list[Tensor]:
        return [self.hidden, *self.head.parameters()]

    def fused(self, loss: Callable[..., Tensor], **options: Any) -> Tensor:
        return fused_linear(loss, self.hidden, self.head, self.known, self.known_head, **options)

    def plain(self, loss: Callable[..., Tensor], **options: Any) -> Tensor:
        return loss(self.head(self.hidden), self.known_head(self.known), **options)


def both(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [value, *torch.autograd.grad(value, leaves)]


def close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in pairs)


# -- equality with the plain loss


@pytest.mark.parametrize("chunk", [1, 4, 7, 100, "auto"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
def test_equals_the_plain_loss(
    name: str, options: dict[str, Any], masked: bool, chunk: int | str
) -> None:
    """A chunk that counts too much, or a remainder left out, would change what is learned."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        pair = Pair(dtype)
        given = {k: pair.labels if v is True else v for k, v in options.items()}
        given |= {"mask": pair.mask} if masked else {}
        loss = losses.get(name)
        found = both(pair.fused(loss, chunk=chunk, **given), pair.leaves)
        assert close(found, both(pair.plain(loss, **given), pair.leaves), tolerance)


def test_pieces_of_a_chunk_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """In large chunks the loss is applied to a few tokens at a time: here to two of seven."""
    monkeypatch.setattr(fused, "_PIECE_BYTES", {"cpu": 4 * V * 2})
    pair = Pair()
    given = {"targets": pair.labels, "mask": pair.mask}
    found = both(pair.fused(losses.dkd, chunk=7, **given), pair.leaves)
    assert close(found, both(pair.plain(losses.dkd, **given), pair.leaves), 1e-10)


def test_kl_by_hand() -> None:
    """Both sides might share a mistake; here NumPy computes value and slopes from the formula."""
    pair = Pair()
    x, w, b = (t.detach().numpy() for t in pair.leaves)
    y, u, c = (t.detach().numpy() for t in (pair.known, *pair.known_head.parameters()))

    def softmax(logits: Any) -> Any:
        raised = np.exp(logits - logits.max(-1, keepdims=True))
        return raised / raised.sum(-1, keepdims=True)

    q, p = softmax((x @ w.T + b) / 2), softmax((y @ u.T + c) / 2)
    slope = 2 * (q - p) / (B * T)  # T² · (q − p) / T
    value, *gradients = both(pair.fused(losses.kl, temperature=2.0), pair.leaves)
    assert math.isclose(value.item(), 4 * (p * np.log(p / q)).sum() / (B * T), rel_tol=1e-12)
    by_hand = [slope @ w, np.einsum("btv,btd->vd", slope, x), slope.sum((0, 1))]
    for found, expected in zip(gradients, by_hand, strict=True):
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)


def test_gradients_against_finite_differences() -> None:
    """The gradients are made in the forward pass: autograd does not check them."""
    pair = Pair()

    def value(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fused_linear(
            losses.jensen_shannon,
            hidden,
            (weight, bias),
            pair.known,
            pair.known_head,
            targets=pair.labels,
            label_weight=0.5,
            mask=pair.mask,
            chunk=4,
        )

    assert torch.autograd.gradcheck(value, tuple(pair.leaves))


@pytest.mark.parametrize("form", ["weight", "pair", "no bias"])
def test_forms_of_a_head(form: str) -> None:
    """A bias that is forgotten shifts every answer."""
    pair = Pair(bias=form != "weight")
    weight, bias = pair.head.weight, pair.head.bias
    head = weight if form == "weight" else (weight, bias if form == "pair" else None)
    logits = F.linear(pair.hidden, weight, bias if form == "pair" else None)
    found = fused_linear(losses.kl, pair.hidden, head, pair.known, pair.known_head, chunk=4)
    assert torch.isclose(found, losses.kl(logits, pair.known_head(pair.known)))


def test_upstream_gradient_scales() -> None:
    """A weight on the loss, or a loss scaler, would not reach gradients that exist already."""
    pair = Pair()
    found = both(-3 * pair.fused(losses.kl), pair.leaves)
    assert close(found, both(-3 * pair.plain(losses.kl), pair.leaves), 1e-10)


def test_two_losses_of_one_head_add_up() -> None:
    """The gradient of the first would be overwritten."""
    pair = Pair()
    (pair.fused(losses.kl) + pair.fused(losses.reverse_kl)).backward()
    found = [leaf.grad for leaf in pair.leaves]
    plain = pair.plain(losses.kl) + pair.plain(losses.reverse_kl)
    assert close(found, list(torch.autograd.grad(plain, pair.leaves)), 1e-10)  # type: ignore[arg-type]


def test_wrapped_losses_fuse() -> None:
    """A weight around the loss would be lost, or the wrapped loss refused."""
    pair = Pair()
    loss = wrap.weighted(losses.kl, 0.25)
    assert torch.isclose(pair.fused(loss), 0.25 * pair.plain(losses.kl))


# -- masks, sums, nothing


def test_masked_tokens_add_nothing() -> None:
    """Padding may hold anything: a NaN there would be the end of the run."""
    pair = Pair()
    keep = pair.mask
    with torch.no_grad():
        pair.hidden[~keep] = torch.nan
        pair.known[~keep] = torch.inf
    value, *gradients = both(pair.fused(losses.kl, mask=keep, chunk=2), pair.leaves)
    subset = losses.kl(pair.head(pair.hidden[keep]), pair.known_head(pair.known[keep]))
    assert close([value, *gradients], both(subset, pair.leaves), 1e-10)
    assert not gradients[0][~keep].any()


def test_no_token_counts() -> None:
    """A batch of padding would divide by zero."""
    pair = Pair()
    options = {"targets": pair.labels, "label_weight": 1.0, "mask": torch.zeros(B, T)}
    assert not any(t.any() for t in both(pair.fused(losses.kl, **options), pair.leaves))


def test_sums_accumulate_over_batches() -> None:
    """Means of parts with unlike numbers of tokens are not the mean of all."""
    pair = Pair()
    given = {"mask": pair.mask, "targets": pair.labels, "label_weight": 0.5}
    expected = both(pair.fused(losses.kl, **given, chunk=4), pair.leaves)
    parts = [
        fused_linear(
            losses.kl,
            pair.hidden[i],
            pair.head,
            pair.known[i],
            pair.known_head,
            reduction="sum",
            **{k: v[i] if isinstance(v, Tensor) else v for k, v in given.items()},
        )
        for i in range(B)
    ]
    total = torch.stack(parts).sum() / pair.mask.sum()
    assert close(both(total, pair.leaves), expected, 1e-10)


# -- the label


def test_label_in_the_same_pass() -> None:
    """The cross-entropy is a mean over its own tokens: those that have a label and count."""
    pair = Pair()
    labels = pair.labels.clone()
    labels[1, :3] = -100
    given = {"targets": labels, "label_weight": 0.3, "mask": pair.mask, "chunk": 4}
    terms = fused_linear_terms(
        losses.kl, pair.hidden, pair.head, pair.known, pair.known_head, temperature=2.0, **given
    )
    known = pair.mask & (labels != -100)
    label = F.cross_entropy(pair.head(pair.hidden)[known], labels[known])
    plain = pair.plain(losses.kl, temperature=2.0, mask=pair.mask)
    assert terms.label is not None
    assert close([terms.divergence, terms.label], [plain, label], 1e-10)
    assert not terms.divergence.requires_grad
    assert close(both(terms.loss, pair.leaves), both(plain + 0.3 * label, pair.leaves), 1e-10)


def test_another_label_for_none() -> None:
    """With the wrong one a class would be left out of the cross-entropy in silence."""
    pair = Pair()
    options = {"targets": pair.labels, "label_weight": 1.0, "ignore_index": 3}
    pair.labels[0, 0] = 3
    expected = F.cross_entropy(
        pair.head(pair.hidden).flatten(0, 1), pair.labels.flatten(), ignore_index=3
    )
    assert torch.isclose(pair.fused(losses.kl, **options) - pair.fused(losses.kl), expected)


# -- what the teacher gives


def test_ready_logits() -> None:
    """A store holds logits, not hidden states."""
    pair = Pair()
    logits = pair.known_head(pair.known).detach()
    for mask in (None, pair.mask):
        given = {"mask": mask, "chunk": 4}
        found = fused_linear(losses.kl, pair.hidden, pair.head, logits, **given)
        assert close(
            both(found, pair.leaves), both(pair.plain(losses.kl, mask=mask), pair.leaves), 1e-10
        )


@pytest.mark.parametrize("draws", [False, True])
def test_sparse_answers(draws: bool) -> None:
    """Rows of a sparse answer must stay with the tokens that they are of."""
    pair = Pair()
    log_p = pair.known_head(pair.known).detach().log_softmax(-1)
    kept, indices = log_p.topk(4, -1)
    rest = torch.log1p(-kept.exp().sum(-1))
    more = {"entropy": -(log_p.exp() * log_p).sum(-1)} if draws else {"rest": rest}
    answer = SparseLogits(indices, kept.log_softmax(-1) if draws else kept, V, **more)
    for mask in (None, pair.mask):
        plain = losses.kl(pair.head(pair.hidden), answer, mask=mask)
        found = fused_linear(losses.kl, pair.hidden, pair.head, answer, mask=mask, chunk=4)
        assert close(both(found, pair.leaves), both(plain, pair.leaves), 1e-10)


def test_no_gradient_into_the_teacher() -> None:
    """A teacher that learns from its student drifts away from what it knew."""
    pair = Pair()
    pair.known.requires_grad_(True)
    pair.fused(losses.kl).backward()
    assert pair.known.grad is None
    assert pair.known_head.weight.grad is None


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jensen_shannon"])
def test_soft_caps(name: str) -> None:
    """A model that caps its logits answers otherwise than its output layer alone."""
    pair, loss = Pair(), losses.get(name)

    def cap(logits: Tensor) -> Tensor:
        return 2 * torch.tanh(logits / 2)

    own, theirs = cap(pair.head(pair.hidden)), pair.known_head(pair.known) * 3
    plain = loss(own, theirs) + F.cross_entropy(own.flatten(0, 1), pair.labels.flatten())
    found = pair.fused(
        loss,
        student_after=cap,
        teacher_after=lambda logits: logits * 3,
        targets=pair.labels,
        label_weight=1.0,
        chunk=4,
    )
    assert close(both(found, pair.leaves), both(plain, pair.leaves), 1e-10)


# -- vocabularies of unlike sizes


@pytest.mark.parametrize(("own", "theirs"), [(200, 202), (202, 200)])
def test_padding_is_left_out(own: int, theirs: int) -> None:
    """Zeros in the place of padding would be answers as likely as any other."""
    hidden, known = torch.randn(7, D, dtype=torch.float64), torch.randn(7, E, dtype=torch.float64)
    head, known_head = (nn.Linear(n, v).double() for n, v in ((D, own), (E, theirs)))
    with pytest.warns(UserWarning, match=r"the (teacher|student)'s last 2 are taken for padding"):
        found = both(
            fused_linear(losses.kl, hidden, head, known, known_head, chunk=3),
            list(head.parameters()),
        )
    padded = torch.full((7, 202), -torch.inf, dtype=torch.float64)
    q, p = padded.clone(), padded.clone()
    q[:, :200], p[:, :200] = head(hidden)[:, :200], known_head(known)[:, :200]
    q, p = q.softmax(-1)[:, :200], p.softmax(-1)[:, :200]
    by_hand = both((p * (p / q).log()).sum(-1).mean(), list(head.parameters()))
    assert close(found, by_hand, 1e-10)
    assert not found[1][200:].any()


def test_labels_use_the_whole_vocabulary() -> None:
    """The student's cross-entropy is its own affair: its padding belongs to its softmax."""
    hidden, labels = torch.randn(7, D), torch.randint(200, (7,))
    head, known_head = nn.Linear(D, 202), nn.Linear(D, 200)
    with pytest.warns(UserWarning, match="padding"):
        terms = fused_linear_terms(
            losses.kl, hidden, head, hidden, known_head, targets=labels, label_weight=1.0
        )
    assert terms.label is not None
    assert torch.isclose(terms.label, F.cross_entropy(head(hidden), labels))


def test_other_vocabularies_are_refused() -> None:
    """Other tokenizers give a place to other tokens: the loss would fall, and mean nothing."""
    hidden = torch.randn(7, D)
    with pytest.raises(InputError, match="universal_logit"):
        fused_linear(losses.kl, hidden, nn.Linear(D, 200), hidden, nn.Linear(D, 203))
    own, theirs = nn.Linear(D, 20), nn.Linear(D, 31)
    found = fused_linear(losses.universal_logit, hidden, own, hidden, theirs, chunk=3)
    assert torch.isclose(found, losses.universal_logit(own(hidden), theirs(hidden)))


# -- only what is needed


def test_a_frozen_head_gets_no_gradient() -> None:
    """A gradient of V×D numbers would be made and thrown away."""
    pair = Pair()
    expected = both(pair.plain(losses.kl), [pair.hidden])
    pair.head.requires_grad_(False)
    with Largest() as largest:
        found = both(pair.fused(losses.kl, chunk=2), [pair.hidden])
    assert close(found, expected, 1e-10)
    assert (V, D) not in largest.shapes


def test_frozen_hidden_states() -> None:
    """Training the head alone, a probe, would fail for want of a gradient."""
    pair = Pair()
    leaves = list(pair.head.parameters())
    expected = both(pair.plain(losses.kl), leaves)
    pair.hidden.requires_grad_(False)
    assert close(both(pair.fused(losses.kl), leaves), expected, 1e-10)


def test_an_adapter_on_the_head() -> None:
    """LoRA: the gradient reaches the two factors through the sum of weights."""
    pair = Pair()
    pair.head.requires_grad_(False)
    down, up = (torch.randn(shape, dtype=torch.float64) for shape in ((2, D), (V, 2)))
    leaves = [pair.hidden, down.requires_grad_(True), up.requires_grad_(True)]

    def head() -> tuple[Tensor, Tensor]:
        return pair.head.weight + up @ down, pair.head.bias

    found = fused_linear(losses.kl, pair.hidden, head(), pair.known, pair.known_head, chunk=4)
    plain = losses.kl(F.linear(pair.hidden, *head()), pair.known_head(pair.known))
    assert close(both(found, leaves), both(plain, leaves), 1e-10)


def test_without_gradients() -> None:
    """Validation would pay for gradients that nobody asks for."""
    pair = Pair()
    with torch.no_grad(), Largest() as largest:
        value = pair.fused(losses.kl)
    assert not value.requires_grad
    assert torch.isclose(value, pair.plain(losses.kl))
    assert (V, D) not in largest.shapes


class Largest(TorchDispatchMode):
    """The shapes of all tensors that are made, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if _is(t)}
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if _is(made) and made.untyped_storage().data_ptr() not in known:
                self.shapes.add(tuple(made.shape))
        return out


def _is(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 0


@pytest.mark.parametrize("masked", [False, True])
def test_logits_of_all_tokens_never_exist(masked: bool) -> None:
    """All else would be right, and the memory that this is for be used all the same."""
    pair = Pair()
    mask = pair.mask if masked else None
    with Largest() as largest:
        pair.fused(losses.kl, chunk=2, mask=mask).backward()
    of_logits = [shape for shape in largest.shapes if shape[-1:] == (V,) and len(shape) > 1]
    assert of_logits
    assert max(math.prod(shape) for shape in of_logits) == 2 * V


# -- precision


def test_mixed_precision() -> None:
    """Under autocast products are in bfloat16, the loss and the sums of gradients in float32."""
    pair = Pair(torch.float32)
    pair.mask[:] = True
    exact = [t.double() for t in both(pair.plain(losses.kl), pair.leaves)]
    with torch.autocast("cpu", torch.bfloat16):
        found = both(pair.fused(losses.kl, chunk=2), pair.leaves)
        plain = both(pair.plain(losses.kl), pair.leaves)
    assert [t.dtype for t in found] == [torch.float32] * 4
    half = [tuple(p.bfloat16() for p in m.parameters()) for m in (pair.head, pair.known_head)]
    states = pair.hidden.bfloat16(), pair.known.bfloat16()
    value = fused_linear(losses.kl, states[0], half[0], states[1], half[1], chunk=2)  # type: ignore[arg-type]
    assert torch.equal(found[0], value)
    assert close([t.double() for t in found], exact, 0.01)
    for own, other, known in zip(found[1:], plain[1:], exact[1:], strict=True):
        assert (own - known).norm() < 2 * (other - known).norm() + 1e-6


def test_gradients_of_half_precision_weights_are_added_up_in_float32() -> None:
    """A sum of 512 chunks in bfloat16 would stop to grow after 256."""
    hidden = torch.ones(512, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    answer = torch.tensor([[30.0, -30.0]]).expand(512, 2)
    value = fused_linear(losses.kl, hidden, weight, answer, reduction="sum", chunk=1)
    value.backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.bfloat16
    assert weight.grad.flatten().tolist() == [-256.0, 256.0]  # 512 times ½


def test_blocks_of_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients in half precision are added in blocks of rows; one left out would never learn."""
    monkeypatch.setattr("limbeck.losses.chunks._BLOCK", 5)
    pair = Pair(torch.bfloat16)
    found = both(pair.fused(losses.kl, chunk=4), pair.leaves)
    plain = both(pair.plain(losses.kl), pair.leaves)
    assert close([t.float() for t in found], [t.float() for t in plain], 0.02)


def test_autocast_remembers_no_weight_without_gradient() -> None:
    """A copy made in the fused part and kept by autocast would leave later uses untrained."""
    pair = Pair(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        pair.fused(losses.kl)
        gradient = torch.autograd.grad(pair.head(pair.hidden).sum(), pair.head.weight)[0]
    assert gradient.any()


# -- refusals


def test_second_derivatives_are_refused() -> None:
    """The gradient would be taken for a constant: a penalty on it would do nothing."""
    pair = Pair()
    gradient = torch.autograd.grad(pair.fused(losses.kl), pair.hidden, create_graph=True)[0]
    with pytest.raises(InputError, match="to be differentiated"):
        gradient.square().sum().backward()


def test_a_graph_that_is_kept() -> None:
    """Gradients were given away and changed since: the second would be wrong."""
    pair = Pair(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = pair.fused(losses.kl, chunk=4, mask=pair.mask)
    first = torch.autograd.grad(value, pair.leaves, retain_graph=True)
    expected = [3 * gradient for gradient in first]
    for gradient in first:
        gradient.zero_()
    assert close(list(torch.autograd.grad(3 * value, pair.leaves)), expected, 1e-7)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(value, pair.leaves)


@pytest.mark.parametrize("loss", [losses.dist, losses.hint, losses.ctc_aligned, F.mse_loss])
def test_losses_that_cannot_be_cut_are_refused(loss: Callable[..., Tensor]) -> None:
    """Chunks would change the value of a loss that compares tokens with one another."""
    with pytest.raises(InputError, match="cannot be fused"):
        Pair().fused(loss)


def test_parameters_elsewhere_are_refused() -> None:
    """A learned temperature or scale would never learn."""
    pair, scale = Pair(), torch.ones((), requires_grad=True)
    for options in ({"temperature": scale}, {"student_after": lambda logits: logits * scale}):
        with pytest.raises(InputError, match="would never learn"):
            pair.fused(losses.kl, **options)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mask": torch.ones(B, T + 1)}, "a mask of shape"),
    ({"targets": torch.zeros(B), "label_weight": 1.0}, "targets of shape"),
    ({"chunk": 0}, "chunk is 0"),
    ({"reduction": "none"}, "reduction is 'none'"),
    ({"teacher_mask": torch.ones(B, T)}, "teacher_mask"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    """They would be broadcast or ignored."""
    with pytest.raises(InputError, match=said):
        Pair().fused(losses.kl, **options)


def test_wrong_tensors_are_refused() -> None:
    """Quantised layers, other widths, other tokens: errors from deep inside, or none."""
    pair = Pair()
    student, teacher = (pair.hidden, pair.head), (pair.known, pair.known_head)
    with pytest.raises(InputError, match="head is a Sequential"):
        fused_linear(losses.kl, pair.hidden, nn.Sequential(pair.head), *teacher)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"the teacher's hidden states .* met a head"):
        fused_linear(losses.kl, *student, pair.known, pair.head)
    with pytest.raises(InputError, match="the teacher's hidden states of shape"):
        fused_linear(losses.kl, *student, pair.known[:2], pair.known_head)
    with pytest.raises(InputError, match=r"float32, its head is torch\.float64"):
        fused_linear(losses.kl, pair.hidden.float(), pair.head, *teacher)


# -- in a match


class Body(nn.Module):
    """A model of tokens that returns what enters its output layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Linear(8, width)
        self.head = nn.Linear(width, V)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.body(inputs))


class Tokens(lb.tasks.Classification):
    """Labels of single tokens; −100 where there is none, which counts for nothing."""

    def mask(self, batch: Any) -> Tensor:
        return batch["targets"] != -100

    def count(self, batch: Any) -> Tensor:
        return self.mask(batch).sum()

    def check_logits(self, logits: Tensor, whose: str) -> None:
        """Hidden states have any width."""


def test_a_match_between_models_without_logits() -> None:
    """The distiller must give the heads to the loss, and train the student's as its own."""
    teacher, student = Body(6), Body(4)
    plain = copy.deepcopy(student)
    labels = torch.randint(V, (B, T))
    labels[0, :2] = -100
    inputs = torch.randn(B, T, 8)
    match = lb.Match(
        "logits", "logits", FusedLinear, divergence=losses.kl, label_weight=0.5, temperature=2.0
    )
    distiller = lb.Distiller(
        teacher,
        student,
        task=Tokens(V),
        method=lb.methods.Method((match,), label_weight=0.0),
    )
    distiller.prepare((inputs, labels))
    assert {id(p) for p in distiller.parameters()} == {id(p) for p in student.parameters()}
    assert not any("head" in name and "student" not in name for name in distiller.state_dict())
    out = distiller((inputs, labels))
    out.loss.backward()
    logits, known = plain.head(plain(inputs)), labels != -100
    theirs = teacher.head(teacher(inputs))
    expected = losses.kl(logits, theirs, temperature=2.0, mask=known)
    expected = expected + 0.5 * F.cross_entropy(logits[known], labels[known])
    expected.backward()
    assert torch.isclose(out.loss, expected)
    pairs = zip(student.parameters(), plain.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, atol=1e-6) for a, b in pairs)  # type: ignore[arg-type]


def test_a_match_finds_the_head_that_fits() -> None:
    """A head of another layer would be an error of shapes at the first step of training."""
    setting = losses.Setting(Body(4), Body(6))
    shapes = torch.randn(2, 3, 4), torch.randn(2, 3, 6)
    with pytest.raises(InputError, match="met a head"):
        FusedLinear.build(*shapes, setting, divergence=losses.kl, student_head="body")
    alone = losses.Setting(Body(4))
    made = FusedLinear.build(shapes[0], torch.randn(2, 3, V), alone, divergence=losses.kl)
    assert made(shapes[0], torch.randn(2, 3, V)).ndim == 0
