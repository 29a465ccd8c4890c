"""A run that prunes and quantizes: its stages, its files, and what is refused beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.pipeline import cut
from limbeck.pipeline.clock import Clock
from limbeck.recipe import load

pytest.importorskip("torch_pruning")
pytest.importorskip("onnxscript")

TINY = str(Path(__file__).with_name("tiny.yaml"))
STEPS = [
    "train.epochs=3",
    "compress=[{prune: {parameters: 0.6, steps: 2, importance: taylor, train: {epochs: 1}}}, "
    "{quantize: {keep: auto, within: 0, calibrate: 32}}, "
    "{quantize: {scheme: aware, bits: 4, ranges: percentile, keep: [classifier], "
    "train: {epochs: 1}}}]",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipeline.run(load(TINY, STEPS), tmp_path_factory.mktemp("compressed") / "run")


def test_every_step_is_a_stage_and_is_measured(finished: Path) -> None:
    """Without it, the report would show the student alone, and not what ships."""
    report = read_json(finished / "report.json")
    names = [stage["name"] for stage in report["stages"]]
    assert names[4:10] == [
        "student-pruned-1", "student-pruned", "student-pruned.onnx", "student-pruned-int8.onnx",
        "student-pruned-aware", "student-pruned-aware.onnx",
    ]  # fmt: skip
    made = {
        name: model for name, model in report["models"].items() if model["role"] == "compressed"
    }
    assert {
        "student-pruned",
        "student-pruned-int8.onnx",
        "student-pruned-aware-int4.onnx",
    } <= made.keys()
    whole = report["models"]["student"]["cost"]["parameters"]
    assert 0.5 * whole < made["student-pruned"]["cost"]["parameters"] <= 0.6 * whole
    assert all(model["quality"]["accuracy"]["mean"] >= 0 for model in made.values())
    assert (finished / "export" / "student-pruned-aware-int4.onnx").is_file()


def test_rounding_is_shown_layer_by_layer(finished: Path) -> None:
    """Without it, nobody could see which layer suffers, or another file's layers were shown."""
    found = read_json(finished / "details.json")["rounding"]
    assert found.keys() == {"student-pruned-int8.onnx", "student-pruned-aware-int4.onnx"}
    for name, file in found.items():
        known = read_json(finished / "stages" / name / "quantize.json")
        layers = {layer["layer"]: layer for layer in file["layers"]}
        assert list(layers)[-1] == "classifier"
        assert {name for name, layer in layers.items() if layer["weights"] is None} == set(
            known["keep"]
        )
        drops = {name: each["drop"] for name, each in layers.items() if each["drop"] is not None}
        assert drops == known.get("drops", {})
        assert all(2 < layer["activations"] <= 120 for layer in layers.values())


def test_the_pruned_student_is_loaded_from_its_stage(finished: Path) -> None:
    """Without it, a pruned student could be measured, and not used."""
    student = lb.students.load(finished / "stages" / "student-pruned" / "student")
    test = lb.data.sources.digits().limited(256).test
    with torch.inference_mode():
        right = student(test.column("inputs")).argmax(1) == test.column("targets")
    told = read_json(finished / "report.json")["models"]["student-pruned"]["quality"]["accuracy"]
    assert float(right.float().mean()) == pytest.approx(told["mean"], abs=1e-6)


def test_a_second_run_skips_all_of_it(finished: Path) -> None:
    """Without it, a changed step could be skipped, or an old one done again."""
    pipeline.run(load(TINY, STEPS), finished)
    stages = read_json(finished / "report.json")["stages"]
    assert all(stage["skipped"] for stage in stages)


BEGINS = [
    "teacher.build=vit",
    "teacher.args={depth: 3, width: 8, heads: 2, patch: 4, expansion: 1}",
    "student={prune: {layers: 0.7}}",
    "train.epochs=2",
    "compress=[{prune: {latency: 0.9, train: {epochs: 1}}}]",
    "evaluate.seconds=0.02",
]


class _Sized:
    """A clock that goes by size: nothing disturbs it."""

    runtime = "ONNX Runtime 0"

    def __init__(self, run: pipeline.Run) -> None:
        pass

    def __call__(self, whole: nn.Module, smaller: nn.Module) -> tuple[float, float]:
        before, after = (sum(p.numel() for p in each.parameters()) for each in (whole, smaller))
        return before / 1000, after / 1000

    def written(self, network: nn.Module) -> None:
        pass


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cut, "Clock", _Sized)
        yield pipeline.run(load(TINY, BEGINS), tmp_path_factory.mktemp("begun") / "run")


