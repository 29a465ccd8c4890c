"""Building models by name, and keeping trained ones in a folder that says how to build them.

Letters: B samples, C classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from limbeck._version import __version__
from limbeck.data import readers
from limbeck.data.preprocess import Normalize
from limbeck.data.readers import Answering, Reader, Writer
from limbeck.errors import InputError
from limbeck.files import atomically, read_json, write_json
from limbeck.imports import attribute, call_theirs, is_path
from limbeck.knowledge.keras import as_module
from limbeck.knowledge.model import call, logits_of
from limbeck.students import zoo
from limbeck.students.lora import Lora
from limbeck.students.low_rank import Ranks, with_ranks
from limbeck.students.resize import Layers, Sizes, keep_layers, resize
from limbeck.students.reuse import Reuse
from limbeck.students.shrink import shrink

__all__ = ["Blueprint", "load", "load_weights", "read_weights", "save", "tensors"]


_INSIDE = ("module.", "model.")  # the names of a model within one that has no other weights


@dataclass(frozen=True)
class Blueprint:
    """How to build a model, in words that JSON can keep.

    Attributes:
        build: a zoo model's name or ``package.module:function``.
        args: its arguments.
        depth: fraction of the built model's layers to keep, 1 to keep it as it is.
        width: fraction of its channels to keep.
        reuse: how it ends in its teacher's classifier; ``None`` if it has its own.
        lora: which additions learn in the place of its weights; ``None`` if it learns itself.
        ranks: which embeddings are of low rank, and of which, by their paths.
        layers: which blocks pruning left, by their lists' paths.
        sizes: the shapes of tensors, by name, that pruning made smaller; without the other blocks.

    >>> Blueprint("resnet56", {"classes": 10}, depth=0.5).model().config["args"]["depth"]
    32
    """

    build: str
    args: Mapping[str, Any]
    depth: float = 1.0
    width: float = 1.0
    reuse: Reuse | None = None
    lora: Lora | None = None
    sizes: Sizes = field(default_factory=dict)
    layers: Layers = field(default_factory=dict)
    ranks: Ranks = field(default_factory=dict)

    def shipped(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return the model as it ships: with trained weights, additions merged into them.

        Args:
            weights: of :meth:`model`, trained.
        """
        model = self.model()
        model.load_state_dict(weights)
        return model if self.lora is None else self.lora.merged(model)

    def model(self) -> nn.Module:
        """Return a new, untrained model; a classifier that is reused is empty, for weights to fill.

        Raises:
            InputError: the name or an argument is wrong, or the function did not return a module.
        """
        model = self.bare()
        if self.lora is not None:
            return self.lora.applied(model)
        whole = model if self.reuse is None else self.reuse.applied(model)
        return resize(keep_layers(with_ranks(whole, self.ranks), self.layers), self.sizes)

    def portable(self) -> dict[str, Any]:
        """Return arguments that build it, untrained, where files it came from are not at hand."""
        return dict(self.args) if is_path(self.build) else zoo.portable(self.build, self.args)

    def bare(self) -> nn.Module:
        """Return a new, untrained model with a classifier of its own."""
        if is_path(self.build):
            model = call_theirs(self.build, attribute(self.build), self.args)
        else:
            model = zoo.build(self.build, **self.args)
        if not isinstance(model, nn.Module):
            raise InputError(
                f"{self.build} returned a {type(model).__name__}", expected="a torch.nn.Module"
            )
        model = as_module(model)
        if (self.depth, self.width) != (1.0, 1.0):
            return shrink(model, depth=self.depth, width=self.width)
        return model


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights on the CPU; those that share memory once, under the first name.

    >>> tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> tied[1].weight = tied[0].weight
    >>> sorted(tensors(tied))
    ['0.bias', '0.weight', '1.bias']
    """
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    state = model.state_dict()
    for name, tensor in state.items():
        first.setdefault((tensor.data_ptr() or id(tensor), tuple(tensor.shape)), name)
    return {name: state[name].detach().cpu().contiguous() for name in first.values()}


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a checkpoint that holds nothing but tensors.

    Of a checkpoint that keeps them under ``state_dict`` or ``model``, that part is taken; a prefix
    ``module.`` that all names have, from data-parallel training, is dropped. Nothing is unpickled
    but tensors.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}", expected="weights") from None
    except Exception as error:  # A damaged file can raise anything.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} could not be read: {reason}",
            expected="safetensors, or a checkpoint that holds nothing but tensors",
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise InputError(f"{path} holds more than tensors", expected="a state dict")
    if all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file's tensors into a model; every one must fit.

    Counters of batch norm may be absent, as in files older than they are, and so may weights that
    the model fixes itself, waves of positions for example; buffers that it makes itself may be
    there.

    Raises:
        InputError: the file cannot be read, or names or shapes differ from the model's.
    """
    weights, own = read_weights(path), model.state_dict()
    inside = next((p for p in _INSIDE if all(name.startswith(p) for name in own)), None)
    if inside is not None and not weights.keys() & own.keys():
        weights = {f"{inside}{name}": tensor for name, tensor in weights.items()}
    fixed = dict(model.named_buffers()).keys() - own  # older files hold such buffers too
    weights = {name: tensor for name, tensor in weights.items() if name not in fixed}
    made = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    needed = (k for k in tensors(model) if k not in made and not k.endswith("num_batches_tracked"))
    missing = [key for key in needed if key not in weights]
    strange = [key for key in weights if key not in own]
    unequal = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    if missing or strange or unequal:
        told = [
            f"{len(keys)} {what} (first: {keys[0]}{_shapes(own, weights, keys[0])})"
            for keys, what in (
                (missing, "missing"),
                (strange, "that the model lacks"),
                (unequal, "of another shape"),
            )
            if keys
        ]
        raise InputError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(told)}",
            expected="the weights of the same model, with the same number of classes",
        )
    model.load_state_dict(weights, strict=False)


