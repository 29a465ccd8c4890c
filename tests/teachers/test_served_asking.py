"""Asking a server: failures, limits, interruptions, keys."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import os
import signal
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from answering import Answering, Body, FakeClock, Fault, chat, prompt_of, serving

from limbeck.errors import InputError
from limbeck.teachers import Served
from limbeck.teachers.served import UnansweredError, Usage
from limbeck.teachers.served.pace import Pace
from limbeck.teachers.served.patience import retry_after

TEXTS = [f"text {number}" for number in range(8)]
KEY = "sk-verysecret-0123456789"


def shout(body: Body) -> Body:
    return chat(str(prompt_of(body)).upper())


def served(server: Answering, **options: Any) -> Served:
    return Served(server.url, "tiny", **({"clock": FakeClock()} | options))


# -- failures that pass


@pytest.mark.parametrize(
    ("faults", "options"),
    [
        ([Fault(429, {"error": {"message": "slow down"}}, {"Retry-After": "7"})], {}),
        ([Fault(500, "<html>oops</html>"), Fault(500)], {}),
        ([Fault(503), Fault(429), Fault(502)], {}),
        ([Fault(0)], {}),
        ([Fault(0), Fault(0)], {"concurrency": 1}),
        ([Fault(200, "{not JSON")], {}),
        ([Fault(200, {"error": "overloaded"})], {}),
        ([Fault(200, {"choices": []})], {}),
    ],
    ids=["429", "500 twice", "three kinds", "drop", "drops", "no JSON", "error", "empty"],
)
def test_failures_that_pass_are_tried_again(
    faults: list[Fault], options: dict[str, Any], tmp_path: Path
) -> None:
    """A night's work would end at the first hiccup, or a question be left out."""
    with serving(shout, faults=list(faults)) as server:
        answers = served(server, **options).generate(TEXTS, tmp_path / "a.jsonl", show=False)
        assert answers.texts == [text.upper() for text in TEXTS]
        assert len(server.asked) == len(TEXTS) + len(faults)


def test_an_answer_that_trickles_in_is_too_slow_too(tmp_path: Path) -> None:
    """Each byte comes in time, and the whole never."""

    class Trickling(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.request.sendall(b" ")
                    time.sleep(0.05)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Trickling) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        teacher = Served(url, "tiny", clock=FakeClock(), timeout=0.3, tries=2)
        with pytest.raises(UnansweredError, match=r"no answer within 0\.3 s"):
            teacher.generate(["a"], tmp_path / "a.jsonl", show=False)
        server.shutdown()


def test_an_answer_that_takes_too_long_is_asked_for_again(tmp_path: Path) -> None:
    """A connection that hangs would hang the whole work."""
    slow = iter([2.0])

    def answer(body: Body) -> Body:
        time.sleep(next(slow, 0))
        return shout(body)

    with serving(answer) as server:
        answers = served(server, timeout=0.5).generate(["a"], tmp_path / "a.jsonl", show=False)
        assert answers.texts == ["A"]
        assert len(server.asked) >= 2


def test_a_server_that_names_a_time_is_obeyed_by_all(tmp_path: Path) -> None:
    """Those that keep asking are shut out for longer."""
    clock = FakeClock()
    with serving(shout, faults=[Fault(429, {}, {"Retry-After": "70"})]) as server:
        teacher = served(server, clock=clock, concurrency=1)
        teacher.generate(TEXTS[:2], tmp_path / "a.jsonl", show=False)
    assert clock.time >= 170
    pace = Pace(clock=clock)
    pace.pause(5)
    asyncio.run(pace.turn(1))
    assert clock.slept[-1] == 5


def test_waiting_grows_and_differs() -> None:
    """Many clients that wait equally long come back all at once."""
    drawn = []
    for _ in range(5):
        clock = FakeClock()
        with (
            serving(shout, faults=[Fault(500)] * 5) as server,
            pytest.raises(InputError, match="no top_logprobs"),
        ):
            served(server, clock=clock).label(["x"], "{text}", ["a", "b"])
        drawn.append(clock.time - 100)
    assert len(set(drawn)) == 5
    assert all(0 < waited <= 0.5 + 1 + 2 + 4 + 8 for waited in drawn)


def test_times_to_wait_are_read() -> None:
    """A date would be taken for no time at all."""
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 27 < retry_after({"retry-after": date}) <= 31
    assert retry_after({"retry-after": "soon"}) == 0
    assert retry_after({"retry-after": "-3"}) == 0


