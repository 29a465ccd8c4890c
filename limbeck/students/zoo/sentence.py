"""Sentence embeddings from a Transformer that reads tokens.

Letters: B samples, T tokens, D features.
"""

from __future__ import annotations

from typing import Any, final

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MeanPooled"]


@final
class MeanPooled(nn.Module):
    """A Transformer and the mean of what it makes of a text's tokens, of length 1: (B, D).

    Sentence encoders are trained so (Reimers and Gurevych 2019, "Sentence-BERT",
    arXiv:1908.10084); padding is left out of the mean.

    Args:
        module: a model of ``transformers`` without a head, whose files hold its weights.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.config: Any = module.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return embeddings (B, D) of tokens (B, T)."""
        states = self.module(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        keep = attention_mask.unsqueeze(-1).to(states.dtype)
        total = (states * keep).sum(dim=1)
        return F.normalize((total / keep.sum(dim=1).clamp(min=1)).float(), dim=-1)
