"""The distiller: student, adapters and a teacher held aside, added up into one loss.

Letters: B samples, C classes.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from limbeck.data.samples import Batch, cut
from limbeck.distill.suiting import check_losses, taught
from limbeck.errors import InputError
from limbeck.knowledge.keras import as_module
from limbeck.knowledge.model import at_rest, call, logits_of, macs
from limbeck.knowledge.record import Knowledge
from limbeck.knowledge.taps import Taps
from limbeck.losses.schedules import value_at
from limbeck.losses.spec import Setting
from limbeck.methods import none
from limbeck.methods.match import Match
from limbeck.methods.method import Method, as_method
from limbeck.students.adapters import Alignment, Alignments, align
from limbeck.tasks.mixed import label_loss
from limbeck.tasks.task import Spread, Task, Tokened
from limbeck.teachers.knowing import Knowing
from limbeck.teachers.module import Teacher

__all__ = ["Distilled", "Distiller"]


@dataclass(frozen=True)
class Distilled:
    """What a distiller returns for a batch.

    Attributes:
        loss: the weighted sum, to call ``backward`` on.
        terms: each part of it by name, unweighted, without gradient, still on the device.
        student: the student's logits and tapped tensors, with gradients.
        teacher: the teacher's, or ``None`` if no match needs one.
        count: over how many samples (or tokens) the loss is a mean.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    student: Knowledge
    teacher: Knowledge | None
    count: int | Tensor


