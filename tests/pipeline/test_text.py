"""Recipes that read texts, from tables to a student that is called with sentences."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from texts import sentences, write_bert, write_jsonl

import limbeck as lb
from limbeck import pipeline
from limbeck.data.shown import shown
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.pipeline.inside import Seeing, show_what_counts
from limbeck.recipe import load

TEXTS = [text for text, _ in sentences(64)]
QUICK = (
    "data.args.length=24", "train.batch_size=16", "train.epochs=1", "teacher.train.epochs=1",
    "seeds=[0]", "evaluate.seconds=0.02", "evaluate.batch_size=8", "data.labelled=null",
    "teacher.train.batch_size=16",
)  # fmt: skip


# So that the student is smaller than a teacher of a few thousand weights.
SMALL = ("data.args.vocab=300", "student.args={width: 4}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few sentences in three splits, and a tiny pretrained model."""
    root = tmp_path_factory.mktemp("texts")
    for name, count in (("train", 48), ("dev", 16), ("test", 24)):
        write_jsonl(root, f"{name}.jsonl", sentences(count))
    write_bert(root / "bert", TEXTS)
    return root


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe ``text`` on sentences, with a student shrunk from the teacher."""
    changes = [*QUICK, f"data.path={folder}", f"teacher.args.path={folder / 'bert'}"]
    return pipeline.run(load("text", changes), tmp_path_factory.mktemp("text") / "run")


def _run(name: str, folder: Path, out: Path, *changes: str) -> Path:
    return pipeline.run(load(name, [f"data.path={folder}", *QUICK, *changes]), out)


def test_the_student_ships_with_its_tokenizer(finished: Path, tmp_path: Path) -> None:
    """Without it, what ships could not read a sentence, or need the teacher's folder."""
    files = {file.name for file in (finished / "student").iterdir()}
    assert files == {"model.safetensors", "student.json", "tokenizer.json"}
    student = lb.students.load(shutil.copytree(finished / "student", tmp_path / "student"))
    with torch.no_grad():
        answers = student([text for text, _ in sentences(24)]).argmax(1)
    report = read_json(finished / "report.json")
    right = (answers == torch.tensor([label for _, label in sentences(24)])).float().mean()
    measured = report["models"]["student"]["quality"]["accuracy"]["values"][0]
    assert float(right) == pytest.approx(measured)
    assert student.model.config.num_hidden_layers == 2


def test_the_report_shows_sentences_on_which_they_differ(finished: Path) -> None:
    """Without it, a page could show nothing that a person can judge."""
    found = read_json(finished / "details.json")["examples"]
    assert found["of"] == 24
    page = (finished / "report.html").read_text(encoding="utf-8")
    for group in found["groups"]:
        for entry in group["samples"]:
            assert entry["shown"]["text"] in TEXTS
            assert entry["answers"].keys() == {"teacher", "student", "control"}
            assert entry["shown"]["text"] in page
    assert ('id="examples"' in page) == bool(found["groups"])


def test_a_finished_run_is_found_again(folder: Path, finished: Path) -> None:
    """Without it, texts would be trained on anew at every start: a tokenizer that drifts."""
    changes = [*QUICK, f"data.path={folder}", f"teacher.args.path={folder / 'bert'}"]
    pipeline.run(load("text", changes), finished, resume=True)
    assert all(stage["skipped"] for stage in read_json(finished / "report.json")["stages"])


def test_structure_can_be_matched(folder: Path, tmp_path: Path) -> None:
    """Without it, the methods made for Transformers would run on none of a recipe's."""
    out = _run(
        "text", folder, tmp_path / "run", f"teacher.args.path={folder / 'bert'}",
        "method=[{name: kd}, {name: pkd, blocks: [2, 4]}]", "control=false",
    )  # fmt: skip
    record = read_json(out / "stages" / "student-0" / "training.json")
    assert {"kl", "patient"} <= record["history"][0]["train"].keys()


def test_each_model_reads_its_own_tokens(folder: Path, tmp_path: Path) -> None:
    """Without it, a teacher would be trained on, or asked about, another tokenizer's tokens."""
    path = f"teacher.args.path={folder / 'bert'}"
    out = _run("text-intents", folder, tmp_path / "run", path, *SMALL)
    tokens = lb.data.sources.text(
        folder, tokenizer="bpe", vocab=300, length=24, teacher_tokenizer=folder / "bert"
    )
    batch = next(tokens.train.batches([torch.arange(48)], 0, 0))
    recipe = load(str(out))
    running = pipeline.Run(recipe, pipeline.RunFolder(out), lb.Silent())
    stage = out / "stages" / "teacher"
    from safetensors.torch import load_file

    teacher = running.origin.load(load_file(stage / "best.safetensors"), {})
    live = teacher.knowledge({**batch, "inputs": None}, ("logits",)).logits
    store = lb.Teacher.replay(out / "stages" / "knowledge" / "store")
    stored = store.knowledge(batch, ("logits",)).logits
    assert (live - stored).abs().max() < 0.05 * live.abs().max()
    _check_colours(running, teacher, lb.students.load(out / "student").model)


