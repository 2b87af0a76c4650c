"""The suite's own tools do what the tests that lean on them believe."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from types import ModuleType

import pytest
import requests
from browser.site import require_package
from django.core.cache import cache, caches
from django.http import HttpRequest, HttpResponse
from django.urls import path
from pytest_django import Settings
from support.caches import CacheBackend
from support.clocks import GENEROUS_TIMEOUT, once_in_time
from support.network import loopback_only
from support.programs import require, serving
from support.server import Scenario, TokenServer, email_of
from support.site import serving_site

BODY = {"email": "ada@example.com", "firstName": "Ada"}


def post(server: TokenServer, session: requests.Session | None = None, **options: object) -> requests.Response:
    return (session or requests.Session()).post(
        f"{server.url}/a/path?hapikey=secret", json=BODY, **{"timeout": GENEROUS_TIMEOUT, **options}
    )


def read(server: TokenServer, until: Callable[[bytes], bool], then: float = 0.0) -> bytes:
    """What the server sends to a client that asks by hand: until that is so, and for some seconds more."""
    received = b""
    end = None
    patience = time.monotonic() + GENEROUS_TIMEOUT
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 15\r\n\r\n" + b'{"email":"a@b"}')
        sock.settimeout(0.02)
        while end is None or time.monotonic() < end:
            with suppress(TimeoutError):
                received += sock.recv(65536)
            assert time.monotonic() < patience
            if end is None and until(received):
                end = time.monotonic() + then
    return received


def test_a_request_is_recorded_whole(token_server: TokenServer) -> None:
    """Method, path, query, headers, body, time and connection of a request can be asked for afterwards."""
    before = time.monotonic()
    post(token_server, headers={"Authorization": "Bearer secret"})
    (request,) = token_server.requests()
    assert (request.method, request.path, request.query) == ("POST", "/a/path", "hapikey=secret")
    assert request.headers["authorization"] == "Bearer secret"
    assert request.json() == BODY
    assert before < request.at < time.monotonic()
    assert (request.connection, token_server.calls, token_server.connections) == (1, 1, 1)


def test_every_call_gets_a_new_token_that_tells_its_address(token_server: TokenServer) -> None:
    """Two calls, two tokens; each names the address it was made for, as the server's own record does."""
    with requests.Session() as session:
        first, second = (post(token_server, session).json()["token"] for _ in range(2))
    assert first != second
    assert token_server.emails_by_token() == {first: BODY["email"], second: BODY["email"]}
    assert email_of(first) == BODY["email"]
    assert token_server.connections == 1


def test_each_server_is_alone(token_server: TokenServer, token_server_process) -> None:
    """Two servers of one process share neither requests nor scenarios."""
    other = token_server_process.open()
    other.answer(500)
    assert post(token_server).status_code == 200
    assert (token_server.calls, other.calls) == (1, 0)
    other.close()


def test_latency_is_waited(token_server: TokenServer) -> None:
    """An answer takes as long as the scenario says."""
    token_server.set_scenario("healthy", latency=0.2)
    start = time.monotonic()
    post(token_server)
    assert time.monotonic() - start >= 0.2


def test_held_answers_wait_for_their_release(token_server: TokenServer) -> None:
    """A held request is answered when the test says so, and its arrival can be waited for."""
    token_server.set_scenario("held")
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(post(token_server).status_code))
    thread.start()
    assert token_server.wait_for_calls(1)
    assert answers == []
    token_server.release()
    thread.join(5)
    assert answers == [200]


def test_calls_that_never_come_end_the_waiting(token_server: TokenServer) -> None:
    """Waiting for calls has an end, and says that they did not come."""
    assert not token_server.wait_for_calls(1, timeout=0.05)


def test_any_answer(token_server: TokenServer) -> None:
    """Status, headers and body are what the test asked for, statuses of HubSpot's own included."""
    token_server.answer(477, {"category": "MIGRATION_IN_PROGRESS"}, {"Retry-After": "7"})
    answer = post(token_server)
    assert (answer.status_code, answer.headers["Retry-After"]) == (477, "7")
    assert answer.json() == {"category": "MIGRATION_IN_PROGRESS"}


