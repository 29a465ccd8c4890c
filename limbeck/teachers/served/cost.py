"""What asking costs: tokens, and money where prices are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.errors import InputError

__all__ = ["Estimate", "Prices", "Usage", "count_roughly"]

Prices = tuple[float, float]
"""Money for a million tokens: of prompts, of answers."""

_BYTES_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True)
class Usage:
    """What was used, as the server counted it.

    Attributes:
        requests: how many were answered.
        prompt_tokens: sent.
        completion_tokens: received.
        uncounted: how many of the requests came back without a count.

    >>> Usage(2, 300, 40) + Usage(1, 100, 10)
    Usage(requests=3, prompt_tokens=400, completion_tokens=50, uncounted=0)
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Usage:
        """Read it from a server's reply, or from a row of a file of answers."""
        counted = reply.get("usage")
        if not isinstance(counted, Mapping):
            return cls(requests=1, uncounted=1)
        sent, got = (counted.get(f"{kind}_tokens") or 0 for kind in ("prompt", "completion"))
        return cls(1, int(sent), int(got))

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.uncounted + other.uncounted,
        )

    def money(self, prices: Prices | None) -> float | None:
        """Return what that costs, or ``None`` without prices.

        >>> Usage(1000, 2_000_000, 1_000_000).money((0.15, 0.60))
        0.9
        """
        if prices is None:
            return None
        return (self.prompt_tokens * prices[0] + self.completion_tokens * prices[1]) / 1e6

    def told(self, prices: Prices | None) -> str:
        """Return it in a few words.

        >>> Usage(2, 3000, 40, uncounted=1).told((1.0, 2.0))
        '2 requests, 3,000 tokens in, 40 out, cost 0.0031 (1 not counted by the server)'
        """
        money = self.money(prices)
        cost = "" if money is None else f", cost {money:.4f}"
        missing = f" ({self.uncounted} not counted by the server)" if self.uncounted else ""
        return (
            f"{self.requests:,} requests, {self.prompt_tokens:,} tokens in, "
            f"{self.completion_tokens:,} out{cost}{missing}"
        )


@dataclass(frozen=True)
class Estimate:
    """What asking would cost, before anything is sent.

    Attributes:
        requests: to be sent; those answered before are not among them.
        prompt_tokens: counted with the server's ``count_tokens``: by default a quarter of the bytes
            in UTF-8, and 4 for every message. Short words and other scripts than Latin need more.
        completion_tokens: at most, if every answer is as long as allowed.
        money: at most; ``None`` without prices.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    money: float | None

    def __str__(self) -> str:
        cost = "" if self.money is None else f", cost at most {self.money:.4f}"
        return (
            f"{self.requests:,} requests, about {self.prompt_tokens:,} tokens in, "
            f"at most {self.completion_tokens:,} out{cost}"
        )


def count_roughly(text: str) -> int:
    """Guess how many tokens a text has: a quarter of its bytes in UTF-8, at least 1.

    >>> count_roughly("Who discovered penicillin?")
    7
    """
    return max(1, -(-len(text.encode()) // _BYTES_PER_TOKEN))


def prompt_tokens(body: Mapping[str, Any], count: Callable[[str], int]) -> int:
    """Guess how many tokens the prompt of a request has."""
    if "messages" in body:
        return sum(count(_said(message)) + _TOKENS_PER_MESSAGE for message in body["messages"])
    prompt = body["prompt"]
    return count(prompt) if isinstance(prompt, str) else len(prompt)


def estimated(
    bodies: Iterable[Mapping[str, Any]], count: Callable[[str], int], prices: Prices | None
) -> Estimate:
    """Return what it would cost to send these requests."""
    total = Usage()
    for body in bodies:
        longest = body.get("max_tokens") or body.get("max_completion_tokens") or 0
        total += Usage(1, prompt_tokens(body, count), int(longest))
    return Estimate(
        total.requests, total.prompt_tokens, total.completion_tokens, total.money(prices)
    )


def checked(prices: Prices | None) -> Prices | None:
    """Refuse prices that are not a pair of numbers."""
    if prices is not None and (len(prices) != 2 or min(prices) < 0):
        raise InputError(
            f"price_per_million is {prices}", expected="two numbers: of prompts and of answers"
        )
    return prices


def _said(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else str(content)
