"""A stand-in for HubSpot's token endpoint with every scenario a real one has been seen in, and worse.

It lives in a process of its own, so that neither the GIL nor a fork of the tests disturbs it; each test gets
a port of its own in it. Nothing here pretends: refused is refused by the kernel, a reset is a RST.
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from requests.structures import CaseInsensitiveDict

Scenario = Literal[
    "healthy",  # a new token for every call
    "held",  # healthy, once the test calls release()
    "answer",  # whatever the test says: status, headers, body
    "firewall",  # that response for `<script>` in a name and for addresses that begin with `refused`; else healthy
    "rate_limit",  # healthy, within `calls` in any `seconds`; then 429
    "refused",  # nobody listens
    "unconnectable",  # the connect never completes
    "hang",  # accepts, reads, and says nothing; with https_url, a TLS handshake that never ends
    "hang_after_headers",
    "drip_headers",  # one byte every `interval` seconds, for ever
    "drip_body",
    "drip_to_close",  # the same, where the end of the connection is that of the body
    "continue",  # 100 Continue, for ever
    "endless_body",
    "bomb",  # compressed: kilobytes on the wire, `size` bytes behind it
    "truncated",  # shorter than its Content-Length
    "html",
    "empty",
    "redirect",  # to `location`, else to another path of this server
    "reset",
    "stray",  # healthy; call number `call` gets a stray response with `status` first (200: its own, doubled)
    "tunnel",  # an HTTP proxy that connects every host to the port `target`
]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it arrived."""

    method: str
    path: str
    query: str
    headers: CaseInsensitiveDict[str]
    body: bytes
    #: Seconds on the clock of ``time.monotonic()``, which all processes of a machine share.
    at: float
    #: The number of the connection it came over, from 1 on.
    connection: int

    def json(self) -> Any:
        return json.loads(self.body)


def email_of(token: str) -> str:
    """The address that a healthy server made this token for, read from the token itself."""
    name = token.rpartition(".")[2]
    return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()


class TokenServerProcess:
    """The process, as a context manager; ``open()`` gives a server on a fresh port."""

    def __enter__(self) -> Self:
        program = Path(__file__).with_name("token_endpoint.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._control = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def open(self, certificate: Path | None = None) -> TokenServer:
        """Open a server on a fresh port; with a PEM file of certificate and key, it speaks TLS."""
        return TokenServer(self._control, _ask(self._control, "open", certificate=certificate and str(certificate)))


def _ask(control: int, do: str, *, socket_timeout: float = 10.0, **arguments: Any) -> Any:
    # A plain socket and a numeric address: tests may break resolvers and connection helpers as they like.
    with socket.socket() as sock:
        sock.settimeout(socket_timeout)
        sock.connect(("127.0.0.1", control))
        sock.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        with sock.makefile("r", encoding="utf-8") as answer:
            line = answer.readline()
    assert line, f"The token server did not understand {do!r}; its own traceback says why."
    return json.loads(line)


class TokenServer:
    """One port of the stand-in; its scenario is changed while it runs, its address stays."""

    def __init__(self, control: int, port: int) -> None:
        self._control = control
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def https_url(self) -> str:
        """The address for TLS. A server without a certificate does not speak it; for ``set_scenario("hang")``."""
        return f"https://127.0.0.1:{self.port}"

    def set_scenario(
        self,
        name: Scenario,
        *,
        latency: float = 0.0,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: object = b"",
        calls: int | None = None,
        seconds: float | None = None,
        interval: float | None = None,
        location: str | None = None,
        size: int | None = None,
        call: int | None = None,
        target: int | None = None,
    ) -> None:
        """Answer like this from the next request on; those that wait already keep the scenario they came in.

        ``latency`` is waited before any answer, in seconds. ``body`` is bytes, text, or what JSON can hold.
        """
        options: dict[str, Any] = {
            "latency": latency,
            "status": status,
            "calls": calls,
            "seconds": seconds,
            "interval": interval,
            "location": location,
            "size": size,
            "call": call,
            "target": target,
        }
        options = {key: value for key, value in options.items() if value is not None}
        if name in ("answer", "firewall"):
            raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
            options = {
                "status": 200,
                **options,
                "headers": dict(headers or {}),
                "body": raw.decode("latin-1"),
            }
        self._ask("scenario", name=name, options=options)

    def answer(self, status: int, body: object = b"", headers: Mapping[str, str] | None = None) -> None:
        """Short for ``set_scenario("answer", …)``."""
        self.set_scenario("answer", status=status, body=body, headers=headers)

    def reject_key(self) -> None:
        """Answer as HubSpot does for an invalid key."""
        body = {"status": "error", "category": "INVALID_AUTHENTICATION", "correlationId": "c-401"}
        self.answer(401, body)

    def release(self) -> None:
        """Let the requests go that ``set_scenario("held")`` keeps, and those that still come in it."""
        self._ask("release")

    def requests(self) -> list[Request]:
        """Every request so far, in the order of arrival."""
        return [
            Request(**(raw | {"headers": CaseInsensitiveDict(raw["headers"]), "body": raw["body"].encode("latin-1")}))
            for raw in self._ask("requests")
        ]

    @property
    def calls(self) -> int:
        """How many requests have arrived."""
        count: int = self._ask("counts")["calls"]
        return count

    @property
    def connections(self) -> int:
        """How many connections have been accepted."""
        count: int = self._ask("counts")["connections"]
        return count

    def wait_for_calls(self, calls: int, timeout: float = 5.0) -> bool:
        """Block until that many requests have arrived; whether they did in time."""
        arrived: bool = self._ask("wait", calls=calls, timeout=timeout, socket_timeout=timeout + 5)
        return arrived

    def emails_by_token(self) -> dict[str, str]:
        """Each token handed out, and the address in the request that it was made for."""
        emails: dict[str, str] = self._ask("emails")
        return emails

    def close(self) -> None:
        self._ask("close")

    def _ask(self, do: str, **arguments: Any) -> Any:
        return _ask(self._control, do, port=self.port, **arguments)
