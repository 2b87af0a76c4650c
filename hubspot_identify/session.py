"""The session of requests that calls go through: which connections it has, what it sends always, what it logs never."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import requests.adapters

from . import __version__


class _KeepSecrets(logging.Filter):
    """Takes secrets out of what urllib3 logs: the addresses of requests, which hold the key, and what a server sent
    in the place of headers, which might be a token.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and getattr(calling, "now", False):
            return False
        text = record.getMessage()
        if "hapikey=" in text:
            record.msg, record.args = re.sub(r"hapikey=[^&\s\"']*", "hapikey=***", text), ()
        return True


#: Whether this thread is in a call of ours.
calling = threading.local()

for _name in ("urllib3.connectionpool", "urllib3.connection"):
    logging.getLogger(_name).addFilter(_KeepSecrets())


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Know of no redirects. A session that is told not to follow them still reads their bodies, without limit."""


class _Adapter(requests.adapters.HTTPAdapter):
    """Knows its connections, so that one can be cut that bytes drip in from: no timeout of a socket ends those.

    And the sockets of those that are connected. ``http.client`` lets go of them once it knows that the answer ends
    with the connection, while the answer is still read from there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._connections: tuple[Any, ...] = ()
        self._sockets: tuple[socket.socket, ...] = ()

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        """The pool for a request, which from now on tells of each connection it makes."""
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        if "ConnectionCls" not in vars(pool):
            make = pool.ConnectionCls

            def make_known(**options: Any) -> Any:
                connection = make(**options)
                connect = connection.connect

                def connect_known() -> None:
                    connect()
                    self._sockets = (*(other for other in self._sockets if other.fileno() >= 0), connection.sock)

                connection.connect = connect_known
                still_open = (other for other in self._connections if other.sock is not None)
                self._connections = (*still_open, connection)
                return connection

            pool.ConnectionCls = make_known
        return pool

    def cut(self) -> None:
        """Break off whatever another thread is waiting for."""
        for sock in (*self._sockets, *(connection.sock for connection in self._connections)):
            if sock is not None:
                with contextlib.suppress(OSError):  # closed meanwhile
                    sock.shutdown(socket.SHUT_RDWR)


def cut(session: requests.Session) -> None:
    """Break off what another thread is waiting for from a session of ours."""
    for adapter in session.adapters.values():
        if isinstance(adapter, _Adapter):
            adapter.cut()


def new_session() -> requests.Session:
    """A session without redirects, cookies, or headers but ours."""
    session = _Session()
    adapter = _Adapter()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.headers.clear()
    session.headers.update(
        {
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",  # what _read_body can unpack with a limit
            "User-Agent": f"django-hubspot-identify/{__version__} {requests.utils.default_user_agent()}",
        }
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session
