"""A whole run: what it leaves behind, and that its numbers are those of the student that ships."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import limbeck as lb
from limbeck import pipeline
from limbeck.files import read_json
from limbeck.pipeline import build
from limbeck.recipe import bundled, find, load, parse, template

TINY = str(Path(__file__).with_name("tiny.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over two seeds, with augmentation and several views of each sample."""
    changes = ["seeds=[0, 1]", "data.augment=[{crop: 1}]", "train.epochs=3"]
    return pipeline.run(load(TINY, changes), tmp_path_factory.mktemp("finished") / "run")


def test_the_folder_holds_what_the_design_promises(finished: Path) -> None:
    """Without it, what other tools read could move."""
    for name in ("recipe.yaml", "report.json", "report.html", "log.jsonl"):
        assert (finished / name).stat().st_size > 0
    assert {file.name for file in (finished / "student").iterdir()} == {
        "model.safetensors", "student.json",
    }  # fmt: skip
    events = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert {"stage begins", "epoch", "stage done"} <= {event["event"] for event in events}
    assert not list(finished.rglob("*.draft")) + list(finished.rglob("checkpoint.pt"))


def test_report_json_keeps_the_contract(finished: Path) -> None:
    """Without it, a key that others rely on could be renamed or left out."""
    report = read_json(finished / "report.json")
    assert report.keys() >= {"limbeck", "task", "seeds", "environment", "models", "stages"}
    assert report["limbeck"] == lb.__version__
    assert (report["task"], report["seeds"]) == ("classification", [0, 1])
    assert {name: model["role"] for name, model in report["models"].items()} == {
        "teacher": "teacher", "student": "student", "control": "control",
    }  # fmt: skip
    for model in report["models"].values():
        for spread in model["quality"].values():
            assert spread.keys() == {"mean", "std", "values"}
        assert 0 <= model["fidelity"]["agreement"] <= 1
        assert model["fidelity"]["kl"] >= -1e-9
        assert model["cost"].keys() >= {
            "parameters", "size_bytes", "macs", "latency_ms", "throughput_per_s",
            "peak_memory_bytes", "energy_j",
        }  # fmt: skip
        assert model["cost"]["latency_ms"].keys() == {"p50", "p95"}
        assert model["cost"]["energy_j"]["source"].startswith(("measured: ", "estimated: "))
    student, control = report["models"]["student"], report["models"]["control"]
    assert len(student["quality"]["accuracy"]["values"]) == 2
    assert student["cost"]["parameters"] == control["cost"]["parameters"]
    for stage in report["stages"]:
        assert stage.keys() == {"name", "seconds", "skipped"}


def test_the_student_that_ships_has_the_accuracy_that_was_reported(finished: Path) -> None:
    """Without it, the report could be about other weights, or another preprocessing."""
    facts = read_json(finished / "student" / "student.json")
    report = read_json(finished / "report.json")
    student = lb.students.load(finished / "student")
    test = lb.data.sources.digits().limited(256).test
    with torch.inference_mode():
        right = student(test.column("inputs")).argmax(1) == test.column("targets")
    values = report["models"]["student"]["quality"]["accuracy"]["values"]
    assert float(right.float().mean()) == pytest.approx(values[facts["seed"]], abs=1e-6)
    assert facts["labels"] == [str(digit) for digit in range(10)]
    assert facts["input"] == [1, 8, 8]


def test_the_best_seed_is_chosen_on_validation_samples(finished: Path) -> None:
    """Without it, the shipped student could be the luckiest on the test samples."""
    scores = []
    for seed in (0, 1):
        record = read_json(finished / "stages" / f"student-{seed}" / "training.json")
        scores.append(record["history"][record["best_epoch"]]["validation"]["accuracy"])
    seed = read_json(finished / "student" / "student.json")["seed"]
    assert scores[seed] == max(scores)


