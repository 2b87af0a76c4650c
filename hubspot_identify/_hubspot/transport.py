"""The connection of one call: its sockets, its TLS context, and what libraries may log about it.

A response is bound to its request by the connection alone. On a reused connection, one stray response (a 103, a
repeated 200) would give every later visitor the token of the visitor before. Therefore each call opens its own
connection and closes it. The expensive part, loading the certificate authorities, happens once in each process.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import threading
from functools import cache, lru_cache
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

from ..exceptions import TransportError


class AbortableClient:
    """Base of a client that makes one call at a time, which another thread can end.

    A socket timeout limits the time between two bytes, so it never ends a response that arrives byte by byte. The
    sockets are kept as duplicates: the TLS layer and ``http.client`` take over the originals during the call. A child
    that is forked during a call inherits both, does not use them, and closes them when it exits.

    Attributes:
        aborted: whether :meth:`abort` was called.
        request_sent: whether the request of the last call may have been sent, because a connection was ready, with its
            proxy tunnel and TLS handshake completed. Until then, no visitor's data can be the reason for a failure.
    """

    def __init__(self) -> None:
        self.aborted = False
        self.request_sent = False
        self._lock = threading.Lock()
        self._duplicates: list[socket.socket] = []

    def abort(self) -> None:
        """End the call that another thread is waiting for. From then on, this client opens no connection."""
        with self._lock:
            self.aborted = True
            for duplicate in self._duplicates:
                with contextlib.suppress(OSError):  # the peer has closed the connection
                    duplicate.shutdown(socket.SHUT_RDWR)

    def add_socket(self, sock: socket.socket) -> None:
        """Register a connected socket.

        Raises:
            ConnectionAbortedError: the call has been aborted. The socket is closed.
        """
        with self._lock:
            if self.aborted:
                sock.close()
                raise ConnectionAbortedError("The call has been aborted.")
            self._duplicates.append(sock.dup())

    def close_sockets(self) -> None:
        """Close the duplicates. The connection ends when the originals are closed as well."""
        with self._lock:
            for duplicate in self._duplicates:
                duplicate.close()
            self._duplicates.clear()


class _Response(http.client.HTTPResponse):
    def begin(self) -> None:
        """Read the headers, and drop what is not a header: urllib3 would log it, and it may contain a token."""
        super().begin()
        self.msg.defects.clear()
        self.msg.set_payload("")


class _CallConnection:
    """Mixin for urllib3's connection classes.

    Args:
        client: the client that makes the call.
        query: the query of the request, which may contain the key. It is added here, because libraries log the URL that
            they were given, quote it in exceptions and record it in traces.
    """

    response_class: type[http.client.HTTPResponse] = _Response

    def __init__(self, *args: Any, client: AbortableClient, query: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._client = client
        self._query = query

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]  # of the urllib3 class beside this mixin
        self._client.add_socket(sock)
        return sock

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]  # of the urllib3 class beside this mixin
        self._client.request_sent = True

    def putrequest(self, method: str, url: str, *args: Any, **options: Any) -> None:
        super().putrequest(method, url + self._query, *args, **options)  # type: ignore[misc]  # as above


@cache
def _call_connection(connection_class: type) -> type:
    """Add the mixin to the class of a pool: HTTP, HTTPS, SOCKS, or one that another library has put there."""
    return type("CallConnection", (_CallConnection, connection_class), {})


class CallAdapter(HTTPAdapter):
    """Opens the connection of one call. The arguments are those of the connection."""

    def __init__(self, client: AbortableClient, query: str) -> None:
        super().__init__()
        self._options = {"client": client, "query": query}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the connection pools of a proxy. A proxy that uses TLS itself is verified like HubSpot."""
        if proxy.lower().startswith("https:"):
            options["proxy_ssl_context"] = tls_context()
        return super().proxy_manager_for(proxy, **options)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Prepare a connection pool. requests would make it load the authorities again for each connection."""
        conn.ConnectionCls = _call_connection(conn.ConnectionCls)
        conn.conn_kw.update(self._options)
        if conn.scheme == "https":
            conn.conn_kw["ssl_context"] = tls_context()


class CallSession(requests.Session):
    """A session for one call. It uses neither ``~/.netrc``, which would replace the key, nor redirects."""

    def __init__(self, adapter: BaseAdapter) -> None:
        super().__init__()
        self.trust_env = False
        self.stream = True
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Report no redirects. Even without following them, a session would read their bodies without limit."""


def tls_context() -> ssl.SSLContext:
    """Return this process's TLS context, with the certificate authorities of the environment or of requests.

    Raises:
        TransportError: the authorities cannot be loaded.
    """
    variable = next(filter(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")), None)
    bundle = os.environ[variable] if variable else requests.utils.DEFAULT_CA_BUNDLE_PATH
    try:
        status = os.stat(bundle)
        return _load_context(bundle, os.getpid(), status.st_mtime_ns, status.st_size)
    except OSError as error:  # ssl.SSLError is one: an empty file, or a file without certificates
        problem = type(error).__name__
    origin = variable or "the default of requests"
    raise TransportError(f"The certificate authorities in {bundle!r} ({origin}) cannot be loaded: {problem}.")


@lru_cache(maxsize=4)
def _load_context(bundle: str, process: int, modified: int, size: int) -> ssl.SSLContext:
    """Load a file or directory of authorities: once in each process, since contexts must not be shared across a fork.

    It is loaded again after a change, since the file may be replaced while the process runs.
    """
    context = create_urllib3_context()
    is_directory = os.path.isdir(bundle)
    context.load_verify_locations(None if is_directory else bundle, bundle if is_directory else None)
    return context
