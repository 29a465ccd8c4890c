"""A language model behind a server teaches: by choices, by texts, token by token."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from answering import (
    Answering,
    Body,
    FakeClock,
    LanguageModel,
    chat,
    completion,
    echo,
    prompt_of,
    serving,
)
from torch import Tensor

import limbeck as lb
from limbeck.data import Arrays, Items
from limbeck.errors import InputError
from limbeck.knowledge import write
from limbeck.losses.sparse import SparseLogits
from limbeck.teachers import Knowing, Served, Teacher
from limbeck.teachers.served import Choosing, Usage
from limbeck.testing import check_teacher

CHOICES = ["negative", "positive"]
TEXTS = [f"film {number}" for number in range(6)]
PROMPT = "Is this negative or positive? {text}"


def critic(body: Body) -> Body:
    """Answers with a share for "positive" that grows with the film's number."""
    share = (int(str(prompt_of(body)).split()[-1]) + 1) / 10
    top = {"positive": share, "negative": 0.95 - share, "The": 0.01}
    return chat("positive", top) if "messages" in body else completion(" positive", top)


def served(server: Answering, **options: Any) -> Served:
    return Served(server.url, "tiny", **({"clock": FakeClock()} | options))


def asked(top: dict[str, float], choices: list[str], *, by_chat: bool = True) -> Tensor:
    """Return what a teacher makes of the first token's probabilities."""
    reply = chat("x", top) if by_chat else completion("x", top)
    with serving(lambda body: reply) as server:
        return served(server, chat=by_chat).label(["a"], "{text}", choices, top=5)[0].exp()


# -- choices


@pytest.mark.parametrize("by_chat", [True, False])
def test_labels_are_the_shares_of_the_choices(by_chat: bool) -> None:
    """The student would learn from numbers that are no probabilities."""
    with serving(critic) as server:
        logits = served(server, chat=by_chat).label(TEXTS, PROMPT, CHOICES, show=False)
        assert server.asked[0]["max_tokens"] == 1
        assert server.asked[0]["temperature"] == 0
        assert set(server.paths) == {"/v1/chat/completions" if by_chat else "/v1/completions"}
    shares = torch.tensor([[0.95 - n / 10, n / 10] for n in range(1, 7)]) / 0.95
    assert torch.allclose(logits.exp(), shares, atol=1e-6)


@pytest.mark.parametrize("by_chat", [True, False])
def test_tokens_of_one_choice_add_up(by_chat: bool) -> None:
    """Half of the mass of "yes" may be on " Yes"."""
    top = {"yes": 0.3, " Yes": 0.2, "Y": 0.1, "no": 0.2, "\n": 0.1, "perhaps": 0.05}
    shares = asked(top, ["Yes", "No"], by_chat=by_chat)
    assert shares.tolist() == pytest.approx([0.6 / 0.8, 0.2 / 0.8])


@pytest.mark.parametrize(
    ("top", "bound"),
    [({"yes": 0.7, "oh": 0.2, "x": 0.05}, 0.05), ({"yes": 0.9, "oh": 0.08}, 0.02)],
    ids=["the least returned", "what is left"],
)
def test_a_choice_that_is_not_returned_has_little(top: dict[str, float], bound: float) -> None:
    """Minus infinity would make the loss infinite; nothing at all would be a guess."""
    shares = asked(top, ["yes", "no"])
    assert shares[1] / shares[0] == pytest.approx(bound / top["yes"], rel=1e-4)


def test_probabilities_of_nearly_nothing_stay_finite() -> None:
    """OpenAI writes −9999 for a token that cannot come."""
    reply = chat("yes", {"yes": 1.0, "no": 0.5})
    reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] = -9999.0
    with serving(lambda body: reply) as server:
        logits = served(server).label(["a"], "{text}", ["yes", "no"])
    assert logits[0, 1] == pytest.approx(-30)


@pytest.mark.parametrize("choices", [["1", "10"], ["good", "Good enough"], ["a", "A "]])
def test_a_choice_that_begins_another_is_refused(choices: list[str]) -> None:
    """The token "1" would be counted for "1", "10" or both."""
    with pytest.raises(InputError, match="begins the choice"):
        Served("http://localhost/v1", "tiny").classifier("{text}", choices)


def test_choices_with_the_same_first_token_are_refused_by_name() -> None:
    """ "very" would be counted for both, and the student learn that they are equal."""
    with pytest.raises(InputError, match="'very', which begins 'very good' and 'very bad'"):
        asked({"very": 0.9, "x": 0.1}, ["very good", "very bad"])


