"""Knowledge: write down once what the teacher says about every training sample."""

from importlib import import_module
from pathlib import Path

import limbeck as lb

OUT = Path("digits_example")


def main() -> None:
    digits = lb.data.sources.digits()
    module = import_module("1_teacher").make_teacher()
    lb.students.load_weights(module, OUT / "teacher.safetensors")
    teacher = lb.Teacher(module)
    # Any named layer can be kept beside the answer; nothing in the model changes.
    store = lb.knowledge.write(OUT / "store", teacher, digits.train, taps=["logits", "pool2"])
    print(f"{len(store):,} samples, {', '.join(store.fields)}: {store.bytes / 1000:,.0f} kB")


if __name__ == "__main__":
    main()
