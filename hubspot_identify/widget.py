"""The one script element of the page, for every template engine.

All it says stands in data attributes; nothing in the page is executed inline.
"""

from __future__ import annotations

import asyncio
import json
import logging
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from django.conf import settings
from django.contrib.staticfiles.storage import HashedFilesMixin
from django.core.files.storage import FileSystemStorage, InvalidStorageError, Storage, storages
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from ._compat import django_request, get_django_nonce, keep_out_of_page_caches
from ._fragment_caches import enclosing_cache
from .conf import Config, account_chooser, config_for
from .delivery import endpoint_url, is_inline
from .eligibility import is_enabled
from .exceptions import ConfigurationError
from .logs import log_exception, log_throttled
from .middleware import is_marked_too_late, mark_identified
from .services import Identification, identify

if TYPE_CHECKING:
    from django.http import HttpRequest


Argument = TypeVar("Argument")

logger = logging.getLogger(__name__)

EMPTY = SafeString("")
CLOSING = SafeString("></script>")


def render_script(
    request: HttpRequest | None,
    *,
    nonce: object = None,
    account: str | None = None,
    identity: Identification | None = None,
) -> SafeString:
    """The script element of a page, or nothing where the chat is switched off.

    Args:
        request: of the page; ``None`` where there is none, as on some error pages.
        nonce: for the page's Content-Security-Policy; ``None`` looks for one of Django's or django-csp's.
        account: a name from ``ACCOUNTS``; ``None`` asks ``CHOOSE_ACCOUNT``.
        identity: for inline delivery in an asynchronous view, what ``await services.aidentify(request)`` returned.

    Raises:
        TypeError: ``identity`` is something else.
        ConfigurationError: the settings are wrong, and ``DEBUG`` is on. In production that is logged, like everything
            that the site's callables and static files raise.
    """
    nonce, account, identity = given(nonce), given(account), given(identity)
    if identity is not None and not isinstance(identity, Identification):
        raise TypeError(f"identity is a {type(identity).__name__}: pass what services.identify(request) returned.")
    try:
        return _render(django_request(request), nonce, account, identity)
    except Exception as error:
        if settings.DEBUG:
            raise
        log_exception(
            logger,
            error,
            "The page has no chat: %s",
            "The script element can't be rendered, so the page has no chat.",
        )
        return EMPTY


def given(argument: Argument) -> Argument | None:
    """``None`` for the empty text. Looks at no lazy nonce."""
    return None if type(argument) is str and not argument else argument


def _render(
    request: HttpRequest | None, nonce: object, account: str | None, identity: Identification | None
) -> SafeString:
    if request is None and account is None and account_chooser() is not None:
        return EMPTY
    config = config_for(request, account)
    if config.enabled is False or (request is None and callable(config.enabled)):
        return EMPTY
    src = script_url("identify.js")
    nonce_attribute = _nonce_attribute(request, nonce)
    if request is not None and callable(config.enabled):
        # The answer may be another one for the next visitor, who may have declined the chat.
        keep_out_of_page_caches(request)
        if _in_fragment_cache() or not is_enabled(request, config):
            return _opening(src, defer=True) + nonce_attribute + _settings("never") + CLOSING
    endpoint = endpoint_url(config)
    inline = is_inline(config, endpoint)
    if endpoint is None and (config.load_on == "interaction" or not inline):
        raise ConfigurationError(
            "The app's URLs are not routed, and the chat needs them.",
            setting="LOAD_ON" if config.load_on == "interaction" else "DELIVERY",
            hint='Add path("hubspot/", include("hubspot_identify.urls")) to the URLconf, or leave out DELIVERY and '
            "LOAD_ON in HUBSPOT_IDENTIFY.",
        )
    loader = config.loader
    launcher = _launcher() if config.load_on == "interaction" else ()
    return (
        _opening(src, defer=loader is not None)
        + nonce_attribute
        + _settings(config.load_on, endpoint, loader, tuple(config.widget.items()), launcher)
        + (_identity(request, config, identity) if inline else EMPTY)
        + CLOSING
    )


def script_url(name: str) -> str:
    """``static()`` of a file of ours."""
    try:
        storage = storages["staticfiles"]
    except InvalidStorageError:
        return _static(name)
    if isinstance(storage, FileSystemStorage) and _is_constant(storage):
        return _constant_url(name, storage, storage.base_url, settings.DEBUG)
    return _static(name)


def _static(name: str) -> str:
    return static(f"hubspot_identify/{name}")


@lru_cache(maxsize=16)
def _constant_url(name: str, _storage: Storage, _base_url: str | None, _debug: bool) -> str:
    """The answer of ``static()``, which takes as long as the rest of the tag, by what it depends on."""
    return _static(name)


