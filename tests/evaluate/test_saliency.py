"""On what answers rest, against values by hand, and the axiom that all parts add up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.data import Normalize
from limbeck.evaluate import integrated_gradients, traced
from limbeck.students.zoo.audio import audiogru
from limbeck.students.zoo.text import bag as bag_of_words


def _as_they_are(logits: Tensor) -> Tensor:
    return logits


def test_a_quadratic_score_has_the_values_by_hand() -> None:
    """Without it, the sum over the way could have wrong points or wrong weights."""
    x, start = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 2.0]])
    scale = torch.tensor([1.0, 0.5])
    found, gap, added = integrated_gradients(lambda p: (scale * p**2).sum(1), x, start, steps=2)
    # The integral of 2·s·p along the way, times the way: s·(x² − start²).
    assert found.tolist() == [pytest.approx([8.0, -1.5], abs=1e-5)]
    assert float(added) == pytest.approx(6.5)
    assert float(gap) == pytest.approx(0, abs=1e-5)


def test_the_parts_of_a_network_add_up() -> None:
    """Completeness (Sundararajan et al. 2017): without it, colours would mean nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)
    ).eval()
    first = Normalize((0.5,) * 3, (0.2,) * 3)
    pictures = torch.rand(5, 3, 8, 8)
    found = traced(model, pictures, lambda z: z.log_softmax(1), first=first)
    assert found is not None
    assert found.weights.shape == (5, 8, 8)
    with torch.no_grad():
        both = [model(first(p)) for p in (pictures, torch.zeros_like(pictures))]
    best = both[0].argmax(1, keepdim=True)
    scores = [logits.gather(1, best).squeeze(1) - logits.mean(1) for logits in both]
    wanted = scores[0] - scores[1]
    assert torch.allclose(found.added, wanted, atol=1e-5)
    assert torch.allclose(found.weights.sum((1, 2)), wanted, atol=1e-3)
    assert all(weight.grad is None for weight in model.parameters())


class _Summing(nn.Module):
    """Sums what an embedding makes of tokens, and a linear answer."""

    def __init__(self, vectors: Tensor, answer: Tensor) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(vectors)
        self.answer = answer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (self.words(input_ids) * attention_mask.unsqueeze(-1)).sum(1) @ self.answer


def test_tokens_of_linear_readers_weigh_what_their_vectors_say() -> None:
    """Without it, a word could have its neighbour's colour, or padding one of its own."""
    torch.manual_seed(0)
    vectors, answer = torch.randn(9, 4), torch.randn(4, 2)
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
    }
    scores = vectors @ answer
    summing = _Summing(vectors, answer)
    bag = bag_of_words(9, 4, classes=2)
    with torch.no_grad():
        bag.embedding.weight.copy_(vectors)
        bag.classifier.weight.copy_(answer.T)
        bag.classifier.bias.zero_()
    for model, counts in ((summing, (1, 1)), (bag, (3, 1))):
        found = traced(model.eval(), inputs, _as_they_are)
        assert found is not None
        assert found.seen is None
        for row, tokens in enumerate(([5, 6, 7], [8])):
            own = scores[tokens] / counts[row]
            best = int(own.sum(0).argmax())
            wanted = [*(own[:, best] - own.mean(1)).tolist(), 0.0, 0.0][:3]
            assert found.weights[row].tolist() == pytest.approx(wanted, abs=1e-5)


def test_sounds_are_seen_as_a_spectrum() -> None:
    """Without it, a spectrum could lie on its side, or show what follows the end."""
    torch.manual_seed(0)
    model = audiogru(8000, 4, depth=1, classes=3).eval()
    sound = torch.zeros(2, 1600)
    sound[0, 800:] = torch.sin(torch.arange(800) * 2 * torch.pi * 3000 / 8000)  # late and high
    mask = torch.ones(2, 1600)
    mask[1, 400:] = 0
    found = traced(model, {"waveform": sound, "mask": mask}, lambda z: z.log_softmax(1))
    assert found is not None
    assert found.seen is not None
    assert found.widths is not None
    assert found.widths.tolist() == [20, 5]
    assert found.seen.shape == (2, 1, 40, 20)
    loudest = found.seen[0, 0].flatten().argmax()
    down, across = divmod(int(loudest), 20)
    assert down < 12
    assert across >= 10
    assert float(found.gap.abs().max()) < 0.02 * float(found.added.abs().max()) + 1e-3


def test_what_cannot_be_drawn_is_left_alone() -> None:
    """Without it, a run on a table would fail at its end."""
    assert traced(nn.Linear(4, 2), torch.randn(3, 4), _as_they_are) is None
    clips = torch.rand(2, 3, 1, 4, 5)
    found = traced(nn.Sequential(nn.Flatten(), nn.Linear(60, 2)), clips, _as_they_are)
    assert found is not None
    assert found.weights.shape == (2, 4, 15)
