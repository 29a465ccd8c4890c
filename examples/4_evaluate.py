"""Evaluate: what the student keeps of its teacher, and what it costs, on the test samples."""

from importlib import import_module
from pathlib import Path

import limbeck as lb
from limbeck.evaluate import costs, evaluate

OUT = Path("digits_example")


def main() -> None:
    digits = lb.data.sources.digits()
    builders = {
        "teacher": import_module("1_teacher").make_teacher,
        "student": import_module("3_student").make_student,
        "control": import_module("3_student").make_student,
    }
    models = {name: build().eval() for name, build in builders.items()}
    for name, model in models.items():
        lb.students.load_weights(model, OUT / f"{name}.safetensors")
    answers = {
        name: lambda batch, model=model: model(batch["inputs"]) for name, model in models.items()
    }
    found = evaluate(
        answers,
        lb.data.Loader(digits.test, 256),
        lb.tasks.Classification(10),
        reference=answers["teacher"],
    )
    spent = costs(models, digits.validation.column("inputs")[:128], seconds=0.5)
    for name in models:
        quality, fidelity, cost = found[name].quality, found[name].fidelity, spent[name]
        print(
            f"{name:<8} accuracy {quality.metrics['accuracy']:6.1%}  "
            f"agreement {fidelity['agreement']:6.1%}  {cost.parameters:6,} parameters  "
            f"{cost.throughput_per_s:9,.0f} per second"
        )


if __name__ == "__main__":
    main()