def test_a_student_and_its_control_begin_as_the_pruned_teacher(begun: Path) -> None:
    """Without it, the control could begin with weights that know nothing, and lose to them."""
    cut = begun / "stages" / "teacher-pruned"
    taught = load_file(begun / "stages" / "teacher" / "best.safetensors")
    begins = load_file(cut / "begins.safetensors")
    kept = read_json(cut / "cut.json")["layers"]["blocks"]
    assert len(kept) == 2
    for place, number in enumerate(kept):
        name = "fc1.weight"
        assert torch.equal(begins[f"blocks.{place}.{name}"], taught[f"blocks.{number}.{name}"])
    run = pipeline.opened(begun).run
    for seed in (0, 1):
        own = run.new_student(seed).state_dict()
        assert all(torch.equal(own[name], begins[name]) for name in begins)
    settings = [
        read_json(begun / "stages" / f"{role}-0" / "stage.json") for role in ("student", "control")
    ]
    assert settings[0] != settings[1]
    student = lb.students.load(begun / "student")
    assert len(student.get_submodule("model").blocks) == 2


def test_a_latency_is_measured_before_and_after(begun: Path) -> None:
    """Without it, a target could be reported in the place of what was reached."""
    found = read_json(begun / "stages" / "student-pruned" / "cut.json")["latency_ms"]
    assert 0.75 * found["before"] < found["after"] <= 0.9 * found["before"]
    report = read_json(begun / "report.json")["models"]["student-pruned"]
    told = f"{found['before']:.3g} to {found['after']:.3g} ms in ONNX Runtime"
    assert told in report["note"]
    student = lb.students.load(begun / "stages" / "student-pruned" / "student")
    assert sum(p.numel() for p in student.parameters()) == report["cost"]["parameters"]


def test_the_clock_times_files(finished: Path) -> None:
    """Without it, networks would be timed in another runtime than the one that ships."""
    run = pipeline.opened(finished).run
    clock = Clock(run)
    small, large = (
        lb.students.zoo.build("cnn", channels=(n,), hidden=(n,), image=(1, 8, 8)) for n in (2, 256)
    )
    slow, fast = clock(large, small)
    assert 0 < fast < slow
    assert clock.runtime.startswith("ONNX Runtime")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["student={prune: {layers: 0.5}, build: cnn}"], "give one of build, shrink and prune"),
        (["student={prune: {layers: 0.5}, weights: a.pt}"], "weights means nothing beside prune"),
        (
            ["student={prune: {parameters: 0.5}, normalize: {mean: [0.1], std: [1]}}"],
            "gets its inputs otherwise",
        ),
        (["student={prune: {macs: 0.5}}", "export=[huggingface]"], "a student that is pruned"),
        (
            ["teacher={fit: 'operator:add'}", "student={prune: {parameters: 0.5}}"],
            "no network which the recipe builds",
        ),
    ],
)
def test_students_that_cannot_begin_so_are_refused(
    tmp_path: Path, changes: list[str], message: str
) -> None:
    """Without it, the teacher would be trained for hours first."""
    with pytest.raises(InputError, match=message):
        pipeline.run(load(TINY, changes), tmp_path / "run")


def test_a_student_that_is_trained_already_is_only_made_smaller(
    tmp_path: Path, finished: Path
) -> None:
    """Without it, who has a student must train another to get its file and its proof."""
    weights = finished / "stages" / "student-0" / "best.safetensors"
    own = [f"student.weights={weights}", "student.trained=true", "control=false"]
    folder = pipeline.run(load(TINY, [*own, "compress=[quantize]"]), tmp_path / "run")
    report = read_json(folder / "report.json")
    assert [stage["name"] for stage in report["stages"]][:3] == [
        "teacher",
        "student-0",
        "student.onnx",
    ]
    left, came = load_file(folder / "student" / "model.safetensors"), load_file(weights)
    assert all(torch.equal(left[name], came[name]) for name in came)
    known = read_json(finished / "stages" / "student-0" / "training.json")
    best = known["history"][known["best_epoch"]]["validation"]["accuracy"]
    taken = read_json(folder / "stages" / "student-0" / "training.json")
    assert taken["history"][0]["validation"]["accuracy"] == pytest.approx(best)
    assert "student-int8.onnx" in report["models"]


