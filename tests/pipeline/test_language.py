"""The recipe for language models, from texts to a student that writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from language import story, sums, write_llama, write_rows

import limbeck as lb
from limbeck import pipeline
from limbeck.errors import InputError
from limbeck.files import read_json
from limbeck.recipe import load

SIZES = (
    "model_type: llama, num_attention_heads: 2, intermediate_size: 16, tie_word_embeddings: true"
)
QUICK = (
    "data.args={tokenizer: characters, length: 24, asked: 8}", "train.batch_size=8",
    "train.epochs=1", "teacher.train.epochs=1", "seeds=[0]", "knowledge.codec=top8",
    "evaluate.seconds=0.01", "evaluate.batch_size=4",
    f"teacher.args.config={{{SIZES}, hidden_size: 16, num_hidden_layers: 2}}",
    f"student.args.config={{{SIZES}, hidden_size: 8, num_hidden_layers: 1}}",
)  # fmt: skip


OTHER = ("data.args.teacher_tokenizer=bpe", "data.args.vocab=280", "teacher.inputs=teacher_inputs")


def run(place: Path, out: Path, *changes: str) -> Path:
    return pipeline.run(load("language-model", [f"data.path={place}", *QUICK, *changes]), out)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    (folder / "story.txt").write_text(story(60), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions and answers, and a model of Hugging Face with a chat template."""
    folder = tmp_path_factory.mktemp("chats")
    rows = [{"question": q, "answer": a} for q, a in sums(24)]
    write_rows(folder / "train.jsonl", rows)
    write_llama(folder / "llama", [text for pair in sums(40) for text in pair] + ["user:", "sistn"])
    return folder


def test_the_recipe_on_plain_texts(plain: Path, tmp_path: Path) -> None:
    """The student must ship with its tokenizer and write; the report must show what it writes."""
    out = run(plain, tmp_path / "run")
    report = read_json(out / "report.json")
    assert report["selection"] == {"metric": "loss", "higher_is_better": False}
    quality = report["models"]["student"]["quality"]
    assert quality.keys() >= {"loss", "perplexity", "token_accuracy", "word_overlap"}
    assert {"knowledge"} <= {stage["name"] for stage in report["stages"]}
    student = lb.students.load(shutil.copytree(out / "student", tmp_path / "moved"))
    written = student(["The cat", "A"], max_new_tokens=5, do_sample=False)
    assert [text[: len(asked)] for text, asked in zip(written, ("The cat", "A"), strict=True)] == [
        "The cat", "A",
    ]  # fmt: skip
    reader = student.preprocess
    assert student.model.generation_config.eos_token_id == reader.end
    alone = student.model.generate(**reader(["A"]), max_new_tokens=5, do_sample=False)
    assert reader.written(alone.tolist()) == [written[1]]
    group = read_json(out / "details.json")["examples"]["groups"][0]
    assert group["samples"][0]["answers"].keys() == {"teacher", "student", "control"}
    assert group["samples"][0]["shown"]["text"] in story(60)


@pytest.mark.parametrize(
    ("how", "method"),
    [("on_policy={fraction: 1, mix: 0.2}", "minillm"), ("knowledge.produce=true", "reverse_kl")],
)
def test_answers_by_a_model_from_a_folder(
    how: str, method: str, chats: Path, tmp_path: Path
) -> None:
    """A folder of Hugging Face teaches, by its chat template, what the student itself wrote too."""
    out = run(
        chats, tmp_path / "run", f"teacher.args={{head: causal_lm, path: {chats / 'llama'}}}",
        "data.args={length: 64, template: chat}", "task.judge=number", "task.temperature=0",
        f"method={method}", how, "control=false",
    )  # fmt: skip
    report = read_json(out / "report.json")
    assert report["selection"]["metric"] == "exact_match"
    assert 0 <= report["models"]["student"]["quality"]["exact_match"]["mean"] <= 1
    stages = {stage["name"] for stage in report["stages"]}
    assert ("texts" in stages) == how.startswith("knowledge")
    assert ("knowledge" in stages) == how.startswith("knowledge")
    reader = lb.students.load(out / "student").preprocess
    asked = reader.prompt("What is 1 and 2?")
    assert asked == "user: What is 1 and 2?<|end|>\nassistant: "


def test_a_teacher_with_other_tokens(plain: Path, tmp_path: Path) -> None:
    """Its tokens would stand for other ones of the student's, or its answers for other texts."""
    out = run(plain, tmp_path / "run", "method=uld", *OTHER, "knowledge.codec=half")
    report = read_json(out / "report.json")
    assert {stage["name"] for stage in report["stages"]} >= {"knowledge", "student-0", "control-0"}
    assert report["models"]["teacher"]["quality"]["loss"] is None  # of other tokens
    assert "agreement" not in report["models"]["student"]["fidelity"]
    student = lb.students.load(out / "student")
    assert student(["The cat"], max_new_tokens=3, do_sample=False)[0].startswith("The cat")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["on_policy={}", "knowledge.store=true"], "on_policy with knowledge.store"),
        (["on_policy={}", "method=dkd"], "which needs labels"),
        (["on_policy={}", "teacher.inputs=theirs"], "theirs"),
        (["method=minillm"], r"without on_policy.*Set on_policy"),
        (["method=uld", *OTHER], r"other tokens|top8 kept a part"),
        (["method=kd", *OTHER], "a teacher that has other tokens than the student"),
        (
            ["method=uld", *OTHER, "on_policy={}", "knowledge.codec=half"],
            "reads a field of its own",
        ),
        (["method=[]", *OTHER, "knowledge.produce=true"], "other tokens than the student"),
        ([*OTHER, "data.args.pack=true"], r"Leave data\.args\.pack out"),
        ([*OTHER, "teacher.inputs=inputs"], r"Set teacher\.inputs to teacher_inputs"),
        (["teacher.inputs=teacher_inputs"], r"data\.args\.teacher_tokenizer"),
        (["on_policy={fraction: 0}"], "greater than 0"),
        (["task.judge=best"], "judge 'best' is not known"),
        (["teacher.args.head=causal"], "head 'causal' is not known"),
        (["teacher.args={}"], "a Hugging Face model without a path"),
        (
            ["data.args.tokenizer=bpe", "teacher.args={head: causal_lm, path: CHATS}"],
            "other tokens",
        ),
        (["student.args.config.vocab_size=5"], "for a model that knows 5"),
        (["student.args.head=sequence_classification"], "a classifier of 0 classes"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_trained(
    changes: list[str], message: str, plain: Path, chats: Path, tmp_path: Path
) -> None:
    """Without it, minutes of training could pass before a wrong word is found."""
    real = [change.replace("CHATS", str(chats / "llama")) for change in changes]

    def check() -> None:
        recipe = load("language-model", [f"data.path={plain}", *QUICK, *real])
        pipeline.Run(recipe, pipeline.RunFolder(tmp_path / "run"), lb.Silent()).check()

    with pytest.raises(InputError, match=message):
        check()


def test_the_recipe_on_real_texts(data_root: Path, tmp_path: Path) -> None:
    """Without it, the recipe could break unseen on the texts that it was made for."""
    place = data_root / "lm_text" / "tinyshakespeare"
    if not place.is_dir():
        pytest.skip("no lm_text in the folder of real data")
    out = run(place, tmp_path / "run", "data.limit=48", "control=false")
    assert read_json(out / "report.json")["models"].keys() == {"teacher", "student"}
    assert torch.isfinite(torch.tensor(read_json(out / "report.json")["models"]["student"][
        "quality"]["loss"]["mean"]))  # fmt: skip
