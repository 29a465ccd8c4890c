"""In Lightning: the distiller is a module like any other; the teacher stays out of checkpoints."""

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import limbeck as lb


class Distillation(lightning.LightningModule):
    """Trains a distiller's student."""

    def __init__(self, distiller: lb.Distiller) -> None:
        super().__init__()
        self.distiller = distiller

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        out = self.distiller(batch)
        self.log_dict({f"train/{name}": value for name, value in out.terms.items()})
        return out.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.distiller.parameters(), lr=3e-3)


def main() -> None:
    lightning.seed_everything(0, verbose=False)
    digits = lb.data.sources.digits()
    train = TensorDataset(digits.train.column("inputs"), digits.train.column("targets"))
    build = lb.students.zoo.build
    teacher = build("cnn", channels=(32, 64), hidden=(128,), image=(1, 8, 8))
    student = build("cnn", channels=(8, 16), hidden=(32,), image=(1, 8, 8))
    distiller = lb.Distiller(
        teacher, student, task=lb.tasks.Classification(10), method=lb.methods.kd()
    )
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Distillation(distiller), DataLoader(train, batch_size=64, shuffle=True))
    measured = {name: f"{value:.3f}" for name, value in trainer.callback_metrics.items()}
    print(f"after two epochs: {measured}")


if __name__ == "__main__":
    main()
