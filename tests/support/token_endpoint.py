"""The process behind ``support.server``: HubSpot's token endpoint in all scenarios, on raw sockets.

It is run as a script and needs only the standard library. It prints the port of its control channel, and ends when its
standard input does, so that it never outlives the tests. Each connection to the control channel has one request and one
response, both a line of JSON. Only ``support.server`` uses it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http
import itertools
import json
import os
import secrets
import socket
import ssl
import struct
import sys
import threading
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

Options = dict[str, Any]
REQUEST_LIMIT = 4 * 1024 * 1024


def head(status: int, headers: dict[str, str]) -> bytes:
    """Return the status line and the headers of a response. The status may be one of HubSpot's own."""
    try:
        reason = http.HTTPStatus(status).phrase
    except ValueError:
        reason = "Unassigned"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Connection:
    """One accepted connection and its requests."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self.requests = 0

    async def read_request(self) -> Options | None:
        """Return the next complete request, or ``None`` if the client sends no more or no valid HTTP."""
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
            request_line, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
            headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
            body = await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            return None
        method, target, _ = request_line.split(" ", 2)
        path, _, query = target.partition("?")
        self.requests += 1
        return {
            "method": method,
            "path": path,
            "query": query,
            "headers": headers,
            "body": body.decode("latin-1"),
            "connection": self.number,
        }

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hang(self) -> None:
        """Send nothing more until the client closes the connection."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        if self.writer.transport.is_closing():
            return
        reset_on_close = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close)
        self.writer.transport.abort()