def test_a_trained_student_still_learns_when_it_is_pruned(tmp_path: Path, finished: Path) -> None:
    """Without it, it would recover without the teacher that the recipe names."""
    weights = finished / "stages" / "student-0" / "best.safetensors"
    own = [f"student.weights={weights}", "student.trained=true", "control=false"]
    steps = "compress=[{prune: {parameters: 0.6, train: {epochs: 1}}}]"
    folder = pipeline.run(load(TINY, [*own, steps]), tmp_path / "run")
    record = read_json(folder / "stages" / "student-pruned" / "training.json")
    assert {"label", "kl"} <= record["history"][0]["train"].keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["student.trained=true", "control=false"], "needs weights"),
        (["student.trained=true", "student.weights=w.safetensors"], "say control: false"),
        (
            ["student={build: cnn, weights: w, trained: true, embeddings: true}"],
            "embeddings means nothing",
        ),
        (
            ["student={build: cnn, weights: w, trained: true}", "control=false", "seeds=[0, 1]"],
            "give one seed",
        ),
    ],
)
def test_a_trained_student_has_nothing_to_learn(changes: list[str], message: str) -> None:
    """Without it, a wish could be dropped without a word, or the same student shown twice."""
    with pytest.raises(InputError, match=message):
        load(TINY, changes)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "{prune: {paramters: 0.5}}",
            "compress.0.prune.paramters is not a key; did you mean 'param",
        ),
        ("{prune: {steps: 2}}", "compress.0.prune: give one of parameters, macs, latency, layers"),
        ("{prune: {macs: 0.5, importance: taylr}}", "should be 'magnitude'"),
        ("{prune: {layers: 0.5, multiple: 8}}", "multiple means nothing for layers"),
        ("{shave: {}}", "compress.0.shave is not a key"),
        ("{quantize: {scheme: dynamic, bits: 4}}", "dynamic has weights of 8 bits"),
        ("{quantize: {scheme: aware, keep: auto}}", "must be known before"),
        ("{quantize: {scheme: weights, calibrate: 3}}", "calibrate means nothing for weights"),
        ("{quantize: {train: {epochs: 3}}}", "train means nothing for static"),
        ("{quantize: {within: 0.1}}", "within means nothing without keep: auto"),
        ("{quantize: {keep: conv1}}", "keep is 'conv1': input should be a list or 'auto'"),
    ],
)
def test_wrong_keys_are_refused_when_the_recipe_is_read(step: str, message: str) -> None:
    """Without it, a wish could be dropped without a word."""
    with pytest.raises(InputError, match=message):
        load(TINY, [f"compress=[{step}]"])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{prune: {parameters: 0.01}}", "for each layer keeps a unit"),
        ("{prune: {parameters: 0.5, multiple: 100}}", "a multiple of 100 units, or all it has"),
        ("{prune: {parameters: 0.5, keep: [conv7]}}", "did you mean 'conv1'"),
        ("{quantize: {keep: [conv7]}}", "did you mean 'conv1'"),
    ],
)
def test_wrong_steps_are_refused_before_training(tmp_path: Path, step: str, message: str) -> None:
    """Without it, hours of training would come before the message."""
    with pytest.raises(InputError, match=message):
        pipeline.run(load(TINY, [f"compress=[{step}]"]), tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()


def test_a_format_that_the_student_lacks_is_refused_before_training(tmp_path: Path) -> None:
    """Without it, hours of training would come before the message."""
    with pytest.raises(InputError, match="and the student is a CNN"):
        pipeline.run(load(TINY, ["export=[huggingface]"]), tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()


def test_steps_train_as_the_student_does_unless_they_say_otherwise() -> None:
    """Without it, recovery could run for Limbeck's default of thirty epochs."""
    steps: Any = load(
        TINY, ["compress=[{prune: {macs: 0.5}}, {quantize: {scheme: aware}}]"]
    ).compress
    assert (steps[0].prune.train.epochs, steps[0].prune.train.batch_size) == (2, 32)
    assert steps[1].quantize.train.optimizer == {"name": "adamw", "lr": 5e-4}
