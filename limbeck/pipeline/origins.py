"""Where a recipe's teacher comes from: a module, a file, a function of the user's.

Letters: B samples, C classes, N training samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from limbeck.data import Data
from limbeck.data.loader import as_float
from limbeck.data.samples import Batch, seeded
from limbeck.errors import InputError, unknown
from limbeck.imports import attribute, call_theirs, code_digest, is_path
from limbeck.knowledge import Knowledge
from limbeck.pipeline import build
from limbeck.recipe import Recipe, TeacherPart
from limbeck.students import Blueprint, load_weights
from limbeck.teachers import Knowing, Teacher
from limbeck.teachers.foreign import arrays
from limbeck.teachers.sklearn import estimates, is_fitted

__all__ = ["Origin", "Trained", "origin", "preprocess_facts"]


class Origin(Protocol):
    """Where a recipe's teacher comes from, and how it comes back in a later stage."""

    def facts(self) -> dict[str, Any]:
        """Return what the teacher is made from, JSON-like."""

    def shown(self) -> dict[str, Any]:
        """Return ``build`` and ``args``, as the report shows them."""

    def trial(self) -> Knowing:
        """Return a teacher whose answers have the right shapes, before it is trained."""

    def take(self) -> tuple[dict[str, Tensor], dict[str, Any], str]:
        """Return the finished teacher: its weights, a record of it, and a few words."""

    def load(self, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> Knowing:
        """Return the teacher that a stage left."""


def origin(recipe: Recipe, data: Data) -> Origin:
    """Return where a recipe's teacher comes from.

    Raises:
        InputError: what the recipe names is not there, or is no teacher.
    """
    part = recipe.teacher
    first = _preprocess(recipe)
    if part.fit is not None:
        fit = attribute(part.fit)
        if isinstance(fit, type):
            raise InputError(
                f"teacher.fit is {part.fit}, a class",
                expected="a function that gets the training inputs and labels, and returns a "
                "fitted teacher",
                remedy=f"Name an estimator to be fitted under build: {{build: {part.fit!r}}}.",
            )
        return _Fitted(recipe, data, part.fit, fit, first)
    if part.build is None:
        return _Taken(part, _from_file(part, first))
    if not is_path(part.build):
        return Trained(recipe, build.blueprint(recipe, part, data), first)
    with seeded(0):  # a model that is only looked at must not change what is drawn later
        found = call_theirs(part.build, attribute(part.build), part.args)
    if isinstance(found, nn.Module):
        return Trained(recipe, build.blueprint(recipe, part, data), first)
    if part.weights is not None:
        raise InputError(
            f"teacher.weights with {part.build}, which returned a {type(found).__name__}",
            expected="a torch.nn.Module to load them into",
        )
    if not isinstance(found, Knowing) and not is_fitted(found):
        return _Fitted(recipe, data, part.build, None, first)
    return _Taken(part, _adopted(found, part, first, data))


@final
@dataclass(frozen=True)
class Trained:
    """A PyTorch module: trained by the recipe, or with weights.

    Attributes:
        recipe: of the run.
        plan: how the module is built.
        first: what it does to its inputs first.
    """

    recipe: Recipe
    plan: Blueprint
    first: Callable[[Any], Any] | None

    def facts(self) -> dict[str, Any]:
        return build.model_origin(self.plan, self.recipe.teacher.weights)

    def shown(self) -> dict[str, Any]:
        return {"build": self.plan.build, "args": dict(self.plan.args)}

    def trial(self) -> Teacher:
        return self._teacher(self._with_weights())

    def take(self) -> tuple[dict[str, Tensor], dict[str, Any], str]:
        model = self._with_weights()
        return model.state_dict(), {"history": []}, f"{type(model).__name__} with given weights"

    def load(self, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> Teacher:
        model = self.plan.model()
        model.load_state_dict(weights)
        return self._teacher(model)

    def _with_weights(self) -> nn.Module:
        model, weights = self.plan.model(), self.recipe.teacher.weights
        if weights is not None:
            load_weights(model, weights)
        return model

    def _teacher(self, model: nn.Module) -> Teacher:
        return Teacher(model, self.first, inputs=self.recipe.teacher.inputs)


@final
@dataclass(frozen=True)
class _Taken:
    """A teacher that is trained already, wherever that was; it stays where it is."""

    part: TeacherPart
    teacher: Knowing

    def facts(self) -> dict[str, Any]:
        return {"teacher": self.teacher.fingerprint()}

    def shown(self) -> dict[str, Any]:
        kind = self.part.origins[0]
        return {"build": str(getattr(self.part, kind)), "args": dict(self.part.args)}

    def trial(self) -> Knowing:
        return self.teacher

    def take(self) -> tuple[dict[str, Tensor], dict[str, Any], str]:
        return {}, {"history": []}, f"{self.shown()['build']} as it is"

    def load(self, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> Knowing:
        return self.teacher


@final
@dataclass
class _Fitted:
    """A teacher that is fitted on the training samples at once.

    It is not kept: there is no way to store any estimator but pickling, and nothing is unpickled.
    A later process fits it again, and makes sure that it is the same.

    Attributes:
        recipe: of the run.
        data: whose training samples it learns.
        path: ``package.module:attribute``.
        fit: called with inputs and labels; ``None`` if ``path`` returns an estimator to be fitted.
        first: what is done to its inputs.
    """

    recipe: Recipe
    data: Data
    path: str
    fit: Callable[..., Any] | None
    first: Callable[[Any], Any] | None

    def facts(self) -> dict[str, Any]:
        part = self.recipe.teacher
        return self.shown() | {
            "code": code_digest(self.path),
            "inputs": part.inputs,
            "data": self.data.labelled.fingerprint(),
            "seed": self.recipe.seeds[0],
        }

    def shown(self) -> dict[str, Any]:
        return {"build": self.path, "args": self._args()}

    def trial(self) -> Knowing:
        return _Silent(self.recipe.teacher.inputs, len(self.data.labels))

    def take(self) -> tuple[dict[str, Tensor], dict[str, Any], str]:
        record = {"history": [], "fingerprint": self._teacher.fingerprint()}
        return {}, record, f"{self.path} fitted to {len(self.data.labelled):,} samples"

    def load(self, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> Knowing:
        if record["fingerprint"] != self._teacher.fingerprint():
            raise InputError(
                f"{self.path} was fitted again and came out otherwise",
                expected="the same teacher from the same samples",
                consequence="What it said before and what it says now would be mixed.",
                remedy="Let it draw no random numbers of its own: random_state=0, for example.",
            )
        return self._teacher

    @cached_property
    def _teacher(self) -> Knowing:
        x, y = self._samples()
        args = self._args()
        with seeded(self.recipe.seeds[0]):
            if self.fit is not None:
                fit = self.fit
                found = call_theirs(self.path, lambda **named: fit(x, y, **named), args)
            else:
                estimator = call_theirs(self.path, attribute(self.path), args)
                seed = self.recipe.seeds[0]
                found = call_theirs(self.path, lambda: _settled(estimator, seed).fit(x, y), {})
        return _adopted(found, self.recipe.teacher, self.first, self.data)

    def _args(self) -> dict[str, Any]:
        """Return the stated arguments, and what the data knows of the field, if it is taken."""
        part = self.recipe.teacher
        known = self.data.facts.get(part.inputs, {})
        taken = inspect.signature(self.fit or attribute(self.path)).parameters
        return {name: fact for name, fact in known.items() if name in taken} | part.args

    def _samples(self) -> tuple[Any, Any]:
        """Return the training inputs as the teacher will see them, and the labels.

        A single number to be predicted for each sample, (N, 1), is (N,), as estimators want it.
        """
        train, name = self.data.labelled, self.recipe.teacher.inputs
        inputs = as_float({name: train.column(name)})[name]
        x = arrays(self.first(inputs) if self.first else inputs)
        if self.fit is None:
            x = tree_map(lambda rows: rows.reshape(len(rows), -1), x)
        y = train.column("targets").numpy()
        return x, y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


@final
@dataclass(frozen=True)
class _Silent:
    """Stands for a teacher that is not there yet: logits of the right shape."""

    inputs: str
    classes: int

    def knowledge(self, batch: Batch, taps: Sequence[str] = ("logits",)) -> Knowledge:
        if self.inputs not in batch:
            raise unknown("field of the samples:", self.inputs, batch)
        for tap in taps:
            if tap != "logits":
                raise unknown("tap of a fitted teacher:", tap, ["logits"])
        return Knowledge({"logits": torch.zeros(len(batch["targets"]), self.classes)})

    def fingerprint(self) -> str:
        return "none yet"


def preprocess_facts(recipe: Recipe) -> Any:
    """Return what the teacher's preprocessing is made from, JSON-like."""
    part = recipe.teacher
    if part.preprocess is not None:
        return {"preprocess": part.preprocess, "code": code_digest(part.preprocess)}
    chosen = part.normalize or recipe.data.normalize
    return chosen.model_dump(exclude_none=True) if chosen else None


def _preprocess(recipe: Recipe) -> Callable[[Any], Any] | None:
    part = recipe.teacher
    if part.preprocess is None:
        return build.preprocess(recipe, part)
    if part.normalize is not None:
        raise InputError(
            "teacher.preprocess and teacher.normalize",
            expected="one of them",
            remedy="Let the function normalise too.",
        )
    found: Callable[[Any], Any] = attribute(part.preprocess)
    return found


def _from_file(part: TeacherPart, first: Callable[[Any], Any] | None) -> Knowing:
    kind = part.origins[0]
    makers: dict[str, Callable[..., Knowing]] = {
        "onnx": Teacher.from_onnx,
        "keras": Teacher.from_keras,
        "saved_model": Teacher.from_saved_model,
    }
    return makers[kind](
        getattr(part, kind),
        first,
        inputs=part.inputs,
        layout=part.layout,
        returns=part.returns,
        output=part.output,
    )


def _adopted(
    found: Any, part: TeacherPart, first: Callable[[Any], Any] | None, data: Data
) -> Knowing:
    """Return what users' code returned as a teacher."""
    if isinstance(found, Knowing):
        if part.inputs != "inputs" or part.preprocess or part.normalize:
            raise InputError(
                f"{type(found).__name__} with teacher.inputs, preprocess or normalize",
                expected="a teacher object that does by itself what it needs",
            )
        return found
    if isinstance(found, nn.Module):
        return Teacher(found, first, inputs=part.inputs)
    if estimates(found) is None:
        raise InputError(
            f"{getattr(part, part.origins[0])} returned a {type(found).__name__}",
            expected="a torch.nn.Module, an estimator, or anything with knowledge and fingerprint",
        )
    classes = list(getattr(found, "classes_", []))
    words = classes and all(isinstance(each, str) for each in classes)
    labels = data.labels if words else range(len(data.labels))
    return Teacher.from_sklearn(found, first, labels=labels, inputs=part.inputs)


def _settled(estimator: Any, seed: int) -> Any:
    """Give an estimator's parts that would draw random numbers a seed, where they have none."""
    named = estimator.get_params()
    open_ = [k for k, v in named.items() if k.split("__")[-1] == "random_state" and v is None]
    return estimator.set_params(**dict.fromkeys(open_, seed)) if open_ else estimator
