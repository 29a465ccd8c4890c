"""Export: the student as an ONNX file, checked against the network and timed beside it."""

from importlib import import_module
from pathlib import Path

import limbeck as lb
from limbeck import export
from limbeck.evaluate import Contender, Network, bench, opened

OUT = Path("digits_example")


def main() -> None:
    digits, task = lb.data.sources.digits(), lb.tasks.Classification(10)
    student = import_module("3_student").make_student()
    lb.students.load_weights(student, OUT / "student.safetensors")
    whole = export.Whole(None, student).eval()  # in the place of None: what normalises images
    images = digits.validation.column("inputs")
    takes = export.Signature.of(list(images[:8].split(1)))
    facts = {"inputs": takes.shapes(), "labels": list(digits.labels)}
    export.get("onnx").write(whole, takes, OUT / "student.onnx", facts)

    network, file = Network(whole), opened(OUT / "student.onnx")
    parity = export.compared(network, file, lb.data.Loader(digits.validation, 256), task)
    parity.require(1e-4, "student.onnx")
    print(f"parity: {parity.told()}")
    contenders = {
        name: Contender(runner, images[:128], "validation samples")
        for name, runner in {"network": network, "student.onnx": file}.items()
    }
    for name, found in bench(contenders, seconds=0.5).items():
        print(
            f"{name:<12} {found['latency_ms']['p50']:.3f} ms  "
            f"{found['throughput_per_s']:9,.0f} per second  {found['runtime']}"
        )


if __name__ == "__main__":
    main()
