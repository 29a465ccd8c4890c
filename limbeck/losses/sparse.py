"""Teachers' answers of which only a part is kept, and their comparison with a student's.

Losses take a :class:`SparseLogits` in the place of the teacher's logits, if what is kept is enough
for them (see ``partial`` of :class:`limbeck.losses.Spec`). The student is then compared on the
kept classes and on one more, which stands for all others together: nothing of the teacher's is
ever spread out to C classes, and the gradient is that of the student's own C logits.

Letters: B samples, T tokens, C classes, K places (for the classes that are kept).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from limbeck.errors import InputError

__all__ = ["Partial", "SparseLogits", "reduced", "refusal", "surplus"]

Partial = Literal["refused", "linear", "merged", "top"]
_EXCLUDED = -1e30  # stands for the logarithm of 0: finite, so that no gradient is NaN


@dataclass(frozen=True, eq=False, repr=False)
class SparseLogits:
    """A teacher's answer over C classes, of which K or fewer are known.

    It is either the K most likely classes with the mass of all others (``rest``), or K draws from
    the answer, merged where a class was drawn twice, with its ``entropy``.

    Attributes:
        indices: (..., K) int64, the classes; different ones in a row, but where nothing was drawn.
        log_p: (..., K) float32, log-probabilities at ``temperature``; of draws, the logarithm of
            their share, −∞ at a place that holds none.
        classes: C.
        temperature: at which the mass is counted.
        rest: (...) float32, the logarithm of the mass on all other classes; ``None`` if there is no
            other class, and of draws.
        entropy: (...) float32, the teacher's entropy at ``temperature`` in nats; of draws alone.

    Example: one token, two of five classes, a tenth of the mass elsewhere.

    >>> from limbeck.losses import SparseLogits, kl
    >>> known = SparseLogits(torch.tensor([[3, 1]]), torch.tensor([[0.6, 0.3]]).log(), 5,
    ...                      rest=torch.tensor([0.1]).log())
    >>> known
    SparseLogits((1, 5), top2)
    >>> kl(torch.zeros(1, 5), known)  # (0.6, 0.3, 0.1) against (0.2, 0.2, 0.6)
    tensor(0.6016)
    """

    indices: Tensor
    log_p: Tensor
    classes: int
    temperature: float = 1.0
    rest: Tensor | None = None
    entropy: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape that all logits would have, (..., C)."""
        return torch.Size((*self.indices.shape[:-1], self.classes))

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.indices.ndim

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.log_p.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the log-probabilities."""
        return self.log_p.dtype

    @property
    def codec(self) -> str:
        """The name of a codec that keeps as much: ``top16``, ``sample64@4``."""
        kind = "top" if self.entropy is None else "sample"
        softened = "" if self.temperature == 1 else f"@{self.temperature:g}"
        return f"{kind}{self.indices.shape[-1]}{softened}"

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SparseLogits:
        """Return it on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def cpu(self) -> SparseLogits:
        """Return it in the processor's memory."""
        return self.to("cpu")

    def detach(self) -> SparseLogits:
        """Return it without gradients."""
        return self._each(Tensor.detach)

    def flatten(self, start: int, end: int) -> SparseLogits:
        """Lay out dimensions before the last, for example samples and tokens, as one."""
        return self._each(lambda tensor: tensor.flatten(start, end))

    def split(self, size: int) -> tuple[SparseLogits, ...]:
        """Cut it along the first dimension into parts of ``size`` rows."""
        return tuple(self[start : start + size] for start in range(0, max(len(self), 1), size))

    def dense(self) -> Tensor:
        """Return log-probabilities (..., C) at ``temperature``, to look at; losses do without.

        The mass of the others is spread out evenly among them.
        """
        others = max(self.classes - self.indices.shape[-1], 1)
        if self.rest is None:
            out = self.log_p.new_full(self.shape, -torch.inf)
        else:
            out = (self.rest.unsqueeze(-1) - math.log(others)).expand(self.shape)
        return out.scatter_reduce(-1, self.indices, self.log_p, "amax", include_self=False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: Any) -> SparseLogits:
        return self._each(lambda tensor: tensor[rows])

    def __repr__(self) -> str:
        return f"SparseLogits({tuple(self.shape)}, {self.codec})"

    def _each(self, change: Callable[[Tensor], Tensor]) -> SparseLogits:
        parts, names = _flattened(self)
        return _made([change(part) for part in parts], names)


