"""How the probabilities of choices are read from a language model's answers.

Letters: C choices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from limbeck.errors import InputError, unknown
from limbeck.teachers.served.client import Reply
from limbeck.teachers.served.cost import Usage

__all__ = ["FLOOR", "FirstToken", "Scoring", "WholeChoice", "scoring"]

FLOOR = -30.0
"""The least log-probability that is told apart, in nats; servers write −9999 for less."""


class Scoring(Protocol):
    """Turns a prompt into requests, and their replies into log-probabilities of choices."""

    @property
    def name(self) -> str:
        """What it is called in :func:`scoring` and in fingerprints."""

    @property
    def complete(self) -> bool:
        """Whether the choices should have nearly all of the probability."""

    def check(self, choices: Sequence[str], *, chat: bool) -> None:
        """Refuse choices that it cannot tell apart, and an API that cannot answer."""

    def bodies(self, prompt: Mapping[str, Any], choices: Sequence[str]) -> list[dict[str, Any]]:
        """Return what to ask, beyond what every request has.

        Args:
            prompt: ``{"messages": [...]}`` or ``{"prompt": "..."}``.
            choices: the C choices.
        """

    def read(self, reply: Reply, choices: Sequence[str], part: int) -> list[float]:
        """Return the log-probabilities in the reply to request number ``part``, in nats.

        All parts one after the other are those of the C choices.
        """


class FirstToken:
    """One request for each text: the choices' shares in the first token of the answer.

    A token counts for the choice that it begins, whatever its case and the space before it; several
    tokens of one choice add up. One that begins several choices is left out if it has less than a
    hundredth of what all choices have, and else refused. A choice that is not among the ``top``
    tokens returned has at most the probability of the least of these, and at most what all of them
    leave over: it gets the smaller of the two.

    Args:
        top: how many tokens to ask for; servers allow 5 to 20.
    """

    name = "first_token"
    complete = True

    def __init__(self, top: int) -> None:
        self.top = top

    def check(self, choices: Sequence[str], *, chat: bool) -> None:
        plain = [_plain(choice) for choice in choices]
        for one, other in ((a, b) for a in range(len(plain)) for b in range(len(plain)) if a != b):
            if plain[other].startswith(plain[one]):
                raise InputError(
                    f"the choice {choices[one]!r} begins the choice {choices[other]!r}",
                    expected="choices that differ in their first tokens, whatever their case",
                    remedy=_ANOTHER_WAY,
                )

    def bodies(self, prompt: Mapping[str, Any], choices: Sequence[str]) -> list[dict[str, Any]]:
        chat = "messages" in prompt
        asked = {"logprobs": True, "top_logprobs": self.top} if chat else {"logprobs": self.top}
        return [{**prompt, "max_tokens": 1, **asked}]

    def read(self, reply: Reply, choices: Sequence[str], part: int) -> list[float]:
        found = _first_token(reply)
        masses, shared = [0.0] * len(choices), dict[str, float]()
        for token, logprob in found:
            begun = _begun(token, choices)
            if len(begun) > 1:
                shared[token] = math.exp(logprob)
            elif begun:
                masses[begun[0]] += math.exp(logprob)
        _refuse_shared(shared, sum(masses), choices)
        least = math.exp(max(FLOOR, min(logprob for _, logprob in found)))
        rest = 1 - sum(math.exp(logprob) for _, logprob in found)
        unseen = min(least, rest) if rest > 0 else least
        return [max(FLOOR, math.log(mass or unseen)) for mass in masses]


class WholeChoice:
    """C requests for each text: the probability of every whole choice as the prompt's continuation.

    For choices of several tokens, or that share their first. The server must repeat the prompt with
    its log-probabilities (``echo`` and ``logprobs`` of the completions API), as vLLM does; many
    hosted servers do not. One token is generated for each request, and ignored.
    """

    name = "whole_choice"
    complete = False

    def check(self, choices: Sequence[str], *, chat: bool) -> None:
        if chat:
            raise InputError(
                "whole choices with the chat API, which does not repeat the prompt",
                expected="a server with chat=False, and the model's chat format in the prompt",
            )

    def bodies(self, prompt: Mapping[str, Any], choices: Sequence[str]) -> list[dict[str, Any]]:
        asked = {"max_tokens": 1, "echo": True, "logprobs": 1}
        return [{**prompt, "prompt": prompt["prompt"] + choice, **asked} for choice in choices]

    def read(self, reply: Reply, choices: Sequence[str], part: int) -> list[float]:
        first = reply["choices"][0]
        told = first.get("logprobs") or {}
        tokens, logprobs = told.get("tokens"), told.get("token_logprobs")
        if not tokens or not logprobs or len(tokens) != len(logprobs):
            raise _without("log-probabilities of the prompt's tokens")
        generated = Usage.of(reply).completion_tokens if reply.get("usage") else 1
        sent = len(tokens) - generated
        boundary = len("".join(tokens[:sent])) - len(choices[part])
        if not "".join(tokens[:sent]).endswith(choices[part]):
            raise _without("log-probabilities of the prompt's tokens")
        total, here = 0.0, 0
        for token, logprob in zip(tokens[:sent], logprobs[:sent], strict=True):
            if here < boundary < here + len(token):
                raise _straddles(token, choices[part])
            if here >= boundary:
                total += FLOOR if logprob is None else max(FLOOR, float(logprob))
            here += len(token)
        return [total]


_ANOTHER_WAY = (
    'Rename the choices (A, B, C), or use scoring="whole_choice" with a server whose completions '
    "repeat the prompt."
)


def scoring(name: str, top: int) -> Scoring:
    """Return the way of that name: ``first_token`` or ``whole_choice``."""
    known: dict[str, Scoring] = {
        "first_token": FirstToken(top),
        "whole_choice": WholeChoice(),
    }
    if name not in known:
        raise unknown("way of scoring choices:", name, known)
    return known[name]


def _first_token(reply: Reply) -> list[tuple[str, float]]:
    """Return the first token's candidates and their log-probabilities, from either API."""
    told = reply["choices"][0].get("logprobs") or {}
    try:
        if told.get("content"):
            candidates = told["content"][0]["top_logprobs"]
            found = [(str(each["token"]), float(each["logprob"])) for each in candidates]
        else:
            found = [(str(token), float(value)) for token, value in told["top_logprobs"][0].items()]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        found = []
    if not found:
        raise _without("top_logprobs of the first token")
    return found


