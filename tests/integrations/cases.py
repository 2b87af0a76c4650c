"""Impersonation and verification by the real packages, through their own views. Run by ``test_integrations.py``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core import mail
from django.core.mail import EmailMessage
from django.http import HttpRequest
from django.test import Client
from hijack import signals as hijack_signals
from impersonate import signals as impersonate_signals
from pytest_django import Settings
from support.server import TokenServer

from hubspot_identify import services
from hubspot_identify.exceptions import ConfigurationError
from hubspot_identify.visitors import Visitor

pytestmark = pytest.mark.django_db(transaction=True)

STAFF, CUSTOMER = "grace@example.com", "ada@example.com"
HEADERS = {"X-HubSpot-Identify": "1"}
VISITORS = Path(__file__).parents[2] / "docs" / "visitors.rst"


@pytest.fixture(autouse=True)
def hubspot(token_server: TokenServer, settings: Settings) -> TokenServer:
    """HubSpot is there and would make a token for anybody."""
    settings.HUBSPOT_IDENTIFY = {"API_KEY": "key", "BASE_URL": token_server.url, "EMAIL_VERIFIED": True, "TIMEOUT": 10}
    return token_server


def user(name: str, email: str, **fields: object) -> AbstractUser:
    found: AbstractUser = get_user_model().objects.create_user(name, email, "password", **fields)
    return found


@pytest.fixture
def customer() -> AbstractUser:
    return user("ada", CUSTOMER)


@pytest.fixture
def staff(client: Client) -> AbstractUser:
    """Logged in, and allowed to impersonate."""
    grace = user("grace", STAFF, is_staff=True, is_superuser=True)
    client.force_login(grace)
    return grace


def identified_by_page(client: Client) -> str:
    return client.get("/").content.decode()


def subject_of_endpoint(client: Client) -> object:
    """What the endpoint says by itself, before any token could be made."""
    answer = client.get("/hubspot/identity/", headers=HEADERS)
    assert answer.status_code in {200, 202}
    return answer.json()["subject"]


def addresses_asked_for(server: TokenServer) -> list[str]:
    return [request.json()["email"] for request in server.requests()]


@dataclass(frozen=True)
class Package:
    """How a package starts and stops acting as somebody."""

    start: Callable[[Client, AbstractUser], None]
    stop: Callable[[Client], None]
    middleware: str | None = None


def post(client: Client, url: str, **data: object) -> None:
    assert client.post(url, data).status_code == 302


def get(client: Client, url: str) -> None:
    assert client.get(url).status_code == 302


PACKAGES = {
    "hijack": Package(
        lambda client, customer: post(client, "/hijack/acquire/", user_pk=customer.pk),
        lambda client: post(client, "/hijack/release/"),
        "hijack.middleware.HijackUserMiddleware",
    ),
    # Its middleware only sets a mark on the user and shows a bar: the session says it as well.
    "hijack without middleware": Package(
        lambda client, customer: post(client, "/hijack/acquire/", user_pk=customer.pk),
        lambda client: post(client, "/hijack/release/"),
    ),
    "impersonate": Package(
        lambda client, customer: get(client, f"/impersonate/{customer.pk}/"),
        lambda client: get(client, "/impersonate/stop/"),
        "impersonate.middleware.ImpersonateMiddleware",
    ),
    "loginas": Package(
        lambda client, customer: post(client, f"/loginas/login/user/{customer.pk}/"),
        lambda client: get(client, "/loginas/logout/"),
    ),
    "su": Package(
        lambda client, customer: post(client, f"/su/{customer.pk}/"),
        lambda client: get(client, "/su/"),
    ),
}


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest, settings: Settings) -> Package:
    chosen = PACKAGES[request.param]
    if chosen.middleware is not None:
        settings.MIDDLEWARE = [*settings.MIDDLEWARE, chosen.middleware]
    return chosen


def test_nobody_is_identified_while_somebody_acts_as_them(
    client: Client, package: Package, staff: AbstractUser, customer: AbstractUser, hubspot: TokenServer
) -> None:
    """Before and after, the staff member is who they are; meanwhile nobody is, and no call is made for the customer."""
    assert identified_by_page(client) == STAFF

    package.start(client, customer)
    acting = client.get("/")
    assert acting.wsgi_request.user.pk == customer.pk, "the package did not do its part"
    assert acting.content == b""
    assert subject_of_endpoint(client) is None

    package.stop(client)
    assert identified_by_page(client) == STAFF
    assert set(addresses_asked_for(hubspot)) == {STAFF}


def test_the_customer_is_not_kept_from_their_own_chat(
    client: Client, package: Package, staff: AbstractUser, customer: AbstractUser
) -> None:
    """What staff do in their session changes nothing in the customer's."""
    package.start(client, customer)
    own = Client()
    own.force_login(customer)
    assert identified_by_page(own) == CUSTOMER


