"""Queue, rates and connections of the server, each with an app of a few lines behind it."""

from __future__ import annotations

import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rag_diffusion.serving import admission_queue, request_bodies
from rag_diffusion.serving.admission_queue import AdmissionQueue
from rag_diffusion.serving.bounded_json import MAX_VALUES, BodyError
from rag_diffusion.serving.connections import ConnectionLimits
from rag_diffusion.serving.request_bodies import BodyLimits, received
from rag_diffusion.serving.request_guard import Guard, refusal, unforeseen
from tests.unit.serving.doors import connected, rest, running

HEAD = b"POST /size HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"


async def size(request: Request) -> Response:
    with await received(request) as body:
        return JSONResponse(body.tell())


def bad(request: Request, error: Exception) -> Response:
    assert isinstance(error, BodyError)
    return refusal(error.status, str(error), **({"Retry_After": str(error.retry_after)} if error.retry_after else {}))


def app_of(*routes: Route, hosts: tuple[str, ...] = ()) -> Guard:
    app = Starlette(
        routes=[Route("/size", size, methods=["GET", "POST"]), *routes],
        exception_handlers={BodyError: bad, Exception: unforeseen},
    )
    return Guard(BodyLimits(app, {}, other=2**22), hosts)


class Slow:
    """Answers when it may; counts those it began and those it ended."""

    def __init__(self, at_a_time: int, waiting: int) -> None:
        self.queue = AdmissionQueue(at_a_time, waiting)
        self.go_on, self.began, self.gone = threading.Event(), [], []

    async def __call__(self, request: Request) -> Response:
        def work() -> int:
            self.began.append(request.url.query)
            assert self.go_on.wait(20)
            self.gone.append(request.scope["gone"].is_set())
            return 5

        return await self.queue.answer(work)

    def until(self, began: int) -> None:
        end = time.monotonic() + 20
        while len(self.began) < began:
            assert time.monotonic() < end
            time.sleep(0.01)


def route(endpoint: Any) -> Route:
    async def ask(request: Request) -> Response:
        found: Response = await endpoint(request)
        return found

    return Route("/slow", ask, methods=["GET", "POST"])


def test_those_who_wait_are_served_in_turn_and_one_too_many_is_asked_to_come_again() -> None:
    slow = Slow(at_a_time=1, waiting=2)
    with running(app_of(route(slow))) as port, ThreadPoolExecutor(4) as pool:
        url = f"http://127.0.0.1:{port}/slow"
        first = [pool.submit(requests.get, f"{url}?{number}", timeout=20) for number in range(3)]
        slow.until(began=1)
        time.sleep(0.3)
        refused = requests.get(url, timeout=20)
        slow.go_on.set()
        served = [one.result().status_code for one in first]

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    assert "at most 2 requests to wait" in refused.json()["message"]
    assert served == [200] * 3


def test_a_turn_that_does_not_come_in_time_is_429(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_queue, "SECONDS", 0.2)
    slow = Slow(at_a_time=1, waiting=9)
    with running(app_of(route(slow))) as port, ThreadPoolExecutor(1) as pool:
        first = pool.submit(requests.get, f"http://127.0.0.1:{port}/slow", timeout=20)
        slow.until(began=1)
        late = requests.get(f"http://127.0.0.1:{port}/slow", timeout=20)
        slow.go_on.set()
        assert first.result().status_code == 200

    assert late.status_code == 429
    assert "expected a turn within 0.2 s" in late.json()["message"]


def test_what_waits_for_a_client_that_left_is_never_begun_and_what_runs_is_told() -> None:
    slow = Slow(at_a_time=1, waiting=9)
    with running(app_of(route(slow))) as port:
        ask = b"POST /slow?%d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        clients = [connected(port, ask % number) for number in range(5)]
        slow.until(began=1)
        time.sleep(0.3)
        for one in clients[:4]:
            one.close()
        time.sleep(0.3)
        slow.go_on.set()
        assert b"200 OK" in clients[4].recv(1000)
        clients[4].close()

    assert slow.began == ["0", "4"]
    assert slow.gone == [True, False]


def test_an_answer_that_is_streamed_waits_for_its_client_to_leave_and_lets_others_be_answered() -> None:
    """Starlette listens for the end of the connection while it streams: an end that comes at once is asked for again
    and again, and nobody else has a turn."""
    left = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/stream":
            await JSONResponse("there")(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            left.set()

    with running(Guard(app)) as port:
        client = connected(port, b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in client.recv(1000)
        assert requests.get(f"http://127.0.0.1:{port}/", timeout=20).json() == "there"
        assert not left.is_set()
        client.close()
        assert left.wait(20)


def test_a_body_that_drips_is_cut_off_and_one_that_comes_at_its_rate_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "GRACE", 0.5)
    monkeypatch.setattr(request_bodies, "RATE", 10_000)
    with running(app_of()) as port:
        start = time.monotonic()
        dripping = connected(port, HEAD % 1000 + b"x")
        answer = rest(dripping)
        took = time.monotonic() - start
        steady = connected(port, HEAD % 10_000)
        for _ in range(10):
            time.sleep(0.1)
            steady.sendall(b"x" * 1000)
        assert b"200 OK" in steady.recv(1000)

    assert b"408" in answer.splitlines()[0]
    assert b"expected 10000 bytes of body a second" in answer
    assert 0.3 < took < 10


def test_bodies_that_are_too_many_together_are_asked_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "HELD", 150_000)
    with running(app_of()) as port:
        first = connected(port, HEAD % 110_000 + b"x" * 100_000)
        time.sleep(0.3)
        second = requests.post(f"http://127.0.0.1:{port}/size", data=b"x" * 60_000, timeout=20)
        first.sendall(b"x" * 10_000)
        assert b"200 OK" in first.recv(1000)
        third = requests.post(f"http://127.0.0.1:{port}/size", data=b"x" * 60_000, timeout=20)

    assert (second.status_code, second.headers["retry-after"]) == (429, "10")
    assert third.json() == 60_000


