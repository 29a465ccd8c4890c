"""Pictures and texts: the loss against NumPy and CLIP's, retrieval against a count by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import InputError
from limbeck.evaluate import evaluate
from limbeck.losses.contrast import affinity_mimic
from limbeck.tasks import Comparing, ImageText, Telling


def _answers(count: int, labels: Tensor) -> Tensor:
    """Return embeddings, equal for equal captions."""
    texts = torch.randn(int(labels.max()) + 1, 5)[labels.clamp(min=0)]
    return torch.stack([torch.randn(count, 5) + texts, texts], dim=1)


def _batch(labels: Tensor) -> dict[str, Tensor]:
    return {
        "inputs": torch.zeros(len(labels), 1),
        "targets": labels,
        "id": torch.arange(len(labels)),
    }


def test_the_loss_as_numpy_computes_it() -> None:
    """Without it, equal captions could count as wrong answers."""
    labels = torch.tensor([0, 1, 0, -1, 2, 1])
    logits = _answers(6, labels)
    unit = F.normalize(logits.double(), dim=2).numpy()
    known = [n for n in range(6) if labels[n] >= 0]
    terms = []
    for one, other in ((0, 1), (1, 0)):
        for i in range(6):
            scores = {k: unit[i, one] @ unit[k, other] / 0.2 for k in known}
            total = np.log(sum(np.exp(s) for s in scores.values()))
            right = [k for k in known if labels[k] == labels[i]]
            terms.append(-np.mean([scores[k] - total for k in right]) if right else 0.0)
    loss = ImageText(temperature=0.2).label_loss(logits, _batch(labels))
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-5)


def test_different_captions_give_the_loss_of_clip() -> None:
    """Without it, the task could not be compared with the literature."""
    logits = torch.randn(7, 2, 4, requires_grad=True)
    image, text = F.normalize(logits, dim=2).unbind(1)
    scores = image @ text.T / 0.07
    right = torch.arange(7)
    expected = (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2
    torch.testing.assert_close(ImageText().label_loss(logits, _batch(right)), expected)


def test_nothing_is_learnt_where_no_pair_is_known() -> None:
    """Without it, a batch of unlabelled samples could give NaN."""
    logits = torch.randn(4, 2, 3, requires_grad=True)
    loss = ImageText().label_loss(logits, _batch(torch.full((4,), -1)))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("parts", [1, 4])
def test_recall_as_counted_by_hand(parts: int) -> None:
    """Without it, copies of a caption could count as wrong answers to a picture."""
    labels = torch.randint(0, 12, (70,))
    logits = _answers(70, labels)
    meter = ImageText().meter()
    for found, told in zip(logits.chunk(parts), labels.chunk(parts), strict=True):
        meter.update(found, _batch(told))
    unit = F.normalize(logits.double(), dim=2).numpy()
    captions = sorted(set(labels.tolist()))
    text = {c: unit[labels.tolist().index(c), 1] for c in captions}
    found = meter.compute().metrics
    for most in (1, 5):
        hits = []
        for row, label in enumerate(labels.tolist()):
            ranked = sorted(captions, key=lambda c: -(text[c] @ unit[row, 0]))
            hits.append(label in ranked[:most])
        assert found[f"image_to_text_at_{most}"] == pytest.approx(np.mean(hits))
        hits = []
        for caption in captions:
            ranked = sorted(range(70), key=lambda row: -(unit[row, 0] @ text[caption]))
            hits.append(any(labels[row] == caption for row in ranked[:most]))
        assert found[f"text_to_image_at_{most}"] == pytest.approx(np.mean(hits))
    both = found["image_to_text_at_1"], found["text_to_image_at_1"]
    assert found["recall_at_1"] == pytest.approx(sum(both) / 2)


def test_a_model_that_embeds_everything_alike_finds_nothing() -> None:
    """Ties by chance would make a collapsed model look good."""
    meter = ImageText().meter()
    meter.update(torch.ones(6, 2, 3), _batch(torch.arange(6)))
    assert set(meter.compute().metrics.values()) == {0.0}


def test_fidelity_and_words_do_not_depend_on_axes() -> None:
    """Without it, a space that is turned would count as another answer."""
    task = ImageText(("a dog", "a cat", "a cow"))
    labels = torch.tensor([0, 1, 2, 1, 0])
    logits = _answers(5, labels)
    turned = logits @ torch.linalg.qr(torch.randn(5, 5)).Q * 2
    assert isinstance(task, Comparing)
    assert isinstance(task, Telling)
    batch = _batch(labels)
    found = evaluate({"turned": lambda _: turned}, [batch], task, reference=lambda _: logits)
    assert found["turned"].fidelity["agreement"] == 1
    assert found["turned"].fidelity["kl"] == pytest.approx(0, abs=1e-5)
    assert not task.apart(logits, turned, batch).any()
    nearest = F.normalize(logits, dim=2)[0, 0] @ F.normalize(logits[[0, 1, 2], 1], dim=1).T
    told = task.told(logits, batch, 0)
    assert told["answer"] == task.labels[int(nearest.argmax())]
    assert told["right"] == (int(nearest.argmax()) == 0)
    assert task.wanted(batch, 3) == "a cat"


def test_affinities_do_not_tell_which_picture_belongs_to_which_text() -> None:
    """With hidden labels, a loss that read the diagonal would use what it is not to know."""
    own, theirs = (torch.randn(6, 4), torch.randn(6, 4)), (torch.randn(6, 3), torch.randn(6, 3))
    order = torch.randperm(6)
    mixed = [(image, text[order]) for image, text in (own, theirs)]
    torch.testing.assert_close(affinity_mimic(*mixed), affinity_mimic(own, theirs))


def test_wrong_input() -> None:
    task = ImageText(("a", "b"))
    with pytest.raises(InputError, match="sample 1 has label 2"):
        task.check(_batch(torch.tensor([0, 2])))
    with pytest.raises(InputError, match=r"\(B, 2, D\)"):
        task.check_logits(torch.zeros(4, 7), "student")
    with pytest.raises(InputError, match="a temperature of 0"):
        ImageText(temperature=0)
    with pytest.raises(InputError, match="no sample had a label"):
        task.meter().compute()