def save(
    folder: Path,
    model: nn.Module,
    blueprint: Blueprint,
    facts: Mapping[str, Any],
    reader: Reader | None = None,
) -> None:
    """Write a trained model with all that is needed to build it again.

    Args:
        folder: made if it does not exist; gets ``model.safetensors`` and ``student.json``.
        model: the trained model.
        blueprint: how to build it.
        facts: further entries of ``student.json``: ``normalize``, ``labels``, ``input``, ...
        reader: what makes its inputs of raw samples, if they were made when the data was loaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomically(folder / "model.safetensors") as draft:
        save_file(tensors(model), draft)
    plan = {
        "build": blueprint.build,
        "args": blueprint.portable(),
        "depth": blueprint.depth,
        "width": blueprint.width,
    }
    if blueprint.reuse is not None:
        plan["reuse"] = blueprint.reuse.facts()
    if blueprint.ranks:
        plan["ranks"] = dict(blueprint.ranks)
    if blueprint.layers:
        plan["layers"] = {path: list(kept) for path, kept in blueprint.layers.items()}
    if blueprint.sizes:
        plan["sizes"] = {name: list(shape) for name, shape in blueprint.sizes.items()}
    if reader is not None:
        plan["reader"] = reader.save(folder)
    write_json(folder / "student.json", {"limbeck": __version__, **plan, **facts})


def load(folder: str | Path, *, trust_code: bool = False) -> nn.Module:
    """Return a trained student from the folder that a run wrote, in eval mode.

    Its preprocessing is part of it: it takes images (B, C, H, W) from 0 to 1, a list of texts or
    of a table's rows, and returns logits (B, C), or numbers in their own units. One that writes, a
    translator say, takes texts and returns texts: ``student(["A man."], num_beams=4)``.
    ``student.model`` is the bare network.

    Args:
        folder: a run's ``student/``.
        trust_code: whether a student that is built by ``package.module:function`` may be; that
            function is then imported and called. Students of Limbeck's own zoo need no trust.

    Raises:
        InputError: the folder is not a student's, a file in it is damaged, or it names code that
            was not trusted.
    """
    folder = Path(folder)
    if not (folder / "student.json").is_file():
        raise InputError(f"{folder} holds no student.json", expected="a run's folder student/")
    try:
        facts = read_json(folder / "student.json")
        plan = Blueprint(*(facts[key] for key in ("build", "args", "depth", "width")))
        if facts.get("reuse") is not None:
            plan = replace(plan, reuse=Reuse.read(facts["reuse"]))
        cut = {name: facts.get(name, {}) for name in ("sizes", "layers", "ranks")}
        plan = replace(plan, **cut)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{folder / 'student.json'} is damaged: {type(error).__name__}: {error}"
        ) from error
    if is_path(plan.build) and not trust_code:
        raise InputError(
            f"the student in {folder} is built by {plan.build}",
            consequence="Loading it would run that code.",
            remedy="If you know where the folder comes from: load(folder, trust_code=True).",
        )
    model = plan.model()
    load_weights(model, folder / "model.safetensors")
    if facts.get("reader") is not None:
        reader = readers.load(folder, facts["reader"])
        kind = _Writes if isinstance(reader, Writer) else _Raw
        return kind(reader, model).eval()
    normalize = facts.get("normalize")
    first = Normalize(**normalize) if normalize else nn.Identity()
    return nn.Sequential(OrderedDict(preprocess=first, model=model)).eval()


class _Raw(nn.Module):
    """A student that is called with raw samples, as users have them, and returns logits (B, C)."""

    def __init__(self, preprocess: Reader, model: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.model = model

    def forward(self, raw: Any) -> Tensor:
        device = next(self.model.parameters()).device
        inputs = tree_map(lambda tensor: tensor.to(device), self.preprocess(raw))
        answers = logits_of(call(self.model, inputs))
        if isinstance(self.preprocess, Answering):
            return self.preprocess.answered(answers)
        return answers


class _Writes(nn.Module):
    """A student that is called with texts and returns those that it writes, its translations say.

    Options are those of its ``generate``: ``num_beams=4``.
    """

    def __init__(self, preprocess: Any, model: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.model = model

    @torch.no_grad()
    def forward(self, raw: Sequence[str], **options: Any) -> list[str]:
        device = next(self.model.parameters()).device
        inputs = tree_map(lambda tensor: tensor.to(device), self.preprocess(raw))
        model: Any = self.model
        found: list[str] = self.preprocess.written(model.generate(**inputs, **options).tolist())
        return found


def _shapes(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], key: str) -> str:
    if key in own and key in theirs:
        return f", {tuple(theirs[key].shape)} for {tuple(own[key].shape)}"
    return ""
