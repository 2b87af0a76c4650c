"""A server that replaces HubSpot's token endpoint, with a scenario for each way in which HubSpot may respond or fail.

It runs in a separate process, so that neither the GIL nor a fork of the tests affects it. Each test gets its own port.
The failures are real: the kernel refuses connections, and a reset is a RST.
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
    "held",  # healthy, after the test has called release()
    "answer",  # a response with the status, headers and body that the test chooses
    "firewall",  # that response for `<script>` in a name and for addresses that begin with `refused`; else healthy
    "rate_limit",  # healthy for `calls` in any `seconds`; then 429
    "refused",  # no program listens on the port
    "unconnectable",  # the connect never completes
    "hang",  # accepts, reads, and sends nothing; with https_url, a TLS handshake that never ends
    "hang_after_headers",
    "drip_headers",  # one byte every `interval` seconds, without an end
    "drip_body",
    "drip_to_close",  # the same; the body ends with the connection
    "continue",  # 100 Continue, without an end
    "endless_body",
    "bomb",  # compressed: kilobytes on the wire, `size` bytes when decompressed
    "truncated",  # shorter than its Content-Length
    "html",
    "empty",
    "redirect",  # to `location`, or to another path of this server
    "reset",
    "stray",  # healthy; call number `call` gets a stray response with `status` first (200: its own response twice)
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
    #: Seconds on the clock of ``time.monotonic()``, which all processes on a machine share.
    at: float
    #: The number of its connection, beginning with 1.
    connection: int

    def json(self) -> Any:
        return json.loads(self.body)


def email_of(token: str) -> str:
    """Return the address for which a healthy server created this token, as encoded in the token."""
    name = token.rpartition(".")[2]
    return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()


class TokenServerProcess:
    """The process, as a context manager. ``open()`` returns a server on a new port."""

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
        """Open a server on a new port. With a PEM file of certificate and key, it uses TLS."""
        return TokenServer(self._control, _ask(self._control, "open", certificate=certificate and str(certificate)))


def _ask(control: int, do: str, *, socket_timeout: float = 10.0, **arguments: Any) -> Any:
    # A plain socket and a numeric address, because some tests replace the resolver and connection helpers.
    with socket.socket() as sock:
        sock.settimeout(socket_timeout)
        sock.connect(("127.0.0.1", control))
        sock.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        with sock.makefile("r", encoding="utf-8") as answer:
            line = answer.readline()
    assert line, f"The token server did not understand {do!r}. Its own traceback has the reason."
    return json.loads(line)


class TokenServer:
    """One port of the process. Its scenario can change while it runs; its address does not."""

    def __init__(self, control: int, port: int) -> None:
        self._control = control
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def https_url(self) -> str:
        """The URL for TLS. A server without a certificate never completes the handshake in the scenario ``hang``."""
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
        """Set the scenario for the next requests. Requests that have arrived keep theirs.

        Args:
            name: of the scenario; the comments at :data:`Scenario` say which arguments it uses.
            latency: seconds before each response.
            body: bytes, text, or a value for JSON.
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
        """Set the scenario ``answer``."""
        self.set_scenario("answer", status=status, body=body, headers=headers)

    def reject_key(self) -> None:
        """Respond as HubSpot does to an invalid key."""
        body = {"status": "error", "category": "INVALID_AUTHENTICATION", "correlationId": "c-401"}
        self.answer(401, body)

    def release(self) -> None:
        """Respond to the requests that the scenario ``held`` holds, and to later ones."""
        self._ask("release")

    def requests(self) -> list[Request]:
        """Return all requests in the order of their arrival."""
        return [
            Request(**(raw | {"headers": CaseInsensitiveDict(raw["headers"]), "body": raw["body"].encode("latin-1")}))
            for raw in self._ask("requests")
        ]

    @property
    def calls(self) -> int:
        """The number of requests that have arrived."""
        count: int = self._ask("counts")["calls"]
        return count

    @property
    def connections(self) -> int:
        """The number of connections that were accepted."""
        count: int = self._ask("counts")["connections"]
        return count

    def wait_for_calls(self, calls: int, timeout: float = 5.0) -> bool:
        """Wait until that many requests have arrived, and return whether they did within ``timeout`` seconds."""
        arrived: bool = self._ask("wait", calls=calls, timeout=timeout, socket_timeout=timeout + 5)
        return arrived

    def emails_by_token(self) -> dict[str, str]:
        """Return the tokens that were sent, each with the address in its request."""
        emails: dict[str, str] = self._ask("emails")
        return emails

    def close(self) -> None:
        self._ask("close")

    def _ask(self, do: str, **arguments: Any) -> Any:
        return _ask(self._control, do, port=self.port, **arguments)
