"""Losses between language models: what TRL's trainer for GKD gives on the same tensors."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from recorded import ORACLES, Recorded, _case
from torch import Tensor

from limbeck import losses
from limbeck.students import zoo

RECORD = json.loads((ORACLES / "generalized_jsd.json").read_text(encoding="utf-8"))
CASES = [
    (found["loss"], _case(f"{found['loss']}-beta{found['beta']}-{number}", found))
    for number, found in enumerate(RECORD["cases"])
]


def test_all_kinds_are_recorded() -> None:
    """An empty or thinned record would pass without comparing anything."""
    assert RECORD["release"] == "1.16.0"
    betas = {found["beta"] for found in RECORD["cases"]}
    assert betas == {0.0, 0.1, 0.25, 0.5, 0.9, 1.0}
    assert {name for name, _ in CASES} == {"kl", "jensen_shannon", "reverse_kl"}


@pytest.mark.parametrize(("name", "case"), CASES, ids=lambda value: getattr(value, "name", ""))
def test_equal_to_trl(name: str, case: Recorded) -> None:
    """A side, a T² or a mean over other tokens would differ from what users of TRL know."""
    assert not case.breaches(losses.get(name))


def test_the_vocabulary_in_chunks_is_the_same() -> None:
    """Logits of a large vocabulary need not be held: with a real model nothing may depend on it."""
    torch.manual_seed(0)
    config = {
        "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "tie_word_embeddings": True,
    }  # fmt: skip
    student = zoo.build("huggingface", config=config, head="causal_lm", vocab=40)
    teacher = zoo.build("huggingface", config=config, head="causal_lm", vocab=40)
    tokens = torch.randint(40, (2, 6))
    targets = tokens.roll(-1, 1).index_fill(1, torch.tensor([0, 5]), -100)
    mask, known = targets != -100, teacher(input_ids=tokens).logits.detach()

    def gradients(loss: Tensor) -> list[Tensor]:
        student.zero_grad()
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in student.parameters())]

    logits = student(input_ids=tokens).logits
    label = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    dense = losses.jensen_shannon(logits, known, beta=0.9, mask=mask) + 0.5 * label
    hidden = student.model(input_ids=tokens).last_hidden_state
    fused = losses.fused_linear(
        losses.jensen_shannon, hidden, student.lm_head, known, targets=targets, label_weight=0.5,
        mask=mask, chunk=3, beta=0.9,
    )  # fmt: skip
    for one, other in zip(gradients(dense), gradients(fused), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
