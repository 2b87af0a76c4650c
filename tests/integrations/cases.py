"""Impersonation and verified addresses with the real packages and their own views. ``test_integrations.py`` runs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core import mail
from django.core.mail import EmailMessage
from django.http import HttpRequest
from django.test import Client
from hijack import signals as hijack_signals
from impersonate import signals as impersonate_signals  # type: ignore[import-untyped]
from pytest_django import Settings
from support.manual import code_blocks
from support.server import TokenServer

from hubspot_identify import identification, services
from hubspot_identify.conf import get_config
from hubspot_identify.doctor.users import check_user
from hubspot_identify.exceptions import ConfigurationError
from hubspot_identify.visitors import Visitor

pytestmark = pytest.mark.django_db(transaction=True)

STAFF, CUSTOMER = "grace@example.com", "ada@example.com"
HEADERS = {"X-HubSpot-Identify": "1"}


@pytest.fixture(autouse=True)
def hubspot(token_server: TokenServer, settings: Settings) -> TokenServer:
    """A server that issues a token for every visitor."""
    settings.HUBSPOT_IDENTIFY = {"API_KEY": "key", "BASE_URL": token_server.url, "EMAIL_VERIFIED": True, "TIMEOUT": 10}
    return token_server


def user(name: str, email: str, **fields: Any) -> User:
    return User.objects.create_user(name, email, "password", **fields)


@pytest.fixture
def customer() -> User:
    return user("ada", CUSTOMER)


@pytest.fixture
def staff(client: Client) -> User:
    """A logged-in staff member who may impersonate users."""
    grace = user("grace", STAFF, is_staff=True, is_superuser=True)
    client.force_login(grace)
    return grace


def identified_by_page(client: Client) -> str:
    return client.get("/").content.decode()


def subject_of_endpoint(client: Client) -> object:
    """The subject in the first response of the endpoint, which may come before the token."""
    response = client.get("/hubspot/identity/", headers=HEADERS)
    assert response.status_code in {200, 202}
    subject: object = response.json()["subject"]
    return subject


def requested_addresses(server: TokenServer) -> list[str]:
    return [request.json()["email"] for request in server.requests()]


@dataclass(frozen=True)
class Package:
    """How to start and stop impersonation with a package."""

    start: Callable[[Client, User], None]
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
    # The middleware only marks the user. The session has the same information.
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


def test_visitor_is_anonymous_during_impersonation(
    client: Client, package: Package, staff: User, customer: User, hubspot: TokenServer
) -> None:
    """Before and after, the staff member is identified. HubSpot is never called for the customer."""
    assert identified_by_page(client) == STAFF

    package.start(client, customer)
    impersonated: Any = client.get("/")
    assert impersonated.wsgi_request.user.pk == customer.pk
    assert impersonated.content == b""
    assert subject_of_endpoint(client) is None

    package.stop(client)
    assert identified_by_page(client) == STAFF
    assert set(requested_addresses(hubspot)) == {STAFF}


def test_cached_token_of_the_customer_is_not_used_during_impersonation(
    client: Client, package: Package, staff: User, customer: User
) -> None:
    """The page and the endpoint are anonymous, and the customer is still identified in their own session."""
    own = Client()
    own.force_login(customer)
    assert identified_by_page(own) == CUSTOMER
    package.start(client, customer)
    assert identified_by_page(client) == ""
    assert client.get("/hubspot/identity/", headers=HEADERS).json() == {"subject": None, "identity": None}
    assert identified_by_page(own) == CUSTOMER


@pytest.mark.parametrize(
    ("name", "started", "ended"),
    [
        ("hijack", hijack_signals.hijack_started, hijack_signals.hijack_ended),
        ("impersonate", impersonate_signals.session_begin, impersonate_signals.session_end),
    ],
)
def test_customer_is_not_identified_in_the_request_that_starts_or_ends_impersonation(
    client: Client,
    settings: Settings,
    staff: User,
    customer: User,
    hubspot: TokenServer,
    name: str,
    started: Any,
    ended: Any,
) -> None:
    """A receiver of the package's signals gets the staff member or no identity, but never that of the customer."""
    package = PACKAGES[name]
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, package.middleware]
    seen: list[str | None] = []

    def receive(sender: object, request: HttpRequest, **kwargs: object) -> None:
        identity = services.identify(request, wait=10.0).identity
        seen.append(identity["email"] if identity else None)

    for signal in (started, ended):
        signal.connect(receive)
    try:
        package.start(client, customer)
        package.stop(client)
    finally:
        for signal in (started, ended):
            signal.disconnect(receive)
    assert len(seen) == 2
    assert set(seen) <= {None, STAFF}
    assert set(requested_addresses(hubspot)) <= {STAFF}


# django-allauth. EMAIL_VERIFIED is not set, so that the records of django-allauth decide.


@pytest.fixture
def decided_by_allauth(settings: Settings) -> None:
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
    """Follow the link in a mail with another browser."""
    found = re.search(r"https?://[^/]+(/accounts/confirm-email/\S+)", str(message.body))
    assert found, message.body
    post(Client(), found[1])


@pytest.mark.usefixtures("decided_by_allauth")
def test_user_is_identified_once_the_address_is_verified(
    client: Client, outbox: list[EmailMessage], hubspot: TokenServer
) -> None:
    """Before the user follows the link in the mail, the visitor is anonymous and HubSpot is not called."""
    sign_up(client, "ada", "Ada@Example.com")
    assert identified_by_page(client) == ""
    assert hubspot.calls == 0
    confirm(outbox[0])
    assert identified_by_page(client) == CUSTOMER


