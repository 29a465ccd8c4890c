"""A language model behind an OpenAI-compatible server, and the ways in which it can teach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from limbeck.files import digest
from limbeck.teachers.served.answers import Answers, Prompts, generate, named
from limbeck.teachers.served.choices import scoring as find_scoring
from limbeck.teachers.served.choosing import Choosing, Texts
from limbeck.teachers.served.client import Client, Question, Reply
from limbeck.teachers.served.cost import (
    Estimate,
    Prices,
    Usage,
    checked,
    count_roughly,
    estimated,
    prompt_tokens,
)
from limbeck.teachers.served.journal import Journal, Row
from limbeck.teachers.served.pace import Clock, Pace
from limbeck.teachers.served.patience import UnansweredError
from limbeck.teachers.served.progress import shown
from limbeck.teachers.served.prompting import Prompt, Prompting
from limbeck.teachers.served.reading import Reading

__all__ = ["Served"]


class Served:
    """A language model behind an OpenAI-compatible server.

    It teaches in three ways: as a classifier, by the probabilities of given choices
    (:meth:`classifier`, :meth:`label`); by the texts that it writes (:meth:`generate`); token by
    token, by the most likely tokens at each place (:meth:`reader`). Needs ``limbeck[serve]``.

    Questions go out ``concurrency`` at a time. One that fails for a reason that may pass (429, 5xx,
    timeouts, broken connections, answers that are not JSON) is sent again, after a time that grows
    and is drawn at random, or that the server names (``Retry-After``). What the server refuses
    (401, 404, 400) ends the work at once, with the server's message.

    Args:
        url: of the API, mostly ending in ``/v1``.
        model: the name under which the server knows the model.
        revision: which version of the model that is; a part of the fingerprint, since servers
            change models without changing names.
        chat: whether prompts go to ``chat/completions``; else they go to ``completions`` as they
            are.
        extra: further fields of every request, for example
            ``{"chat_template_kwargs": {"enable_thinking": False}}``; ``None`` as a value takes a
            field away.
        key_env: the environment variable that holds the key; ``None`` sends none. The key is sent
            in the header ``Authorization`` and kept nowhere.
        concurrency: how many questions may be on their way at once.
        requests_per_minute: at most so many, evenly spread; ``None`` for no limit.
        tokens_per_minute: at most so many, of prompts and answers together.
        tries: how often a question is sent before it is given up.
        timeout: seconds that an answer may take.
        price_per_million: money for a million tokens of prompts, and of answers.
        count_tokens: guesses the number of tokens in a text, for estimates and for
            ``tokens_per_minute``; exact with the model's tokenizer.
        clock: tells the time, for tests.

    Attributes:
        spent: what was used since this was made.

    >>> server = Served("http://localhost:8000/v1", "qwen", price_per_million=(0.15, 0.60))
    >>> server
    Served('qwen' at http://localhost:8000/v1)
    >>> print(server.estimate(["Who discovered penicillin?"] * 1000, max_tokens=100))
    1,000 requests, about 11,000 tokens in, at most 100,000 out, cost at most 0.0617
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        revision: str = "",
        chat: bool = True,
        extra: Mapping[str, Any] | None = None,
        key_env: str | None = None,
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        tries: int = 6,
        timeout: float = 120.0,
        price_per_million: Prices | None = None,
        count_tokens: Callable[[str], int] = count_roughly,
        clock: Clock | None = None,
    ) -> None:
        pace = Pace(requests_per_minute, tokens_per_minute, clock)
        self.client = Client(
            url, key_env, concurrency=concurrency, tries=tries, timeout=timeout, pace=pace
        )
        self.model, self.revision, self.chat = model, revision, chat
        self.extra = dict(extra or {})
        self.prices = checked(price_per_million)
        self.count_tokens = count_tokens
        self.spent = Usage()

    def __repr__(self) -> str:
        return f"Served({self.model!r} at {self.client.url})"

    def classifier(
        self,
        prompt: Prompt,
        choices: Sequence[str],
        *,
        texts: Texts = "text",
        scoring: str = "first_token",
        system: str | None = None,
        top: int = 20,
        keep: str | Path | None = None,
    ) -> Choosing:
        """Return a teacher whose logits are the log-probabilities of choices.

        Args:
            prompt: a text with ``{text}`` where the sample's text goes, or a function of that text.
            choices: the C classes, as the model should name them.
            texts: where a batch's texts are: the name of a field that holds them, a function of the
                batch that returns them, or all texts, found by the sample's id.
            scoring: ``first_token`` (one request for each text) or ``whole_choice`` (C requests).
            system: a first message, in chats.
            top: how many candidates of the first token to ask for; servers allow 5 to 20.
            keep: a file of answers, JSON lines: what it holds is not asked again.

        Raises:
            InputError: choices that cannot be told apart; later, an answer without probabilities.
        """
        prompting = Prompting(self.chat, prompt, system)
        return Choosing(self, prompting, tuple(choices), texts, find_scoring(scoring, top), keep)

    def label(
        self, texts: Sequence[str], prompt: Prompt, choices: Sequence[str], *, show: bool = True,
        **options: Any,
    ) -> Tensor:  # fmt: skip
        """Return the log-probabilities (N, C) of choices for N texts; see :meth:`classifier`."""
        return self.classifier(prompt, choices, **options).label(texts, show=show)

    def reader(
        self,
        classes: int,
        *,
        top: int = 20,
        ids: str = "inputs",
        mask: str | None = None,
        keep: str | Path | None = None,
    ) -> Reading:
        """Return a teacher that knows the most likely tokens at each place of a sequence.

        Its tokens must be the student's: the batch's token ids are sent as they are, and the
        server must answer with token ids, as vLLM's ``prompt_logprobs`` do.

        Args:
            classes: V, how many tokens the vocabulary has.
            top: how many tokens to know at each place; vLLM allows 20 unless told otherwise.
            ids: the batch's field of token ids, (B, T).
            mask: the batch's field that is true where there is a token, (B, T), the tokens first;
                ``None`` if there are T in every row.
            keep: a file of answers, JSON lines: what it holds is not asked again.
        """
        return Reading(self, classes, top, ids, mask, keep)

    def generate(
        self,
        prompts: Prompts,
        to: str | Path,
        *,
        prompt: Prompt = "{text}",
        system: str | None = None,
        max_tokens: int = 512,
        temperature: float = 0.0,
        samples: int = 1,
        seed: int = 0,
        show: bool = True,
    ) -> Answers:
        """Let the model write an answer to every prompt: texts for a student to be trained on.

        The file gets a line as soon as an answer is there. Interrupted, call it again: it goes on
        with what is missing. The finished file is in the order of the prompts.

        Args:
            prompts: the N texts, or texts by their ids.
            to: the file, JSON lines: id, sample, prompt, answer, finish (``stop``, or ``length`` if
                the answer was cut), usage. ``datasets.load_dataset("json", ...)`` reads it.
            prompt: a text with ``{text}`` where the prompt goes, or a function of it.
            system: a first message, in chats.
            max_tokens: how long an answer may be.
            temperature: 0 for the most likely answer.
            samples: answers for each prompt, with seeds of their own.
            seed: sent with every request; not all servers heed it.
            show: a progress bar, and a line at the end, on the standard error output.

        Raises:
            InputError: the file was begun with other prompts or settings; the server refused.
            UnansweredError: the server failed again and again; what was answered is in the file.
        """
        prompting = Prompting(self.chat, prompt, system)
        sampling = {"max_tokens": max_tokens, "temperature": temperature}
        wanted = named(prompts, samples)
        return generate(self, prompting, wanted, to, sampling, seed, show)

    def estimate(
        self, prompts: Prompts, *, prompt: Prompt = "{text}", max_tokens: int = 512,
        samples: int = 1,
    ) -> Estimate:  # fmt: skip
        """Return what :meth:`generate` would cost at most, with nothing answered before.

        A classifier has an estimate of its own: :meth:`Choosing.estimate`.
        """
        prompting = Prompting(self.chat, prompt)
        texts = named(prompts, samples).values()
        bodies = (prompting.body(text) | {"max_tokens": max_tokens} for text in texts)
        return estimated(bodies, self.count_tokens, self.prices)

    def fingerprint(self, *more: Any) -> str:
        """Return a hash of the model's name, its revision, and what a way of asking adds.

        The address is not in it: the same model may be served elsewhere.
        """
        return digest([self.model, self.revision, self.chat, self.extra, *more])

    def question(self, body: Mapping[str, Any], name: str) -> Question:
        """Return a request, with the model's name and what every request has."""
        whole = {"model": self.model, **body, **self.extra}
        whole = {field: value for field, value in whole.items() if value is not None}
        longest = whole.get("max_tokens") or whole.get("max_completion_tokens") or 0
        path = "chat/completions" if "messages" in body else "completions"
        tokens = prompt_tokens(body, self.count_tokens) + longest
        return Question(path, whole, name, tokens)

    def collect(
        self,
        questions: Mapping[Any, Question],
        journal: Journal,
        read: Callable[[Any, Reply], Row],
        show: str | None = None,
    ) -> None:
        """Ask what the journal does not know yet, and keep every answer as it comes.

        Args:
            questions: by the name of the answer.
            journal: where the answers go.
            read: makes a row of a name and a reply.
            show: a title for a progress bar; ``None`` shows none.
        """
        with journal.writing(), shown(show, self.prices) as tell:
            names = [name for name in questions if name not in journal]
            known, used = len(questions) - len(names), Usage()

            def keep(index: int, reply: Reply) -> None:
                nonlocal used
                row = read(names[index], reply)
                used, self.spent = used + Usage.of(reply), self.spent + Usage.of(reply)
                journal.add(row | {"usage": reply.get("usage")})
                tell(known + used.requests, len(questions), used)

            tell(known, len(questions), used)
            try:
                self.client.ask([questions[name] for name in names], keep)
            except UnansweredError as error:
                done = f"{known + used.requests:,} of {len(questions):,} are answered"
                where = f"kept in {journal.path}" if journal.path else "remembered"
                raise UnansweredError(
                    f"{error}. {done} and {where}: do the same again, and only the rest is asked"
                ) from None
