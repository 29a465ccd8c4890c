"""Models that read texts: what padding must not change, and what a folder must hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from texts import sentences, write_bert
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.knowledge.model import call, logits_of
from limbeck.knowledge.stages import stages
from limbeck.students import Blueprint, load, load_weights, save, shrink, zoo

NAMES = ("bag", "bilstm", "textcnn", "transformer")
TINY = {
    "model_type": "bert", "vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 4,
    "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32,
}  # fmt: skip


def _model(name: str, **args: Any) -> nn.Module:
    return zoo.build(name, **{"vocab": 50, "width": 8, "classes": 3} | args).eval()


def _batch(lengths: list[int], width: int) -> dict[str, Tensor]:
    ids = torch.randint(1, 50, (len(lengths), width))
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_neighbours_change_nothing(name: str) -> None:
    """Without it, an answer would depend on which other texts are in the batch."""
    model, batch = _model(name), _batch([7, 3, 1], 7)
    with torch.no_grad():
        together = model(**batch)
        wider = model(**{k: nn.functional.pad(t, (0, 5)) for k, t in batch.items()})
        garbled = batch | {"input_ids": batch["input_ids"] + 9 * (1 - batch["attention_mask"])}
        for row, length in enumerate((7, 3, 1)):
            alone = model(**{k: t[row : row + 1, :length] for k, t in batch.items()})
            torch.testing.assert_close(alone[0], together[row])
        torch.testing.assert_close(wider, together)
        torch.testing.assert_close(model(**garbled), together)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns_and_the_config_builds_it_again(name: str) -> None:
    """Without it, a part could be left out of the forward pass, or of the blueprint."""
    model = _model(name, dropout=0.0).train()
    model(**_batch([5, 6, 2, 4], 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    config = json.loads(json.dumps(model.config))
    again = zoo.build(config["build"], **config["args"])
    assert {k: t.shape for k, t in again.state_dict().items()} == {
        k: t.shape for k, t in model.state_dict().items()
    }


def test_a_bag_is_the_mean_of_its_words() -> None:
    """Without it, padding could weigh in the mean."""
    model = _model("bag")
    batch = _batch([4, 2], 4)
    words = model.embedding.weight[batch["input_ids"]]
    means = torch.stack([words[0].mean(0), words[1, :2].mean(0)])
    torch.testing.assert_close(model(**batch), model.classifier(means))


def test_bf16_runs_in_all_of_them() -> None:
    """Without it, automatic precision would break one of the models on newer processors."""
    for name in NAMES:
        with torch.autocast("cpu", torch.bfloat16):
            found = _model(name)(**_batch([5, 3], 5))
        assert torch.isfinite(found.float()).all()


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("bag", {"vocab": 0}, "vocab is 0"),
        ("bag", {"padding": 60}, "vocab is 50"),
        ("textcnn", {"kernels": 3}, "kernels is 3"),
        ("bilstm", {"dropout": 1.0}, "dropout is 1.0"),
        ("transformer", {"width": 9, "heads": 2}, "a width of 9 for 2 heads"),
    ],
)
def test_wrong_arguments(name: str, args: dict[str, Any], message: str) -> None:
    """Without it, a wrong size would end in an error of PyTorch, or in none."""
    with pytest.raises(InputError, match=message):
        _model(name, **args)


def test_a_text_longer_than_the_positions() -> None:
    """Without it, the message would be an index out of range inside an embedding."""
    with pytest.raises(InputError, match="texts of 9 tokens"):
        _model("transformer", positions=8)(**_batch([9], 9))


@pytest.mark.parametrize("name", NAMES)
def test_they_shrink(name: str) -> None:
    """Without it, the families could lack a rule, or the rule grow them."""
    model = _model(name, **({"layers": 2} if name == "bilstm" else {}))
    small = shrink(model, depth=0.5, width=0.5)
    sizes = [sum(p.numel() for p in each.parameters()) for each in (small, model)]
    assert sizes[0] < 0.7 * sizes[1]
    assert small(**_batch([3, 2], 3)).shape == (2, 3)


# -- Hugging Face


@pytest.fixture
def transformers() -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path, transformers: Any) -> Path:
    return write_bert(tmp_path / "bert", [text for text, _ in sentences(16)])


def test_pretrained_weights_are_read_and_the_head_is_drawn(folder: Path) -> None:
    """Without it, a model could begin at random while it is called pretrained."""
    first, second = (_seeded(seed, path=folder) for seed in (0, 1))
    assert first.bert.embeddings.word_embeddings.weight.equal(
        second.bert.embeddings.word_embeddings.weight
    )
    assert not first.classifier.weight.equal(second.classifier.weight)
    assert _seeded(0, path=folder).classifier.weight.equal(first.classifier.weight)
    assert first.dtype == torch.float32


def _seeded(seed: int, **args: Any) -> Any:
    torch.manual_seed(seed)
    return zoo.build("huggingface", **{"classes": 3} | args)


def test_layers_are_copied_when_it_shrinks(folder: Path) -> None:
    """Without it, a student would begin with other layers than it says, or at random."""
    model = _seeded(0, path=folder)
    small = shrink(model, depth=0.75)
    assert small.config.num_hidden_layers == 3
    own, theirs = small.bert.encoder.layer, model.bert.encoder.layer
    for new, old in enumerate((0, 2, 3)):
        for one, other in zip(own[new].parameters(), theirs[old].parameters(), strict=True):
            assert one.equal(other)
            assert one is not other
    assert small.classifier.weight.equal(model.classifier.weight)
    inputs = {"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.ones(1, 2).long()}
    assert stages(small, inputs) == [f"bert.encoder.layer.{n}" for n in range(3)]
    narrow = shrink(model, width=0.5)
    assert (narrow.config.hidden_size, narrow.config.num_attention_heads) == (8, 1)
    assert narrow.config.intermediate_size == 16


def test_it_ships_without_its_folder(folder: Path, tmp_path: Path) -> None:
    """Without it, a student could be loaded only where its teacher's folder is."""
    plan = Blueprint("huggingface", {"path": str(folder), "classes": 3}, depth=0.5)
    model = plan.model().eval()
    save(tmp_path / "student", model, plan, {"normalize": None})
    told = (tmp_path / "student" / "student.json").read_text()
    assert str(tmp_path) not in told
    for file in folder.iterdir():
        file.unlink()
    again = load(tmp_path / "student").model
    inputs = {"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.ones(1, 2).long()}
    with torch.no_grad():
        assert logits_of(call(again, inputs)).equal(logits_of(call(model, inputs)))


def test_a_trained_classifier_is_taken_by_its_weights(tmp_path: Path, transformers: Any) -> None:
    """Without it, a fine-tuned model of one's own would have to be trained again."""
    texts = [text for text, _ in sentences(16)]
    folder = write_bert(tmp_path / "bert", texts, classes=3)
    model = _seeded(0, path=folder)
    other = _seeded(1, path=folder)
    assert model.classifier.weight.equal(other.classifier.weight)
    fresh = _seeded(2, config=zoo.portable("huggingface", {"path": folder, "classes": 3})["config"])
    load_weights(fresh, folder / "model.safetensors")
    assert fresh.classifier.weight.equal(model.classifier.weight)
    with pytest.raises(InputError, match=r"tells 3 classes apart.*Expected: 2"):
        _seeded(0, path=folder, classes=2)


def test_what_decides_what_the_model_is(folder: Path) -> None:
    """Without it, other weights in the same folder would pass for the same teacher."""
    names = {file.name for file in zoo.files("huggingface", {"path": folder})}
    assert names == {"config.json", "model.safetensors"}
    assert zoo.files("bag", {}) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "a Hugging Face model without a path"),
        ({"path": "nowhere"}, "there is no Hugging Face model in nowhere"),
        ({"config": {"hidden_size": 8}}, "model_type"),
        ({"config": {"model_type": "berd"}}, "no sequence classifier could be made"),
        ({"config": TINY, "positions": 64}, "64 tokens for a model with 32 positions.*length=32"),
    ],
)
def test_wrong_models(args: dict[str, Any], message: str, transformers: Any) -> None:
    """Without it, the package would ask the network, or answer with a traceback."""
    with pytest.raises(InputError, match=message):
        zoo.build("huggingface", classes=2, **args)


def test_a_damaged_file(folder: Path) -> None:
    """Without it, half a download would end in a traceback."""
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="no sequence classifier could be made from"):
        zoo.build("huggingface", classes=2, path=folder)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a ModuleNotFoundError would not say what to install."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"limbeck\[text\]"):
        zoo.build("huggingface", config=TINY, classes=2)
