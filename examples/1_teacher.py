"""Teacher: train a model that knows, or bring one. Here a small CNN on scikit-learn's digits."""

from pathlib import Path

import torch
from safetensors.torch import save_file

import limbeck as lb

OUT = Path("digits_example")


def make_teacher() -> torch.nn.Module:
    """Return the untrained teacher; any ``nn.Module`` will do."""
    return lb.students.zoo.build("cnn", channels=(32, 64), hidden=(128,), image=(1, 8, 8))


def main() -> None:
    digits = lb.data.sources.digits()
    teacher = make_teacher()
    task = lb.tasks.Classification(10)
    alone = lb.Distiller(None, teacher, task=task)  # no teacher: plain training
    fitted = lb.fit(alone, digits.train, validation=digits.validation, epochs=20, batch_size=64)
    best = fitted.history[fitted.best_epoch]["validation"]
    OUT.mkdir(exist_ok=True)
    save_file(fitted.best, OUT / "teacher.safetensors")
    print(f"teacher: {best['accuracy']:.1%} on the validation samples")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