def test_a_server_that_asks_to_wait_for_hours_is_given_up(tmp_path: Path) -> None:
    """A program that sleeps for a day looks like one that hangs."""
    fault = Fault(429, {"error": {"message": "daily limit"}}, {"Retry-After": "40000"})
    with serving(shout, faults=[fault]) as server:
        teacher = served(server, concurrency=1)
        with pytest.raises(UnansweredError, match="daily limit and asks to wait 40000 s"):
            teacher.generate(TEXTS, tmp_path / "a.jsonl", show=False)
        assert len(server.asked) == 1


# -- failures that do not pass


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(401, {"error": {"message": "no such key"}}), "401: no such key.*key_env"),
        (Fault(404, {"error": {"message": "no model tiny"}}), "404: no model tiny.*name of the mo"),
        (Fault(404, "Not Found"), "404: Not Found.*most end in /v1"),
        (Fault(400, {"message": "logprobs not supported"}), "400: logprobs not sup.*that return"),
        (Fault(400, {"object": "error", "detail": "too long"}), "prompt 0: .*400: too long"),
        (Fault(307, "", {"Location": "http://elsewhere"}), "307"),
        (Fault(429, {"error": {"message": "pay", "code": "insufficient_quota"}}), "429: pay"),
    ],
    ids=["key", "model", "address", "logprobs", "too long", "moved", "quota"],
)
def test_what_is_refused_is_told_at_once(fault: Fault, told: str, tmp_path: Path) -> None:
    """Minutes of trying again would hide a wrong key, and cost money for every other prompt."""
    with serving(lambda body: fault) as server:
        teacher = served(server, concurrency=1, tries=5)
        with pytest.raises(InputError, match=f"(?s){told}"):
            teacher.generate(TEXTS, tmp_path / "a.jsonl", show=False)
        assert len(server.asked) == 1


def test_giving_up_keeps_what_is_finished(tmp_path: Path) -> None:
    """Hours of paid answers would be lost with one that does not come."""
    bad = {"text 5"}

    def answer(body: Body) -> Body | Fault:
        return Fault(503, {"error": "busy"}) if prompt_of(body) in bad else shout(body)

    with serving(answer) as server:
        teacher = served(server, tries=3, concurrency=1)
        with pytest.raises(UnansweredError, match=r"prompt 5.*3 tries.*503: busy.*5 of 8.*a.jsonl"):
            teacher.generate(TEXTS, tmp_path / "a.jsonl", show=False)
        assert server.prompts == [*TEXTS[:5], *["text 5"] * 3]
        bad.clear()
        server.asked.clear()
        again = served(server)
        answers = again.generate(TEXTS, tmp_path / "a.jsonl", show=False)
        assert sorted(server.prompts) == TEXTS[5:]
        assert answers.texts == [text.upper() for text in TEXTS]
        assert (again.spent, answers.usage) == (Usage(3, 30, 3), Usage(8, 80, 8))


def test_those_on_their_way_are_waited_for_when_one_is_given_up(tmp_path: Path) -> None:
    """Their answers are paid for."""

    def answer(body: Body) -> Body | Fault:
        if prompt_of(body) == "text 0":
            return Fault(503)
        time.sleep(0.2)
        return shout(body)

    with serving(answer) as server, pytest.raises(UnansweredError, match="3 of 8 are answered"):
        served(server, tries=1, concurrency=4).generate(TEXTS, tmp_path / "a", show=False)


# -- limits


def test_concurrency_is_used_and_kept(tmp_path: Path) -> None:
    """One after the other is slow; all at once is refused."""
    four = threading.Barrier(4, timeout=30)

    def answer(body: Body) -> Body:
        four.wait()
        return shout(body)

    with serving(answer) as server:
        served(server, concurrency=4).generate(TEXTS, tmp_path / "a.jsonl", show=False)
        assert server.most == 4


def test_requests_are_spread_over_time(tmp_path: Path) -> None:
    """A burst within the limit of a minute breaks the limit of a second."""
    clock = FakeClock()
    with serving(shout) as server:
        teacher = served(server, clock=clock, requests_per_minute=30, concurrency=3)
        teacher.generate(TEXTS, tmp_path / "a.jsonl", show=False)
        teacher.generate(TEXTS, tmp_path / "b.jsonl", show=False)
    assert clock.time - 100 == pytest.approx(15 * 2)