def test_a_token_that_is_there_already_is_not_handed_to_staff(
    client: Client, package: Package, staff: AbstractUser, customer: AbstractUser
) -> None:
    """The gate stands before the cache: the customer's own token does not show either."""
    own = Client()
    own.force_login(customer)
    assert identified_by_page(own) == CUSTOMER
    package.start(client, customer)
    assert identified_by_page(client) == ""
    assert client.get("/hubspot/identity/", headers=HEADERS).json() == {"subject": None, "identity": None}


@pytest.mark.parametrize(
    ("name", "started", "ended"),
    [
        ("hijack", hijack_signals.hijack_started, hijack_signals.hijack_ended),
        ("impersonate", impersonate_signals.session_begin, impersonate_signals.session_end),
    ],
)
def test_nobody_else_is_identified_in_the_very_request_that_starts_or_ends_it(
    client: Client,
    settings: Settings,
    staff: AbstractUser,
    customer: AbstractUser,
    hubspot: TokenServer,
    name: str,
    started: object,
    ended: object,
) -> None:
    """A receiver of the package's signals that asks who is there gets nobody, or the staff member, not the customer."""
    package = PACKAGES[name]
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, package.middleware]
    seen: list[str | None] = []

    def ask(sender: object, request: object, **kwargs: object) -> None:
        identity = services.identify(request, wait=10.0).identity  # type: ignore[arg-type]
        seen.append(identity["email"] if identity else None)

    for signal in (started, ended):
        signal.connect(ask)  # type: ignore[attr-defined]
    try:
        package.start(client, customer)
        package.stop(client)
    finally:
        for signal in (started, ended):
            signal.disconnect(ask)  # type: ignore[attr-defined]
    assert len(seen) == 2
    assert set(seen) <= {None, STAFF}
    assert set(addresses_asked_for(hubspot)) <= {STAFF}


# django-allauth. EMAIL_VERIFIED is left undecided, so that its own record is asked.


@pytest.fixture
def undecided(settings: Settings) -> None:
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "EMAIL_VERIFIED": None}


@pytest.fixture
def outbox() -> Iterator[list[EmailMessage]]:
    mail.outbox = []
    yield mail.outbox
    mail.outbox = []


def sign_up(client: Client, name: str, email: str) -> None:
    post(client, "/accounts/signup/", username=name, email=email, password1="a-long-password")
    assert client.get("/").wsgi_request.user.username == name


def confirm(message: EmailMessage) -> None:
    """Follow the link in a mail, in a browser of one's own."""
    found = re.search(r"https?://[^/]+(/accounts/confirm-email/\S+)", str(message.body))
    assert found, message.body
    post(Client(), found[1])


@pytest.mark.usefixtures("undecided")
def test_an_address_counts_once_it_is_verified(
    client: Client, outbox: list[EmailMessage], hubspot: TokenServer
) -> None:
    """Signed up and not verified: anonymous, without a call. Verified by the mailed link: identified."""
    sign_up(client, "ada", "Ada@Example.com")
    assert identified_by_page(client) == ""
    assert hubspot.calls == 0
    confirm(outbox[0])
    assert identified_by_page(client) == CUSTOMER


@pytest.mark.usefixtures("undecided")
def test_an_imported_user_counts_once_the_site_vouches_for_the_address(client: Client) -> None:
    """The recipe of docs/visitors.rst: whoever came by an import is anonymous until then, and identified after."""
    imported = user("ada", "Ada@Example.com")
    client.force_login(imported)
    assert identified_by_page(client) == ""
    (recipe,) = re.findall(r"    from allauth\.account\.models.*?\n    \)\n", VISITORS.read_text("utf-8"), re.DOTALL)
    exec(textwrap.dedent(recipe), {"user": imported})
    assert identified_by_page(client) == CUSTOMER


