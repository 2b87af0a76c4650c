"""The doctor's checks that use the network: the chat's script, and one token from HubSpot."""

from __future__ import annotations

import email.utils
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

import requests
from django.conf import settings

from .._hubspot.client import CONNECT_TIMEOUT, READ_TIMEOUT, TokenClient
from .._tokens.entries import CLOCK_SKEW
from ..conf import Config, is_loopback
from ..exceptions import APIError, CredentialError, HubSpotIdentifyError, TransportError, UnexpectedResponseError
from ..visitors import Visitor
from .findings import ERROR, GUIDE, NOTE, OK, WARNING, Finding

USAGE = "https://developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines"
STATUS = "https://status.hubspot.com/"
HOSTING = (
    "https://knowledge.hubspot.com/account-security/"
    "hubspot-cloud-infrastructure-and-data-hosting-frequently-asked-questions"
)

Result = TypeVar("Result")
#: Called repeatedly during a network call, with a description of the call and the seconds since its start.
ShowProgress = Callable[[str, float], None]


def check_loader(config: Config, show_progress: ShowProgress, *, is_portal_empty: bool) -> Iterator[Finding]:
    """Check that the chat's script exists at the address from which browsers will load it.

    Args:
        config: the settings of the account.
        show_progress: called repeatedly while the doctor waits.
        is_portal_empty: whether ``PORTAL_ID`` is an empty text, which suggests a missing environment variable.
    """
    url = config.loader
    if url is None and is_portal_empty:
        hint = (
            'Set PORTAL_ID to the number HubSpot calls "Hub ID", such as "1234567", or to None if the pages contain '
            "HubSpot's embed code."
        )
        yield Finding("loader", ERROR, "PORTAL_ID is empty, so the tag does not load the chat.", hint)
        return
    if url is None:
        yield Finding("loader", NOTE, "PORTAL_ID is not set, so the pages must contain HubSpot's embed code.")
        return
    if not urlsplit(url).scheme:
        yield Finding("loader", NOTE, f"The site itself serves the chat's script: {url}")
        return
    started = time.perf_counter()
    proxies = {"http": "", "https": ""} if is_loopback(urlsplit(url).hostname or "") else {}
    timeouts = (CONNECT_TIMEOUT, READ_TIMEOUT)
    try:
        status = run_with_deadline(
            lambda: requests.get(url, timeout=timeouts, stream=True, proxies=proxies).status_code,
            CONNECT_TIMEOUT + READ_TIMEOUT,
            lambda seconds: show_progress("Fetching the chat's script", seconds),
        )
    except (requests.RequestException, TimeoutError):
        text = f"The chat's script cannot be fetched from this machine: {url}"
        hint = "Start the development server first." if proxies else "Open the address in a browser, where it may work."
        yield Finding("loader", WARNING, text, hint)
        return
    if status == 200:
        yield Finding("loader", OK, f"The chat's script exists: {url}", seconds=time.perf_counter() - started)
        return
    text = f"The request for the chat's script returned HTTP {status}: {url}"
    keys = "LOADER_URL" if config.loader_url else "PORTAL_ID and REGION"
    hint = f"Compare {keys} with the embed code that HubSpot shows for your account."
    yield Finding("loader", ERROR, text, hint, app_url(config, "settings"))


def check_token(visitor: Visitor, config: Config, show_progress: ShowProgress) -> Iterator[Finding]:
    """Request a token, and compare this machine's clock with HubSpot's."""
    client = TokenClient()
    started = time.perf_counter()
    try:
        run_with_deadline(
            lambda: client.create_token(visitor, config),
            config.timeout,
            lambda seconds: show_progress("Requesting a token from HubSpot", seconds),
        )
    except TimeoutError:
        client.abort()
        error = TransportError(f"HubSpot did not respond within {config.timeout:g} s.")
        yield _failed_token(error, config, time.perf_counter() - started)
        return
    except HubSpotIdentifyError as error:
        yield _failed_token(error, config, time.perf_counter() - started)
    else:
        seconds = time.perf_counter() - started
        correlation_id = client.response.correlation_id
        yield Finding("token", OK, "HubSpot created a token.", seconds=seconds, correlation_id=correlation_id)
    yield from _check_clock(client.response.headers.get("Date", ""))