def test_tokens_are_counted_too() -> None:
    """Long prompts reach the other limit first."""

    async def starts(pace: Pace, clock: FakeClock, counts: list[int]) -> list[float]:
        found = []
        for count in counts:
            await pace.turn(count)
            found.append(clock.time - 100)
        return found

    clock = FakeClock()
    pace = Pace(None, 60, clock)
    assert asyncio.run(starts(pace, clock, [10, 5, 1])) == pytest.approx([0, 10, 15])
    pace.correct(-1)  # the last one used none
    assert asyncio.run(starts(pace, clock, [1])) == pytest.approx([15])
    with pytest.raises(InputError, match="tokens_per_minute is 0"):
        Pace(None, 0)


# -- interruptions

_SCRIPT = """
    import signal, sys
    from limbeck.teachers import Served
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    url, path = sys.argv[1:]
    Served(url, "tiny", concurrency=2).generate([f"text {n}" for n in range(8)], path, show=False)
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(kind: signal.Signals, tmp_path: Path) -> None:
    """Answers would be paid twice, or stand twice in the data that the student learns from."""
    file, running = tmp_path / "a.jsonl", []

    def answer(body: Body) -> Body:
        if prompt_of(body) == "text 5" and running:
            started = running.pop()
            started.send_signal(kind)
            started.wait(timeout=30)  # no answer before it has ended
        return shout(body)

    with serving(answer) as server:
        words = [sys.executable, "-c", textwrap.dedent(_SCRIPT), server.url, str(file)]
        started = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        running.append(started)
        _, told = started.communicate(timeout=60)
        assert started.returncode != 0
        assert ("KeyboardInterrupt" in told) == (kind == signal.SIGINT)
        lines = file.read_text().splitlines()
        assert 4 <= len(lines) <= 7
        server.asked.clear()
        answers = served(server).generate(TEXTS, file, show=False)
        assert len(server.asked) == 8 - len(lines)
        assert answers.texts == [text.upper() for text in TEXTS]
        whole = served(server).generate(TEXTS, tmp_path / "b.jsonl", show=False)
        assert file.read_bytes() == whole.path.read_bytes()


def test_half_a_line_is_asked_again(tmp_path: Path) -> None:
    """A process that was killed while writing leaves one; it would make the file unreadable."""
    file = tmp_path / "a.jsonl"
    with serving(shout) as server:
        whole = served(server).generate(TEXTS, file, show=False).path.read_bytes()
        file.write_bytes(whole[:-20])
        server.asked.clear()
        answers = served(server).generate(TEXTS, file, show=False)
        assert server.prompts == [TEXTS[-1]]
        assert answers.texts == [text.upper() for text in TEXTS]
        assert file.read_bytes() == whole
        file.write_bytes(b"no answer\n" + whole)
        with pytest.raises(InputError, match="line 1 is not an answer"):
            served(server).generate(TEXTS, file, show=False)


def test_two_processes_do_not_write_to_one_file(tmp_path: Path) -> None:
    """Every answer would be paid and written twice."""
    fcntl = pytest.importorskip("fcntl")
    file = tmp_path / "a.jsonl"
    with file.open("ab") as held, serving(shout) as server:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is writing"):
            served(server).generate(TEXTS, file, show=False)
        assert not server.asked


def test_it_works_where_an_event_loop_runs(tmp_path: Path) -> None:
    """In a notebook one always runs, and asyncio.run is refused."""

    async def notebook(server: Answering) -> list[str]:
        return served(server).generate(TEXTS, tmp_path / "a.jsonl", show=False).texts

    with serving(shout) as server:
        assert asyncio.run(notebook(server)) == [text.upper() for text in TEXTS]
    with (
        serving(lambda body: Fault(404, "gone")) as server,
        pytest.raises(InputError, match="gone"),
    ):
        asyncio.run(notebook_of(server, tmp_path / "b.jsonl"))


async def notebook_of(server: Answering, file: Path) -> None:
    served(server).generate(TEXTS, file, show=False)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_interrupting_a_notebook_ends_the_asking(tmp_path: Path) -> None:
    """The thread would go on asking and paying."""

    async def notebook(server: Answering) -> None:
        main = threading.main_thread().ident
        threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
        served(server, concurrency=1).generate(TEXTS, tmp_path / "a.jsonl", show=False)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with serving(shout, seconds=0.2) as server:
            loop = asyncio.new_event_loop()
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(notebook(server))
            asked = len(server.asked)
            time.sleep(0.5)
            assert asked == len(server.asked) < len(TEXTS)
            loop.close()
    finally:
        signal.signal(signal.SIGINT, before)


# -- keys and addresses


def test_the_key_is_sent_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Keys in logs, reports and repositories are stolen and used."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TINY_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    written: list[str] = []
    refused = Fault(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    with serving(shout, faults=[Fault(500, KEY)]) as server:
        teacher = served(server, key_env="TINY_KEY")
        answers = teacher.generate(TEXTS, "a.jsonl")
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
        written += [repr(teacher), repr(answers), teacher.fingerprint(), str(vars(teacher.client))]
        half = Fault(500, "x" * (298 - len(KEY) // 2) + KEY)
        for fault in (refused, Fault(500, f"tell {KEY}"), half, Fault(200, f"{'x' * 190} {KEY}")):
            server.faults = [fault] * 50
            for show in (True, False):
                with pytest.raises((InputError, UnansweredError)) as caught:
                    teacher.generate(["new"], "b.jsonl", show=show)
                written += [str(caught.value), *traceback.format_exception(caught.value)]
    written += [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    written += [*capfd.readouterr(), caplog.text]
    assert len(written) > 10
    assert "(the key)" in "".join(written)
    assert not [text for text in written if KEY[:9] in text]


def test_a_server_without_keys_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key for one server would be handed to another."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(shout) as server:
        served(server).generate(TEXTS, tmp_path / "a.jsonl", show=False)
        assert not any("Authorization" in headers for headers in server.headers)


def test_a_missing_key_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    """401 for every prompt would say less."""
    assert "NO_SUCH_KEY" not in os.environ
    with serving(shout) as server:
        teacher = served(server, key_env="NO_SUCH_KEY")
        with pytest.raises(InputError, match="NO_SUCH_KEY is not set"):
            teacher.generate(TEXTS, tmp_path / "a.jsonl", show=False)
        assert not server.asked


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-ö", "sk-a sk-b"])
def test_a_key_that_is_none_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library below shows headers that it cannot send, escaped."""
    monkeypatch.setenv("TINY_KEY", key)
    teacher = Served("http://localhost/v1", "tiny", key_env="TINY_KEY")
    with pytest.raises(InputError, match="TINY_KEY holds more than a key") as caught:
        teacher.label(["a"], "{text}", ["a", "b"])
    assert "sk-" not in "".join(traceback.format_exception(caught.value))


