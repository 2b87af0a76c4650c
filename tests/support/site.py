"""A Django site on a real port, in threads of the test's own process, without a database."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadedWSGIServer):
    """Waits at its end for every request it has taken, so that none goes on in the tests that follow."""

    daemon_threads = False  # those that are, socketserver does not wait for

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._connections: list[socket.socket] = []
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def server_close(self) -> None:
        for connection in self._connections:  # browsers keep theirs open
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


@contextmanager
def serving_site() -> Iterator[str]:
    """Serve the site of the live settings, and yield its origin. Let go whoever hangs there before the end."""
    with _Server(("127.0.0.1", 0), _Quiet) as server:
        server.set_app(WSGIHandler())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
