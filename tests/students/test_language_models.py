"""Language models of Hugging Face in the zoo: made smaller, and built without their folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from language import llama, story, write_llama

from limbeck.errors import InputError
from limbeck.students import Blueprint, shrink, zoo

TOKENS = torch.arange(6).view(1, 6)


def test_smaller_ones_of_a_family() -> None:
    """Shared keys, and lists with an entry for each layer, would not fit the smaller model."""
    qwen = zoo.build(
        "huggingface", head="causal_lm", vocab=30, config={
            "model_type": "qwen3", "hidden_size": 16, "num_hidden_layers": 4, "head_dim": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32,
        },
    )  # fmt: skip
    for model in (qwen, llama(30, layers=4)):
        half: Any = shrink(model, depth=0.5)
        assert half(input_ids=TOKENS).logits.shape == (1, 6, 30)
        kept = half.state_dict()["model.layers.1.mlp.up_proj.weight"]
        assert torch.equal(kept, model.state_dict()["model.layers.3.mlp.up_proj.weight"])
        narrow: Any = shrink(model, width=0.5)
        assert narrow(input_ids=TOKENS).logits.shape == (1, 6, 30)
        config = narrow.config
        assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)


def test_built_again_without_the_folder(tmp_path: Path) -> None:
    """What ships would not load where its teacher's folder is not at hand."""
    folder = write_llama(tmp_path / "llama", [story(20)])
    args = {"path": str(folder), "head": "causal_lm", "classes": 0}
    model: Any = zoo.build("huggingface", **args)
    stored = Blueprint("huggingface", args).portable()
    assert "path" not in stored
    again: Any = zoo.build("huggingface", **stored)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
    with pytest.raises(InputError, match="a tokenizer of 99 tokens for a model that knows"):
        zoo.build("huggingface", **args, vocab=99)