class Endpoint:
    """One loopback port with its scenario, requests and tokens."""

    def __init__(self, certificate: str | None = None) -> None:
        self.tls: ssl.SSLContext | None = None
        if certificate is not None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(certificate)
        # Bound and never listening: this reserves the port, which refuses connections while no other socket listens.
        self.reservation = self._bound(0)
        self.port: int = self.reservation.getsockname()[1]
        self.server: asyncio.Server | None = None
        self.listener: socket.socket | None = None
        self.fillers: list[socket.socket] = []
        self.scenario: Callable[..., Awaitable[bool]] = self.scenario_healthy
        self.options: Options = {}
        self.open: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.connection_numbers = itertools.count(1)
        self.connections = 0
        self.requests: list[Options] = []
        self.arrived = asyncio.Condition()
        self.released = asyncio.Event()
        self.window: deque[float] = deque()
        self.emails: dict[str, str] = {}
        self.series = secrets.token_hex(4)

    @staticmethod
    def _bound(port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    async def listen(self) -> None:
        self.server = await asyncio.start_server(
            self.serve, sock=self._bound(self.port), limit=REQUEST_LIMIT, backlog=1024, ssl=self.tls
        )

    def stop_listening(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
        for sock in [*self.fillers, *([self.listener] if self.listener else [])]:
            sock.close()
        self.fillers, self.listener = [], None
        for connection in self.open:
            connection.reset()

    def fill_backlog(self) -> None:
        """Listen without accepting, and fill the queue, so that no connect completes."""
        self.listener = self._bound(self.port)
        self.listener.listen(0)
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(filler)

    def close(self) -> None:
        self.stop_listening()
        for task in self.tasks:
            task.cancel()
        self.reservation.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(next(self.connection_numbers), reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.open.add(connection)
        self.connections += 1
        try:
            while (request := await connection.read_request()) is not None:
                request["at"] = asyncio.get_running_loop().time()
                # Read once: a scenario that is set while this request waits applies to later requests.
                scenario, options = self.scenario, self.options
                async with self.arrived:
                    self.requests.append(request)
                    self.arrived.notify_all()
                await asyncio.sleep(options.get("latency", 0))
                if not await scenario(connection, request, **options):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            self.open.discard(connection)
            writer.close()

    async def answer(
        self,
        connection: Connection,
        status: int,
        headers: dict[str, str],
        body: bytes,
    ) -> bool:
        """Send a complete response, and return whether the connection may be used again."""
        defaults = {"Content-Type": "application/json;charset=utf-8"}
        if "transfer-encoding" not in {name.lower() for name in headers}:
            defaults["Content-Length"] = str(len(body))
        await connection.send(head(status, defaults | headers) + body)
        return True

    # The scenarios. Each responds to one request and returns whether the connection may be used again.

    async def scenario_healthy(self, connection: Connection, request: Options, **_: Any) -> bool:
        try:
            email = json.loads(request["body"].encode("latin-1"))["email"]
            name = base64.urlsafe_b64encode(email.encode()).decode().rstrip("=")
        except (ValueError, TypeError, KeyError, AttributeError):
            refusal = {"status": "error", "category": "VALIDATION_ERROR", "message": "email is missing"}
            return await self.answer(connection, 400, {}, json.dumps(refusal).encode())
        token = f"{self.series}.{len(self.emails) + 1}.{name}"
        self.emails[token] = email
        return await self.answer(connection, 200, {}, json.dumps({"token": token}).encode())

    async def scenario_held(self, connection: Connection, request: Options, **_: Any) -> bool:
        await self.released.wait()
        return await self.scenario_healthy(connection, request)

    async def scenario_answer(
        self,
        connection: Connection,
        request: Options,
        *,
        status: int,
        headers: dict[str, str],
        body: str,
        **_: Any,
    ) -> bool:
        return await self.answer(connection, status, headers, body.encode("latin-1"))

    @staticmethod
    def email_of(request: Options) -> str:
        """Return the address in a request, or an empty text."""
        try:
            return str(json.loads(request["body"].encode("latin-1"))["email"])
        except (ValueError, KeyError):
            return ""

    async def scenario_firewall(self, connection: Connection, request: Options, **options: Any) -> bool:
        """Healthy, but requests with ``<script>`` or for a ``refused…`` address get the response that the test set."""
        is_blocked = "<script>" in request["body"] or self.email_of(request).startswith("refused")
        scenario = self.scenario_answer if is_blocked else self.scenario_healthy
        return await scenario(connection, request, **options)

    async def scenario_rate_limit(
        self, connection: Connection, request: Options, *, calls: int = 190, seconds: float = 10, **_: Any
    ) -> bool:
        now = request["at"]
        while self.window and self.window[0] <= now - seconds:
            self.window.popleft()
        headers = {
            "X-HubSpot-RateLimit-Max": str(calls),
            "X-HubSpot-RateLimit-Interval-Milliseconds": str(round(seconds * 1000)),
            "X-HubSpot-RateLimit-Remaining": str(max(0, calls - len(self.window) - 1)),
        }
        if len(self.window) < calls:
            self.window.append(now)
            return await self.scenario_healthy(connection, request)
        body = {
            "status": "error",
            "message": "Too many calls for this window.",
            "errorType": "RATE_LIMIT",
            "policyName": "TEN_SECONDLY_ROLLING",
            "correlationId": "00000000-0000-0000-0000-000000000429",
        }
        return await self.answer(connection, 429, headers, json.dumps(body).encode())

    async def scenario_hang(self, connection: Connection, request: Options, **_: Any) -> bool:
        await connection.hang()
        return False

    async def scenario_hang_after_headers(self, connection: Connection, request: Options, **_: Any) -> bool:
        await connection.send(head(200, {"Content-Type": "application/json", "Content-Length": "40"}))
        await connection.hang()
        return False

    async def scenario_drip_headers(
        self, connection: Connection, request: Options, *, interval: float = 0.4, **_: Any
    ) -> bool:
        return await self._drip(connection, b"HTTP/1.1 200 OK\r\nX-Drip: ", interval)

    async def scenario_drip_body(
        self, connection: Connection, request: Options, *, interval: float = 0.4, **_: Any
    ) -> bool:
        await connection.send(head(200, {"Content-Type": "application/json", "Content-Length": "60000"}))
        return await self._drip(connection, b'{"token": "', interval)

    async def scenario_drip_to_close(
        self, connection: Connection, request: Options, *, interval: float = 0.4, **_: Any
    ) -> bool:
        """The same with a body that ends with the connection, as in HTTP 1.0."""
        await connection.send(head(200, {"Content-Type": "application/json", "Connection": "close"}))
        return await self._drip(connection, b'{"token": "', interval)

    async def _drip(self, connection: Connection, start: bytes, interval: float) -> bool:
        for byte in itertools.chain(start, itertools.repeat(ord("a"))):
            await connection.send(bytes([byte]))
            await asyncio.sleep(interval)
        return False

    async def scenario_continue(self, connection: Connection, request: Options, **_: Any) -> bool:
        """An endless stream of interim responses, which HTTP libraries skip."""
        while True:
            await connection.send(head(100, {}))

    async def scenario_endless_body(self, connection: Connection, request: Options, **_: Any) -> bool:
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        await connection.send(head(200, headers) + b'b\r\n{"token": "\r\n')
        while True:
            await connection.send(b"4000\r\n" + b"a" * 0x4000 + b"\r\n")

    async def scenario_bomb(
        self, connection: Connection, request: Options, *, size: int = 4 * 1024 * 1024, **_: Any
    ) -> bool:
        """A small body that becomes ``size`` bytes of valid JSON when it is decompressed."""
        squeeze = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        spaces = b" " * (1024 * 1024)
        parts = [squeeze.compress(b'{"token": "bomb"')]
        parts += [squeeze.compress(spaces) for _ in range(size // len(spaces))]
        parts += [squeeze.compress(b"}"), squeeze.flush()]
        return await self.answer(connection, 200, {"Content-Encoding": "gzip"}, b"".join(parts))

    async def scenario_truncated(self, connection: Connection, request: Options, **_: Any) -> bool:
        """A body that is shorter than its ``Content-Length``, but valid JSON."""
        await self.answer(connection, 200, {"Content-Length": "4000"}, b'{"token": "truncated"}')
        return False

    async def scenario_html(self, connection: Connection, request: Options, **_: Any) -> bool:
        page = b"<!doctype html><title>Just a moment</title><p>Checking your browser.</p>"
        return await self.answer(connection, 200, {"Content-Type": "text/html"}, page)

    async def scenario_empty(self, connection: Connection, request: Options, **_: Any) -> bool:
        return await self.answer(connection, 200, {}, b"")

    async def scenario_redirect(
        self, connection: Connection, request: Options, *, status: int = 307, location: str = "", **_: Any
    ) -> bool:
        """To ``location``, or else to another path of this server, which records a client that follows it."""
        headers = {"Location": location or f"http://127.0.0.1:{self.port}/elsewhere"}
        return await self.answer(connection, status, headers, b"")

    async def scenario_reset(self, connection: Connection, request: Options, **_: Any) -> bool:
        connection.reset()
        return False

    async def scenario_stray(
        self, connection: Connection, request: Options, *, call: int, status: int, **_: Any
    ) -> bool:
        """Healthy, but one call gets a stray response before its own: any status, or 200 to send its own twice."""
        if request is next(iter(self.requests[call - 1 :]), None):
            if status == 200:
                await self.scenario_healthy(connection, request)
            elif status < 200:
                await connection.send(head(status, {"Link": "</style.css>; rel=preload"}))
            else:
                await self.answer(connection, status, {}, b"" if status == 204 else b'{"status": "error"}')
        return await self.scenario_healthy(connection, request)

    async def scenario_tunnel(self, connection: Connection, request: Options, *, target: int, **_: Any) -> bool:
        """An HTTP proxy that forwards to and from a port of this machine, whatever host CONNECT names."""
        reader, writer = await asyncio.open_connection("127.0.0.1", target)
        await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def forward(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    to.write(data)
                    await to.drain()
            to.close()

        await asyncio.gather(forward(connection.reader, writer), forward(reader, connection.writer))
        return False

    # The commands of the control channel.

    async def do_scenario(self, name: str, options: Options) -> None:
        listening = name not in {"refused", "unconnectable"}
        if listening:
            self.scenario = getattr(self, f"scenario_{name}")
            self.options = options
        if name == "held":
            self.released.clear()
        if listening and self.server is not None:
            return
        self.stop_listening()
        if listening:
            await self.listen()
        elif name == "unconnectable":
            self.fill_backlog()

    async def do_release(self) -> None:
        self.released.set()

    async def do_requests(self) -> list[Options]:
        return self.requests

    async def do_counts(self) -> dict[str, int]:
        return {"calls": len(self.requests), "connections": self.connections}

    async def do_emails(self) -> dict[str, str]:
        return self.emails

    async def do_wait(self, calls: int, timeout: float) -> bool:
        async def enough() -> None:
            async with self.arrived:
                await self.arrived.wait_for(lambda: len(self.requests) >= calls)

        try:
            await asyncio.wait_for(enough(), timeout)
        except TimeoutError:
            return False
        return True


class Control:
    """Opens and closes endpoints, and passes each command to its endpoint."""

    def __init__(self) -> None:
        self.endpoints: dict[int, Endpoint] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            command = json.loads(await reader.readline())
            writer.write(json.dumps(await self.run(**command)).encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def run(self, do: str, port: int = 0, **arguments: Any) -> Any:
        if do == "open":
            endpoint = Endpoint(**arguments)
            await endpoint.listen()
            self.endpoints[endpoint.port] = endpoint
            return endpoint.port
        if do == "close":
            return self.endpoints.pop(port).close()
        return await getattr(self.endpoints[port], f"do_{do}")(**arguments)


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


async def main() -> None:
    server = await asyncio.start_server(Control().serve, "127.0.0.1", 0, limit=REQUEST_LIMIT)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the parent reads it
    threading.Thread(target=end_with_parent, daemon=True).start()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
