"""The script element of the page, for every template engine.

Data attributes configure the script. Nothing in the page is executed inline.
"""

from __future__ import annotations

import json
import logging
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.staticfiles.storage import HashedFilesMixin, ManifestStaticFilesStorage, StaticFilesStorage
from django.core.files.storage import Storage, storages
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from . import delivery
from ._callables import CallableError
from ._compat import django_request, keep_out_of_page_caches, page_nonce
from ._tokens.account import Account, account_for, requires_request
from .eligibility import is_enabled
from .exceptions import ConfigurationError
from .identification import ANONYMOUS, Identification, identify_account
from .logs import log_throttled, raise_or_log
from .middleware import mark_identified, mark_private

if TYPE_CHECKING:
    from django.http import HttpRequest

logger = logging.getLogger(__name__)

NOTHING = SafeString("")
SCRIPT = "hubspot_identify/identify.js"


def render_script(
    request: HttpRequest | None,
    *,
    nonce: object = None,
    account: str | None = None,
    identity: Identification | None = None,
) -> SafeString:
    """Return the script element of a page, or nothing if the chat is disabled.

    Args:
        request: of the page; ``None`` if there is none, as on some error pages.
        nonce: for the page's Content-Security-Policy; ``None`` for that of Django or django-csp.
        account: a name from ``ACCOUNTS``; ``None`` for the one that ``CHOOSE_ACCOUNT`` returns.
        identity: for inline delivery in an asynchronous view, the result of ``await services.aidentify(request)``.

    Raises:
        TypeError: ``identity`` is something else.
        ConfigurationError: a setting is missing or wrong, and ``DEBUG`` is on. In production this is logged, and so is
            every exception of the site's callables and static files.
    """
    nonce, account, identity = none_if_empty(nonce), none_if_empty(account), none_if_empty(identity)
    if identity is not None and not isinstance(identity, Identification):
        raise TypeError(f"identity must be the result of services.identify(), not {type(identity).__name__}.")
    request = django_request(request)
    try:
        return _render(request, nonce, account, identity)
    except CallableError:
        # A cached page without the chat would be served to the other visitors.
        if request is not None:  # pragma: no branch - no callable is called without a request
            keep_out_of_page_caches(request)
            mark_private(request)
        return NOTHING
    except Exception as error:  # noqa: BLE001 - the page must not fail because of its chat
        raise_or_log(logger, error, "The page has no chat: %s", "The script element cannot be rendered.")
        return NOTHING


def none_if_empty(argument: Any) -> Any:
    """Return ``None`` for an empty text, which a template passes for a variable that does not exist."""
    # A lazy nonce must not be compared, because that creates it.
    return None if type(argument) is str and not argument else argument


def _render(
    request: HttpRequest | None, nonce: object, name: str | None, identification: Identification | None
) -> SafeString:
    if settings.DEBUG:
        delivery.refuse_compressor()
    if request is None and name is None and requires_request():
        return NOTHING
    account = account_for(request, name)
    config = account.config
    if config.enabled is False or (request is None and callable(config.enabled)):
        return NOTHING
    text = page_nonce(request, nonce)
    nonce_attribute = format_html(' nonce="{}"', text) if text else NOTHING
    src = script_url()
    constant, inline = _constant_part(account, src, *delivery.url_context())
    if request is not None and callable(config.enabled):
        # A cache must not serve one visitor's decision to others.
        mark_private(request)
        if not (delivery.may_depend_on_visitor(request) and is_enabled(request, config)):
            return _clean_up(src, nonce_attribute)
    may_have_visitor = request is not None or identification is not None
    if not (inline and may_have_visitor and delivery.may_contain_identity(request)):
        identification = None
    elif identification is None and request is not None and not delivery.in_event_loop():
        try:
            identification = identify_account(request, account, config.page_wait)
        except CallableError:
            identification = ANONYMOUS
    if identification is not None and not identification.enabled:  # ENABLED was evaluated again, or by the view
        return _clean_up(src, nonce_attribute)
    if request is not None and identification is not None and identification.subject is not None:
        mark_identified(request)
    return SafeString(f"{constant}{nonce_attribute}{_identity_attributes(identification)}></script>")


