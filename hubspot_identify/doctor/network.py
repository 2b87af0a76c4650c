"""What the doctor learns by calling: the chat's script, and one token of HubSpot's."""

from __future__ import annotations

import email.utils
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from django.utils.translation import gettext as _

from .._hubspot.client import CONNECT_TIMEOUT, READ_TIMEOUT, TokenClient
from .._hubspot.responses import identifier, personal_data
from .._tokens.entries import CLOCK_SKEW
from ..conf import Config
from ..exceptions import APIError, CredentialError, HubSpotIdentifyError, TransportError
from ..validation import is_loopback
from ..visitors import Visitor
from .findings import ERROR, GUIDE, NOTE, OK, WARNING, Finding

USAGE = "https://developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines"
STATUS = "https://status.hubspot.com/"
HOSTING = (
    "https://knowledge.hubspot.com/account-security/"
    "hubspot-cloud-infrastructure-and-data-hosting-frequently-asked-questions"
)

Result = TypeVar("Result")
#: Called again and again while something is waited for: what, and since how many seconds.
Progress = Callable[[str, float], None]


def check_loader(config: Config, progress: Progress) -> Iterator[Finding]:
    """Whether the chat's script is where browsers will fetch it."""
    loader = config.loader
    if loader is None:
        yield Finding("loader", NOTE, _("PORTAL_ID is not set: the pages must have HubSpot's embed code themselves."))
        return
    if not urlsplit(loader).scheme:
        yield Finding("loader", NOTE, _("The chat's script comes from the site itself: {url}").format(url=loader))
        return
    started = time.perf_counter()
    proxies = {"http": "", "https": ""} if is_loopback(urlsplit(loader).hostname or "") else {}
    timeouts = (CONNECT_TIMEOUT, READ_TIMEOUT)
    try:
        status = in_background(
            lambda: requests.get(loader, timeout=timeouts, stream=True, proxies=proxies).status_code,
            CONNECT_TIMEOUT + READ_TIMEOUT,
            lambda seconds: progress(_("Fetching the chat's script"), seconds),
        )
    except (requests.RequestException, TimeoutError):
        text = _("The chat's script can't be fetched from here: {url}").format(url=loader)
        hint = _("Browsers may be able to all the same: open the address in one.")
        yield Finding("loader", WARNING, text, hint)
        return
    seconds = time.perf_counter() - started
    if status == 200:
        yield Finding("loader", OK, _("The chat's script is there: {url}").format(url=loader), seconds=seconds)
        return
    text = _("There is no chat's script, but a status {status}: {url}").format(status=status, url=loader)
    hint = _("Compare PORTAL_ID and REGION with the embed code that HubSpot shows for your account.")
    yield Finding("loader", ERROR, text, hint, f"{app_url(config)}/settings/{config.portal_id or ''}".rstrip("/"))


class _AttentiveClient(TokenClient):
    """Keeps what only the headers of an answer say: HubSpot's clock, and the correlation id of a success."""

    date = ""
    correlation_id = ""

    def _post(self, visitor: Visitor, config: Config, key: str) -> Any:
        outcome = super()._post(visitor, config, key)
        headers: Mapping[str, str] = getattr(outcome, "headers", {})
        self.date = headers.get("Date", "")
        self.correlation_id = identifier(headers.get("X-HubSpot-Correlation-Id"), (key, *personal_data(visitor)))
        return outcome


def ask_hubspot(visitor: Visitor, config: Config, progress: Progress) -> Iterator[Finding]:
    """Have one token made, and say how it went."""
    client = _AttentiveClient()
    started = time.perf_counter()
    try:
        in_background(
            lambda: client.create_token(visitor, config),
            config.timeout,
            lambda seconds: progress(_("Asking HubSpot for a token"), seconds),
        )
    except TimeoutError:
        client.abort()
        late = TransportError(f"HubSpot did not answer within {config.timeout:g} s.")
        yield _explained(late, config, time.perf_counter() - started)
        return
    except HubSpotIdentifyError as error:
        yield _explained(error, config, time.perf_counter() - started)
    else:
        seconds = time.perf_counter() - started
        text = _("HubSpot made a token, on a thread behind the command.")
        yield Finding("token", OK, text, seconds=seconds, correlation_id=client.correlation_id)
    yield from _look_at_clock(client.date)


def _look_at_clock(text: str) -> Iterator[Finding]:
    try:
        difference = time.time() - email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return
    if abs(difference) > CLOCK_SKEW:
        yield Finding(
            "clock",
            WARNING,
            _("The clock here and HubSpot's are {seconds} s apart.").format(seconds=f"{abs(difference):.0f}"),
            _("Set the clock by NTP: tokens are renewed by it."),
        )