def test_a_shared_beginning_that_hardly_comes_is_left_out() -> None:
    """Among twenty tokens there mostly is an "n": negative and neutral could not be used."""
    shares = asked({"negative": 0.6, "neutral": 0.38, "n": 0.001}, ["negative", "neutral"])
    assert shares.tolist() == pytest.approx([60 / 98, 38 / 98])


@pytest.mark.parametrize("choices", [["a"], ["a", "a"], ["a", " "], []])
def test_choices_that_are_none_are_refused(choices: list[str]) -> None:
    """One class teaches nothing."""
    with pytest.raises(InputError, match="at least two different"):
        Served("http://localhost/v1", "tiny").classifier("{text}", choices)


def test_a_model_that_says_something_else_is_told() -> None:
    """Labels from the last percent of a probability are noise."""
    with pytest.warns(UserWarning, match=r"1 of 1 texts .* less than half .*0\.03"):
        asked({"The": 0.9, "yes": 0.02, "no": 0.01}, ["yes", "no"])


@pytest.mark.parametrize(
    "reply",
    [chat("yes"), {"choices": [{"text": "x", "logprobs": None}]},
     {"choices": [{"logprobs": {"content": [{"token": "x"}]}}]}],
)  # fmt: skip
def test_answers_without_probabilities_are_refused(reply: Body) -> None:
    """Servers leave out what they do not know, and answer 200."""
    with serving(lambda body: reply) as server:
        with pytest.raises(InputError, match=r"no top_logprobs.*Served.generate"):
            served(server).label(TEXTS, PROMPT, CHOICES)
        assert len(server.asked) <= 16


def test_whole_choices_are_scored_by_all_their_tokens() -> None:
    """ "very good" and "very bad" differ in their second token."""
    odds = {"good": 0.5, "bad": 0.25}

    def answer(body: Body) -> Body:
        word = body["prompt"].split()[-1]
        return echo(
            ["<s>", "It", " was", " very", f" {word}", "!"], [None, 0.1, 0.1, 0.8, odds[word], 0.3]
        )

    with serving(answer) as server:
        teacher = served(server, chat=False)
        choices = [" very good", " very bad"]
        logits = teacher.label(["was"], "It {text}", choices, scoring="whole_choice", show=False)
        assert sorted(server.prompts) == ["It was very bad", "It was very good"]
        assert logits.exp()[0].tolist() == pytest.approx([2 / 3, 1 / 3])
        assert teacher.spent == Usage(2, 10, 2)


def test_a_token_across_the_boundary_is_refused() -> None:
    """Its probability belongs to the prompt and to the choice."""

    def answer(body: Body) -> Body:
        word = body["prompt"].split()[-1]
        return echo(["It", " was  ", word, "!"], [None, 0.1, 0.5, 0.1])

    with serving(answer) as server:
        teacher = served(server, chat=False)
        with pytest.raises(InputError, match="part of the prompt and of the choice"):
            teacher.label(["It was "], "{text}", [" good", " bad"], scoring="whole_choice")
    with pytest.raises(InputError, match="whole choices with the chat API"):
        Served("http://x/v1", "tiny").classifier("{text}", CHOICES, scoring="whole_choice")
    with pytest.raises(InputError, match="way of scoring choices: 'all'"):
        Served("http://x/v1", "tiny").classifier("{text}", CHOICES, scoring="all")


# -- the contract of a teacher


def batch(count: int = 6) -> dict[str, Any]:
    return {
        "inputs": torch.rand(count, 4),
        "id": torch.arange(count),
        "text": TEXTS[:count],
        "targets": torch.arange(count) % 2,
    }


@pytest.mark.parametrize("texts", [TEXTS, "text", lambda batch: [TEXTS[i] for i in batch["id"]]])
def test_a_classifier_keeps_the_contract(texts: Any) -> None:
    """Schemes and stores rely on it for every teacher."""
    with serving(critic) as server:
        teacher = served(server).classifier(PROMPT, CHOICES, texts=texts)
        check_teacher(teacher, batch())
        assert isinstance(teacher, Knowing)
        assert len(server.asked) == len(TEXTS)  # once each
        known = teacher.knowledge(batch())
        assert torch.equal(known.ids, batch()["id"])
        with pytest.raises(InputError, match="tap of a model behind a server: 'layer1'"):
            teacher.knowledge(batch(), ["layer1"])


