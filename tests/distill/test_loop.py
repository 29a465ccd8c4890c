"""The loop: equal results by any way of computing them, exact resume, stopping, choosing."""

from __future__ import annotations

import copy
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.data import Arrays, Augmentation, Crop, Flip, Loader
from limbeck.distill import optim, plan

TASK = lb.tasks.Classification(4)


def _data(count: int = 96) -> Arrays:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    return Arrays.of(inputs=images, targets=(images.mean((1, 2, 3)) * 40).long().clamp(0, 3))


def _student(seed: int = 0, *, dropout: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    body: list[nn.Module] = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*body, nn.Dropout(0.3 if dropout else 0.0), nn.Linear(384, 4))


def _fit(student: nn.Module, data: Arrays | None = None, **options):
    teacher = options.pop("teacher", None)
    method = options.pop("method", lb.methods.kd() if teacher else None)
    distiller = lb.Distiller(teacher, student, task=TASK, method=method)
    settings = {
        "epochs": 3, "batch_size": 16, "optimizer": optim.optimizer("sgd", lr=0.05, momentum=0.9),
        "precision": "fp32", "channels_last": False, "listener": lb.Silent(),
    }  # fmt: skip
    return lb.fit(distiller, data or _data(), **settings | options)


def _equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class _Stop:
    """Interrupts at a step, as Ctrl-C does."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def step(self, done: int, total: int) -> None:
        self.seen = done
        if done >= self.at:
            self.at = total + 1
            os.kill(os.getpid(), signal.SIGINT)

    def epoch(self, record: dict) -> None:
        """Nothing."""


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_parts_give_the_whole_batchs_weights(accumulate: int) -> None:
    """Without it, saving memory could change the scale of the gradient."""
    whole, parts = _student(), _student()
    teacher = _student(9)
    _fit(whole, teacher=teacher)
    _fit(parts, teacher=teacher, accumulate=accumulate)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("at", [1, 7, 12])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_interrupted_and_resumed_training_ends_with_the_same_bits(
    at: int, ema: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a resumed training could silently repeat or lose steps, dropout or momentum."""
    monkeypatch.setattr("limbeck.distill.loop._LOOK_SECONDS", 0.0)
    data, teacher = _data(), _student(9)
    options = {
        "teacher": teacher, "validation": data, "ema": ema, "clip": 1.0, "seed": 3,
        "augment": Augmentation((Crop(1), Flip())),
    }  # fmt: skip
    straight = _student(dropout=True)
    expected = _fit(straight, data, **options)
    stopped, file = _student(dropout=True), tmp_path / "state" / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        _fit(stopped, data, **options, checkpoint_to=file, listener=_Stop(at))
    torch.rand(5)  # the generator's state must come from the checkpoint
    again = _student(seed=5, dropout=True)
    resumed = _fit(again, data, **options, checkpoint_to=file)
    assert _equal(straight, again)
    assert all(torch.equal(expected.last[k], resumed.last[k]) for k in expected.last)
    assert resumed.best_epoch == expected.best_epoch
    for one, two in zip(expected.history, resumed.history, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    """Without it, the weights of one student could end up in another."""
    file = tmp_path / "checkpoint.pt"
    _fit(_student(), epochs=1, checkpoint_to=file, checkpoint_seconds=0.0)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(lb.InputError, match="of another training"):
        _fit(other, checkpoint_to=file)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    """Without it, half a file would end in a traceback."""
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(lb.InputError, match="damaged"):
        _fit(_student(), checkpoint_to=file)


def test_the_student_is_left_in_eval_mode_with_its_best_weights_and_no_hooks() -> None:
    """Without it, what ships could be the last epoch, or carry the distiller's hooks."""
    data, student = _data(), _student()
    fitted = _fit(student, data, validation=data, teacher=_student(9), epochs=4)
    scores = [record["validation"]["accuracy"] for record in fitted.history]
    assert fitted.best_epoch == max(e for e, score in enumerate(scores) if score == max(scores))
    assert all(torch.equal(student.state_dict()[name], t) for name, t in fitted.best.items())
    assert not student.training
    assert not any(module._forward_hooks for module in student.modules())


def test_training_mode_is_back_after_each_validation() -> None:
    """Without it, the student would train in eval mode after the first epoch (KD_Lib's defect)."""
    data, student = _data(), _student(dropout=True)
    modes: list[bool] = []
    hook = student[3].register_forward_pre_hook(lambda module, args: modes.append(module.training))
    _fit(student, data, validation=data, epochs=2, batch_size=96)
    hook.remove()
    # Two dry runs (the taps, the arithmetic), then train and validate twice.
    assert modes == [False, False, True, False, True, False]


def test_early_stopping_counts_epochs_without_a_better_one() -> None:
    """Without it, patience could be off by one, or never end."""
    data, student = _data(), _student()
    frozen = optim.optimizer("sgd", lr=1e-12)
    fitted = _fit(student, data, validation=data, epochs=20, patience=3, optimizer=frozen)
    assert len(fitted.history) == 4  # the first, then three that were no better
    assert fitted.best_epoch == 3  # of equally good epochs the last


def test_the_average_is_what_is_kept() -> None:
    """Without it, ema= could be computed and then thrown away."""
    data, teacher = _data(), _student(9)
    seen: list[dict[str, torch.Tensor]] = []
    plain, averaged = _student(), _student()
    _fit(plain, data, teacher=teacher, epochs=1)

    student = _student()
    distiller = lb.Distiller(teacher, student, task=TASK, method=lb.methods.kd()).train()
    made = optim.optimizer("sgd", lr=0.05, momentum=0.9)(distiller.parameters())
    rate = optim.one_cycle()(made, 6)
    torch.manual_seed(0)
    for batch in Loader(data, 16, shuffle=True).epoch(0):
        made.zero_grad()
        distiller(batch).loss.backward()
        made.step()
        rate.step()
        seen.append({k: v.detach().clone() for k, v in student.state_dict().items()})
    expected = seen[0]
    for state in seen[1:]:
        expected = {name: 0.5 * value + 0.5 * state[name] for name, value in expected.items()}
    _fit(averaged, data, teacher=teacher, epochs=1, ema=0.5)
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not _equal(plain, averaged)


def test_scheduled_weights_follow_the_progress_of_training() -> None:
    """Without it, a warm-up of the teacher's weight could never begin or never end."""
    seen: list[float] = []

    def schedule(progress: float) -> float:
        seen.append(progress)
        return progress

    match = lb.Match("logits", "logits", lb.losses.kl, weight=schedule)
    _fit(_student(), teacher=_student(9), method=match, epochs=2, batch_size=48)
    assert seen[-4:] == [0.0, 0.25, 0.5, 0.75]


def test_a_loss_that_is_no_number_stops_with_its_terms_named() -> None:
    """Without it, hours could be spent on NaN."""
    explode = lb.Match("logits", "logits", lambda student, teacher: student.sum() * float("nan"))
    with pytest.raises(
        lb.InputError, match=r"NaN or infinite in epoch 1.*terms: loss, label, <lambda>"
    ):
        _fit(_student(), teacher=_student(9), method=explode)


def test_bad_labels_and_inputs_are_told_before_they_do_harm() -> None:
    """Without it, a label out of range would be an IndexError, or foreign memory on a GPU."""
    data = _data()
    wrong = Arrays.of(inputs=data.fields["inputs"], targets=data.fields["targets"] + 3)
    with pytest.raises(lb.InputError, match=r"sample \d+ has label \d.*0 to 3"):
        _fit(_student(), wrong)
    images = data.fields["inputs"].clone()
    images[17, 0, 3, 3] = float("nan")
    with pytest.raises(lb.InputError, match="sample 17 holds NaN"):
        _fit(_student(), Arrays.of(inputs=images, targets=data.fields["targets"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "0 epochs"),
        ({"accumulate": 0}, "at least 1"),
        ({"ema": 1.5}, "decay between 0 and 1"),
        ({"precision": "fp8"}, "precision 'fp8' is not known"),
        ({"precision": "fp16"}, "fp16 on a CPU"),
        ({"batch_size": 0}, "batches of 0"),
        ({"trackers": ["tensorbord"]}, "tensorbord"),
    ],
)
def test_wrong_settings_are_told(options: dict, message: str) -> None:
    """Without it, a typing error could start a long training of something else."""
    with pytest.raises(lb.InputError, match=message):
        _fit(_student(), **options)


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    """Without it, trackers could be accepted and never told anything."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = _data()
    _fit(
        _student(), data, validation=data, trackers=["tensorboard"], epochs=2,
        checkpoint_to=tmp_path / "checkpoint.pt",
    )  # fmt: skip
    log = EventAccumulator(str(tmp_path / "limbeck"))
    log.Reload()
    assert len(log.Scalars("train/loss")) == 2
    assert "validation/accuracy" in log.Tags()["scalars"]


@pytest.mark.parametrize(
    ("model", "without_amx"),
    [("resnet8", "bf16"), ("mobilenet_v2", "fp32"), ("narrow", "fp32"), ("wide", "bf16")],
)
def test_precision_is_half_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, model: str, without_amx: str
) -> None:
    """Without it, ``auto`` slows depthwise and narrow networks down; benchmarks/precision.py."""
    widths = {"narrow": 64, "wide": 256}
    made = nn.Linear(widths[model], 10) if model in widths else lb.students.zoo.build(model)
    for found, expected in (
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16"),
        ({"avx512_bf16": True}, without_amx),
        ({}, "fp32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert plan(made, torch.device("cpu")).precision == expected


def test_mixed_precision_trains_and_leaves_float32_weights() -> None:
    """Without it, autocast could leave its wrapper on the distiller, or half-precision weights."""
    student = _student()
    teacher = _student(9)
    before = lb.Distiller.forward
    fitted = _fit(student, teacher=teacher, precision="bf16", channels_last=True)
    assert fitted.history[-1]["train"]["loss"] < fitted.history[0]["train"]["loss"]
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert lb.Distiller.forward is before
    full = _student()
    _fit(full, teacher=teacher)
    for a, b in zip(student.parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.02)


def test_compiled_training_equals_plain_training() -> None:
    """Without it, taps or the teacher could be lost inside torch.compile."""
    plain, compiled = _student(), _student()
    teacher = _student(9)
    method = lb.methods.kd() + lb.methods.fitnets(weight=1.0, student="0", teacher="0")
    for student, option in ((plain, False), (compiled, True)):
        _fit(student, teacher=teacher, method=method, epochs=1, compiled=option)
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_users_dataloader_and_dataset_work_as_data() -> None:
    """Without it, users would have to rewrite their data to try Limbeck."""
    data = _data()
    tensors = torch.utils.data.TensorDataset(data.fields["inputs"], data.fields["targets"])
    loader = torch.utils.data.DataLoader(tensors, batch_size=16, shuffle=True)
    for source in (tensors, loader, (data.fields["inputs"].numpy(), data.fields["targets"])):
        fitted = _fit(_student(), source, validation=source, epochs=1)
        assert fitted.history[0]["steps"] == 6


def test_training_works_outside_the_main_thread() -> None:
    """Without it, the handler of Ctrl-C would break notebooks' and servers' threads."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            _fit(_student(), epochs=1)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


def test_deterministic_mode_is_put_back() -> None:
    """Without it, one deterministic training would slow down all that follows."""
    _fit(_student(), epochs=1, deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_copy_of_the_student_can_be_trained_on() -> None:
    """Without it, a second training could find the first one's hooks or wrappers."""
    student = _student()
    _fit(student, teacher=_student(9))
    again = copy.deepcopy(student)
    _fit(again, teacher=_student(9), epochs=1)
    assert not _equal(student, again)


def test_a_dataloader_resumes_to_the_same_bits_from_the_end_of_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a DataLoader's own shuffling would silently give some samples twice."""
    monkeypatch.setattr("limbeck.distill.loop._LOOK_SECONDS", 0.0)
    data = _data()
    tensors = torch.utils.data.TensorDataset(data.fields["inputs"], data.fields["targets"])

    def loader() -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(tensors, batch_size=16, shuffle=True)

    straight, again, file = _student(), _student(), tmp_path / "checkpoint.pt"
    _fit(straight, loader())
    with pytest.raises(KeyboardInterrupt):
        _fit(
            _student(), loader(), checkpoint_to=file, checkpoint_seconds=0.0, listener=_Stop(9)
        )  # in the middle of the second epoch
    _fit(again, loader(), checkpoint_to=file)
    assert _equal(straight, again)