def test_what_is_known_needs_neither_key_nor_server(tmp_path: Path) -> None:
    """Paid answers could not be read on another machine."""
    with serving(shout) as server:
        first = served(server).generate(TEXTS, tmp_path / "a.jsonl", show=False)
    away = Served("http://localhost:9/v1", "tiny", key_env="NO_SUCH_KEY")
    assert list(away.generate(TEXTS, tmp_path / "a.jsonl", show=False)) == list(first)


@pytest.mark.parametrize(
    ("url", "options", "told"),
    [
        ("http://localhost/v1", {"key_env": KEY}, "not the name of an environment variable"),
        (f"http://me:{KEY}@localhost/v1", {}, "more than an address"),
        (f"http://localhost/v1?key={KEY}", {}, "more than an address"),
        ("localhost:8000/v1", {}, "not an address"),
        ("http://localhost/v1", {"concurrency": 0}, "concurrency is 0"),
        ("http://localhost/v1", {"tries": 0}, "tries is 0"),
        ("http://localhost/v1", {"requests_per_minute": -1}, "requests_per_minute is -1"),
        ("http://localhost/v1", {"price_per_million": (1, -1)}, "price_per_million"),
    ],
)
def test_wrong_settings_are_refused(url: str, options: dict[str, Any], told: str) -> None:
    """The key itself in the place of its name would be written into every message."""
    with pytest.raises(InputError, match=told) as caught:
        Served(url, "tiny", **options)
    assert KEY not in str(caught.value)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """What failed must be told, or nobody thinks of starting the server."""
    with serving(shout) as server:
        url = server.url
    with pytest.raises(UnansweredError, match=r"connection failed .*0 of 8 are answered"):
        Served(url, "tiny", clock=FakeClock()).generate(TEXTS, tmp_path / "a", show=False)
