"""How fast a server may be asked."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from limbeck.errors import InputError

__all__ = ["Clock", "Pace", "Wall"]


class Clock(Protocol):
    """Tells the time and waits; tests have one that does not really wait."""

    def now(self) -> float:
        """Return the seconds since some moment; never fewer than before."""

    async def sleep(self, seconds: float) -> None:
        """Let others work until ``seconds`` have passed."""


class Wall:
    """The clock of this machine."""

    def now(self) -> float:
        """Return the seconds since some moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let others work until ``seconds`` have passed."""
        await asyncio.sleep(seconds)


class Pace:
    """Spreads requests, and the tokens in them, evenly over time.

    Requests are at least 60 / ``requests_per_minute`` seconds apart, and so no minute holds more of
    them, wherever it begins. Tokens are reserved as estimated before a request, and put right
    by :meth:`correct` when the server has counted them.

    Args:
        requests_per_minute: at most so many; ``None`` for no limit.
        tokens_per_minute: at most so many, of prompts and answers together.
        clock: tells the time.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Wall()
        self._request = _seconds("requests_per_minute", requests_per_minute)
        self._token = _seconds("tokens_per_minute", tokens_per_minute)
        self._request_free = self._token_free = self._paused = 0.0

    async def turn(self, tokens: int) -> None:
        """Wait until a request with about so many tokens may be sent."""
        now = self.clock.now()
        start = max(now, self._request_free, self._token_free)
        self._request_free = start + self._request
        self._token_free = start + tokens * self._token
        if start > now:
            await self.clock.sleep(start - now)
        while (rest := self._paused - self.clock.now()) > 0:
            await self.clock.sleep(rest)

    def correct(self, tokens: int) -> None:
        """Hear how many more tokens (fewer, if negative) a request had than was estimated."""
        self._token_free += tokens * self._token

    def pause(self, seconds: float) -> None:
        """Hold all requests back: the server asked for it."""
        self._paused = max(self._paused, self.clock.now() + seconds)


def _seconds(name: str, per_minute: float | None) -> float:
    """Return how long one unit takes."""
    if per_minute is not None and not per_minute > 0:
        raise InputError(f"{name} is {per_minute}", expected="a number above 0, or None")
    return 60 / per_minute if per_minute else 0.0