@pytest.mark.parametrize("texts", [TEXTS, "text"])
def test_a_student_learns_from_it_live(texts: Any) -> None:
    """The distiller's dry run takes two samples of a batch, and their texts."""
    with serving(critic) as server:
        teacher = lb.Teacher.served(server.url, "tiny").classifier(PROMPT, CHOICES, texts=texts)
        student = torch.nn.Linear(4, 2)
        distiller = lb.Distiller(
            teacher, student, task=lb.tasks.Classification(2), method=lb.methods.kd()
        )
        assert torch.isfinite(distiller(batch()).loss)
        distiller(batch())
        assert len(server.asked) == len(TEXTS)


def test_a_store_is_written_from_texts_in_the_batch(tmp_path: Path) -> None:
    """Texts come from data sets, not only from lists."""

    class Films(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(TEXTS)

        def __getitem__(self, row: int) -> dict[str, Any]:
            return {"inputs": torch.zeros(1), "targets": row % 2, "text": TEXTS[row]}

    with serving(critic) as server:
        teacher = served(server).classifier(PROMPT, CHOICES, texts="text")
        write(tmp_path, teacher, Items.of(Films()), codec="full", batch_size=4)
        expected = teacher.label(TEXTS)
    replay = Teacher.replay(tmp_path)
    assert torch.allclose(replay.knowledge(batch()).logits, expected)
    assert replay.fingerprint() == teacher.fingerprint()


def test_a_store_that_was_cut_asks_nothing_twice(tmp_path: Path) -> None:
    """A shard of a store is thousands of paid questions."""
    data = Arrays.of(**{k: v for k, v in batch().items() if k not in ("id", "text")})
    with serving(critic) as server:
        for attempt in range(2):
            teacher = served(server, concurrency=1).classifier(
                PROMPT, CHOICES, texts=TEXTS, keep=tmp_path / "labels.jsonl"
            )
            if not attempt:
                teacher.label(TEXTS[:4])  # then the process was killed
        write(tmp_path / "store", teacher, data)
        assert sorted(server.prompts) == [PROMPT.replace("{text}", text) for text in TEXTS]
        lines = (tmp_path / "labels.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["text"] for line in lines) == TEXTS
    with serving(critic) as server:
        other = served(server).classifier(
            PROMPT, CHOICES[::-1], texts=TEXTS, keep=tmp_path / "labels.jsonl"
        )
        with pytest.raises(InputError, match="answers of another model, or to other questions"):
            other.label(TEXTS)
        assert not server.asked


@pytest.mark.parametrize(
    ("texts", "given", "told"),
    [
        ("words", batch(), "field of the batch with the texts"),
        ("text", batch() | {"text": TEXTS[:2]}, "2 texts and 6 ids"),
        (TEXTS[:3], batch(), "sample 3 has no text.*ids from 0 to 2"),
        (TEXTS, {"inputs": torch.zeros(2, 4)}, "without sample ids"),
        ("inputs", batch(), "texts that are none"),
    ],
)
def test_texts_that_are_not_there(texts: Any, given: Any, told: str) -> None:
    """The answers of other samples would be taken."""
    teacher = Served("http://localhost/v1", "tiny").classifier(PROMPT, CHOICES, texts=texts)
    with pytest.raises(InputError, match=told):
        teacher.knowledge(given)


def fingerprints(model: str = "tiny", choices: list[str] = CHOICES, texts: Any = TEXTS,
                 prompt: Any = PROMPT, url: str = "http://a/v1", top: int = 5,
                 system: str | None = None, **options: Any) -> str:  # fmt: skip
    server = Served(url, model, **options)
    return server.classifier(prompt, choices, texts=texts, top=top, system=system).fingerprint()


@pytest.mark.parametrize(
    "change",
    [{"model": "b"}, {"choices": CHOICES[::-1]}, {"texts": TEXTS[::-1]}, {"texts": "text"},
     {"prompt": "{text}!"}, {"prompt": lambda text: text}, {"top": 6}, {"system": "Be kind."},
     {"revision": "2"}, {"extra": {"seed": 1}}, {"chat": False}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_the_fingerprint_changes_with_the_answers(change: dict[str, Any]) -> None:
    """A store would be taken for the knowledge of another teacher."""
    assert fingerprints(**change) != fingerprints()


@pytest.mark.parametrize(
    "change",
    [{"url": "https://b/v1"}, {"concurrency": 2}, {"tries": 1}, {"price_per_million": (1, 2)},
     {"key_env": "A_KEY"}],
    ids=str,
)  # fmt: skip
def test_the_fingerprint_does_not_change_with_the_way_there(change: dict[str, Any]) -> None:
    """The same model on another machine would have to answer everything again."""
    assert fingerprints(**change) == fingerprints()


# -- texts


def test_answers_come_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    """Answers would be given to prompts that are not theirs."""

    def answer(body: Body) -> Body:
        time.sleep(random.random() / 20)
        return chat(f"about {prompt_of(body)}, {body['seed']}", finish="length")

    with serving(answer) as server:
        teacher = served(server, extra={"top_k": 3, "seed": 7, "max_tokens": None})
        answers = teacher.generate(TEXTS, tmp_path / "a.jsonl", system="Be brief.", show=False)
        assert answers.texts == [f"about {text}, 7" for text in TEXTS]
        assert answers.cut == len(answers) == 6
        body = server.asked[0]
        assert (body["top_k"], body["model"], "max_tokens" in body) == (3, "tiny", False)
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prompt"]) for row in rows] == list(enumerate(TEXTS))
    assert rows == list(answers)


def test_several_answers_for_a_prompt_have_seeds_of_their_own(tmp_path: Path) -> None:
    """The same seed would give the same answer."""
    with serving(lambda body: chat(f"{prompt_of(body)} {body['seed']}")) as server:
        prompts = {"x": "a", "y": "b"}
        answers = served(server).generate(
            prompts, tmp_path / "a.jsonl", prompt="So: {text}", samples=2, seed=5, show=False
        )
    assert answers.texts == ["So: a 5", "So: a 6", "So: b 5", "So: b 6"]
    assert [(row["id"], row["sample"]) for row in answers] == [
        ("x", 0),
        ("x", 1),
        ("y", 0),
        ("y", 1),
    ]


@pytest.mark.parametrize(
    ("prompts", "options", "told"),
    [
        (["a", "other"], {}, "another prompt with the id 1: 'b', now 'other'"),
        (["a", "b"], {"temperature": 1.0}, "to other questions"),
        (["a", "b"], {"prompt": "{text}?"}, "to other questions"),
        ("ab", {}, "one text instead of a list"),
        (["a"], {"prompt": "x"}, "without a place for the text"),
    ],
)
def test_files_of_other_questions_are_refused(
    prompts: Any, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    """Old and new answers would be mixed, and nobody could tell them apart."""
    with serving(lambda body: chat("x")) as server:
        served(server).generate(["a", "b"], tmp_path / "a.jsonl", show=False)
        before = (tmp_path / "a.jsonl").read_bytes()
        with pytest.raises(InputError, match=told):
            served(server).generate(prompts, tmp_path / "a.jsonl", show=False, **options)
        assert (tmp_path / "a.jsonl").read_bytes() == before


def test_answers_without_text_are_refused(tmp_path: Path) -> None:
    """A student would be trained on "None"."""
    reply = {"choices": [{"message": {"content": None, "tool_calls": []}}]}
    with serving(lambda body: reply) as server, pytest.raises(InputError, match="has no text"):
        served(server).generate(["a"], tmp_path / "a.jsonl", show=False)


# -- cost


def test_cost_is_estimated_counted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run over a million prompts is begun in ignorance otherwise."""
    with serving(critic) as server:
        teacher = served(server, price_per_million=(2.0, 30.0), count_tokens=lambda text: 6)
        estimate = teacher.estimate(TEXTS, max_tokens=50)
        assert (estimate.requests, estimate.prompt_tokens) == (6, 60)  # 6 and 4 each
        assert estimate.completion_tokens == 300
        assert estimate.money == pytest.approx((60 * 2 + 300 * 30) / 1e6)
        chooser = teacher.classifier(PROMPT, CHOICES, keep=tmp_path / "a.jsonl")
        assert isinstance(chooser, Choosing)
        assert str(chooser.estimate(TEXTS)).startswith("6 requests, about 60 tokens in, at most 6 ")
        chooser.label(TEXTS[:4])
        assert chooser.estimate(TEXTS).requests == 2
        assert (
            teacher.classifier(PROMPT, CHOICES, keep=tmp_path / "a.jsonl").estimate(TEXTS).requests
            == 2
        )
        assert teacher.spent == Usage(4, 40, 4)
        assert teacher.spent.money(teacher.prices) == pytest.approx((40 * 2 + 4 * 30) / 1e6)
    assert "labels: 4 requests, 40 tokens in, 4 out, cost 0.0002" in capsys.readouterr().err


def test_what_a_server_does_not_count_is_told() -> None:
    """It would look as if it cost nothing."""
    reply = {
        name: value for name, value in chat("a", {"a": 0.5, "b": 0.5}).items() if name != "usage"
    }
    with serving(lambda body: reply) as server:
        teacher = served(server)
        teacher.label(["x"], "{text}", ["a", "b"], show=False)
    assert teacher.spent == Usage(1, 0, 0, uncounted=1)
    assert "1 not counted" in teacher.spent.told(None)


# -- token by token


def ids_of(rows: int = 3, tokens: int = 5) -> Tensor:
    return torch.randint(40, (rows, tokens), generator=torch.Generator().manual_seed(1))


def reader_reply(body: Body) -> Body:
    """Knows two tokens after each: the next in number, and the one after it."""
    table = [None] + [
        {str(i + 1): {"logprob": math.log(0.6)}, str(i + 2): {"logprob": math.log(0.3)},
         "49": {"logprob": math.log(0.01)}}
        for i in body["prompt"][:-1]
    ]  # fmt: skip
    return {"choices": [{"text": "x", "prompt_logprobs": table}]}


def test_tokens_are_known_one_place_before(tmp_path: Path) -> None:
    """A server tells of each token what was expected there; a student's logits are one behind."""
    with serving(reader_reply) as server:
        teacher = served(server).reader(50, top=2, mask="mask", keep=tmp_path / "a.jsonl")
        mask = torch.ones(3, 5, dtype=torch.bool)
        mask[1, 3:] = False
        mask[2, 1:] = False
        given = {"inputs": ids_of(), "mask": mask, "id": torch.arange(3)}
        known: Any = teacher.knowledge(given)
        logits = known.logits
        assert isinstance(logits, SparseLogits)
        assert tuple(logits.shape) == (3, 5, 50)
        assert known.mask.tolist() == [[True] * 4 + [False], [True] * 2 + [False] * 3, [False] * 5]
        first = ids_of()[0, 0]
        assert logits.indices[0, 0].tolist() == [first + 1, first + 2]
        assert logits.log_p[0, 0].exp().tolist() == pytest.approx([0.6, 0.3])
        assert torch.allclose(logits.dense().exp().sum(-1), torch.ones(3, 5), atol=1e-5)
        assert len(server.asked) == 2  # one token alone tells nothing
        assert server.asked[0]["prompt_logprobs"] == 2
        again = served(server).reader(50, top=2, mask="mask", keep=tmp_path / "a.jsonl")
        repeated: Any = again.knowledge(given).logits
        assert torch.equal(repeated.log_p, logits.log_p)
        assert len(server.asked) == 2
        assert again.fingerprint() == teacher.fingerprint()


@pytest.mark.parametrize("mask", [None, "mask"])
def test_sparse_knowledge_goes_into_a_store(mask: str | None, tmp_path: Path) -> None:
    """Token by token a teacher is asked once, for all students."""
    data = Arrays.of(inputs=ids_of(), mask=torch.arange(5).expand(3, 5) < 4, targets=ids_of())
    given = {"inputs": ids_of(), "mask": data.column("mask"), "id": torch.arange(3)}
    with serving(reader_reply) as server:
        teacher = served(server).reader(50, top=2, mask="mask")
        write(tmp_path, teacher, data, codec="top2", mask=mask)
        live: Any = teacher.knowledge(given).logits
        stored: Any = Teacher.replay(tmp_path).knowledge(given).logits
    assert torch.equal(stored.indices[:, :3], live.indices[:, :3])
    assert torch.allclose(stored.log_p[:, :3], live.log_p[:, :3], atol=1e-3)
    assert torch.allclose(stored.rest[:, :3], live.rest[:, :3], atol=1e-2)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (None, r"no prompt_logprobs.*Served.generate"),
        ([None, {" the": {"logprob": -1.0}}], r"no ids: ' the'.*vLLM"),
        ([None], "answers about 1 tokens.*the 2 that were sent"),
        ([None, {"3": {"logprob": -1.0}}], "1 tokens at a place.*Ask for fewer"),
        ([None, {"3": {"logprob": -1.0}, "70": {"logprob": -2.0}}], "ids up to 70"),
        ([None, None], "0 tokens at a place"),
    ],
)
def test_tokens_of_another_vocabulary_are_refused(table: Any, told: str) -> None:
    """Texts of tokens would be given to whatever tokens of the student's look like them."""
    reply = {"choices": [{"text": "x", "prompt_logprobs": table}]}
    with serving(lambda body: reply) as server:
        reader = served(server).reader(50, top=2)
        with pytest.raises(InputError, match=f"(?s){told}"):
            reader.score(torch.tensor([[1, 2]]), show=False)


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"inputs": torch.zeros(2, 3)}, "token ids of type"),
        ({"inputs": torch.zeros(2, 3, dtype=torch.int64)}, "field of the batch: 'mask'"),
        ({"inputs": ids_of(1, 2), "mask": torch.tensor([[False, True]])}, "padding on the right"),
    ],
)
def test_batches_that_a_reader_cannot_read(batch: dict[str, Tensor], told: str) -> None:
    """Padding would be taken for words."""
    reader = Served("http://localhost/v1", "tiny").reader(50, mask="mask")
    given = batch if "mask" in batch or "field" in told else batch | {"mask": torch.ones(2, 3)}
    with pytest.raises(InputError, match=told):
        reader.knowledge(given)


