"""An OpenAI-compatible server in a thread, which answers and fails as a test wants it to."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass
class Fault:
    """A reply that is none; ``status`` 0 breaks the connection off."""

    status: int = 500
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Answering:
    """What a server does, and what it has seen.

    ``answer`` makes a reply of a request's body. It is asked for a :class:`Fault` too:
    each of ``faults`` is served once, in order, before anything is answered.
    """

    answer: Callable[[Body], Body | Fault]
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    asked: list[Body] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    most: int = 0
    url: str = ""
    _here: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def reply(self, path: str, headers: Mapping[str, str], body: Body) -> Body | Fault:
        with self._lock:
            self._here += 1
            self.most = max(self.most, self._here)
            self.asked.append(body)
            self.paths.append(path)
            self.headers.append(dict(headers))
            fault = self.faults.pop(0) if self.faults else None
        try:
            time.sleep(self.seconds)
            return fault or self.answer(body)
        finally:
            with self._lock:
                self._here -= 1

    @property
    def prompts(self) -> list[Any]:
        """What was asked, in the order of arrival."""
        return [prompt_of(body) for body in self.asked]


@contextmanager
def serving(answer: Callable[[Body], Body | Fault], **options: Any) -> Iterator[Answering]:
    """Run a server until the block ends."""
    what = Answering(answer, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # a reply leaves in one piece

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = what.reply(self.path, self.headers, body)
            fault = reply if isinstance(reply, Fault) else Fault(200, reply)
            if not fault.status:
                self.close_connection = True
                return
            told = fault.body if isinstance(fault.body, str) else json.dumps(fault.body)
            try:
                self.send_response(fault.status)
                for name, value in fault.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(told.encode())))
                self.end_headers()
                self.wfile.write(told.encode())
            except ConnectionError:
                self.close_connection = True  # the client gave up

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    what.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield what
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def prompt_of(body: Body) -> Any:
    """Return the last thing that was said."""
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


def usage(sent: int, got: int) -> Body:
    return {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got}


def chat(text: str, top: Mapping[str, float] | None = None, finish: str = "stop") -> Body:
    """A reply of ``chat/completions``; ``top`` are the first token's probabilities."""
    listed = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in (top or {}).items()]
    logprobs = {"content": [{"token": text, "logprob": 0.0, "top_logprobs": listed}]}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"choices": [choice | ({"logprobs": logprobs} if top else {})], "usage": usage(10, 1)}


def completion(text: str, top: Mapping[str, float]) -> Body:
    """A reply of ``completions``; ``top`` are the first token's probabilities."""
    listed = [{token: math.log(p) for token, p in top.items()}]
    logprobs = {"tokens": [text], "token_logprobs": [0.0], "top_logprobs": listed}
    choice = {"index": 0, "text": text, "finish_reason": "length", "logprobs": logprobs}
    return {"choices": [choice], "usage": usage(10, 1)}


def echo(tokens: Sequence[str], probabilities: Sequence[float | None]) -> Body:
    """A reply of ``completions`` that repeats the prompt; the last token is generated."""
    logs = [None if p is None else math.log(p) for p in probabilities]
    choice = {"text": "".join(tokens), "logprobs": {"tokens": list(tokens), "token_logprobs": logs}}
    return {"choices": [choice], "usage": usage(len(tokens) - 1, 1)}


class LanguageModel:
    """A Hugging Face model behind the completions API, one prompt at a time.

    It does what vLLM does with ``logprobs``, ``echo`` and ``prompt_logprobs``, and nothing more.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self._lock = threading.Lock()

    def __call__(self, body: Body) -> Body:
        import torch

        prompt = body["prompt"]
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        sent = len(ids)
        with self._lock, torch.inference_mode():
            for _ in range(body["max_tokens"]):
                log_p = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
                ids.append(int(log_p[-1].argmax()))
        choice: Body = {"text": self.tokenizer.decode(ids[sent:]), "finish_reason": "length"}
        if "logprobs" in body:
            start = 0 if body.get("echo") else sent
            choice["logprobs"] = self._told(ids, log_p, start, body["logprobs"])
        if "prompt_logprobs" in body:
            known = [self._ids(row, body["prompt_logprobs"]) for row in log_p[: sent - 1]]
            choice["prompt_logprobs"] = [None, *known]
        return {"choices": [choice], "usage": usage(sent, len(ids) - sent)}

    def _told(self, ids: list[int], log_p: Any, start: int, top: int) -> Body:
        """Return tokens from ``start`` on, their log-probabilities, and the most likely ones."""
        places = range(start, len(ids))
        named = [None if p == 0 else self._ids(log_p[p - 1], top) for p in places]
        return {
            "tokens": [self.tokenizer.decode([ids[p]]) for p in places],
            "token_logprobs": [None if p == 0 else float(log_p[p - 1, ids[p]]) for p in places],
            "top_logprobs": [
                found and {each["decoded_token"]: each["logprob"] for each in found.values()}
                for found in named
            ],
        }

    def _ids(self, log_p: Any, top: int) -> Body:
        best = log_p.topk(top)
        return {
            str(token): {"logprob": value, "decoded_token": self.tokenizer.decode([token])}
            for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        }


class FakeClock:
    """A clock on which sleeping takes no time; it notes how long it was asked to."""

    def __init__(self) -> None:
        self.time, self.slept = 100.0, [0.0]

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        import asyncio

        self.slept.append(seconds)
        until = self.time + seconds
        await asyncio.sleep(0)
        self.time = max(self.time, until)
