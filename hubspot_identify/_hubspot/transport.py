"""The HTTP transport of a call: a connection of its own, a shared TLS context, and no secret in urllib3's log.

A response is bound to its request by the connection alone. On a connection that is used again, one stray response (a
103, a doubled 200) would hand every later visitor the token of the visitor before. So each call opens a connection and
closes it. The expensive part, loading the certificate authorities, is done once in each process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import ssl
import threading
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import requests.adapters
from urllib3.util.ssl_ import create_urllib3_context

from .. import __version__
from .._tokens.per_process import PerProcess
from ..exceptions import TransportError


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


class CallSockets:
    """The sockets that one call has opened, so that another thread can end the call.

    A socket timeout limits the time between two bytes, so it never ends a response that arrives byte by byte. The
    sockets are kept as duplicates: the TLS layer and ``http.client`` take over the originals during the call. A child
    that is forked during a call inherits both, does not use them, and closes them when it exits.

    Attributes:
        aborted: whether :meth:`abort` was called.
        connected: whether a connection was ready for the request, with its proxy tunnel and TLS handshake completed.
    """

    def __init__(self) -> None:
        self.aborted = False
        self.connected = False
        self._lock = threading.Lock()
        self._duplicates: list[socket.socket] = []

    def add(self, sock: socket.socket) -> None:
        """Register a connected socket.

        Raises:
            ConnectionAbortedError: the call has been aborted.
        """
        with self._lock:
            if self.aborted:
                raise ConnectionAbortedError("The call has been aborted.")
            self._duplicates.append(sock.dup())

    def abort(self) -> None:
        """Shut down all sockets of the call, including those it would open later. May be called from any thread."""
        with self._lock:
            self.aborted = True
            for duplicate in self._duplicates:
                with contextlib.suppress(OSError):  # the peer has closed the connection
                    duplicate.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the duplicates. The connection ends when the originals are closed as well."""
        with self._lock:
            for duplicate in self._duplicates:
                duplicate.close()
            self._duplicates.clear()


class _RegisteringConnection:
    """Mixin for the connection classes of urllib3: registers each new socket with its call."""

    def __init__(self, *args: Any, sockets: CallSockets, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sockets = sockets

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]  # of the urllib3 class beside this mixin
        try:
            self._sockets.add(sock)
        except OSError:
            sock.close()
            raise
        return sock

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]  # of the urllib3 class beside this mixin
        self._sockets.connected = True


@cache
def _registering(connection_class: type) -> type:
    """Return a connection class (HTTP, HTTPS or SOCKS) with the mixin."""
    return type(f"Registering{connection_class.__name__}", (_RegisteringConnection, connection_class), {})


#: By path: the modification time and size of a bundle when it was loaded, and its context.
_tls_contexts: PerProcess[dict[str, tuple[tuple[int, int], ssl.SSLContext]]] = PerProcess(dict)


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """Return this process's TLS context for a bundle of certificate authorities, with verification on.

    Args:
        verify: path of a file or directory, or ``True`` for the authorities of requests.

    Raises:
        TransportError: the bundle cannot be loaded.
    """
    bundle = verify if isinstance(verify, str) else requests.utils.DEFAULT_CA_BUNDLE_PATH
    try:
        return _load_context(bundle)
    except OSError as error:  # ssl.SSLError is one: an empty file, or a file without certificates
        problem = type(error).__name__
    variables = [name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name) == bundle]
    origin = f"set by the environment variable {variables[0]}" if variables else "the default of requests"
    raise TransportError(
        f"The certificate authorities in {bundle!r} ({origin}) cannot be loaded: {problem}.",
        request_sent=False,
    )


def _load_context(bundle: str) -> ssl.SSLContext:
    status = os.stat(bundle)
    version = (status.st_mtime_ns, status.st_size)
    contexts = _tls_contexts.get()
    loaded_version, context = contexts.get(bundle, (None, None))
    if context is None or loaded_version != version:  # the bundle may be replaced while the process runs
        context = create_urllib3_context()
        if os.path.isdir(bundle):
            context.load_verify_locations(capath=bundle)
        else:
            context.load_verify_locations(cafile=bundle)
        contexts[bundle] = (version, context)
    return context


class _Adapter(requests.adapters.HTTPAdapter):
    """Opens the connection of one call, with the TLS context of the process."""

    def __init__(self, sockets: CallSockets) -> None:
        super().__init__()
        self._call_sockets = sockets
        self._verify: bool | str = True

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        """Return the connection pool for a request."""
        self._verify = verify
        return super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pools behind a proxy. A proxy that speaks TLS itself is verified like HubSpot."""
        if proxy.lower().startswith("https:"):
            options["proxy_ssl_context"] = tls_context(self._verify)
        return super().proxy_manager_for(proxy, **options)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Prepare a connection pool. requests would make it load the authorities again for each connection."""
        conn.ConnectionCls = _registering(conn.ConnectionCls)
        conn.conn_kw["sockets"] = self._call_sockets
        if url.startswith("https:"):
            conn.conn_kw["ssl_context"] = tls_context(verify)
            conn.cert_reqs, conn.ca_certs, conn.ca_cert_dir = "CERT_REQUIRED", None, None


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Report no redirects. Even without following them, a session would read their bodies without limit."""


def new_session(sockets: CallSockets) -> requests.Session:
    """Return a session for one call: without redirects, cookies, or default headers.

    Args:
        sockets: where the connection is registered.
    """
    session = _Session()
    adapter = _Adapter(sockets)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.headers.clear()
    session.headers.update(
        {
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",  # what _read_body can decompress with a limit
            "Connection": "close",
            "User-Agent": f"django-hubspot-identify/{__version__} {requests.utils.default_user_agent()}",
        }
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session
