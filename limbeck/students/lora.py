"""Students that learn small additions to weights that stay as they are (LoRA), through ``peft``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from limbeck.errors import InputError
from limbeck.imports import needed

__all__ = ["Lora"]

_ALL = "all-linear"


@dataclass(frozen=True)
class Lora:
    r"""How a model gets additions of low rank: W + (α/r)·B·A, of which only A and B learn.

    B begins at zero, so that the model begins as it was. Needs the extra ``limbeck[lora]``.

    Attributes:
        rank: r.
        alpha: α; 0 is twice the rank.
        dropout: of what enters A, while it learns.
        targets: the names of the linear layers that get additions, as they end: ``q_proj``; or
            ``all-linear``, all but the output layer.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
    """

    rank: int = 8
    alpha: float = 0.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] = _ALL

    def facts(self) -> dict[str, Any]:
        """Return it as JSON keeps it."""
        return asdict(self)

    def applied(self, model: nn.Module) -> nn.Module:
        """Give a model additions in place, and freeze all else; return it.

        Raises:
            InputError: the model has no such layers; ``all-linear`` needs one of transformers.
        """
        peft = needed("peft", "lora")
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha or 2 * self.rank,
            lora_dropout=self.dropout,
            target_modules=targets if targets == _ALL or isinstance(targets, list) else [targets],
        )
        try:
            made: nn.Module = peft.inject_adapter_in_model(config, model)
        except ValueError as error:
            linear = {
                n.rpartition(".")[2] for n, m in model.named_modules() if not any(m.children())
            }
            raise InputError(
                f"{type(model).__name__} has no layers {targets} that could get additions",
                expected=f"some of {', '.join(sorted(linear))}; or {_ALL}, of transformers' models",
                remedy="Change student.lora.targets.",
            ) from error
        for name, weight in made.named_parameters():
            weight.requires_grad_("lora_" in name)
        return made

    def merged(self, model: nn.Module) -> nn.Module:
        """Add the additions to the weights in place; return a model without them."""
        layer = needed("peft", "lora").tuners.lora.LoraLayer
        found = [(name, part) for name, part in model.named_modules() if isinstance(part, layer)]
        for name, part in found:
            part.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, part.get_base_layer())
        vars(model).pop("peft_config", None)  # with which the package marks what has additions
        return model.requires_grad_(True)