def test_student_and_control_start_from_the_same_weights_and_samples(tmp_path: Path) -> None:
    """Without it, the control could differ by luck and not by the teacher."""
    same = ["method=[]", "label_weight=1.0", "train.epochs=2"]
    folder = pipeline.run(load(TINY, same), tmp_path / "run")
    one, two = (
        lb.students.read_weights(folder / "stages" / f"{role}-0" / "last.safetensors")
        for role in ("student", "control")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_evaluating_again_gives_the_same_quality(finished: Path) -> None:
    """Without it, ``limbeck evaluate`` could measure other samples or other weights."""
    before = read_json(finished / "report.json")["models"]
    pipeline.evaluate(finished)
    after = read_json(finished / "report.json")["models"]
    assert {n: m["quality"] for n, m in before.items()} == {
        n: m["quality"] for n, m in after.items()
    }


def test_the_panels_say_what_the_report_says(finished: Path) -> None:
    """Without it, the page's groups, colours and maps could be about other models or samples."""
    report, details = read_json(finished / "report.json"), read_json(finished / "details.json")
    values = {
        role: report["models"][role]["quality"]["accuracy"] for role in ("teacher", "student")
    }
    agreement = report["models"]["student"]["fidelity"]["values"]["agreement"][0]
    found, count = details["differences"], report["test_samples"]
    for groups in found["groupings"].values():
        sums = {
            name: sum(g[name] for g in groups) for name in groups[0] if name not in ("key", "name")
        }
        assert sums["samples"] == found["of"] == count
        assert sums["agree"] == round(agreement * count)
        assert sums["teacher_right"] == round(values["teacher"]["values"][0] * count)
        assert sums["student_right"] == round(values["student"]["values"][0] * count)
        assert sums["lost"] - sums["won"] == sums["teacher_right"] - sums["student_right"]
    entries = [e for group in details["examples"]["groups"] for e in group["samples"]]
    assert len(entries) == len({entry["id"] for entry in entries}) > 0
    for entry in entries:
        assert entry["answers"].keys() == {"teacher", "student", "control"}
        assert entry["in"].keys() == {"class", "confidence", "move"}
        for role in ("teacher", "student"):
            assert entry["answers"][role]["rests_on"]["src"].startswith("data:image/png")
    assert max(details["examples"]["traced"]["gap"].values()) < 0.1
    maps = details["maps"]
    assert len(set(maps["ids"])) == len(maps["labels"]) == count
    right = sum(a == b for a, b in zip(maps["student"]["answers"], maps["labels"], strict=True))
    assert right == round(values["student"]["values"][0] * count)


def test_the_page_can_be_written_again(finished: Path) -> None:
    """Without it, a deleted page would mean another run."""
    page = (finished / "report.html").read_text()
    (finished / "report.html").unlink()
    assert pipeline.report(finished).read_text() == page


def test_a_run_that_is_not_finished_has_no_page(tmp_path: Path) -> None:
    """Without it, ``limbeck report`` would end in a traceback."""
    folder = pipeline.run(load(TINY), tmp_path / "run", until="teacher")
    with pytest.raises(lb.InputError, match=r"not finished.*--resume"):
        pipeline.report(folder)


@pytest.mark.parametrize(
    ("codec", "method", "kept"),
    [
        ("top3", "{name: kd, temperature: 4}", "top3@4"),
        ("{logits: top3}", "kd", "top3@4"),  # the method's own default
        ("sample9@4", "kd", "sample9@4"),
        ("half", "kd", "half"),
    ],
)
def test_answers_are_kept_at_the_methods_temperature(codec: str, method: str, kept: str) -> None:
    """The default would keep the mass at temperature 1, and the run would be refused."""
    changes = [f"knowledge.codec={codec}", f"method={method}"]
    recipe = load(TINY, changes)
    assert build.codecs(recipe, build.method(recipe)) == {"logits": kept}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["knowledge.codec=top3@2", "method={name: kd, temperature: 4}"], "top3@4"),
        (["knowledge.codec=top3", "method=dkd"], "half"),
        (["knowledge.codec=top99"], "99"),
        (["knowledge.codec=tpo3"], "not known"),
        (["knowledge.codec={conv1: int8}"], "conv1"),
        (
            ["knowledge.codec=top3", "method=[{name: kd, temperature: 4}, {name: kd}]",
             "method.1.temperature=2"],
            "two temperatures",
        ),
    ],
)  # fmt: skip
def test_a_codec_that_the_method_cannot_use(changes: list[str], told: str, tmp_path: Path) -> None:
    """It would be found out when the teacher has been trained and asked."""
    with pytest.raises(lb.InputError, match=told):
        pipeline.run(load(TINY, changes), tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()


def test_a_damaged_store_is_not_replayed(tmp_path: Path) -> None:
    """Without it, a flipped bit would teach every later student something else."""
    folder = pipeline.run(load(TINY), tmp_path / "run", until="knowledge")
    shard = next(folder.glob("stages/knowledge/store/0*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(lb.InputError, match="checksum"):
        pipeline.run(load(TINY), folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["knowledge.store=false"], "live"),
        (["method=[{name: kd}, {name: fitnets, student: conv1, teacher: conv1, weight: 1}]"], ""),
        (["student={shrink: {width: 0.5}}"], ""),
        (["method={name: soft_hard, alpha: 0.3}", "train.ema=0.9", "train.accumulate=2"], ""),
        (["method={match: [logits, logits], loss: kl, weight: {warmup: [1.0, 0.5]}}"], ""),
        (["method={name: logit_mse, lambda: 0.1}", "train.trackers=[tensorboard]"], ""),
        (["data.normalize={mean: [0.3], std: [0.2]}", "train.precision=bf16"], ""),
        (["knowledge.codec=top3"], ""),
        (["knowledge.codec={logits: sample16}"], ""),
    ],
)
def test_what_a_recipe_can_say_runs(changes: list[str], expected: str, tmp_path: Path) -> None:
    """Without it, a documented key could fail only in a user's hands."""
    quick = ["train.epochs=2", "teacher.train.epochs=2", "control=false"]
    folder = pipeline.run(load(TINY, [*quick, *changes]), tmp_path / "run")
    assert (folder / "stages" / "knowledge").exists() == (expected != "live")
    report = read_json(folder / "report.json")
    assert "control" not in report["models"]
    assert "Without a teacher" not in report["verdict"]


@pytest.mark.parametrize("name", [*bundled(), "template"])
def test_bundled_recipes_are_valid(name: str) -> None:
    """Without it, a recipe could be broken by a change of the schema."""
    recipe = parse(yaml.safe_load(template("mine"))) if name == "template" else load(name)
    assert recipe.name in (name, "mine")
    assert len(recipe.as_yaml()) > 200
    assert parse(yaml.safe_load(recipe.as_yaml())) == recipe


def test_there_are_bundled_recipes() -> None:
    """Without it, the test above could pass by finding none."""
    assert {"digits", "cifar10", "cifar100", "article"} <= bundled().keys()
    assert all(about for about in bundled().values())
    assert "# " in find("digits")[0]


def test_digits_runs_at_tiny_scale(tmp_path: Path) -> None:
    """Without it, the first command of the README could break."""
    quick = ["data.limit=128", "train.epochs=2", "teacher.train.epochs=2", "evaluate.seconds=0.05"]
    folder = pipeline.run(load("digits", quick), tmp_path / "run")
    report = read_json(folder / "report.json")
    sizes = {name: model["cost"]["parameters"] for name, model in report["models"].items()}
    assert sizes["teacher"] >= 10 * sizes["student"]
    assert report["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("name", ["cifar10", "article", "cifar100"])
def test_recipes_on_real_images_run_at_tiny_scale(
    name: str, data_root: Path, tmp_path: Path
) -> None:
    """Without it, the recipes that need data could break unseen."""
    changes = [
        f"data.path={data_root / ('cifar100' if name == 'cifar100' else 'cifar10')}",
        "data.limit=256", "train.epochs=1", "seeds=[0]",
        "teacher.train.epochs=1", "evaluate.seconds=0.05",
    ]  # fmt: skip
    if name == "cifar10":
        weights = data_root / "checkpoints_cifar10_resnet" / "resnet56.safetensors"
        changes.append(f"teacher.weights={weights}")
    folder = pipeline.run(load(name, changes), tmp_path / "run")
    report = read_json(folder / "report.json")
    if name == "cifar10":
        assert report["models"]["teacher"]["quality"]["accuracy"]["mean"] > 0.85
        assert report["models"]["student"]["cost"]["parameters"] == 78_042


def test_help_starts_at_once() -> None:
    """Without it, an import at the top could make every command wait for PyTorch."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "limbeck", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert " torch" not in told.stderr
    assert "numpy" not in told.stderr
    assert "run" in told.stdout


def test_init_writes_a_recipe_that_runs(limbeck, tmp_path: Path) -> None:
    """Without it, the first recipe of one's own could fail as it is."""
    assert limbeck("init", "mine").returncode == 0
    quick = ["--set", "data.limit=128", "--set", "train.epochs=1", "--set", "seeds=[0]"]
    began = time.monotonic()
    told = limbeck("run", "mine.yaml", *quick)
    assert told.returncode == 0, told.stderr
    assert "Report: runs/mine/report.html" in told.stdout
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    assert time.monotonic() - began < 120


def test_lists_and_single_stages(limbeck, tmp_path: Path) -> None:
    """Without it, a command of the design could be missing."""
    assert "digits" in limbeck("recipes").stdout
    assert "fitnets" in limbeck("methods").stdout
    assert "arXiv:1503.02531" in limbeck("methods", "kd").stdout
    listed = json.loads(limbeck("methods", "--json").stdout)
    assert {entry["name"] for entry in listed["methods"]} == set(lb.methods.names())
    assert {entry["name"] for entry in listed["losses"]} == set(lb.losses.names())
    for command, stages in (("teach", 1), ("extract", 2), ("distill", 4)):
        told = limbeck(command, TINY, "--out", "run")
        assert told.returncode == 0, told.stderr
        assert told.stdout.count("✓") == stages
    assert limbeck("evaluate", "run").returncode == 0
    assert limbeck("report", "run").stdout.startswith("Report: run/report.html")
    assert lb.__version__ in limbeck("--version").stdout


def test_a_method_may_be_given_by_its_name_alone() -> None:
    """Without it, ``--set method=dkd`` would be refused for the form of its value."""
    assert load("digits", ["method=dkd"]).method == ({"name": "dkd"},)
    assert load("digits", ["method=[kd, {name: at, weight: 10}]"]).method == (
        {"name": "kd"},
        {"name": "at", "weight": 10},
    )