def _check_colours(running: Any, teacher: Any, student: Any) -> None:
    """Make sure that each model's tokens lie where their words are in a text."""
    test = running.data.test
    entries = [
        {"id": n, "shown": shown(test, n), "answers": {"teacher": {}, "student": {}}}
        for n in test.ids[:5].tolist()
    ]
    models = {
        "teacher": Seeing.teacher(running, teacher),
        "student": Seeing.student(running, student.eval(), torch.nn.Identity()),
    }
    examples: dict[str, Any] = {"groups": [{"samples": entries}]}
    show_what_counts(running, models, examples)
    assert examples["traced"]["unseen"] == []
    assert examples["traced"]["gap"]["student"] < 1e-4  # a bag is linear
    for entry in entries:
        for role in models:
            pieces = entry["answers"][role]["rests_on"]["pieces"]
            assert "".join(piece for piece, _ in pieces) == entry["shown"]["text"]
            assert max(abs(weight) for _, weight in pieces) == 1


@pytest.mark.parametrize(
    ("student", "arguments"),
    [
        ("bag", "{width: 4}"),
        ("bilstm", "{width: 4, hidden: 4}"),
        ("textcnn", "{width: 4, channels: 4}"),
        ("transformer", "{width: 4, depth: 2}"),
    ],
)
def test_students_of_every_kind(student: str, arguments: str, folder: Path, tmp_path: Path) -> None:
    """Without it, a model of the zoo could be unable to read what the source yields."""
    out = _run(
        "text-chinese", folder, tmp_path / "run", f"student.build={student}",
        f"student.args={arguments}", "teacher.args={width: 32, channels: 128}",
    )  # fmt: skip
    assert lb.students.load(out / "student")(["a fine film"]).shape == (1, 2)
    assert read_json(out / "report.json")["models"]["student"]["cost"]["macs"] is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["teacher.args.path=BERT", "data.labelled=48"], "labels of 48 samples, and the training"),
        (["teacher.args.path=nowhere"], "there is no tokenizer in nowhere"),
        ([], "there is no tokenizer"),
        (["data.args.tokenizer=words"], "Name it: teacher.args.path"),
        (["teacher.args.path=BERT", "data.args.text=body"], "column 'body' is not known"),
        (["teacher.args.path=BERT", "data.args.length=100"], "for a model with 64 positions"),
        (["teacher.args.path=BERT", "data.args.tokenizer=words"], "Set teacher.inputs"),
        (["teacher.args.path=BERT", "teacher.inputs=theirs", "data.args.tokenizer=words"], None),
        (["teacher.args.path=THREE"], "tells 3 classes apart"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_trained(
    changes: list[str], message: str | None, folder: Path, tmp_path: Path
) -> None:
    """Without it, minutes of training could pass before a wrong path is found."""
    if "teacher.args.path=THREE" in changes:
        write_bert(tmp_path / "three", TEXTS, classes=3)
    named = {"BERT": folder / "bert", "THREE": tmp_path / "three"}
    real = [_replaced(change, named) for change in changes]
    recipe = load("text", [f"data.path={folder}", *QUICK, *real])
    running = pipeline.Run(recipe, pipeline.RunFolder(tmp_path / "run"), lb.Silent())
    if message is None:
        running.check()
        return
    with pytest.raises(InputError, match=message):
        running.check()


def test_sentence_embeddings_are_learnt_without_labels(folder: Path, tmp_path: Path) -> None:
    """Without it, a teacher whose answers are vectors would need a task of its user's."""
    weights = folder / "bert" / "model.safetensors"
    out = _run(
        "sentences", folder, tmp_path / "run", "data.args.vocab=300", f"teacher.weights={weights}",
        f"teacher.args={{path: {folder / 'bert'}, head: embedding}}",
        "student.args={width: 4, classes: 16}", "evaluate.batch_size=4",
    )  # fmt: skip
    assert lb.students.load(out / "student")(["a fine film"]).shape == (1, 16)
    found = read_json(out / "report.json")["models"]["student"]["quality"]
    assert found.keys() == {"precision_at_1", "map_at_r"}


def test_the_teacher_and_the_control_learn_from_labels_alone(folder: Path, tmp_path: Path) -> None:
    """Without it, a control could see labels that were to be hidden, or take fewer steps."""
    path = f"teacher.args.path={folder / 'bert'}"
    out = _run("text-intents", folder, tmp_path / "run", path, *SMALL, "data.labelled=16")
    assert "48 training (16 of them labelled)" in (out / "report.html").read_text(encoding="utf-8")
    told = {
        role: read_json(out / "stages" / role / "training.json")["history"][0]["train"]
        for role in ("teacher", "student-0", "control-0")
    }
    assert told["student-0"].keys() > {"label", "kl"}
    assert len(lb.knowledge.Store.open(out / "stages" / "knowledge" / "store")) == 48
    with pytest.raises(InputError, match=r"32 training samples have no label"):
        _run("text-intents", folder, tmp_path / "dkd", path, *SMALL, "data.labelled=16",
             "method=dkd")  # fmt: skip


def _replaced(change: str, named: dict[str, Path]) -> str:
    for name, path in named.items():
        change = change.replace(name, str(path))
    return change


REAL: dict[str, tuple[str, list[str]]] = {
    "text": ("text_sst2", []),
    "text-int8": ("text_sst2", ["student={prune: {layers: 0.5, embeddings: 0.3334}}"]),
    "text-intents": ("text_banking77", [*SMALL]),
    "text-chinese": ("text_zh_chnsenticorp", ["student.args={width: 4}"]),
}


@pytest.mark.parametrize("name", sorted(REAL))
def test_recipes_on_real_texts_run_at_tiny_scale(
    name: str, data_root: Path, folder: Path, tmp_path: Path
) -> None:
    """Without it, the recipes that need data could break unseen."""
    place, changes = REAL[name]
    if not (data_root / place).is_dir():
        pytest.skip(f"no {place} in the folder of real data")
    more: list[Any] = [*changes, "data.limit=64"]
    if name != "text-chinese":
        more.append(f"teacher.args.path={folder / 'bert'}")
    out = _run(name, data_root / place, tmp_path / "run", *more)
    report = read_json(out / "report.json")
    made = {
        "student.onnx",
        "student-pruned",
        "student-pruned.onnx",
        "student-pruned-dynamic-int8.onnx",
    }
    more_models = made if name == "text-int8" else set()
    assert report["models"].keys() == {"teacher", "student", "control"} | more_models
    assert report["models"]["student"]["quality"].keys() >= {"accuracy", "macro_f1"}


def test_embeddings_begin_as_the_teachers(folder: Path, tmp_path: Path) -> None:
    """Without it, the option could be read and do nothing, or the control could begin otherwise."""
    told = [*QUICK, f"data.path={folder}", f"teacher.args.path={folder / 'bert'}"]

    def begun(name: str, *changes: str) -> Any:
        recipe = load(name, [*told, *changes])
        return pipeline.Run(recipe, pipeline.RunFolder(tmp_path), lb.Silent()).new_student(0)

    theirs = lb.students.read_weights(folder / "bert" / "model.safetensors")
    table = theirs["embeddings.word_embeddings.weight"]
    cnn = "student={build: textcnn, args: {width: 16}, embeddings: true}"
    found = begun("text-int8", cnn).embedding.weight.detach()[1:]
    own = (found @ found.T).flatten()
    wanted = (table - table.mean(0))[1:]
    wanted = (wanted @ wanted.T).flatten()
    assert torch.allclose(own / own.norm(), wanted / wanted.norm(), atol=1e-5)
    with pytest.raises(InputError, match="another tokenizer"):
        begun("text-intents", *SMALL, "student.embeddings=true")


def test_a_pruned_teacher_has_embeddings_of_low_rank(folder: Path, tmp_path: Path) -> None:
    """Without it, a student that begins as its teacher would be as large as its embeddings."""
    pytest.importorskip("torch_pruning")
    bert = f"teacher.args.path={folder / 'bert'}"
    changes = [bert, "student={prune: {layers: 0.5, embeddings: 0.25}}", "control=false"]
    out = _run(
        "text", folder, tmp_path / "run", *changes, "compress=[{quantize: {scheme: dynamic}}]"
    )
    known = read_json(out / "student" / "student.json")
    assert known["ranks"] == {"bert.embeddings.word_embeddings": 4}
    assert len(known["layers"]["bert.encoder.layer"]) == 2
    cut = read_json(out / "stages" / "teacher-pruned" / "cut.json")
    assert cut["ranks"] == known["ranks"]
    student = lb.students.load(out / "student")
    assert student(["a fine film"]).shape == (1, 2)
    assert student.get_submodule("model.bert.embeddings.word_embeddings").table.embedding_dim == 4
    models = read_json(out / "report.json")["models"]
    floats, integers = (
        models[n]["cost"]["size_bytes"] for n in ("student.onnx", "student-dynamic-int8.onnx")
    )
    assert integers < floats


def test_wrong_ranks_are_refused() -> None:
    """Without it, a wish could be dropped without a word."""
    text = ["data.path=x", "teacher.args.path=y"]
    with pytest.raises(InputError, match="keep means nothing for embeddings"):
        load("text", [*text, "student={prune: {embeddings: 0.5, keep: [bert]}}"])
    with pytest.raises(InputError, match="steps means nothing for embeddings"):
        load("text", [*text, "compress=[{prune: {embeddings: 0.5, steps: 2}}]"])