# -- a real model


@pytest.fixture(scope="module")
def gpt() -> tuple[Any, Any]:
    """A GPT-2 of two layers, not trained, with a tokenizer trained on this file."""
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    tokenizers = pytest.importorskip("tokenizers")
    plain = tokenizers.ByteLevelBPETokenizer()
    plain.train([__file__], vocab_size=400, show_progress=False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain._tokenizer)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2,
        initializer_range=0.5, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval(), tokenizer


@torch.no_grad()
def test_a_real_model_is_read_as_it_is(gpt: tuple[Any, Any]) -> None:
    """A shift by one place, or a wrong token, would look like any other answer."""
    model, tokenizer = gpt
    ids = torch.tensor([tokenizer.encode("answers would be given to")[:6]])
    own = model(ids).logits
    with serving(LanguageModel(model, tokenizer)) as server:
        known, mask = served(server).reader(own.shape[-1], top=12).score(ids, show=False)
    best = own.log_softmax(-1).topk(12)
    assert torch.equal(known.indices[mask], best.indices[mask])
    assert torch.allclose(known.log_p[mask], best.values[mask], atol=1e-5)
    same = lb.losses.kl(own[mask], known[mask])  # type: ignore[arg-type]
    assert float(same) == pytest.approx(0, abs=1e-5)