@pytest.mark.usefixtures("decided_by_allauth")
def test_imported_user_is_identified_after_the_recipe_of_the_manual(client: Client) -> None:
    """The recipe of docs/visitors.rst creates the record that django-allauth needs."""
    imported = user("ada", "Ada@Example.com")
    client.force_login(imported)
    assert identified_by_page(client) == ""
    (recipe,) = [block for block in code_blocks("docs/visitors") if "allauth.account.models" in block]
    exec(recipe, {"user": imported})
    assert identified_by_page(client) == CUSTOMER


@pytest.mark.usefixtures("decided_by_allauth")
def test_doctor_says_why_a_user_is_not_identified(customer: User) -> None:
    """``createsuperuser`` and imports create no record. The reason is another one if there is an unverified record."""
    reasons = []
    for _ in range(2):
        finding, visitor = check_user(customer, get_config(), "localhost")
        assert (finding.level, visitor) == ("error", Visitor(CUSTOMER))
        reasons.append(finding.text)
        EmailAddress.objects.get_or_create(user=customer, email=CUSTOMER)
    assert ["createsuperuser" in reason for reason in reasons] == [True, False]
    EmailAddress.objects.update(verified=True)
    assert check_user(customer, get_config(), "localhost")[0].level == "ok"


@pytest.mark.usefixtures("decided_by_allauth")
def test_changed_address_is_anonymous_until_it_is_verified(client: Client, outbox: list[EmailMessage]) -> None:
    """This does not depend on how the address was changed."""
    sign_up(client, "ada", CUSTOMER)
    confirm(outbox[0])
    assert identified_by_page(client) == CUSTOMER

    get_user_model().objects.filter(username="ada").update(email="new@example.com")  # as an admin would
    assert identified_by_page(client) == ""

    post(client, "/accounts/email/", action_send="", email="new@example.com")
    assert identified_by_page(client) == ""
    confirm(outbox[-1])
    assert identified_by_page(client) == "new@example.com"


@pytest.mark.usefixtures("decided_by_allauth")
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


@pytest.mark.usefixtures("decided_by_allauth")
def test_only_the_owner_of_an_address_that_two_accounts_claim_is_identified(
    client: Client, outbox: list[EmailMessage], hubspot: TokenServer
) -> None:
    """The other account stays anonymous before and after the owner verified the address, in any spelling."""
    sign_up(client, "eve", CUSTOMER.upper())
    owner = Client()
    sign_up(owner, "ada", CUSTOMER)
    assert [identified_by_page(one) for one in (client, owner)] == ["", ""]
    assert hubspot.calls == 0
    confirm(outbox[-1])
    assert [identified_by_page(one) for one in (client, owner)] == ["", CUSTOMER]


@pytest.mark.usefixtures("decided_by_allauth")
def test_record_of_another_user_does_not_verify_an_address(client: Client, outbox: list[EmailMessage]) -> None:
    """A verified record counts only for the user that it belongs to."""
    sign_up(Client(), "ada", CUSTOMER)
    confirm(outbox[0])
    eve = user("eve", CUSTOMER)
    client.force_login(eve)
    assert identified_by_page(client) == ""


@pytest.mark.usefixtures("decided_by_allauth")
def test_invalid_record_is_ignored(client: Client) -> None:
    """A row with an invalid address neither breaks the page nor verifies the user."""
    ada: Any = user("ada", CUSTOMER)
    client.force_login(ada)
    ada.emailaddress_set.create(email="no address", verified=True)
    assert identified_by_page(client) == ""
    ada.emailaddress_set.create(email="ADA@example.com", verified=True)
    assert identified_by_page(client) == CUSTOMER


@pytest.mark.usefixtures("decided_by_allauth")
def test_user_without_primary_key_is_anonymous(settings: Settings) -> None:
    """A user that is not in the database has no verified address."""

    class UserWithoutKey:
        is_authenticated = True

    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "VISITOR": lambda user, request: Visitor(CUSTOMER)}
    request: Any = HttpRequest()
    request.user = UserWithoutKey()
    assert services.identify(request) == identification.ANONYMOUS


@pytest.mark.usefixtures("decided_by_allauth")
def test_email_verified_is_required_if_allauth_is_removed(client: Client, settings: Settings) -> None:
    """Without django-allauth there are no records, so a missing setting is an error."""
    client.force_login(user("ada", CUSTOMER))
    request = client.get("/").wsgi_request
    assert services.identify(request) == identification.ANONYMOUS
    installed = settings.INSTALLED_APPS
    settings.INSTALLED_APPS = [app for app in installed if app != "allauth.account"]
    with pytest.raises(ConfigurationError) as caught:
        services.identify(request)
    assert caught.value.setting == "EMAIL_VERIFIED"
    settings.INSTALLED_APPS = installed
    assert services.identify(request) == identification.ANONYMOUS


def test_setting_precedes_the_records_of_allauth(client: Client, settings: Settings) -> None:
    """With ``EMAIL_VERIFIED = True`` or a callable, the records are not read."""
    client.force_login(user("ada", CUSTOMER))
    assert identified_by_page(client) == CUSTOMER
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "EMAIL_VERIFIED": lambda user, email: False}
    assert identified_by_page(client) == ""
