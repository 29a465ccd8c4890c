"""In the Hugging Face Trainer: its model is the distiller, and the loss comes from it."""

from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

import limbeck as lb


class Digits(Dataset[dict[str, torch.Tensor]]):
    """Digits as the Trainer likes samples: mappings."""

    def __init__(self) -> None:
        train = lb.data.sources.digits().train
        self.images, self.labels = train.column("inputs"), train.column("targets")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


class DistillationTrainer(Trainer):
    """A Trainer whose loss is the distiller's."""

    def compute_loss(
        self, model: torch.nn.Module, inputs: Any, return_outputs: bool = False, **_: Any
    ) -> Any:
        out = model(inputs)
        return (out.loss, {"logits": out.student.logits}) if return_outputs else out.loss


def main() -> None:
    torch.manual_seed(0)
    build = lb.students.zoo.build
    teacher = build("cnn", channels=(32, 64), hidden=(128,), image=(1, 8, 8))
    student = build("cnn", channels=(8, 16), hidden=(32,), image=(1, 8, 8))
    task = lb.tasks.Classification(10, input_names="pixel_values", target_name="labels")
    distiller = lb.Distiller(teacher, student, task=task, method=lb.methods.kd())
    settings = TrainingArguments(
        output_dir="trainer_example", num_train_epochs=2, per_device_train_batch_size=64,
        learning_rate=3e-3, report_to=[], save_strategy="no", remove_unused_columns=False,
        use_cpu=True, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = DistillationTrainer(model=distiller, args=settings, train_dataset=Digits())
    result = trainer.train()
    held = {name.partition(".")[0] for name in distiller.state_dict()}
    print(f"loss {result.training_loss:.3f}; a checkpoint would hold: {sorted(held)}")


if __name__ == "__main__":
    main()
