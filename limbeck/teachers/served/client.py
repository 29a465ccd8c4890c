"""Asking an OpenAI-compatible server many questions at once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from limbeck.errors import InputError
from limbeck.imports import needed
from limbeck.teachers.served.cost import Usage
from limbeck.teachers.served.pace import Pace
from limbeck.teachers.served.patience import PassingError, UnansweredError, failure, retrying

if TYPE_CHECKING:
    import httpx2

__all__ = ["Client", "Question", "Reply"]

Reply = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A request.

    Attributes:
        path: ``chat/completions`` or ``completions``.
        body: what is sent, as JSON.
        name: of the prompt, for messages.
        tokens: about how many it will use, prompt and answer.
    """

    path: str
    body: dict[str, Any]
    name: str
    tokens: int


class Client:
    """Sends questions, several at a time, as fast as allowed, and again if a failure may pass.

    The key is read from the environment when it is needed, sent in the header ``Authorization``,
    and kept nowhere.

    Args:
        url: of the API, mostly ending in ``/v1``.
        key_env: the environment variable that holds the key; ``None`` sends none.
        concurrency: how many questions may be on their way at once.
        tries: how often a question is sent before it is given up.
        timeout: seconds that an answer may take.
        pace: how fast to ask.
    """

    def __init__(
        self,
        url: str,
        key_env: str | None,
        *,
        concurrency: int,
        tries: int,
        timeout: float,
        pace: Pace,
    ) -> None:
        _check_url(url)
        if key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", key_env):
            raise InputError(
                "key_env is not the name of an environment variable (it is not shown: it may be "
                "the key itself)",
                expected="a name in capitals, for example OPENAI_API_KEY",
            )
        for name, value in (("concurrency", concurrency), ("tries", tries)):
            if value < 1:
                raise InputError(f"{name} is {value}", expected="at least 1")
        self.url, self.key_env = url.rstrip("/"), key_env
        self.concurrency, self.tries, self.timeout, self.pace = concurrency, tries, timeout, pace

    def ask(self, questions: Sequence[Question], keep: Callable[[int, Reply], None]) -> None:
        """Send all questions, and return when all are answered.

        Args:
            questions: in any number.
            keep: called with a question's place and its answer, as soon as there is one. What it
                raises ends the asking.

        Raises:
            InputError: the server refused a question; it would refuse it again.
            UnansweredError: a question was tried in vain. Those on their way at that time were
                waited for.
        """
        if not questions:
            return
        key = self._key()
        try:
            _run(self._all(questions, keep, key))
        except (InputError, UnansweredError) as error:
            # A server may repeat the key that it was sent.
            if key and key in str(error):
                raise type(error)(str(error).replace(key, "(the key)")) from None
            raise

    async def _all(
        self, questions: Sequence[Question], keep: Callable[[int, Reply], None], key: str
    ) -> None:
        httpx = _library()
        waiting = iter(enumerate(questions))
        given_up: list[UnansweredError] = []

        async def work(http: httpx2.AsyncClient) -> None:
            for index, question in waiting:
                if given_up:
                    return
                try:
                    keep(index, await self._patiently(http, question))
                except UnansweredError as error:
                    given_up.append(error)

        options: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": httpx.Timeout(self.timeout, connect=min(self.timeout, 10.0), pool=None),
            "limits": httpx.Limits(max_connections=self.concurrency),
        }
        try:
            async with httpx.AsyncClient(**options) as http, asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(questions))):
                    group.create_task(work(http))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        if given_up:
            raise given_up[0]

    async def _patiently(self, http: httpx2.AsyncClient, question: Question) -> Reply:
        try:
            return await retrying(self.tries, self.pace.clock)(self._once, http, question)
        except PassingError as error:
            asked = f" and asks to wait {error.wait:.0f} s" if error.wait else ""
            raise UnansweredError(
                f"{question.name}, after up to {self.tries} tries: {error}{asked}"
            ) from None
        except InputError as error:
            raise InputError(f"{question.name}: {error}") from None

    async def _once(self, http: httpx2.AsyncClient, question: Question) -> Reply:
        httpx = _library()
        await self.pace.turn(question.tokens)
        try:
            async with asyncio.timeout(self.timeout):
                response = await http.post(f"{self.url}/{question.path}", json=question.body)
        except (TimeoutError, httpx.TimeoutException):
            raise PassingError(f"no answer within {self.timeout:g} s") from None
        except httpx.TransportError as error:
            raise PassingError(f"the connection failed ({type(error).__name__}: {error})") from None
        if not response.is_success:
            told = _parsed(_without_key(response.text, http))
            refused = failure(response.status_code, told, response.headers)
            if isinstance(refused, PassingError):
                self.pace.pause(refused.wait)
            raise refused
        reply = _parsed(response.text)
        if not isinstance(reply, dict) or not reply.get("choices"):
            told = _without_key(response.text, http)[:200]
            raise PassingError(f"the answer is not what the API promises: {told!r}")
        used = Usage.of(reply)
        if not used.uncounted:
            self.pace.correct(used.prompt_tokens + used.completion_tokens - question.tokens)
        return reply

    def _key(self) -> str:
        if self.key_env is None:
            return ""
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise InputError(
                f"the environment variable {self.key_env} is not set",
                expected="the server's key in it",
                remedy="Set it, or give key_env=None for a server without keys.",
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise InputError(
                f"the environment variable {self.key_env} holds more than a key (it is not shown)",
                expected="printable ASCII without spaces",
                consequence="It cannot be sent in a header.",
            )
        return key


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _without_key(text: str, http: httpx2.AsyncClient) -> str:
    """Take the key out of what a server says; before it is cut, or half of it would be left."""
    key = http.headers.get("Authorization", "").removeprefix("Bearer ")
    return text.replace(key, "(the key)") if key else text


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            "url is not an address of a server", expected="for example http://localhost:8000/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            f"url has more than an address (on {parts.hostname}): a name, a password, or a query",
            expected="for example http://localhost:8000/v1",
            consequence="A key in it would be written into messages.",
            remedy="Put the key into an environment variable, and give its name as key_env.",
        )


def _library() -> Any:
    """Return the library that speaks HTTP."""
    needed("tenacity", "serve")
    return needed("httpx2", "serve")


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run it to its end; in another thread where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    thread = threading.Thread(target=_until_done, args=(loop, task), daemon=True)
    try:
        thread.start()
        thread.join()
    except BaseException:  # Ctrl-C
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    task.result()


def _until_done(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(asyncio.wait([task]))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
