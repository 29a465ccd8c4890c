"""Student: a network fifteen times smaller learns from the store, and once more without it."""

from pathlib import Path

import torch
from safetensors.torch import save_file

import limbeck as lb

OUT = Path("digits_example")


def make_student() -> torch.nn.Module:
    """Return the untrained student."""
    torch.manual_seed(0)
    return lb.students.zoo.build("cnn", channels=(8, 16), hidden=(32,), image=(1, 8, 8))


def main() -> None:
    digits = lb.data.sources.digits()
    teacher = lb.Teacher.replay(OUT / "store")
    methods = {
        "student": lb.methods.kd(temperature=4, alpha=0.9)
        + lb.methods.at(weight=10, student=["pool2"], teacher=["pool2"]),
        "control": lb.methods.none(),
    }
    for name, method in methods.items():
        distiller = lb.Distiller(
            teacher, make_student(), task=lb.tasks.Classification(10), method=method
        )
        lb.fit(distiller, digits.train, validation=digits.validation, epochs=150, batch_size=64)
        save_file(distiller.student.state_dict(), OUT / f"{name}.safetensors")
        print(f"{name}: trained with {method.name}, ends as {type(distiller.student).__name__}")


if __name__ == "__main__":
    main()