class Distiller(nn.Module):
    """Turns a batch into a loss. It is no trainer: use it in any loop.

    Its parameters are those of the student, the adapters and of losses that have some; the teacher
    is in neither its parameters nor its ``state_dict``, and ``train()`` does not reach it.

    Args:
        teacher: anything with ``knowledge(batch, taps)``; a plain module is taken as a
            :class:`limbeck.Teacher` without preprocessing; ``None`` learns from labels alone.
        student: any module, called with the batch's inputs; ``distiller.student`` is what ships.
        task: what a batch means.
        method: a method, a match, or a list of matches; by default none, the control.
        preprocess: what the student does to the inputs first.

    Attributes:
        progress: how far training is, 0 to 1, for weights that follow a schedule. A loop of your
            own sets it.

    Raises:
        InputError: a tap of the student is not one of its modules.

    >>> import torch, limbeck as lb
    >>> distiller = lb.Distiller(nn.Linear(4, 3), nn.Linear(4, 3), task=lb.tasks.Classification(3),
    ...                          method=lb.methods.kd())
    >>> out = distiller((torch.randn(8, 4), torch.randint(3, (8,))))
    >>> sorted(out.terms), out.loss.requires_grad
    (['kl', 'label'], True)
    """

    def __init__(
        self,
        teacher: Knowing | nn.Module | None,
        student: nn.Module,
        *,
        task: Task,
        method: Method | Match | Iterable[Match] | None = None,
        preprocess: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        chosen = none() if method is None else as_method(method)
        if teacher is None and any(match.teachers for match in chosen.matches):
            raise InputError(
                f"the method {chosen.name} without a teacher", expected="a teacher, or no method"
            )
        knows = teacher if teacher is None or isinstance(teacher, Knowing) else Teacher(teacher)
        student = as_module(student)
        # In a tuple, so that PyTorch does not take a module for a part of this one.
        self._aside: tuple[Knowing | None, Callable[..., Any]] = (knows, student)
        self.student = student
        self.task = task
        self._taught = taught(task, chosen.matches)
        self.method = chosen
        self.preprocess = preprocess
        self.progress = 0.0
        self.alignments = nn.ModuleList()
        # A wrapped loss is looked into: its parameters must reach the optimizer too.
        inner = [inspect.unwrap(match.loss) for match in chosen.matches]
        self.losses = nn.ModuleList(loss for loss in inner if isinstance(loss, nn.Module))
        self._made: tuple[Callable[..., Tensor], ...] = ()
        own = [t for match in chosen.matches for t in (*match.students, *match.taps.values())]
        self._taps = Taps(student, ["logits", *own])
        self._theirs = tuple(dict.fromkeys(t for m in chosen.matches for t in m.teachers))

    @property
    def teacher(self) -> Knowing | None:
        """Who teaches, or ``None``."""
        return self._aside[0]

    @property
    def prepared(self) -> bool:
        """Whether taps are found and adapters made."""
        return bool(self._taps.resolved)

    def prepare(self, batch: Any) -> Self:
        """Find the taps and make the adapters in a dry run; call it before making an optimizer.

        The first two samples go through both models, in eval mode and without gradients. Methods
        that compare only logits do this by themselves at the first batch; the others need
        parameters, which an optimizer must know.

        Args:
            batch: as the loop will give them.

        Returns:
            The distiller itself.

        Raises:
            InputError: a tap is not found, shapes cannot be adapted, the class counts differ, the
                batch lacks a field that a match reads.
        """
        few = cut(self.task.named(batch), slice(2))
        for match in self.method.matches:
            match.read(few)
        shown, views = self._shown(few)
        self._taps.prepare(self._inputs(shown))
        own, theirs = self._dry_run(shown)
        self.task.check_logits(own.logits, "student")
        if theirs is not None and "logits" in theirs.tensors:
            (self._taught or self.task).check_logits(theirs.logits, "teacher")
        if not self.alignments:
            made = [self._alignment(match, own, theirs) for match in self.method.matches]
            self.alignments = nn.ModuleList(made).to(own.logits.device)
            self._make_losses(own, theirs)
            check_losses(self.task, self.method.matches, self._made, few)
        if not len(self.losses):  # those with a memory would remember the dry run
            with torch.no_grad():
                self._terms(few, own, theirs, views)
        self._warn_if_larger()
        return self

    def forward(self, batch: Any) -> Distilled:
        """Return the loss of a batch, its terms, and what both models said.

        Args:
            batch: (inputs, targets), (inputs, targets, ids), or a mapping; see the task.
        """
        batch = self.task.named(batch)
        if not self.prepared:
            self._prepare_late(batch)
        shown, views = self._shown(batch)
        own = self._student_knowledge(shown)
        theirs = (
            self.teacher.knowledge(shown, self._theirs) if self.teacher and self._theirs else None
        )
        terms = self._terms(batch, own, theirs, views)
        total = sum((weight * term for weight, term in terms.values()), own.logits.new_zeros(()))
        values = {name: term.detach() for name, (_, term) in terms.items()}
        plain = own.every(views), None if theirs is None else theirs.every(views)
        return Distilled(total.float(), values, *plain, self.task.count(batch))

    def work(self, batch: Any) -> int:
        """Estimate the multiply-accumulates of a training step on a batch, (B, ...).

        The student's forward pass counts three times, for the backward pass needs about two more;
        that of a teacher which runs beside it counts once.
        """
        named = self.task.named(batch)
        one, _ = self._shown(cut(named, slice(1)))
        total = 3 * (macs(self.student, self._inputs(one))[0] or 0)
        if isinstance(self.teacher, Teacher) and self._theirs:
            total += self.teacher.work(one)
        return total * len(self.task.targets(named))

    def adapters(self) -> dict[str, str]:
        """Return what the adapters of each match do; empty texts left out."""
        pairs = zip(self.method.matches, self.alignments, strict=False)
        return {
            m.name: a.text for m, a in pairs if isinstance(a, (Alignment, Alignments)) and a.text
        }

    def answer(self, batch: Any, student: nn.Module | None = None) -> Tensor:
        """Return the student's logits alone, (B, C) or (B, T, C): for validation.

        Args:
            batch: as for :meth:`forward`.
            student: another module in its place, for example an average of it.
        """
        return logits_of(call(student or self.student, self._inputs(self.task.named(batch))))

    def arrange(self, *, channels_last: bool, compiled: bool) -> None:
        """Lay the weights of both models out and compile them, or run them as they are."""
        if channels_last:
            self.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._aside = (self.teacher, torch.compile(self.student) if compiled else self.student)
        if isinstance(self.teacher, Teacher):
            self.teacher.arrange(channels_last=channels_last, compiled=compiled)

    def release(self) -> nn.Module:
        """Take the hooks off the student and return it: a plain module, adapters left behind."""
        self._taps.remove()
        return self.student

    def _inputs(self, batch: Batch) -> Any:
        inputs = self.task.inputs(batch)
        return self.preprocess(inputs) if self.preprocess else inputs

    def _shown(self, batch: Batch) -> tuple[Batch, int]:
        """Return the batch as both models see it, and how many views (rows) of each sample."""
        make = self.method.views
        if make is None:
            return batch, 1
        views = make(batch)
        return {**batch, "inputs": views.flatten(0, 1)}, views.shape[1]

    def _student_knowledge(self, batch: Batch) -> Knowledge:
        inputs = self._inputs(batch)
        _, captured = self._taps.capture(lambda: call(self._aside[1], inputs))
        return Knowledge(captured, batch.get("id"), self.task.mask(batch), "the student")

    def _terms(
        self, batch: Batch, own: Knowledge, theirs: Knowledge | None, views: int
    ) -> dict[str, tuple[float, Tensor]]:
        """Return each term's weight and value; the label's only if it counts."""
        everything = own, theirs
        own, theirs = own.every(views), None if theirs is None else theirs.every(views)
        terms: dict[str, tuple[float, Tensor]] = {}
        label = self.method.label_weight
        weight = value_at(1.0 if label is None else label, self.progress)
        if weight or callable(label):
            terms["label"] = (weight, label_loss(self.task, own.logits, batch))
        context: dict[str, Any] = {name: batch.get(name) for name in ("likelihood", "written")}
        context |= {"ids": batch.get("id"), "targets": self.task.targets(batch)}
        context |= {"mask": own.mask, "progress": self.progress}
        if self._taught is not None:
            context["teacher_mask"] = self._taught.mask(self._taught.named(batch))
        parts = zip(self.method.matches, self.alignments, self._made, strict=True)
        for match, alignment, loss in parts:
            seen = everything if match.views else (own, theirs)
            pair = alignment(*_pair(match, *seen))
            more = match.read(batch) | {name: seen[0][tap] for name, tap in match.taps.items()}
            if own.mask is None:
                context["mask"] = self._tokens(batch, pair[0])
            if isinstance(self.task, Spread) and _of_classes(match):
                pair = (self.task.over_classes(pair[0]), self.task.over_classes(pair[1]))
                context["mask"] = self.task.labelled(batch) if "targets" in match.context else None
            value = match.compare(pair[0], pair[1], context | more, loss)
            terms[_unused(match.name, terms)] = (value_at(match.weight, self.progress), value)
        return terms

    def _tokens(self, batch: Batch, tapped: Any) -> Tensor | None:
        """Return which tokens are no padding, (B, T), if what was tapped has a row for each."""
        mask = self.task.tokens(batch) if isinstance(self.task, Tokened) else None
        if mask is None:
            return None
        states, scores = (*mask.shape,), (mask.shape[1],) * 2
        fits = all(
            (t.ndim == 3 and t.shape[:2] == states) or (t.ndim == 4 and t.shape[2:] == scores)
            for t in tree_leaves(tapped)
        )
        return mask if fits else None

    def _dry_run(self, batch: Batch) -> tuple[Knowledge, Knowledge | None]:
        with at_rest(self.student):
            own = self._student_knowledge(batch)
        if self.teacher is None or not self._theirs:
            return own, None
        theirs = self.teacher.knowledge(batch, self._theirs)
        rows = {len(known[tap]) for known in (own, theirs) for tap in known.fields}
        if self.method.views is not None and rows != {len(batch["inputs"])}:
            raise InputError(
                f"{self.method.name} shows {len(batch['inputs'])} views of two samples; there came "
                f"answers to {' and '.join(map(str, sorted(rows)))}",
                expected="a teacher that answers to each view, as a module does and a store does "
                "not, and a task whose inputs are the batch's field 'inputs'",
            )
        return own, theirs

    def _alignment(
        self, match: Match, own: Knowledge, theirs: Knowledge | None
    ) -> Alignment | Alignments:
        if theirs is None or match.teacher is None:
            return Alignment(nn.Identity(), nn.Identity(), "")
        mine = [own.shapes[tap] for tap in match.students]
        other = [theirs.shapes[tap] for tap in match.teachers]
        need = match.spec.align
        try:
            if isinstance(match.student, str) and isinstance(match.teacher, str):
                return align(mine[0], other[0], need, match.adapter)
            if need == "none" and match.adapter == "auto":
                return Alignment(nn.Identity(), nn.Identity(), "")
            if len(mine) != len(other):
                raise InputError(
                    f"{len(mine)} taps of the student and {len(other)} of the teacher",
                    expected="as many on both sides",
                )
            pairs = zip(mine, other, strict=True)
            return Alignments([align(*pair, need, match.adapter) for pair in pairs])
        except InputError as error:
            raise InputError(f"match {match.name!r}: {error}") from error

    def _make_losses(self, own: Knowledge, theirs: Knowledge | None) -> None:
        """Build the losses that are given as classes, for the shapes that were found."""
        teacher = self.teacher.module if isinstance(self.teacher, Teacher) else None
        setting = Setting(self.student, teacher)
        made: list[Callable[..., Tensor]] = []
        for match, alignment in zip(self.method.matches, self.alignments, strict=True):
            with torch.no_grad():
                pair = alignment(*_pair(match, own, theirs))
            try:
                loss = match.made(pair[0], pair[1], setting)
            except InputError as error:
                raise InputError(f"match {match.name!r}: {error}") from error
            if isinstance(loss, nn.Module) and isinstance(match.loss, type):
                self.losses.append(loss.to(own.logits.device))
            made.append(loss)
        self._made = tuple(made)

    def _prepare_late(self, batch: Batch) -> None:
        known = len(self.alignments) == len(self.method.matches)
        self.prepare(batch)
        built = any(isinstance(match.loss, type) for match in self.method.matches)
        parts = [*self.alignments, *(self.losses if built else ())]
        if not known and any(True for part in parts for _ in part.parameters()):
            raise InputError(
                f"the method {self.method.name} needs parts with parameters "
                f"({'; '.join(self.adapters().values()) or 'losses'})",
                consequence="An optimizer made before the first batch does not know them: they "
                "would never learn.",
                remedy="Call distiller.prepare(batch) before you make the optimizer.",
            )

    def _warn_if_larger(self) -> None:
        if isinstance(self.teacher, Teacher) and self._theirs:
            sizes = [
                sum(p.numel() for p in model.parameters())
                for model in (self.student, self.teacher.module)
            ]
            if sizes[0] > sizes[1]:
                warnings.warn(
                    f"the student ({sizes[0]:,} parameters) is larger than its teacher "
                    f"({sizes[1]:,}); is that meant?",
                    stacklevel=3,
                )


def _of_classes(match: Match) -> bool:
    """Whether a match compares the classes of whole answers."""
    return match.spec.align == "classes" and match.student == "logits" == match.teacher


def _pair(match: Match, own: Knowledge, theirs: Knowledge | None) -> tuple[Any, Any]:
    """Return what a match compares; the student's own twice, if it needs no teacher."""
    mine = _tapped(own, match.student)
    if match.teacher is None:
        return mine, mine
    assert theirs is not None
    return mine, _tapped(theirs, match.teacher)


def _tapped(known: Knowledge, taps: str | tuple[str, ...]) -> Any:
    """Return the tensor of a tap, or a tuple of them for several."""
    return known[taps] if isinstance(taps, str) else tuple(known[tap] for tap in taps)


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name, or the first of ``name 2``, ``name 3``, ... that is free."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} {number}"
    return free
