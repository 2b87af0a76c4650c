"""A Django site on a real port, in threads of the process of the test, without a database."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler


def urlconf(*patterns: Any) -> ModuleType:
    """Return a URLconf with these patterns, for ``ROOT_URLCONF``."""
    module = ModuleType("urls_of_a_site")
    vars(module)["urlpatterns"] = list(patterns)
    return module


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadedWSGIServer):
    """Waits for every request when it is closed, so that none continues during the next test."""

    daemon_threads = False  # socketserver does not wait for daemon threads

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
    """Serve the site of the current settings, and yield its origin. Release held requests before the block ends."""
    with _Server(("127.0.0.1", 0), _Quiet) as server:
        server.set_app(WSGIHandler())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
