"""The helpers of the test suite work as the tests expect."""

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
from typing import Any

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
from support.server import Scenario, TokenServer, TokenServerProcess, email_of
from support.site import serving_site, urlconf

BODY = {"email": "ada@example.com", "firstName": "Ada"}


def post(server: TokenServer, session: requests.Session | None = None, **options: Any) -> requests.Response:
    options = {"timeout": GENEROUS_TIMEOUT, **options}
    return (session or requests.Session()).post(f"{server.url}/a/path?hapikey=secret", json=BODY, **options)


def read(server: TokenServer, until: Callable[[bytes], bool], then: float = 0.0) -> bytes:
    """Return what the server sends over a socket until a condition is true, and for some seconds more."""
    received = b""
    end = None
    deadline = time.monotonic() + GENEROUS_TIMEOUT
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 15\r\n\r\n" + b'{"email":"a@b"}')
        sock.settimeout(0.02)
        while end is None or time.monotonic() < end:
            with suppress(TimeoutError):
                received += sock.recv(65536)
            assert time.monotonic() < deadline
            if end is None and until(received):
                end = time.monotonic() + then
    return received


# The token server


def test_request_is_recorded_completely(token_server: TokenServer) -> None:
    """The record has method, path, query, headers, body, time and connection."""
    before = time.monotonic()
    post(token_server, headers={"Authorization": "Bearer secret"})
    (request,) = token_server.requests()
    assert (request.method, request.path, request.query) == ("POST", "/a/path", "hapikey=secret")
    assert request.headers["authorization"] == "Bearer secret"
    assert request.json() == BODY
    assert before < request.at < time.monotonic()
    assert (request.connection, token_server.calls, token_server.connections) == (1, 1, 1)


def test_each_call_gets_a_new_token_that_contains_its_address(token_server: TokenServer) -> None:
    """The server also records the address for each token."""
    with requests.Session() as session:
        first, second = (post(token_server, session).json()["token"] for _ in range(2))
    assert first != second
    assert token_server.emails_by_token() == {first: BODY["email"], second: BODY["email"]}
    assert email_of(first) == BODY["email"]
    assert token_server.connections == 1


def test_servers_are_independent(token_server: TokenServer, token_server_process: TokenServerProcess) -> None:
    """Two servers of one process share neither requests nor scenarios."""
    other = token_server_process.open()
    other.answer(500)
    assert post(token_server).status_code == 200
    assert (token_server.calls, other.calls) == (1, 0)
    other.close()


def test_latency_delays_the_response(token_server: TokenServer) -> None:
    """A response takes at least as long as the scenario says."""
    token_server.set_scenario("healthy", latency=0.1)
    start = time.monotonic()
    post(token_server)
    assert time.monotonic() - start >= 0.1


def test_held_response_is_sent_after_its_release(token_server: TokenServer) -> None:
    """The arrival of the request can be waited for, and that wait has a limit."""
    token_server.set_scenario("held")
    assert not token_server.wait_for_calls(1, timeout=0.05)
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(post(token_server).status_code))
    thread.start()
    assert token_server.wait_for_calls(1)
    assert statuses == []
    token_server.release()
    thread.join(5)
    assert statuses == [200]


def test_any_response_can_be_set(token_server: TokenServer) -> None:
    """A test chooses status, headers and body. The status may be one of HubSpot's own."""
    token_server.answer(477, {"category": "MIGRATION_IN_PROGRESS"}, {"Retry-After": "7"})
    response = post(token_server)
    assert (response.status_code, response.headers["Retry-After"]) == (477, "7")
    assert response.json() == {"category": "MIGRATION_IN_PROGRESS"}