def reduced(
    student: Tensor,
    teacher: SparseLogits,
    partial: Partial,
    mask: Tensor | None = None,
    *,
    temperature: Any = 1.0,
    name: str = "the loss",
) -> tuple[Tensor, Tensor]:
    """Return both answers as logits over K classes, or over K and one for all others.

    Divided by the temperature and put through a softmax, as losses do, they give the probabilities
    of student and teacher exactly, each merged in the same way. With K = C there are no others, and
    any temperature will do; else it must be the one at which their mass was counted.

    Args:
        student: logits (..., C).
        teacher: what is known of the teacher's.
        partial: what the loss can do with it; ``top`` keeps the most likely class alone.
        mask: true where a row counts; anything may stand at the others.
        temperature: the loss's.
        name: the loss's, for messages.

    Raises:
        InputError: the loss cannot do with it, or the shapes or the temperatures differ.
    """
    drawn = teacher.entropy is not None
    if partial == "refused" or (drawn and partial != "linear"):
        raise refusal(name, teacher, partial)
    student = _comparable(student, teacher, mask)
    if partial == "top":
        return _most_likely(student, teacher)
    log_p = teacher.log_p.to(student.dtype)
    if teacher.rest is None and not drawn:
        return student.gather(-1, teacher.indices), teacher.temperature * log_p
    _same_temperature(teacher, temperature, name)
    places, others = _places(student, teacher.indices, teacher.temperature)
    if teacher.rest is None:
        places = places.masked_fill(log_p == -torch.inf, _EXCLUDED)
        rest = torch.full_like(log_p[..., :1], -torch.inf)
    else:
        rest = teacher.rest.to(student.dtype).unsqueeze(-1)
    theirs = teacher.temperature * torch.cat((log_p, rest), -1)
    return torch.cat((places, others), -1), theirs


def surplus(teacher: SparseLogits) -> Tensor:
    """Return T²·(entropy of the draws − entropy of the teacher), (...).

    It is what a divergence from the draws lacks, so that its mean over all draws is the divergence
    from the teacher: the entropy of a few draws is too small.
    """
    assert teacher.entropy is not None
    drawn = torch.special.entr(teacher.log_p.exp()).sum(-1)
    return cast(Tensor, teacher.temperature**2 * (drawn - teacher.entropy))


def refusal(name: str, teacher: SparseLogits, partial: Partial = "refused") -> InputError:
    """Return the error of a loss that cannot do with what is kept."""
    enough = 'codec "half"'
    if partial in ("merged", "top"):
        most = teacher.codec.replace("sample", "top")
        enough = f'codec "{most}", which keeps the most likely classes, or with "half"'
    return InputError(
        f"{name} met a teacher's answer over {teacher.classes} classes of which {teacher.codec} "
        "kept a part",
        expected="one of the losses that can do with it: kl and soft_cross_entropy with all such "
        "codecs, the other divergences and hard_label with top-k",
        remedy=f"Write the knowledge again with {enough}.",
    )


def _most_likely(student: Tensor, teacher: SparseLogits) -> tuple[Tensor, Tensor]:
    """Return both answers as logits over two classes: the teacher's most likely, and all others."""
    best = teacher.indices.gather(-1, teacher.log_p.argmax(-1, keepdim=True))
    own = torch.cat(_places(student, best, 1.0), -1)
    theirs = torch.zeros_like(own)
    theirs[..., 1] = -torch.inf
    return own, theirs


def _comparable(student: Tensor, teacher: SparseLogits, mask: Tensor | None) -> Tensor:
    """Refuse shapes that do not fit; return the student with zeros where ``mask`` is false."""
    if student.shape != teacher.shape:
        raise InputError(
            f"the student's logits {tuple(student.shape)} met a teacher's answer "
            f"{tuple(teacher.shape)}, kept as {teacher.codec}",
            expected="the same shape",
            remedy="Give both models the same number of classes, or compare features instead.",
        )
    if mask is None or mask.shape != student.shape[:-1]:
        return student  # A mask of another shape is the loss's to refuse.
    return student.masked_fill(~mask.bool().unsqueeze(-1), 0.0)


def _same_temperature(teacher: SparseLogits, temperature: Any, name: str) -> None:
    changing = isinstance(temperature, Tensor)
    if not changing and math.isclose(temperature, teacher.temperature, rel_tol=1e-6):
        return
    now = "a temperature that is learned" if changing else f"temperature {temperature:g}"
    wanted = teacher.codec.partition("@")[0] + ("" if temperature == 1 else f"@{temperature:g}")
    raise InputError(
        f"{name} at {now} met knowledge that was kept at temperature {teacher.temperature:g} "
        f"({teacher.codec})",
        expected="the same temperature",
        consequence="How much mass the other classes have is known at that temperature alone.",
        remedy='Write the knowledge again with codec "half".'
        if changing
        else f'Write the knowledge again with codec "{wanted}", or set the loss\'s temperature to '
        f"{teacher.temperature:g}.",
    )


def _places(student: Tensor, indices: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the logits (..., K) of some classes, and the one (..., 1) of all others together."""
    softened = student if temperature == 1 else student / temperature
    others = softened.scatter(-1, indices, _EXCLUDED).logsumexp(-1, keepdim=True)
    return student.gather(-1, indices), temperature * others


# Registered, so that functions over nested tensors (of batches, of all processes) see its parts.

_Names = tuple[tuple[str, ...], int, float]


def _flattened(known: SparseLogits) -> tuple[list[Tensor], _Names]:
    parts = {field.name: getattr(known, field.name) for field in fields(known)}
    tensors = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
    return list(tensors.values()), (tuple(tensors), known.classes, known.temperature)


def _made(parts: Any, names: _Names) -> SparseLogits:
    tensors = dict(zip(names[0], parts, strict=True))
    return SparseLogits(classes=names[1], temperature=names[2], **tensors)


register_pytree_node(
    SparseLogits, _flattened, _made, serialized_type_name="limbeck.losses.SparseLogits"
)
