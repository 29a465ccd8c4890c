"""Boosted trees teach a small network on a table: each reads its own columns.

forest_teaches_mlp.py                  on scikit-learn's breast-cancer data
forest_teaches_mlp.py FOLDER           on the census data ("Adult"), train and test.parquet
forest_teaches_mlp.py FOLDER 2000      with 2,000 labels; the student learns from all rows
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

import limbeck as lb
from limbeck.evaluate import evaluate

Split = tuple[np.ndarray, np.ndarray]  # rows as they are in the table, labels


def census(folder: Path) -> tuple[Split, Split, list[int]]:
    """Return training and test rows, and which columns are categories (as whole numbers)."""
    tables = [parquet.read_table(folder / f"{name}.parquet") for name in ("train", "test")]
    fields = [field for field in tables[0].schema if field.name not in ("label", "income")]
    words = [n for n, field in enumerate(fields) if str(field.type) in ("string", "large_string")]
    rows = [np.array([t[f.name].to_numpy() for f in fields], dtype=object).T for t in tables]
    coder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    coder.fit(rows[0][:, words])
    for split in rows:
        split[:, words] = coder.transform(split[:, words])
    labels = [table["label"].to_numpy().astype(np.int64) for table in tables]
    train, test = [(x.astype(np.float32), y) for x, y in zip(rows, labels, strict=True)]
    return train, test, words


def cancer() -> tuple[Split, Split, list[int]]:
    """Return the same of a table that comes with scikit-learn."""
    x, y = load_breast_cancer(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    return (x.astype(np.float32), y), (x_test.astype(np.float32), y_test), []


def make_data(folder: Path | None) -> tuple[lb.data.Data, list[int]]:
    """Return samples of two fields: ``raw`` for the trees, ``inputs`` for the network."""
    train, test, words = census(folder) if folder else cancer()
    numbers = [n for n in range(train[0].shape[1]) if n not in words]
    scale = make_column_transformer(
        (StandardScaler(), numbers),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), words),
    ).fit(train[0])
    samples = [
        lb.data.Arrays.of(inputs=scale.transform(x).astype(np.float32), raw=x, targets=y)
        for x, y in (train, test)
    ]
    learnt, chosen_on = lb.data.carve(samples[0], 0.15)
    return lb.data.Data(learnt, chosen_on, samples[1], ("0", "1")), words


def make_teacher(data: lb.data.Data, words: list[int]) -> Any:
    """Return boosted trees that have learnt the training samples, as a teacher."""
    trees = HistGradientBoostingClassifier(
        random_state=0, categorical_features=words or None, learning_rate=0.05, max_iter=200,
        early_stopping=False,
    )  # fmt: skip
    trees.fit(data.train.column("raw").numpy(), data.train.column("targets").numpy())
    return lb.Teacher.from_sklearn(trees, inputs="raw")


def make_student(
    data: lb.data.Data, teacher: Any, method: lb.Method, seed: int, epochs: int
) -> torch.nn.Module:
    """Return a network that has learnt: its best epoch by the validation samples."""
    torch.manual_seed(seed)
    features = data.train.column("inputs").shape[1]
    network = lb.students.zoo.build("mlp", features=features, hidden=(64, 32), classes=2)
    distiller = lb.Distiller(teacher, network, task=lb.tasks.Classification(2), method=method)
    lb.fit(
        distiller, data.train, validation=data.validation, epochs=epochs, seed=seed,
        batch_size=256 if len(data.train) > 5000 else 32, precision="fp32",
    )  # fmt: skip
    return distiller.student


def main(folder: Path | None = None, labels: int | None = None) -> None:
    data, words = make_data(folder)
    known, alpha = data, 0.5
    if labels is not None:  # the student learns from what the trees say of the other rows
        rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
        known, alpha = replace(data, train=data.train.subset(rows[:labels])), 1.0
    trees = make_teacher(known, words)
    answers = {"trees": lambda batch: trees.knowledge(batch).logits}
    with tempfile.TemporaryDirectory() as made:
        lb.knowledge.write(Path(made) / "store", trees, data.train)  # the trees are asked once
        teacher = lb.Teacher.replay(Path(made) / "store")
        settings = {
            "student": (data, lb.methods.kd(temperature=1, alpha=alpha)),
            "control": (known, lb.methods.none()),
        }
        for name, (learnt, method) in settings.items():
            for seed in range(3):
                epochs = 15 if len(learnt.train) > 5000 else 40
                model = make_student(learnt, teacher, method, seed, epochs)
                answers[f"{name} {seed}"] = lambda batch, model=model: model(batch["inputs"])
    task = lb.tasks.Classification(2)
    found = evaluate(answers, lb.data.Loader(data.test, 1024), task, reference=answers["trees"])
    for name, measured in found.items():
        scores = measured.quality.metrics
        print(
            f"{name:<9} accuracy {scores['accuracy']:6.2%}  loss {scores['loss']:.4f}  "
            f"agreement {measured.fidelity['agreement']:6.2%}"
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]), *map(int, sys.argv[2:3]))
