"""One call of HubSpot's token API.

Knows the network; knows nothing of Django's requests, users or cache. ``requests`` is imported here, so this module is
imported by the first call and not with the app.

https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
import requests.auth
import urllib3

from .answers import MAX_BODY, Answer, read_token
from .conf import Config
from .exceptions import CredentialError, TransportError
from .session import calling, cut, new_session
from .validation import api_key_problem, is_loopback
from .visitors import Visitor

CONNECT_TIMEOUT = 1.5  # seconds
READ_TIMEOUT = 2.0  # seconds, between two bytes; the time for the whole call is kept by the caller


class TokenClient:
    """Calls the token API over one kept connection. For one thread at a time; must not cross a ``fork()``."""

    def __init__(self) -> None:
        self._session: requests.Session | None = None
        self._kept = False  # whether the last call left its connection open for the next

    def create_token(self, visitor: Visitor, config: Config) -> str:
        """Let HubSpot make an identification token, valid for 12 hours from the moment before the call.

        Args:
            visitor: whom the token is for.
            config: the account to ask.

        Raises:
            CredentialError: the callable in ``API_KEY`` failed.
            TransportError: no answer, or one that broke off.
            APIError: HubSpot refused.
            UnexpectedResponseError: an answer that is no token.
        """
        key = fetch_key(config)
        reused = self._kept
        answer = self._post(visitor, config, key)
        if answer is None and reused:
            # The server had closed the idle connection. Nothing was answered, and asking twice does no harm.
            answer = self._post(visitor, config, key)
        if answer is None:
            answer = TransportError("HubSpot closed the connection without an answer.")
        if isinstance(answer, TransportError):
            self.close()
            raise answer
        return read_token(answer, secrets=(key, visitor.email))

    def close(self) -> None:
        """Close the kept connection, if there is one."""
        if self._session is not None:
            self._session.close()
            self._session = None
            self._kept = False

    def cut(self) -> None:
        """Break off the call that another thread is waiting in, if its connection is open already."""
        session = self._session
        if session is not None:
            cut(session)

    def _post(self, visitor: Visitor, config: Config, key: str) -> Answer | TransportError | None:
        """Send and read; ``None`` means that the connection was reset before an answer. Returns what went wrong instead
        of raising it, so that no library's exception is chained: theirs quote addresses and headers, with the key.
        """
        if self._session is None:
            self._session = new_session()
        session = self._session
        self._kept = False
        calling.now = True
        try:
            request = session.prepare_request(_token_request(visitor, config, key))
            environment = session.merge_environment_settings(request.url, {}, True, None, None)
            if is_loopback(urlsplit(config.base_url).hostname or ""):
                environment["proxies"] = {}
            with session.send(
                request, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), allow_redirects=False, **environment
            ) as response:
                answer = Answer(response.status_code, response.headers, *_read_body(response))
                self._kept = answer.complete and response.headers.get("Connection", "").lower() != "close"
                return answer
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
                self.close()
                return None
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