@torch.no_grad()
def test_a_real_model_chooses_as_it_is(gpt: tuple[Any, Any]) -> None:
    """Both ways of scoring must give the model's own probabilities."""
    model, tokenizer = gpt
    texts = ["student", "teacher's answer"]
    words = [" the answers", " another"]

    def score(text: str, ending: str) -> float:
        start, whole = (tokenizer.encode(part) for part in (text, text + ending))
        logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        places = range(len(start), len(whole))
        return sum(float(logs[place - 1, whole[place]]) for place in places)

    expected = torch.tensor([[score(text, word) for word in words] for text in texts])
    with serving(LanguageModel(model, tokenizer)) as server:
        teacher = served(server, chat=False)
        found = teacher.label(texts, "{text}", words, scoring="whole_choice", show=False)
        assert torch.allclose(found, expected.log_softmax(-1), atol=1e-4)
        with pytest.warns(UserWarning, match="less than half"):
            first = teacher.label(texts, "{text}", ["A", "B"], top=len(tokenizer), show=False)
    for row, text in enumerate(texts):
        last = model(torch.tensor([tokenizer.encode(text)])).logits[0, -1].softmax(-1)
        masses = torch.zeros(2)
        for token in range(len(tokenizer)):
            plain = tokenizer.decode([token]).strip().casefold()
            if plain in ("a", "b"):
                masses["ab".index(plain)] += last[token]
        assert torch.allclose(first[row].exp(), masses / masses.sum(), atol=1e-4)


def test_a_real_model_writes(gpt: tuple[Any, Any], tmp_path: Path) -> None:
    """The text must be the model's own, and the loader must read the file."""
    model, tokenizer = gpt
    datasets = pytest.importorskip("datasets")
    with serving(LanguageModel(model, tokenizer)) as server:
        answers = served(server, chat=False).generate(
            ["The student", "A teacher"], tmp_path / "a.jsonl", max_tokens=4, show=False
        )
    ids = torch.tensor([tokenizer.encode("The student")])
    written = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert answers.texts[0] == tokenizer.decode(written[0, ids.shape[1] :])
    loaded = datasets.Dataset.from_json(str(answers.path), cache_dir=str(tmp_path / "cache"))
    assert loaded["answer"][:] == answers.texts
