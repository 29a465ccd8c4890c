"""Batches that a student writes itself: the same after a stop, judged by a live teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from language import llama, sums, write_rows

import limbeck as lb
from limbeck.data import Data
from limbeck.data.sources import language
from limbeck.distill import OnPolicy
from limbeck.distill.feed import at_once, feed
from limbeck.errors import InputError
from limbeck.tasks import LanguageModelling


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("asked")
    write_rows(folder / "train.jsonl", [{"prompt": q, "answer": a} for q, a in sums(20)])
    return language(folder, tokenizer="characters", length=32)


def task_of(data: Data) -> LanguageModelling:
    return LanguageModelling(data.facts["targets"]["tokenizer"])


def distiller_of(data: Data) -> lb.Distiller:
    torch.manual_seed(0)
    vocab = data.facts["targets"]["vocab"]
    pair = llama(vocab, width=32), llama(vocab, layers=1)
    return lb.Distiller(*pair, task=task_of(data), method=lb.methods.jensen_shannon(alpha=0.5))


def fitted(data: Data, rewrite: Any, **more: Any) -> dict[str, torch.Tensor]:
    found = lb.fit(
        distiller_of(data), data.train, epochs=2, batch_size=4, rewrite=rewrite, compiled=False,
        precision="fp32", listener=lb.Silent(), **more,
    )  # fmt: skip
    return found.last


def test_a_fraction_of_the_steps(data: Data) -> None:
    """λ would be another one than the paper's, or the prompts' places would be scored."""
    task, batch = task_of(data), next(iter(lb.data.Loader(data.train, 4)))
    student = distiller_of(data).student
    student.train()
    policy = OnPolicy(task, fraction=0.3, seed=5)
    own = [step for step in range(60) if policy(batch, student, step) is not batch]
    assert 0.15 < len(own) / 60 < 0.45
    assert own == [step for step in range(60) if policy(batch, student, step) is not batch]
    assert student.training
    whole = OnPolicy(task, fraction=1.0)(batch, student, 0)
    out = distiller_of(data)(whole)
    assert float(out.terms["label"]) == 0.0
    own_knowledge, theirs = out.student.logits, out.teacher.logits
    expected = lb.losses.jensen_shannon(own_knowledge, theirs, mask=whole["counted"])
    assert float(out.terms["jensen_shannon"]) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_teacher_that_writes_along(data: Data) -> None:
    """Weights of another distribution than the one drawn from would lead anywhere in silence."""
    task, batch = task_of(data), next(iter(lb.data.Loader(data.train, 8)))
    distiller = distiller_of(data)
    teacher, student = distiller.teacher, distiller.student.eval()
    policy = OnPolicy(task, fraction=1.0, temperature=1.5, teacher=teacher, mix=0.3)
    found = policy(batch, student, 0)
    with torch.no_grad():
        own, theirs = (m(**found["inputs"]).logits for m in (student, teacher.module))
    mixed = 0.3 * theirs.softmax(-1) + 0.7 * (own / 1.5).softmax(-1)
    counts = found["counted"]
    likely = mixed.gather(-1, found["written"].unsqueeze(-1)).squeeze(-1).log()
    assert torch.allclose(found["likelihood"][counts], likely[counts], atol=1e-4)
    ids = found["inputs"]["input_ids"]
    follows = counts[:, :-1] & counts[:, 1:]
    assert torch.equal(found["written"][:, :-1][follows], ids[:, 1:][follows])
    assert not found["likelihood"][~counts].any()
    # Tokens are drawn from the mixture: what is likely for the teacher alone occurs as often.
    share = float(
        (theirs.softmax(-1) / mixed).gather(-1, found["written"].unsqueeze(-1))[counts].mean()
    )
    assert share == pytest.approx(1.0, abs=0.05)
    made = lb.Distiller(teacher, student, task=task, method=lb.methods.minillm())
    out = made(found)
    alone = {"written": found["written"], "likelihood": found["likelihood"], "mask": counts}
    expected = lb.losses.minillm(out.student.logits, out.teacher.logits, **alone)
    assert float(out.terms["minillm"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    with pytest.raises(InputError, match="a share from 0 to below 1"):
        OnPolicy(task, mix=0.2)


def test_the_same_bits_after_an_interruption(data: Data, tmp_path: Path) -> None:
    """Without it, a resumed run would write other texts than one that was never stopped."""
    policy = OnPolicy(task_of(data), fraction=0.6, seed=1)
    whole = fitted(data, policy)

    class StoppedError(Exception):
        pass

    def stopping(batch: Any, student: Any, step: int) -> Any:
        if step == 5:
            raise StoppedError
        return policy(batch, student, step)

    place = {"checkpoint_to": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
    with pytest.raises(StoppedError):
        fitted(data, stopping, **place)
    torch.manual_seed(99)
    resumed = fitted(data, policy, **place)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    plain = fitted(data, None)
    assert any(not torch.equal(whole[name], plain[name]) for name in whole)


def test_wrong_use_is_refused(data: Data, tmp_path: Path) -> None:
    """Stored answers are about other texts; they would be taken for what the teacher says."""
    with pytest.raises(InputError, match="a task whose models write"):
        OnPolicy(lb.tasks.Classification(3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a fraction above 0"):
        OnPolicy(task_of(data), fraction=0.0)
    teacher = lb.Teacher(llama(data.facts["targets"]["vocab"], width=32))
    lb.knowledge.write(tmp_path / "store", teacher, data.train, mask=task_of(data).mask)
    student = llama(data.facts["targets"]["vocab"], layers=1)
    replay = lb.Teacher.replay(tmp_path / "store", mask=task_of(data).mask)
    distiller = lb.Distiller(replay, student, task=task_of(data), method=lb.methods.kd())
    with pytest.raises(InputError, match=r"Set knowledge\.store to false"):
        lb.fit(distiller, data.train, epochs=1, rewrite=OnPolicy(task_of(data)))


def test_sequences_are_measured_in_batches_that_memory_holds(data: Data) -> None:
    """512 texts at once, with a logit for each word of a large vocabulary, would fill it."""
    device, labels = torch.device("cpu"), (torch.zeros(9, 2), torch.zeros(9, dtype=torch.int64))
    sequences = feed(data.train, 4, device, shuffle=True)
    assert at_once(sequences, task_of(data), 4) == 4
    assert at_once(feed(labels, 4, device), lb.tasks.Classification(2), 4) == 512
