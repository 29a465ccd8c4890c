"""Compress: the student loses a third of its weights, then most of their bits, and learns again."""

from importlib import import_module
from pathlib import Path

import torch

import limbeck as lb
from limbeck.compress import FakeQuantization, prune, static
from limbeck.evaluate import opened, size_bytes
from limbeck.evaluate.runtimes import logits_from
from limbeck.export import Signature, get

OUT = Path("digits_example")


def distil(student: torch.nn.Module, epochs: int) -> torch.nn.Module:
    """Let a student learn what the store says its teacher knows."""
    digits, teacher = lb.data.sources.digits(), lb.Teacher.replay(OUT / "store")
    learner = lb.Distiller(
        teacher, student, task=lb.tasks.Classification(10), method=lb.methods.kd(temperature=4)
    )
    lb.fit(learner, digits.train, validation=digits.validation, epochs=epochs, batch_size=64)
    return learner.release().eval()


def main() -> None:
    digits = lb.data.sources.digits()
    some = digits.validation.column("inputs")[:128]
    student = import_module("3_student").make_student()
    lb.students.load_weights(student, OUT / "student.safetensors")
    smaller = distil(prune(student, some, parameters=0.66, importance="group_norm"), epochs=30)

    rounded = FakeQuantization(smaller)  # convolutions and linear layers round, in training too
    distil(rounded.model, epochs=10)
    source, target = OUT / "student.onnx", OUT / "student-int8.onnx"
    get("onnx").write(rounded.plain(), Signature.of([some[:1], some[:1]]), source, {})
    static(source, target, [{"inputs": some.numpy()}], learnt=rounded.ranges())

    test, targets = digits.test.column("inputs"), digits.test.column("targets")
    for name, model in {"student": student.eval(), "pruned": smaller}.items():
        right = (model(test).argmax(1) == targets).float().mean()
        print(f"{name:<8} accuracy {right:6.1%}  {size_bytes(model):,} bytes")
    right = (logits_from(opened(target), test).argmax(1) == targets).float().mean()
    print(f"int8     accuracy {right:6.1%}  {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