@pytest.mark.usefixtures("undecided")
def test_a_changed_address_has_to_be_verified_anew(client: Client, outbox: list[EmailMessage]) -> None:
    """By whatever way the address changes, the new one is anonymous until its own link was followed."""
    sign_up(client, "ada", CUSTOMER)
    confirm(outbox[0])
    assert identified_by_page(client) == CUSTOMER

    get_user_model().objects.filter(username="ada").update(email="new@example.com")  # as an admin would
    assert identified_by_page(client) == ""

    post(client, "/accounts/email/", action_send="", email="new@example.com")
    assert identified_by_page(client) == ""
    confirm(outbox[-1])
    assert identified_by_page(client) == "new@example.com"


@pytest.mark.usefixtures("undecided")
def test_a_change_by_allauth_keeps_the_old_address_until_the_new_one_is_verified(
    client: Client, outbox: list[EmailMessage], settings: Settings
) -> None:
    """With ACCOUNT_CHANGE_EMAIL the visitor is the old address, then the new one, and never an unverified one."""
    settings.ACCOUNT_CHANGE_EMAIL = True
    sign_up(client, "ada", CUSTOMER)
    confirm(outbox[0])
    post(client, "/accounts/email/", action_add="", email="new@example.com")
    assert identified_by_page(client) == CUSTOMER
    confirm(outbox[-1])
    assert identified_by_page(client) == "new@example.com"


@pytest.mark.usefixtures("undecided")
def test_of_two_accounts_that_claim_an_address_only_its_owner_is_identified(
    client: Client, outbox: list[EmailMessage], hubspot: TokenServer
) -> None:
    """Who merely typed the address in stays anonymous, before and after its owner verified it, however spelled."""
    sign_up(client, "eve", CUSTOMER.upper())
    owner = Client()
    sign_up(owner, "ada", CUSTOMER)
    assert [identified_by_page(one) for one in (client, owner)] == ["", ""]
    assert hubspot.calls == 0
    confirm(outbox[-1])
    assert [identified_by_page(one) for one in (client, owner)] == ["", CUSTOMER]


@pytest.mark.usefixtures("undecided")
def test_an_address_set_by_hand_is_not_verified_by_another_accounts_record(
    client: Client, outbox: list[EmailMessage]
) -> None:
    """The record has to be the user's own."""
    sign_up(Client(), "ada", CUSTOMER)
    confirm(outbox[0])
    eve = user("eve", CUSTOMER)
    client.force_login(eve)
    assert identified_by_page(client) == ""


@pytest.mark.usefixtures("undecided")
def test_a_record_that_is_no_address_is_passed_over(client: Client) -> None:
    """Rows that other code wrote don't break the page, nor count."""
    ada = user("ada", CUSTOMER)
    client.force_login(ada)
    ada.emailaddress_set.create(email="no address", verified=True)  # type: ignore[attr-defined]
    assert identified_by_page(client) == ""
    ada.emailaddress_set.create(email="ADA@example.com", verified=True)  # type: ignore[attr-defined]
    assert identified_by_page(client) == CUSTOMER


@pytest.mark.usefixtures("undecided")
def test_somebody_without_a_row_is_not_looked_for(settings: Settings) -> None:
    """A user of VISITOR's own making, who has no primary key, has no verified address either."""

    class Passer:
        is_authenticated = True

    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "VISITOR": lambda user, request: Visitor(CUSTOMER)}
    request = HttpRequest()
    request.user = Passer()  # type: ignore[assignment]
    assert services.identify(request) == services.NOBODY


@pytest.mark.usefixtures("undecided")
def test_email_verified_is_required_if_allauth_is_removed(client: Client, settings: Settings) -> None:
    """Without django-allauth there is no record to decide, so a missing setting is an error at once."""
    client.force_login(user("ada", CUSTOMER))
    request = client.get("/").wsgi_request
    assert services.identify(request) == services.NOBODY
    installed = settings.INSTALLED_APPS
    settings.INSTALLED_APPS = [app for app in installed if app != "allauth.account"]
    with pytest.raises(ConfigurationError):
        services.identify(request)
    settings.INSTALLED_APPS = installed
    assert services.identify(request) == services.NOBODY


def test_the_sites_own_decision_goes_before_allauths_record(client: Client, settings: Settings) -> None:
    """EMAIL_VERIFIED = True, or a callable, is not second-guessed."""
    client.force_login(user("ada", CUSTOMER))
    assert identified_by_page(client) == CUSTOMER
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "EMAIL_VERIFIED": lambda user, email: False}
    assert identified_by_page(client) == ""