@lru_cache(maxsize=16)
def _is_constant(storage: Storage) -> bool:
    """Whether a storage makes its addresses as Django's own do. Others may sign them, each time anew."""
    makers = {base for base in type(storage).__mro__ if "url" in vars(base)}
    return makers <= {HashedFilesMixin, FileSystemStorage, Storage}


@lru_cache(maxsize=16)
def _opening(src: str, *, defer: bool) -> SafeString:
    return format_html('<script src="{}"{}', src, SafeString(" defer" if defer else ""))


@lru_cache(maxsize=64)
def _settings(
    load_on: str,
    endpoint: str | None = None,
    loader: str | None = None,
    widget: tuple[tuple[str, str | bool], ...] | None = None,
    launcher: tuple[tuple[str, str], ...] = (),
) -> SafeString:
    """The attributes that are the same for every visitor, and so are put together once."""
    attributes = {
        "endpoint": endpoint,
        "loader": loader,
        "load-on": load_on,
        "widget": None if widget is None else json.dumps(dict(widget)),
        **dict(launcher),
    }
    present = ((name, value) for name, value in attributes.items() if value is not None)
    return format_html_join("", ' data-{}="{}"', present)


def _launcher() -> tuple[tuple[str, str], ...]:
    """The script of the button that stands in for the chat until somebody wants it, and its words."""
    labels = {
        "open": gettext("Chat with us"),
        "loading": gettext("The chat is loading…"),
        "unavailable": gettext("The chat is not available right now."),
    }
    return (
        ("launcher", script_url("launcher.js")),
        ("labels", json.dumps(labels, ensure_ascii=False)),
    )


def _identity(request: HttpRequest | None, config: Config, found: Identification | None) -> SafeString:
    """Who the visitor is, in the page itself. Without ``data-subject`` the script doesn't know."""
    if request is not None:
        keep_out_of_page_caches(request)
        if _is_prefetch(request) or _is_streamed(request):
            return EMPTY
    elif found is None:
        return EMPTY
    if _in_fragment_cache():
        return EMPTY
    if request is not None and found is None and not _in_event_loop():
        found = identify(request, account=config.account)
    if found is None:
        return EMPTY
    if request is not None and found.subject is not None:
        mark_identified(request)
    if found.identity is None:
        return format_html(' data-subject="{}"', found.subject or "")
    return format_html(' data-subject="{}" data-identity="{}"', found.subject, json.dumps(found.identity))


def _is_prefetch(request: HttpRequest) -> bool:
    """Return whether the browser fetches the page to show it later, perhaps after a change of user.

    ``Sec-Purpose`` is the standard, and may be ``prefetch;prerender``. Older browsers, Turbo and htmx send others.
    """
    names = ("Sec-Purpose", "X-Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
    purposes = " ".join(request.headers.get(name, "") for name in names).lower()
    return "prefetch" in purposes or "preview" in purposes or "HX-Preloaded" in request.headers


def _is_streamed(request: HttpRequest) -> bool:
    """Return whether the headers of the page are gone, so that nothing keeps caches from storing an identity."""
    if not is_marked_too_late(request):
        return False
    log_throttled(
        logger,
        logging.ERROR,
        "The hubspot_identify tag is rendered while the page is streamed. Its headers have been sent without "
        "Cache-Control: private, so no identity is rendered. Render the part with the tag before the response is "
        "returned, or use deferred delivery.",
        reason="",
    )
    return True


def _in_fragment_cache() -> bool:
    """Return whether something around the tag may store what it renders, and log what that is."""
    cache = enclosing_cache()
    if cache is None:
        return False
    log_throttled(
        logger,
        logging.ERROR,
        "The hubspot_identify tag is inside %s, whose output may be served to other visitors, so nothing that depends "
        "on the visitor is rendered. Move the tag outside, or use deferred delivery if ENABLED is not a callable.",
        cache,
        reason=cache,
    )
    return True


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    log_throttled(
        logger,
        logging.WARNING,
        "A template rendered in an asynchronous view can't ask who the visitor is: pass "
        "identity=await services.aidentify(request) to the tag, or use deferred delivery.",
        reason="",
    )
    return True


def _nonce_attribute(request: HttpRequest | None, nonce: object) -> SafeString:
    text = find_nonce(request, nonce)
    return EMPTY if text is None else format_html(' nonce="{}"', text)


def find_nonce(request: HttpRequest | None, nonce: object = None) -> str | None:
    """The nonce of the page: the one given, else django-csp's, else Django's own.

    Both are made on first use and are false until then, so none may be tested for its truth.
    """
    if nonce is None and request is not None:
        nonce = getattr(request, "csp_nonce", None)
        if nonce is None:
            nonce = get_django_nonce(request)
    return None if nonce is None else str(nonce) or None