def script_url() -> str:
    """Return the URL of the script. Django's own storages return constant URLs, while others may sign each URL."""
    storage = _static_storage()
    if type(storage) in (StaticFilesStorage, ManifestStaticFilesStorage):
        return _constant_script_url(storage, settings.DEBUG)
    return static_url(SCRIPT)


def _static_storage() -> Storage | None:
    return storages["staticfiles"] if "staticfiles" in storages.backends else None


@lru_cache(maxsize=16)
def _constant_script_url(_storage: object, _debug: object) -> str:
    """Call ``static()``, which takes longer than the rest of the tag. The result depends only on the arguments."""
    return static_url(SCRIPT)


def static_url(name: str) -> str:
    """Return the URL of a static file; in production without a hash if the storage's manifest lacks the file."""
    try:
        return static(name)
    except ValueError:
        storage = _static_storage()
        if settings.DEBUG or not isinstance(storage, HashedFilesMixin):
            raise
        log_throttled(
            logger,
            logging.ERROR,
            "STORAGES['staticfiles'] has no hashed name for %s, so its plain URL is used. Run manage.py collectstatic "
            "after each update of hubspot_identify, and restart the server.",
            name,
            reason=name,
            every=math.inf,
        )
        url: str = super(HashedFilesMixin, storage).url(name)
        return url


@lru_cache(maxsize=64)
def _constant_part(account: Account, src: str, *_url_context: object) -> tuple[SafeString, bool]:
    """Return the part of the element that is the same for every visitor, and whether the identity follows it.

    Formatting and ``reverse()`` take long. The result depends only on the arguments.
    """
    config = account.config
    endpoint = delivery.endpoint_url(config)
    inline = delivery.is_inline(config)
    has_launcher = config.load_on == "interaction"
    if endpoint is None and delivery.is_routed(config):
        if not inline:
            delivery.log_missing_endpoint()
    elif endpoint is None and (has_launcher or not inline):
        raise ConfigurationError(
            "LOAD_ON" if has_launcher else "DELIVERY",
            "The chat requires the app's URLs, which the URLconf does not include.",
            f"Add {delivery.ROUTE} to the URLconf, or remove DELIVERY and LOAD_ON from HUBSPOT_IDENTIFY.",
        )
    data = {
        "endpoint": endpoint,
        "loader": config.loader,
        "load-on": config.load_on,
        "widget": json.dumps(dict(config.widget)),
    }
    if has_launcher:
        labels = {
            "open": gettext("Chat with us"),
            "loading": gettext("The chat is loading…"),
            "unavailable": gettext("The chat is not available right now."),
        }
        data["launcher"] = static_url("hubspot_identify/launcher.js")
        data["labels"] = json.dumps(labels, ensure_ascii=False)
    return _format(src, data, defer=config.loader is not None), inline


def _clean_up(src: str, nonce_attribute: str) -> SafeString:
    """Return the script element of a page whose visitor must not have a chat."""
    return SafeString(f"{_format(src, {'load-on': 'never'})}{nonce_attribute}></script>")


def _format(src: str, data: dict[str, str | None], *, defer: bool = True) -> SafeString:
    present = ((name, value) for name, value in data.items() if value is not None)
    attributes = format_html_join("", ' data-{}="{}"', present)
    # Cloudflare's Rocket Loader must not move the script. It ignores the attribute unless it comes before src.
    return format_html(
        '<script data-cfasync="false" src="{}"{}{}', src, SafeString(" defer" if defer else ""), attributes
    )


def _identity_attributes(identification: Identification | None) -> SafeString:
    """Return the attributes that identify the visitor. Without them, the script does not know who the visitor is."""
    if identification is None:
        return NOTHING
    if identification.identity is None:
        return format_html(' data-subject="{}"', identification.subject or "")
    return format_html(
        ' data-subject="{}" data-identity="{}"', identification.subject, json.dumps(identification.identity)
    )
