"""The recipe that translates, on sentences in made-up languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pairs import pairs, write_tables, write_translator

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import load

pytest.importorskip("sacrebleu")
QUICK = (
    "data.args.vocab=320", "data.args.length=16", "teacher.args={width: 16, depth: 1, heads: 2}",
    "student.args={width: 8, depth: 1, heads: 2}", "train.batch_size=8", "train.epochs=1",
    "teacher.train.epochs=2", "seeds=[0]", "evaluate.seconds=0.02", "evaluate.batch_size=4",
    "task.beams=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = load("translation", [f"data.path={folder}", *QUICK])
    return pipeline.run(recipe, tmp_path_factory.mktemp("translation") / "run")


def test_the_report_tells_of_translations(finished: Path) -> None:
    """Without it, a report could speak of losses alone, or leave out how BLEU was computed."""
    report, details = (read_json(finished / f"{n}.json") for n in ("report", "details"))
    assert report["selection"] == {
        "metric": "bleu", "higher_is_better": True, "epochs_by": "token_accuracy"
    }  # fmt: skip
    for model in report["models"].values():
        assert model["quality"].keys() >= {"bleu", "chrf", "loss", "perplexity", "token_accuracy"}
    chance = details["examples"]["groups"][0]
    assert chance["title"] == "Chosen by chance"
    entry, known = chance["samples"][0], dict(pairs())
    assert known[entry["shown"]["text"]] == entry["wanted"]
    assert entry["answers"].keys() == {"teacher", "student", "control"}
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "BLEU by sacrebleu: nrefs:1|case:mixed" in page
    assert "Token accuracy on the validation samples" in page
    assert entry["wanted"] in page


def test_bleu_is_of_the_texts_that_were_kept(finished: Path) -> None:
    """Without it, a score could be another model's."""
    import sacrebleu

    found = read_json(finished / "stages" / "evaluate" / "results.json")
    models = read_json(finished / "report.json")["models"]
    for label, role in (("teacher 0", "teacher"), ("student 0", "student")):
        texts = found["produced"]["texts"].get(label) or found["produced"]["texts"]["teacher -1"]
        score = sacrebleu.corpus_bleu(texts, [found["produced"]["references"]]).score
        assert models[role]["quality"]["bleu"]["values"] == [pytest.approx(score)]


def test_the_student_ships_and_translates(finished: Path) -> None:
    """Without it, what ships could not be called with a sentence."""
    student = lb.students.load(finished / "student")
    asked = [en for en, _ in pairs()[48:]]
    found = student(asked, num_beams=2, max_new_tokens=16)
    kept = read_json(finished / "stages" / "evaluate" / "results.json")["produced"]
    # A model that has hardly learnt is torn between tokens: the last digits may decide.
    same = [a == b for a, b in zip(found, kept["texts"]["student 0"], strict=True)]
    assert sum(same) > 8


def test_students_learn_what_the_teacher_produces(
    finished: Path, folder: Path, tmp_path: Path
) -> None:
    """Without it, a student could learn the references all the same, or the control not."""
    texts = read_json(finished / "stages" / "texts" / "texts-00000.json")
    assert sorted(texts["rows"]) == list(range(40))
    plain = pipeline.run(
        load("translation", [f"data.path={folder}", *QUICK, "knowledge={codec: top16}"]),
        tmp_path / "plain", reuse=finished, until="distill",
    )  # fmt: skip
    histories = [
        read_json(run / "stages" / f"{role}-0" / "training.json")["history"][0]["train"]
        for role in ("student", "control")
        for run in (finished, plain)
    ]
    assert histories[0]["label"] != histories[1]["label"]
    assert histories[0].keys() == {"loss", "label", "kl"}
    assert histories[2] == histories[3]
    assert not (plain / "stages" / ".texts").exists()


def test_texts_go_on_where_they_were_interrupted(
    finished: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, hours of a large teacher's work could be lost."""
    from limbeck.pipeline import produce
    from limbeck.tasks import Translation

    monkeypatch.setattr(produce, "_PART", 16)
    recipe = load(
        "translation", [f"data.path={folder}", *QUICK, "knowledge.batch_size=8", "control=false"]
    )
    asked = Translation.produced
    calls: list[int] = []

    def counted(self, model, batch):
        calls.append(len(batch["id"]))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return asked(self, model, batch)

    monkeypatch.setattr(Translation, "produced", counted)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe, out, reuse=finished, until="knowledge")
    assert len(list((out / "stages" / ".texts").glob("texts-*.json"))) == 2
    pipeline.run(recipe, out, resume=True, until="knowledge")
    whole = [read_json(file) for file in sorted((out / "stages" / "texts").glob("texts-*.json"))]
    once = read_json(finished / "stages" / "texts" / "texts-00000.json")
    assert [row for part in whole for row in part["rows"]] == once["rows"]
    assert [text for part in whole for text in part["texts"]] == once["texts"]
    assert calls == [2, 8, 8, 8, 8, 8, 2, 8]


@pytest.mark.parametrize("kind", ["t5", "marian"])
def test_a_teacher_of_hugging_face(kind: str, folder: Path, tmp_path: Path) -> None:
    """Without it, a pretrained translator could be read, but not be taught by."""
    path = write_translator(tmp_path / kind, kind)
    changes = [
        "teacher.build=huggingface", f"teacher.args={{path: {path}, head: seq2seq_lm}}",
        f"teacher.weights={path / 'model.safetensors'}", "control=false", "method=none",
    ]  # fmt: skip
    recipe = load("translation", [f"data.path={folder}", *QUICK, *changes])
    out = pipeline.run(recipe, tmp_path / "run")
    report = read_json(out / "report.json")
    assert report["models"]["teacher"]["quality"]["chrf"]["values"][0] >= 0
    facts = json.loads((out / "student" / "student.json").read_text())
    assert (facts["args"]["start"], facts["args"]["end"]) == (0, 3)
    with torch.no_grad():
        assert isinstance(lb.students.load(out / "student")(["A man."])[0], str)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["task.beams=0"], "0 beams"),
        (["data.args.target=fr"], "no column 'fr'"),
    ],
)
def test_wrong_input(changes: list[str], message: str, folder: Path, tmp_path: Path) -> None:
    """Without it, minutes of training could pass before a wrong word is found."""
    recipe = load("translation", [f"data.path={folder}", *QUICK, *changes])
    running = pipeline.Run(recipe, pipeline.RunFolder(tmp_path / "run"), lb.Silent())
    with pytest.raises(InputError, match=message):
        running.check()


def test_only_tasks_that_produce_texts_can_learn_them(tmp_path: Path) -> None:
    """Without it, a recipe for pictures would fail after its teacher was trained."""
    recipe = load("digits", ["knowledge.produce=true"])
    running = pipeline.Run(recipe, pipeline.RunFolder(tmp_path / "run"), lb.Silent())
    with pytest.raises(InputError, match=r"knowledge.produce with the task classification"):
        running.check()


def test_the_recipe_on_real_sentences(data_root: Path, tmp_path: Path) -> None:
    """Without it, the recipe that needs data could break unseen."""
    if not (data_root / "mt_multi30k").is_dir():
        pytest.skip("no mt_multi30k in the folder of real data")
    changes = [f"data.path={data_root / 'mt_multi30k'}", *QUICK, "data.limit=64"]
    out = pipeline.run(load("translation", [*changes, "data.args.vocab=400"]), tmp_path / "run")
    assert read_json(out / "report.json")["models"].keys() == {"teacher", "student", "control"}
