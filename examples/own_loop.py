"""Your own loop: a distiller turns a batch into a loss, and the rest stays yours."""

import torch
from torch.utils.data import DataLoader, TensorDataset

import limbeck as lb


def main() -> None:
    torch.manual_seed(0)
    digits = lb.data.sources.digits()
    train = TensorDataset(digits.train.column("inputs"), digits.train.column("targets"))
    build = lb.students.zoo.build
    teacher = build("cnn", channels=(32, 64), hidden=(128,), image=(1, 8, 8))
    student = build("cnn", channels=(8, 16), hidden=(32,), image=(1, 8, 8))

    distiller = lb.Distiller(
        teacher,  # untrained here, to keep the example short
        student,
        task=lb.tasks.Classification(10),
        method=lb.methods.kd() + lb.methods.fitnets(weight=1, student="pool2", teacher="pool2"),
    )
    loader = DataLoader(train, batch_size=64, shuffle=True)
    distiller.prepare(next(iter(loader)))  # makes the adapters, so that the optimizer knows them
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=3e-3)
    for epoch in range(3):
        for batch in loader:
            out = distiller(batch)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
        terms = ", ".join(f"{name} {value:.3f}" for name, value in out.terms.items())
        print(f"epoch {epoch + 1}: loss {out.loss:.3f} ({terms})")
    student = distiller.release()  # a plain module again: no hooks, no adapters
    print(f"{type(student).__name__} with {sum(p.numel() for p in student.parameters()):,} weights")


if __name__ == "__main__":
    main()