def _without(what: str) -> InputError:
    return InputError(
        f"the server's answer has no {what}",
        consequence="There are no probabilities to learn from.",
        remedy="Choose a model and a server that return them, or train on its texts "
        "(Served.generate).",
    )


def _straddles(token: str, choice: str) -> InputError:
    return InputError(
        f"the token {token!r} is part of the prompt and of the choice {choice!r}",
        consequence="The choice's probability cannot be told.",
        remedy="End the prompt without a space, and begin the choices with one.",
    )


def _refuse_shared(shared: Mapping[str, float], mass: float, choices: Sequence[str]) -> None:
    """Refuse tokens that begin several choices, unless they have next to no probability."""
    token = max(shared, key=lambda each: shared[each], default="")
    if token and sum(shared.values()) > 0.01 * (mass + sum(shared.values())):
        begun = " and ".join(repr(choices[place]) for place in _begun(token, choices))
        raise InputError(
            f"the answer's first token may be {token!r}, which begins {begun} (probability "
            f"{shared[token]:.2g})",
            expected="choices that differ in their first tokens",
            remedy=_ANOTHER_WAY,
        )


def _begun(token: str, choices: Sequence[str]) -> list[int]:
    """Return which choices a token begins; none, if it is only space."""
    plain = _plain(token)
    return [n for n, choice in enumerate(choices) if plain and _plain(choice).startswith(plain)]


def _plain(text: str) -> str:
    return text.strip().casefold()