def _check_clock(date: str) -> Iterator[Finding]:
    try:
        difference = abs(time.time() - email.utils.parsedate_to_datetime(date).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return
    if difference > CLOCK_SKEW:
        text = f"The clock of this machine and that of HubSpot differ by {difference:.0f} s."
        hint = "Synchronise this machine's clock with NTP, because tokens are refreshed by it."
        yield Finding("clock", WARNING, text, hint)


def _failed_token(error: HubSpotIdentifyError, config: Config, seconds: float) -> Finding:
    hint, link = _advice(error, config)
    text = str(error) if str(error).endswith(".") else f"{error}."
    if isinstance(error, APIError):
        if error.hubspot_message:
            text += f" HubSpot's message: {error.hubspot_message}"
        return Finding("token", ERROR, text, hint, link, seconds, error.correlation_id)
    return Finding("token", ERROR, text, hint, link, seconds)


def _advice(error: HubSpotIdentifyError, config: Config) -> tuple[str, str]:
    """Return what to do about an error, and a link."""
    if isinstance(error, CredentialError):
        return "Call the callable in API_KEY in a shell, and fix it.", ""
    if isinstance(error, TransportError):
        return _connection_advice(config)
    if isinstance(error, UnexpectedResponseError) and (error.status or 0) // 100 == 3:
        if is_loopback(urlsplit(config.base_url).hostname or "") and settings.SECURE_SSL_REDIRECT:
            return "SECURE_SSL_REDIRECT redirects the call. Set it to False in the settings for development.", ""
        return "The call is redirected to another address. Check BASE_URL and TOKEN_PATH.", GUIDE
    match error:
        case APIError(status=401):
            hint = "Copy the access token of the private app, or a new service key, into API_KEY."
            return hint, app_url(config, "private-apps")
        case APIError(status=403, context={"missingScopes": scopes}):
            hint = f"Add the scope {', '.join(scopes)} to the private app or service key. This may change its token."
            return hint, app_url(config, "private-apps")
        case APIError(status=403):
            hint = (
                "Check that the key has the scope conversations.visitor_identification.tokens.create, and that the "
                "account has a Professional or Enterprise plan of any Hub."
            )
            return hint, app_url(config, "account-and-billing")
        case APIError(status=488):
            hint = (
                "Set BASE_URL as the error says, or create a new key. Also check that REGION is the right data centre."
            )
            return hint, app_url(config, "private-apps")
        case APIError(status=400 | 422) if "hsCustomerAgentContext" in str(error):
            hint = (
                "Set TOKEN_PATH to another version, or let VISITOR return a Visitor with context. To test the latter, "
                "name a user with --user. Otherwise, the doctor sends no context."
            )
            return hint, GUIDE
        case APIError(status=429, policy="DAILY"):
            return "The account has used up its calls for today. Find out which integration makes so many.", USAGE
        case APIError(status=429):
            return "Use a key that only this site uses, or reduce RATE_LIMIT.", USAGE
        case APIError(status=477):
            hint = "HubSpot is moving the account, which may take a day. Wait, then check whether REGION has changed."
            return hint, HOSTING
        case APIError(status=423):
            return "Wait a few seconds, and run the doctor again.", STATUS
        case APIError(status=status) if status >= 500:
            return "Wait until HubSpot works again. Until then, the site works without identified visitors.", STATUS
    return "Check BASE_URL and TOKEN_PATH, and any proxy between this machine and HubSpot.", GUIDE


def _connection_advice(config: Config) -> tuple[str, str]:
    """Find out at which step a connection to the API fails, and return what to do about it, and a link."""
    parts = urlsplit(config.base_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxies = {} if is_loopback(host) else requests.utils.get_environ_proxies(config.base_url)
    proxy = requests.utils.select_proxy(config.base_url, proxies)
    if proxy:
        proxy_host = urlsplit(proxy).hostname  # the rest may contain a password
        return f"The environment directs calls to HubSpot to the proxy {proxy_host}. Check the proxy.", ""
    try:
        addresses = run_with_deadline(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), CONNECT_TIMEOUT)
    except (OSError, TimeoutError):
        return f"The host name {host} cannot be resolved. Check the DNS settings of this machine.", ""
    family, kind, protocol, _name, address = addresses[0]
    try:
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(CONNECT_TIMEOUT)
            sock.connect(address)
    except OSError:
        hint = "Start the development server first." if is_loopback(host) else "Check whether a firewall blocks it."
        return f"Port {port} of {host} accepts no connection. {hint}", ""
    return f"Port {port} of {host} accepts connections, so HubSpot or the network is slow or fails. Try again.", STATUS


def app_url(config: Config, page: str) -> str:
    """Return the address of a page in HubSpot's web app, for the account if its ``PORTAL_ID`` is set."""
    infix = "" if config.region == "na1" else f"-{config.region}"
    return f"https://app{infix}.hubspot.com/{page}/{config.portal_id or ''}".rstrip("/")


def run_with_deadline(
    function: Callable[[], Result], seconds: float, on_tick: Callable[[float], None] = lambda seconds: None
) -> Result:
    """Call a function on a daemon thread, because a slow server can exceed the timeouts of HTTP libraries.

    Args:
        function: the function to call.
        seconds: for which to wait for it.
        on_tick: called every 0.1 s with the seconds since the start.

    Raises:
        TimeoutError: the deadline passed. The thread was abandoned.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    started = time.monotonic()
    thread = threading.Thread(target=run, name="hubspot-doctor", daemon=True)
    on_tick(0.0)
    thread.start()
    while thread.is_alive() and (remaining := started + seconds - time.monotonic()) > 0:
        thread.join(min(0.1, remaining))
        on_tick(time.monotonic() - started)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