def test_rate_limit_has_a_rolling_window(token_server: TokenServer) -> None:
    """A number of calls succeed in each window. After the oldest has left the window, the next call succeeds."""
    with requests.Session() as session:
        token_server.set_scenario("rate_limit", calls=3, seconds=60)
        assert [post(token_server, session).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert post(token_server, session).json()["policyName"] == "TEN_SECONDLY_ROLLING"
        token_server.set_scenario("rate_limit", calls=3, seconds=0.1)
        while post(token_server, session).status_code == 429:
            pass
    arrivals = [request.at for request in token_server.requests()]
    assert arrivals[-1] - arrivals[0] >= 0.1


@pytest.mark.parametrize("scenario", ["refused", "unconnectable"])
def test_server_without_connections_recovers(token_server: TokenServer, scenario: Scenario) -> None:
    """New connections are refused or never complete, and existing ones are reset, until another scenario is set."""
    with requests.Session() as session:
        post(token_server, session)
        token_server.set_scenario(scenario)
        expected = requests.ConnectTimeout if scenario == "unconnectable" else requests.ConnectionError
        with pytest.raises(expected) as caught:
            post(token_server, timeout=0.1)
        assert isinstance(caught.value, requests.ConnectTimeout) == (scenario == "unconnectable")
        with pytest.raises(requests.ConnectionError):
            post(token_server, session, timeout=0.1)
    token_server.set_scenario("healthy")
    assert post(token_server).status_code == 200


@pytest.mark.parametrize("scenario", ["hang", "hang_after_headers"])
def test_hanging_response_stops_before_or_after_its_headers(token_server: TokenServer, scenario: Scenario) -> None:
    """The request arrives before that."""
    token_server.set_scenario(scenario)
    end = b"\r\n\r\n" if scenario == "hang_after_headers" else b""
    received = read(token_server, lambda received: token_server.calls == 1 and end in received, then=0.1)
    assert received.partition(b"\r\n\r\n")[1:] == (end, b"")


def test_tls_handshake_with_a_hanging_server_never_ends(token_server: TokenServer) -> None:
    """The server accepts the connection and sends nothing."""
    token_server.set_scenario("hang")
    context = ssl.create_default_context()
    connection = http.client.HTTPSConnection("127.0.0.1", token_server.port, timeout=0.1, context=context)
    with pytest.raises(TimeoutError):
        connection.request("POST", "/")
    assert (token_server.connections, token_server.calls) == (1, 0)


@pytest.mark.parametrize("scenario", ["drip_headers", "drip_body", "drip_to_close"])
def test_dripping_response_arrives_byte_by_byte(token_server: TokenServer, scenario: Scenario) -> None:
    """Headers or body never end, and no pause is long enough for a socket timeout."""
    token_server.set_scenario(scenario, interval=0.01)

    def dripped(received: bytes) -> bytes:
        headers, end, body = received.partition(b"\r\n\r\n")
        assert not (end and scenario == "drip_headers")
        return headers if scenario == "drip_headers" else body

    received = read(token_server, lambda received: len(dripped(received)) > 5, then=0.1)
    assert 5 < len(dripped(received)) < 500


def test_endless_body_arrives_as_fast_as_it_is_read(token_server: TokenServer) -> None:
    """The first megabyte arrives within the time limit of the helper."""
    token_server.set_scenario("endless_body")
    assert read(token_server, lambda received: len(received) > 1_000_000)


def test_decompression_bomb_is_small_until_it_is_decompressed(token_server: TokenServer) -> None:
    """Kilobytes on the wire become megabytes of valid JSON."""
    token_server.set_scenario("bomb", size=8 * 1024 * 1024)
    connection = http.client.HTTPConnection("127.0.0.1", token_server.port, timeout=GENEROUS_TIMEOUT)
    connection.request("POST", "/", json.dumps(BODY))
    raw = connection.getresponse().read()
    connection.close()
    assert len(raw) < 64 * 1024
    body = zlib.decompress(raw, 16 + zlib.MAX_WBITS)
    assert len(body) > 8_000_000
    assert json.loads(body) == {"token": "bomb"}


def test_responses_without_a_token_have_a_status_of_success(token_server: TokenServer) -> None:
    """The body is HTML, empty, or shorter than its ``Content-Length``."""
    token_server.set_scenario("html")
    assert post(token_server).headers["Content-Type"] == "text/html"
    token_server.set_scenario("empty")
    response = post(token_server)
    assert (response.status_code, response.content) == (200, b"")
    token_server.set_scenario("truncated")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        post(token_server)


def test_client_that_follows_a_redirect_is_recorded(token_server: TokenServer) -> None:
    """The redirect leads to another path of the same server."""
    token_server.set_scenario("redirect")
    assert post(token_server, allow_redirects=False).status_code == 307
    with pytest.raises(requests.TooManyRedirects):
        post(token_server)
    assert token_server.requests()[-1].path == "/elsewhere"


def test_reset_connection_has_no_response(token_server: TokenServer) -> None:
    """The client gets a RST instead of a response."""
    token_server.set_scenario("reset")
    with pytest.raises(requests.ConnectionError) as caught:
        post(token_server)
    assert isinstance(caught.value.args[0].args[1], ConnectionResetError)


# Caches, network and programs


def test_cache_backend_is_the_empty_default_cache(cache_backend: CacheBackend) -> None:
    """The fixture replaces Django's default cache, which works."""
    used = type(caches["default"])
    assert f"{used.__module__}.{used.__qualname__}" == cache_backend.caches["default"]["BACKEND"]
    assert cache.get("key") is None
    assert cache.add("key", 1, 60)
    assert not cache.add("key", 2, 60)
    assert cache.get("key") == 1


def test_connections_to_other_hosts_are_refused() -> None:
    """Attempts to resolve or reach other hosts are recorded. Loopback addresses can be reached."""
    with loopback_only() as attempts, socket.socket() as sock:
        with pytest.raises(OSError, match=r"api\.hubapi\.com"):
            socket.create_connection(("api.hubapi.com", 443), 1)
        with pytest.raises(OSError, match=r"192\.0\.2\.1"):
            sock.connect(("192.0.2.1", 443))
        assert sock.connect_ex(("127.0.0.1", 1)) != 0
    assert attempts == ["api.hubapi.com", "192.0.2.1"]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no such sockets here")
def test_unix_sockets_can_be_reached(tmp_path: Path) -> None:
    """They connect only to programs on this machine."""
    with loopback_only() as attempts, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
            one.connect(server.getsockname())
            assert other.connect_ex(server.getsockname()) == 0
    assert attempts == []


@pytest.mark.slow
def test_program_that_does_not_start_fails_the_test_with_its_output(tmp_path: Path) -> None:
    """The output helps to find the reason."""
    command = [sys.executable, "-I", "-S", "-c", "print('out of order')"]
    with pytest.raises(pytest.fail.Exception, match="out of order"), serving(lambda port: command, tmp_path / "log"):
        pytest.fail("The program counts as started.")


@pytest.mark.parametrize("ci", ["true", ""])
def test_missing_program_skips_the_test_or_fails_it_in_ci(monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    """The same is true of a missing npm package."""
    monkeypatch.setenv("CI", ci)
    expected = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(expected, match="no-such-program"):
        require("no-such-program", "no-such-program")
    with pytest.raises(expected, match=r"no-such\.js.*npm ci"):
        require_package("no-such.js")


@pytest.mark.parametrize("in_time_after", [4, 5])
def test_attempt_must_be_in_time_once_in_five_times(in_time_after: int) -> None:
    """A busy machine can delay single attempts, and no further attempt is made after one that is in time."""
    attempts = 0

    def attempt() -> None:
        nonlocal attempts
        attempts += 1
        assert attempts > in_time_after

    with pytest.raises(AssertionError) if in_time_after == 5 else nullcontext():
        once_in_time(attempt)
    assert attempts == min(in_time_after + 1, 5)


def test_site_waits_for_its_requests_before_it_ends(settings: Settings) -> None:
    """It does not wait for idle connections."""
    started, done = threading.Event(), threading.Event()

    def slow_view(request: HttpRequest) -> HttpResponse:
        started.set()
        time.sleep(0.1)
        done.set()
        return HttpResponse("done")

    settings.ROOT_URLCONF = urlconf(path("", lambda request: HttpResponse("at once")), path("slow/", slow_view))
    with requests.Session() as session, ThreadPoolExecutor(1) as others:
        with serving_site() as origin:
            assert session.get(f"{origin}/").text == "at once"
            others.submit(requests.get, f"{origin}/slow/")
            assert started.wait(5)
        assert done.is_set()
