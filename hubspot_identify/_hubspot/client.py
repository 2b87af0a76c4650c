"""The client of HubSpot's token API.

It has no knowledge of Django's requests, users or cache. It imports ``requests``, so it is imported by the first call
and not with the app.

https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide
"""

from __future__ import annotations

import contextlib
import contextvars
import traceback
import zlib
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
import urllib3

from .. import __version__
from ..conf import Config, api_key_problem, is_loopback
from ..exceptions import AuthenticationError, CredentialError, TransportError
from ..visitors import Visitor
from .responses import MAX_BODY, Response, personal_data, read_token
from .transport import AbortableClient, CallAdapter, CallSession

CONNECT_TIMEOUT = 1.5  # seconds
READ_TIMEOUT = 2.0  # seconds, between two bytes; the caller limits the time of the whole call

HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",  # what _read_body can decompress with a limit
    "Connection": "close",
    "User-Agent": f"django-hubspot-identify/{__version__} {requests.utils.default_user_agent()}",
}


class TokenClient(AbortableClient):
    """Calls the token API. The call blocks; :meth:`abort` ends it from another thread.

    Attributes:
        response: the last response; an empty one before that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.response = Response(0, {}, b"")

    def create_token(self, visitor: Visitor, config: Config) -> str:
        """Request an identification token, which is valid for 12 hours from the moment before the call.

        If HubSpot rejects the key and ``API_KEY`` is a callable, the callable is called again, and a different key is
        tried once: an OAuth token may expire between its fetch and its use.

        Args:
            visitor: the visitor to identify.
            config: the account to use.

        Raises:
            CredentialError: the callable in ``API_KEY`` failed.
            TransportError: no usable response.
            APIError: HubSpot rejected the request.
            UnexpectedResponseError: a response that is not a token.
        """
        key = new_key = _fetch_key(config)
        try:
            return self._request_token(visitor, config, key)
        except AuthenticationError as error:
            rejection = error.with_traceback(None)  # its frames hold the key
        with contextlib.suppress(CredentialError):  # HubSpot's rejection is the better explanation
            new_key = _fetch_key(config)
        if new_key == key:
            raise rejection
        return self._request_token(visitor, config, new_key)

    def _request_token(self, visitor: Visitor, config: Config, key: str) -> str:
        self.request_sent = False
        failure = None
        try:
            self.response = self._post(visitor, config, key)
        except (TransportError, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            failure = self._describe(error)
        finally:
            self.close_sockets()
        if self.aborted:  # any response ended with the connection
            failure = "The call was still running some seconds after its deadline, and was aborted."
        if failure:  # raised here, so that no exception of a library is chained: they quote URLs and headers
            raise TransportError(failure, request_sent=self.request_sent)
        return read_token(self.response)

    def _post(self, visitor: Visitor, config: Config, key: str) -> Response:
        """Send the request and read the response, on a connection of its own."""
        headers, query = {**HEADERS, "Authorization": f"Bearer {key}"}, ""
        if config.auth_scheme == "hapikey":
            headers, query = HEADERS, f"?{urlencode({'hapikey': key})}"
        url, timeout = f"{config.base_url}{config.token_path}", (CONNECT_TIMEOUT, READ_TIMEOUT)
        body = _request_body(visitor)
        proxies = {} if is_loopback(urlsplit(url).hostname or "") else requests.utils.get_environ_proxies(url)
        with (
            CallSession(CallAdapter(self, query)) as session,
            session.post(url, json=body, headers=headers, proxies=proxies, timeout=timeout) as response,
        ):
            secrets = [key, *personal_data(visitor)]
            return Response(response.status_code, response.headers, _read_body(response), secrets)

    def _describe(self, error: Exception) -> str:
        """Return why there is no response. The texts of the libraries may contain the key or a proxy's password."""
        match error:
            case TransportError():
                return str(error)
            case requests.exceptions.SSLError():
                return "The TLS connection to HubSpot failed: its certificate is not trusted, or the handshake failed."
            case requests.exceptions.Timeout() | urllib3.exceptions.TimeoutError():
                seconds = READ_TIMEOUT if self.request_sent else CONNECT_TIMEOUT
                return f"HubSpot did not answer within {seconds} s."
            case requests.exceptions.ConnectionError():
                sent = "HubSpot closed the connection without a response."
                return sent if self.request_sent else "HubSpot could not be reached."
        return f"The call to HubSpot failed ({type(error).__name__})."


def _fetch_key(config: Config) -> str:
    """Return the key. A callable is called for each token, so the key may change at any time.

    Raises:
        CredentialError: the callable raised an exception, or returned no usable key.
    """
    if isinstance(config.api_key, str):
        return config.api_key
    try:
        key = contextvars.copy_context().run(config.api_key)  # it may change variables that the next call must not see
    except Exception as error:  # noqa: BLE001 - it is the site's callable
        problem = f"failed ({type(error).__name__} in {_location(error)})"
    else:
        key_problem = api_key_problem(key.strip()) if isinstance(key, str) else f"is of type {type(key).__name__}"
        if key_problem is None:
            return key.strip()
        problem = f"returned a key that {key_problem}"
    raise CredentialError(f"The callable in HUBSPOT_IDENTIFY['API_KEY'] {problem}.")


def _location(error: Exception) -> str:
    """Return the module and line where an exception was raised, and those in the callable that led there."""
    lines = [
        f"{frame.f_globals.get('__name__')}, line {line}" for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    # The first line is the call above. It is the only one if the callable requires arguments.
    inside = lines[1:] or lines
    return ", called from ".join(dict.fromkeys((inside[-1], inside[0])))


def _request_body(visitor: Visitor) -> dict[str, Any]:
    body = {
        "email": visitor.email,
        "firstName": visitor.first_name,
        "lastName": visitor.last_name,
        "hsCustomerAgentContext": dict(visitor.context),
    }
    return {name: value for name, value in body.items() if value}


def _read_body(response: requests.Response) -> bytes:
    """Return the decompressed body, or nothing if it is incomplete, too large or in an encoding not requested."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    response.raw.enforce_content_length = True  # the default of urllib3 2; 1.26 accepts a body that is cut off
    body = b""
    try:
        for part in response.raw.stream(MAX_BODY + 1, decode_content=False):
            body += part
            if len(body) > MAX_BODY:
                return b""
        if encoding in ("gzip", "x-gzip", "deflate"):
            decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # for either format
            body = decompressor.decompress(body, MAX_BODY + 1)
            return body if decompressor.eof and len(body) <= MAX_BODY else b""
    except (urllib3.exceptions.ProtocolError, urllib3.exceptions.SSLError, zlib.error):
        return b""
    return body if encoding in ("", "identity") else b""
