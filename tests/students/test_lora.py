"""Students that learn additions to their weights: only these learn, and nothing of them ships."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from language import llama, story, write_llama

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import load
from limbeck.students import Lora

pytest.importorskip("peft")


def test_begins_as_it_was_and_merges_exactly() -> None:
    """A student that begins elsewhere has lost its pretraining; a wrong merge ships another one."""
    torch.manual_seed(0)
    model, tokens = llama(30).double(), torch.randint(30, (2, 7))
    before, size = model(input_ids=tokens).logits, sum(p.numel() for p in model.parameters())
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    lora = Lora(rank=2, alpha=6.0)
    lora.applied(model)
    assert torch.equal(model(input_ids=tokens).logits, before)
    learning = {name: w for name, w in model.named_parameters() if w.requires_grad}
    assert all("lora_" in name and "head" not in name for name in learning)
    with torch.no_grad():
        for weight in learning.values():
            weight.normal_()
    expected, down, up = (
        model(input_ids=tokens).logits,
        *(
            next(w for n, w in learning.items() if "0.self_attn.q_proj" in n and part in n)
            for part in ("lora_A", "lora_B")
        ),
    )
    merged = lora.merged(model)
    torch.testing.assert_close(merged(input_ids=tokens).logits, expected)
    name = "model.layers.0.self_attn.q_proj.weight"
    found = merged.state_dict()
    assert found.keys() == kept.keys()
    torch.testing.assert_close(found[name], kept[name] + 3 * up @ down)  # α / r
    assert sum(p.numel() for p in merged.parameters()) == size
    with pytest.raises(InputError, match=r"no layers .*q_prj.* some of .*q_proj"):
        Lora(targets=("q_prj",)).applied(merged)


def test_a_recipe_with_additions(tmp_path: Path) -> None:
    """Its control must learn additions too, and what ships must need neither peft nor a folder."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "story.txt").write_text(story(50), encoding="utf-8")
    for name, width in (("llama", 16), ("large", 32)):
        write_llama(tmp_path / name, [story(50)], width=width)
    own, theirs = (f"{{head: causal_lm, path: {tmp_path / name}}}" for name in ("llama", "large"))
    changes = [
        f"data.path={tmp_path / 'texts'}", "data.args={length: 24, asked: 8}", "seeds=[0]",
        f"teacher.args={theirs}", f"student.args={own}", "student.lora={rank: 2}",
        "train.epochs=1", "teacher.train.epochs=1", "train.batch_size=8", "knowledge.codec=top8",
        "evaluate.seconds=0.01",
        "evaluate.batch_size=4",
    ]  # fmt: skip
    out = pipeline.run(load("language-model", changes), tmp_path / "run")
    cost = read_json(out / "report.json")["models"]["student"]["cost"]
    student = lb.students.load(out / "student")
    assert cost["parameters"] == sum(p.numel() for p in student.parameters())
    base = lb.students.read_weights(tmp_path / "llama" / "model.safetensors")
    shipped = lb.students.read_weights(out / "student" / "model.safetensors")
    changed = {name for name in base if not torch.equal(base[name], shipped[name])}
    assert base.keys() == shipped.keys()
    assert changed
    assert all("proj" in name for name in changed)
    for role in ("student", "control"):
        kept = lb.students.read_weights(out / "stages" / f"{role}-0" / "best.safetensors")
        assert any("lora_A" in name for name in kept)
