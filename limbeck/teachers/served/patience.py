"""Which failures pass, and how long to wait for that.

Waiting grows from half a second, doubled and drawn at random, to a minute; a server that names a
time (``Retry-After``) is obeyed.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limbeck.errors import InputError

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

    from limbeck.teachers.served.pace import Clock

__all__ = ["PassingError", "UnansweredError", "failure", "retry_after", "retrying"]

_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST = 600.0  # seconds that a server may ask to wait
_REMEDIES = {
    401: "Check the key in the environment variable that key_env names.",
    403: "Check what the key is allowed to do.",
    404: "Check the address (most end in /v1) and the name of the model.",
    413: "Shorten the prompt.",
}


class UnansweredError(RuntimeError):
    """A server did not answer, again and again; what it had answered before is kept."""


class PassingError(Exception):
    """A failure that may pass.

    Attributes:
        wait: how many seconds the server asks to wait; 0 if it does not say.
    """

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


def failure(status: int, reply: Any, headers: Mapping[str, str]) -> PassingError | InputError:
    """Return the error for a reply that is not a success."""
    told = _told(reply)
    text = f"the server answered {status}{f': {told}' if told else ''}"
    exhausted = _detail(reply, "code") == "insufficient_quota"
    if status in _PASSING and not exhausted:
        return PassingError(text, retry_after(headers))
    remedy = _REMEDIES.get(status, "")
    if "logprobs" in told.lower():
        remedy = "Ask for fewer (top=...), or choose a model and server that return them."
    return InputError(text, consequence="Nothing is tried again: it would fail too.", remedy=remedy)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return how long a server asks to wait, in seconds: given so, in milliseconds, or as a date.

    >>> retry_after({"retry-after": "7"}), retry_after({"retry-after-ms": "250"}), retry_after({})
    (7.0, 0.25, 0.0)
    """
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return 0.0
    return max(0.0, then.timestamp() - time.time())


def retrying(tries: int, clock: Clock) -> AsyncRetrying:
    """Return what calls a function until it succeeds, at most ``tries`` times."""
    import tenacity

    drawn = tenacity.wait_random_exponential(multiplier=0.5, max=60)

    def wait(state: RetryCallState) -> float:
        return max(drawn(state), _asked(state))

    def stop(state: RetryCallState) -> bool:
        return state.attempt_number >= tries or _asked(state) > _LONGEST

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(PassingError),
        stop=stop,
        wait=wait,
        sleep=clock.sleep,
        reraise=True,
    )


def _asked(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.wait if isinstance(error, PassingError) else 0.0


def _told(reply: Any) -> str:
    """Return the server's own words."""
    if isinstance(reply, str):
        return " ".join(reply.split())[:300]
    found = _detail(reply, "message")
    return str(found)[:600] if found else ""


def _detail(reply: Any, name: str) -> Any:
    """Return a part of an error: of ``{"error": {...}}``, or of the reply itself."""
    error = reply.get("error", reply) if isinstance(reply, Mapping) else None
    if isinstance(error, Mapping):
        return error.get(name) or (error.get("detail") if name == "message" else None)
    return error if name == "message" else None