def _explained(error: HubSpotIdentifyError, config: Config, seconds: float) -> Finding:
    hint, link = _advice(error, config)
    text = str(error) if str(error).endswith(".") else f"{error}."
    if isinstance(error, APIError):
        if error.hubspot_message:
            text += " " + _("HubSpot says: {message}").format(message=error.hubspot_message)
        return Finding("token", ERROR, text, hint, link, seconds, error.correlation_id)
    return Finding("token", ERROR, text, hint, link, seconds)


def _advice(error: HubSpotIdentifyError, config: Config) -> tuple[str, str]:
    """What to do about an error, and where."""
    if isinstance(error, CredentialError):
        return _("Call the callable in API_KEY in a shell, and mend it."), ""
    if isinstance(error, TransportError):
        return _reach(config)
    if not isinstance(error, APIError):
        return _("Look at BASE_URL and TOKEN_PATH, and at proxies on the way."), GUIDE
    keys = f"{app_url(config)}/private-apps/{config.portal_id or ''}".rstrip("/")
    match error.status:
        case 401:
            return _("Copy the access token of the private app, or a new service key, into API_KEY."), keys
        case 403 if error.context.get("missingScopes"):
            return _(
                "Give the private app or service key the scope {scope}. Its access token may change with that."
            ).format(scope=", ".join(error.context["missingScopes"])), keys
        case 403:
            billing = f"{app_url(config)}/account-and-billing/{config.portal_id or ''}".rstrip("/")
            return _(
                "Look whether the key has the scope conversations.visitor_identification.tokens.create, and the "
                "account a Professional or Enterprise plan of any Hub."
            ), billing
        case 429 if error.policy == "DAILY":
            return _("The account's calls of this day are used up: find out which integration makes so many."), USAGE
        case 429:
            return _("Others use the same key, or RATE_LIMIT is too high: have a key for this site alone."), USAGE
        case 477:
            return _(
                "Wait: HubSpot moves the account, which may take a day. Then look whether REGION changed."
            ), HOSTING
        case 423:
            return _("Wait some seconds, and call the doctor again."), STATUS
        case status if status >= 500:
            return _("Wait: HubSpot is in trouble. The site goes on without."), STATUS
    return _("Look at BASE_URL and TOKEN_PATH, and at proxies on the way."), GUIDE


def _reach(config: Config) -> tuple[str, str]:
    """How far one gets towards the API, in words, and where to look on."""
    parts = urlsplit(config.base_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxies = {} if is_loopback(host) else requests.utils.get_environ_proxies(config.base_url)
    proxy = requests.utils.select_proxy(config.base_url, proxies)
    if proxy:
        host = urlsplit(proxy).hostname or ""  # the rest may hold a password
        return _("The environment sends the call through the proxy {host}: look there.").format(host=host), ""
    try:
        addresses = in_background(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), CONNECT_TIMEOUT)
    except (OSError, TimeoutError):
        return _("{host} can't be resolved: look at the DNS of this machine.").format(host=host), ""
    family, kind, protocol, _name, address = addresses[0]
    try:
        with socket.socket(family, kind, protocol) as sock:
            sock.settimeout(CONNECT_TIMEOUT)
            sock.connect(address)
    except OSError:
        text = _("{host}, port {port}, takes no connection: look whether a firewall lets this machine call it.")
        return text.format(host=host, port=port), ""
    text = _("{host}, port {port}, takes connections, so HubSpot or something on the way is slow or in trouble.")
    return text.format(host=host, port=port), STATUS


def app_url(config: Config) -> str:
    """Where people of the account go about it."""
    infix = "" if config.region == "na1" else f"-{config.region}"
    return f"https://app{infix}.hubspot.com"


def in_background(
    work: Callable[[], Result], seconds: float, tick: Callable[[float], None] = lambda seconds: None
) -> Result:
    """Do something on a daemon thread, since timeouts of HTTP libraries can be held open.

    Args:
        work: what to do.
        seconds: to wait for it.
        tick: called every 0.1 s with the seconds gone by.

    Raises:
        TimeoutError: it took longer, and was left alone.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure.append(error)

    started = time.monotonic()
    thread = threading.Thread(target=run, name="hubspot-doctor", daemon=True)
    tick(0.0)
    thread.start()
    while thread.is_alive() and (remaining := started + seconds - time.monotonic()) > 0:
        thread.join(min(0.1, remaining))
        tick(time.monotonic() - started)
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError
    return outcome[0]