def test_a_body_of_too_many_values_is_refused_while_it_comes() -> None:
    with running(app_of()) as port:
        started = connected(port, HEAD % 2_000_000 + b"1," * (MAX_VALUES + 1))
        answer = rest(started)

    assert b"413" in answer.splitlines()[0]
    assert f"at most {MAX_VALUES} values".encode() in answer


def test_half_a_head_is_given_up_and_costs_nobody_else_anything() -> None:
    room = ConnectionLimits(by_address=80, head=1.0)
    with running(app_of(), room) as port:
        halves = [connected(port, b"GET /size HTTP/1.1\r\nHo") for _ in range(70)]
        meanwhile = requests.get(f"http://127.0.0.1:{port}/size", timeout=20)
        answers = [rest(one) for one in halves]
        again = requests.Session()
        assert again.get(f"http://127.0.0.1:{port}/size", timeout=20).json() == 0

    assert meanwhile.status_code == 200
    for answer in answers:
        head, body = answer.split(b"\r\n\r\n")
        assert b"408" in head.splitlines()[0]
        assert json.loads(body) == {"message": "expected a whole head within 1 s, got none"}
    assert room.counts.total() == 0


def test_half_a_head_after_a_request_is_given_up_as_well() -> None:
    with running(app_of(), ConnectionLimits(head=0.5)) as port:
        kept = connected(port, b"GET /size HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in kept.recv(1000)
        kept.sendall(b"GET /si")
        assert b"408" in rest(kept)


def test_one_address_gets_so_many_connections_and_they_are_given_back() -> None:
    room = ConnectionLimits(by_address=3)
    with running(app_of(), room) as port:
        held = [connected(port) for _ in range(3)]
        time.sleep(0.2)
        answer = rest(connected(port))
        for one in held:
            one.close()
        time.sleep(0.2)
        after = requests.get(f"http://127.0.0.1:{port}/size", timeout=20)

    assert b"429" in answer.splitlines()[0]
    assert b"at most 3 connections of one address" in answer
    assert after.status_code == 200


def test_where_all_connections_are_taken_the_one_that_waits_longest_makes_room() -> None:
    with running(app_of(), ConnectionLimits(in_all=3)) as port:
        held = [connected(port) for _ in range(3)]
        time.sleep(0.2)
        new = requests.get(f"http://127.0.0.1:{port}/size", timeout=20)
        assert b"408" in rest(held[0])

    assert new.status_code == 200


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    async def large(request: Request) -> Response:
        return Response(b"x" * 50_000_000)

    room = ConnectionLimits(look=0.3, rate=100_000)
    with running(app_of(route(large)), room) as port:
        idle = connected(port, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        end = time.monotonic() + 15
        while room.counts.total() and time.monotonic() < end:
            time.sleep(0.05)
        idle.close()
        assert len(requests.get(f"http://127.0.0.1:{port}/slow", timeout=20).content) == 50_000_000

    assert time.monotonic() < end + 15
    assert not room.counts


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nBad Header\r\n\r\n", b"\x16\x03\x01\r\n\r\n"]
)
def test_what_is_no_http_is_answered_in_json(sent: bytes) -> None:
    with running(app_of()) as port:
        head, body = rest(connected(port, sent)).split(b"\r\n\r\n")

    assert b"400" in head.splitlines()[0]
    assert b"application/json" in head.lower()
    assert json.loads(body)["message"].startswith("expected a request of HTTP/1.1")


def test_a_host_that_it_is_not_called_by_is_refused_in_json() -> None:
    with running(app_of(hosts=("localhost", "127.0.0.1"))) as port:
        url = f"http://127.0.0.1:{port}/size"
        foreign = requests.get(url, headers={"Host": "evil.example"}, timeout=20)
        assert requests.get(url, headers={"Host": "LOCALHOST:99"}, timeout=20).status_code == 200

    assert foreign.status_code == 400
    assert foreign.json() == {"message": "expected the host 127.0.0.1 or localhost, got 'evil.example'"}


def test_what_nobody_foresaw_is_500_in_json_and_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: Request) -> Response:
        raise KeyError("first\nsecond\x1b[31m\u202e")

    log = logging.getLogger("uvicorn.error")
    with running(app_of(route(broken))) as port:
        log.addHandler(caplog.handler)
        try:
            answer = requests.get(f"http://127.0.0.1:{port}/slow", timeout=20)
            connected(port, HEAD % 1000 + b"x").close()  # left amid its body
            connected(port, b"nonsense\r\n\r\n").close()
            time.sleep(0.5)
        finally:
            log.removeHandler(caplog.handler)

    assert (answer.status_code, list(answer.json())) == (500, ["message"])
    told = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.exc_info for one in told] == [None] * len(told)
    assert all(one.getMessage().isprintable() for one in told)
    assert sum("GET /slow: KeyError" in one.getMessage() for one in told) == 1
    assert len(told) == 2  # the other one is of what is no HTTP