def test_rate_limit_rolls(token_server: TokenServer) -> None:
    """In any such window so many calls succeed; once the oldest has left it, the next one does."""
    with requests.Session() as session:
        token_server.set_scenario("rate_limit", calls=3, seconds=60)
        assert [post(token_server, session).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert post(token_server, session).json()["policyName"] == "TEN_SECONDLY_ROLLING"
        token_server.set_scenario("rate_limit", calls=3, seconds=0.3)
        while post(token_server, session).status_code == 429:
            pass
    arrivals = [request.at for request in token_server.requests()]
    assert arrivals[-1] - arrivals[0] >= 0.3


@pytest.mark.parametrize("scenario", ["refused", "unconnectable"])
def test_no_connection(token_server: TokenServer, scenario: Scenario) -> None:
    """Refused connects fail, others never complete, kept connections are gone, and both scenarios pass."""
    with requests.Session() as session:
        post(token_server, session)
        token_server.set_scenario(scenario)
        expected = requests.ConnectTimeout if scenario == "unconnectable" else requests.ConnectionError
        with pytest.raises(expected) as caught:
            post(token_server, timeout=0.3)
        assert isinstance(caught.value, requests.ConnectTimeout) == (scenario == "unconnectable")
        with pytest.raises(requests.ConnectionError):
            post(token_server, session, timeout=0.3)
    token_server.set_scenario("healthy")
    assert post(token_server).status_code == 200


@pytest.mark.parametrize("scenario", ["hang", "hang_after_headers"])
def test_hanging(token_server: TokenServer, scenario: Scenario) -> None:
    """The request arrives, and the answer stops before or after its headers."""
    token_server.set_scenario(scenario)
    end = b"\r\n\r\n" if scenario == "hang_after_headers" else b""
    received = read(token_server, lambda received: token_server.calls == 1 and end in received, then=0.2)
    assert received.partition(b"\r\n\r\n")[1:] == (end, b"")


def test_a_handshake_that_never_ends(token_server: TokenServer) -> None:
    """Spoken to in TLS, a hanging server accepts and says nothing."""
    token_server.set_scenario("hang")
    context = ssl.create_default_context()
    connection = http.client.HTTPSConnection("127.0.0.1", token_server.port, timeout=0.2, context=context)
    with pytest.raises(TimeoutError):
        connection.request("POST", "/")
    assert (token_server.connections, token_server.calls) == (1, 0)


@pytest.mark.parametrize("scenario", ["drip_headers", "drip_body", "drip_to_close"])
def test_dripping(token_server: TokenServer, scenario: Scenario) -> None:
    """Bytes come one by one, in the headers or in the body, often enough to outlive every socket timeout."""
    token_server.set_scenario(scenario, interval=0.02)

    def dripped(received: bytes) -> bytes:
        headers, end, body = received.partition(b"\r\n\r\n")
        assert not (end and scenario == "drip_headers")
        return headers if scenario == "drip_headers" else body

    received = read(token_server, lambda received: len(dripped(received)) > 5, then=0.2)
    assert 5 < len(dripped(received)) < 500  # of an answer that has no end


def test_endless_body(token_server: TokenServer) -> None:
    """A body without an end keeps coming as fast as it is read."""
    token_server.set_scenario("endless_body")
    assert read(token_server, lambda received: len(received) > 1_000_000)


def test_bomb(token_server: TokenServer) -> None:
    """Kilobytes on the wire are megabytes of valid JSON."""
    token_server.set_scenario("bomb", size=8 * 1024 * 1024)
    connection = http.client.HTTPConnection("127.0.0.1", token_server.port, timeout=GENEROUS_TIMEOUT)
    connection.request("POST", "/", json.dumps(BODY))
    raw = connection.getresponse().read()
    connection.close()
    assert len(raw) < 64 * 1024
    assert len(zlib.decompress(raw, 16 + zlib.MAX_WBITS)) > 8_000_000
    assert json.loads(zlib.decompress(raw, 16 + zlib.MAX_WBITS)) == {"token": "bomb"}


def test_truncated(token_server: TokenServer) -> None:
    """The body ends before its declared length."""
    token_server.set_scenario("truncated")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        post(token_server)


def test_html_and_empty(token_server: TokenServer) -> None:
    """Success in the status line is no promise of a token."""
    token_server.set_scenario("html")
    assert post(token_server).headers["Content-Type"] == "text/html"
    token_server.set_scenario("empty")
    answer = post(token_server)
    assert (answer.status_code, answer.content) == (200, b"")


def test_redirect(token_server: TokenServer) -> None:
    """A client that follows is seen on the other path."""
    token_server.set_scenario("redirect")
    assert post(token_server, allow_redirects=False).status_code == 307
    with pytest.raises(requests.TooManyRedirects):
        post(token_server)
    assert token_server.requests()[-1].path == "/elsewhere"


def test_reset(token_server: TokenServer) -> None:
    """A connection that is reset has no response."""
    token_server.set_scenario("reset")
    with pytest.raises(requests.ConnectionError) as caught:
        post(token_server)
    assert isinstance(caught.value.args[0].args[1], ConnectionResetError)


def test_default_cache_is_the_back_end(cache_backend: CacheBackend) -> None:
    """Whichever back end a test asks for is Django's default cache, works, and starts empty."""
    used = type(caches["default"])
    assert f"{used.__module__}.{used.__qualname__}" == cache_backend.caches["default"]["BACKEND"]
    assert cache.get("key") is None
    assert cache.add("key", 1, 60)
    assert not cache.add("key", 2, 60)
    assert cache.get("key") == 1


def test_other_hosts_are_out_of_reach() -> None:
    """Names and addresses of other machines are refused and noted; loopback is not."""
    with loopback_only() as attempts, socket.socket() as sock:
        with pytest.raises(OSError, match=r"api\.hubapi\.com"):
            socket.create_connection(("api.hubapi.com", 443), 1)
        with pytest.raises(OSError, match=r"192\.0\.2\.1"):
            sock.connect(("192.0.2.1", 443))
        assert sock.connect_ex(("127.0.0.1", 1)) != 0
    assert attempts == ["api.hubapi.com", "192.0.2.1"]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no such sockets here")
def test_sockets_of_this_machine_alone_are_in_reach(tmp_path: Path) -> None:
    """What has a file for an address leads nowhere else."""
    with loopback_only() as attempts, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
            one.connect(server.getsockname())
            assert other.connect_ex(server.getsockname()) == 0
    assert attempts == []


def test_a_program_that_does_not_start(tmp_path: Path) -> None:
    """The test fails with what the program said."""
    command = [sys.executable, "-c", "print('out of order')"]
    with pytest.raises(pytest.fail.Exception, match="out of order"), serving(lambda port: command, tmp_path / "log"):
        pytest.fail("It was taken for one that runs.")


@pytest.mark.parametrize("ci", ["true", ""])
def test_a_missing_program(monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    """A missing program, or package of npm, skips its tests on a developer's machine and fails them under CI."""
    monkeypatch.setenv("CI", ci)
    expected = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(expected, match="no-such-program is not installed"):
        require("no-such-program", "no-such-program")
    with pytest.raises(expected, match=r"no-such\.js is not installed: run `npm ci`"):
        require_package("no-such.js")


@pytest.mark.parametrize("in_time_after", [0, 4, 5])
def test_once_in_time(in_time_after: int) -> None:
    """What is late five times is not the machine's doing."""
    attempts = 0

    def attempt() -> None:
        nonlocal attempts
        attempts += 1
        assert attempts > in_time_after

    with pytest.raises(AssertionError) if in_time_after == 5 else nullcontext():
        once_in_time(attempt)
    assert attempts == min(in_time_after + 1, 5)


def test_no_request_outlives_its_site(settings: Settings) -> None:
    """A site ends when all it was asked has been done, and does not wait for connections that are merely kept."""
    asked, done = threading.Event(), threading.Event()

    def take_a_while(request: HttpRequest) -> HttpResponse:
        asked.set()
        time.sleep(0.2)
        done.set()
        return HttpResponse("done")

    urls = ModuleType("urls")
    urls.urlpatterns = [path("", lambda request: HttpResponse("at once")), path("slow/", take_a_while)]  # type: ignore[attr-defined]
    settings.ROOT_URLCONF = urls
    with requests.Session() as session, ThreadPoolExecutor(1) as others:
        with serving_site() as origin:
            assert session.get(f"{origin}/").text == "at once"
            others.submit(requests.get, f"{origin}/slow/")
            assert asked.wait(5)
        assert done.is_set()
