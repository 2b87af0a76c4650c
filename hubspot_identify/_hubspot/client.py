"""One call of HubSpot's token API.

This module has no knowledge of Django's requests, users or cache. It imports ``requests``, so it is imported by the
first call and not with the app.

https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
import requests.auth
import urllib3

from ..conf import Config
from ..exceptions import AuthenticationError, CredentialError, TransportError
from ..validation import api_key_problem, is_loopback
from ..visitors import Visitor
from .responses import MAX_BODY, Answer, personal_data, read_token
from .transport import CallSockets, calling, new_session

CONNECT_TIMEOUT = 1.5  # seconds
READ_TIMEOUT = 2.0  # seconds, between two bytes; the time for the whole call is kept by the caller


class TokenClient:
    """One call of the token API. Its method blocks; :meth:`abort` ends it from another thread."""

    def __init__(self) -> None:
        self._sockets = CallSockets()

    def create_token(self, visitor: Visitor, config: Config) -> str:
        """Request an identification token, which is valid for 12 hours from the moment before the call.

        If HubSpot rejects the key and ``API_KEY`` is a callable, the callable is called again, and a different key is
        tried once: an OAuth token may expire between its fetch and its use.

        Args:
            visitor: whom the token is for.
            config: the account to use.

        Raises:
            CredentialError: the callable in ``API_KEY`` failed.
            TransportError: no usable response.
            APIError: HubSpot rejected the request.
            UnexpectedResponseError: a response that is not a token.
        """
        key = fetch_key(config)
        try:
            return self._request_token(visitor, config, key)
        except AuthenticationError as error:
            rejection = error.with_traceback(None)  # its frames hold the key
        new_key = key
        if callable(config.api_key):
            with contextlib.suppress(CredentialError):  # HubSpot's rejection is the better explanation
                new_key = fetch_key(config)
        if new_key == key:
            raise rejection
        return self._request_token(visitor, config, new_key)

    @property
    def request_sent(self) -> bool:
        """Whether a request may have been sent. Until then, no visitor's data can be the reason for a failure."""
        return self._sockets.connected

    def abort(self) -> None:
        """End the call that another thread is waiting for. From then on, this client opens no connection."""
        self._sockets.abort()

    def _request_token(self, visitor: Visitor, config: Config, key: str) -> str:
        answer = self._post(visitor, config, key)
        if self._sockets.aborted:  # any response ended with the connection
            answer = TransportError("The call had not ended some seconds after its deadline, and was aborted.")
        if isinstance(answer, TransportError):
            answer.request_sent = self.request_sent
            raise answer
        return read_token(answer, secrets=(key, *personal_data(visitor)))

    def _post(self, visitor: Visitor, config: Config, key: str) -> Answer | TransportError:
        """Send the request and read the response, on a connection of its own.

        A failure is returned, not raised, so that the exception of no library is chained: they quote URLs and headers,
        which contain the key.
        """
        calling.now, self._sockets.connected = True, False
        try:
            with new_session(self._sockets) as session:
                request = session.prepare_request(_token_request(visitor, config, key))
                environment = session.merge_environment_settings(request.url, {}, True, None, None)
                if is_loopback(urlsplit(config.base_url).hostname or ""):
                    environment["proxies"] = {}
                with session.send(
                    request, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), allow_redirects=False, **environment
                ) as response:
                    return Answer(response.status_code, response.headers, *_read_body(response))
        except TransportError as error:  # the certificate authorities cannot be loaded
            return error.with_traceback(None)
        except requests.exceptions.SSLError:
            return TransportError(
                "The TLS connection to HubSpot failed: its certificate can't be trusted, or the handshake broke off."
            )
        except requests.exceptions.ConnectTimeout:
            return TransportError(f"HubSpot could not be reached within {CONNECT_TIMEOUT} s.")
        except requests.exceptions.Timeout:
            return TransportError(f"HubSpot did not answer within {READ_TIMEOUT} s.")
        except requests.exceptions.ConnectionError as error:
            if _is_reset(error):
                return TransportError("HubSpot closed the connection without a response.")
            return TransportError("HubSpot could not be reached.")
        except (
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
            ValueError,
        ) as error:
            return TransportError(f"The call to HubSpot failed ({type(error).__name__}).")
        finally:
            calling.now = False
            self._sockets.close()


def fetch_key(config: Config) -> str:
    """The credential itself. A callable is asked each time, so a key may change at any moment.

    Raises:
        CredentialError: the callable raised, or returned no usable key.
    """
    if isinstance(config.api_key, str):
        return config.api_key
    try:
        key: object = config.api_key()
    except Exception as error:  # noqa: BLE001 - it is the site's callable
        problem = f"failed ({type(error).__name__})"
    else:
        if isinstance(key, str):
            wrong = api_key_problem(key.strip())
            if wrong is None:
                return key.strip()
            problem = f"returned a key that {wrong}"
        else:
            problem = f"returned a {type(key).__name__}, not text"
    raise CredentialError(f"The callable in HUBSPOT_IDENTIFY['API_KEY'] {problem}.")


class BearerAuth(requests.auth.AuthBase):
    """``Authorization: Bearer <key>``. As an auth object, so that a ``~/.netrc`` can't replace it."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class HapikeyAuth(requests.auth.AuthBase):
    """``?hapikey=<key>``, which HubSpot itself switched off in November 2022; proxies and stand-ins speak it."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.url = f"{request.url}?{urlencode({'hapikey': self._key})}"
        return request


AUTH_SCHEMES: Mapping[str, Callable[[str], requests.auth.AuthBase]] = {
    "bearer": BearerAuth,
    "hapikey": HapikeyAuth,
}


def _token_request(visitor: Visitor, config: Config, key: str) -> requests.Request:
    body: dict[str, Any] = {"email": visitor.email}
    if visitor.first_name:
        body["firstName"] = visitor.first_name
    if visitor.last_name:
        body["lastName"] = visitor.last_name
    if visitor.context:
        body["hsCustomerAgentContext"] = dict(visitor.context)
    url = f"{config.base_url}{config.token_path}"
    return requests.Request("POST", url, json=body, auth=AUTH_SCHEMES[config.auth_scheme](key))


def _read_body(response: requests.Response) -> tuple[bytes, bool]:
    """At most :data:`MAX_BODY` bytes and one of the body, and whether it came whole."""
    body, complete = b"", True
    response.raw.enforce_content_length = True  # as urllib3 2 has it; 1.26 takes a body that broke off for whole
    try:
        while len(body) <= MAX_BODY:
            part = response.raw.read(MAX_BODY + 1 - len(body), decode_content=False)
            if not part:
                break
            body += part
    except urllib3.exceptions.TimeoutError as error:
        raise requests.exceptions.ReadTimeout from error
    except (urllib3.exceptions.HTTPError, OSError):
        complete = False
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        try:
            unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            body = unpacker.decompress(body, MAX_BODY + 1)
            complete = complete and (unpacker.eof or len(body) > MAX_BODY)
        except zlib.error:
            complete = False
    elif encoding not in ("", "identity"):
        complete = False
    return body, complete


def _is_reset(error: requests.exceptions.ConnectionError) -> bool:
    """Whether requests means a reset (and not a failed connect) by a ``ConnectionError``."""
    cause = error.args[0] if error.args else None
    return isinstance(cause, urllib3.exceptions.ProtocolError) and any(
        isinstance(part, ConnectionError) for part in cause.args
    )
