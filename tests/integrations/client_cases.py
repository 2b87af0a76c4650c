"""The recipes of docs/clients.rst with the real packages. ``test_integrations.py`` runs it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
import time_machine
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import include, path
from django_otp import DEVICE_ID_SESSION_KEY
from django_otp.plugins.otp_totp.models import TOTPDevice
from docutils import nodes
from pytest_django import Settings
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.authtoken.models import Token
from rest_framework_simplejwt.authentication import JWTAuthentication, JWTStatelessUserAuthentication
from rest_framework_simplejwt.tokens import AccessToken
from support.manual import code_blocks, tree_of
from support.server import TokenServer, email_of
from support.site import urlconf

from hubspot_identify import services
from hubspot_identify._hubspot import client as hubspot_client

pytestmark = pytest.mark.django_db(transaction=True)

ADA, GRACE = "ada@example.com", "grace@example.com"
URL = "/api/chat-identity/"
ANONYMOUS = {"subject": None, "identity": None}
#: The section of the page and the authentication class of each way to authenticate.
WAYS = {
    "session": ("Django REST framework", SessionAuthentication),
    "token": ("Django REST framework", TokenAuthentication),
    "simplejwt": ("Django REST framework", JWTAuthentication),
    "ninja": ("Django Ninja", None),
    "plain": ("Other authentication", None),
}


class Api:
    """The view of a section, and the credentials with which its clients authenticate."""

    def __init__(self, way: str) -> None:
        self.way = way

    def client_of(self, user: User, *, age: float = 0.0) -> Client:
        """Return a client with the credentials of a user, which were issued so many seconds ago."""
        client = Client()
        with time_machine.travel(time.time() - age, tick=True):
            self.add_credentials(client, user)
        return client

    def add_credentials(self, client: Client, user: User) -> None:
        """Log the client in, or have it send a token."""
        if self.way == "session":
            client.force_login(user)
            return
        tokens: dict[str, Callable[[], str]] = {
            "token": lambda: f"Token {Token.objects.get_or_create(user=user)[0].key}",
            "simplejwt": lambda: f"Bearer {AccessToken.for_user(user)}",
        }
        token = tokens.get(self.way, lambda: f"Bearer {signing.dumps(str(user.pk), salt='api')}")()
        client.defaults["HTTP_AUTHORIZATION"] = token


@pytest.fixture(params=WAYS)
def api(request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A site with the code of the section that is about this way to authenticate."""
    section, authentication = WAYS[request.param]
    add_recipe(settings, monkeypatch, section)
    if authentication:
        sys.modules["chat"].ChatIdentityView.authentication_classes = [authentication]
    return Api(request.param)


def add_recipe(settings: Settings, monkeypatch: pytest.MonkeyPatch, title: str, urls: int = 1) -> None:
    """Make the first block of a section the module ``chat``, and the second or another one the site's URLs."""
    monkeypatch.setenv("NINJA_SKIP_REGISTRY", "1")  # which allows several APIs in one process
    (section,) = [each for each in tree_of("docs/clients").findall(nodes.section) if each[0].astext() == title]
    blocks = [block.astext() for block in section.findall(nodes.literal_block)]
    monkeypatch.setitem(sys.modules, "chat", run_as_module(blocks[0]))
    names: dict[str, Any] = {"path": path, "urlpatterns": [path("hijack/", include("hijack.urls"))]}
    exec(blocks[urls], names)
    settings.ROOT_URLCONF = urlconf(path("hubspot/", include("hubspot_identify.urls")), *names["urlpatterns"])


def run_as_module(code: str) -> ModuleType:
    module = ModuleType("chat")
    exec(code, vars(module))
    return module


@pytest.fixture(autouse=True)
def hubspot(token_server: TokenServer, settings: Settings) -> Iterator[TokenServer]:
    """A server that issues a token for every visitor."""
    settings.HUBSPOT_IDENTIFY = {"API_KEY": "key", "BASE_URL": token_server.url, "EMAIL_VERIFIED": True, "TIMEOUT": 30}
    yield token_server
    token_server.release()


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", ADA, "password")


@pytest.fixture
def grace() -> User:
    return User.objects.create_user("grace", GRACE, "password", is_staff=True, is_superuser=True)


def identify(client: Client) -> tuple[int, dict[str, Any]]:
    response = client.get(URL)
    return response.status_code, response.json()


# ---- credentials


def test_user_of_the_credentials_is_identified(api: Api, ada: User) -> None:
    """The response is complete: the identity for HubSpot's SDK, and headers that keep it out of every cache."""
    response = api.client_of(ada).get(URL)
    assert response.status_code == 200
    identity = response.json()["identity"]
    assert identity["email"] == email_of(identity["token"]) == ADA
    assert 0 < identity["expires_in"] <= 12 * 3600
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "private, no-store"
    assert response.headers["Vary"] == "*"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_client_without_credentials_is_rejected(api: Api, hubspot: TokenServer) -> None:
    """The view's own authentication responds."""
    status, body = identify(Client())
    assert status in {401, 403}
    assert "identity" not in body
    assert hubspot.calls == 0


def test_expired_credentials_are_rejected(api: Api, ada: User, settings: Settings, hubspot: TokenServer) -> None:
    """They are rejected even if a token of the user is in the cache."""
    settings.SESSION_COOKIE_AGE = 3600
    assert identify(api.client_of(ada))[0] == 200
    client = api.client_of(ada, age=timedelta(hours=2).total_seconds())
    if api.way == "token":  # these never expire, but can be deleted
        Token.objects.all().delete()
    assert identify(client)[0] in {401, 403}
    assert hubspot.calls == 1


def test_inactive_user_is_rejected(api: Api, ada: User) -> None:
    """A user who has been locked out gets no identity with credentials from before."""
    client = api.client_of(ada)
    assert identify(client)[0] == 200
    ada.is_active = False
    ada.save()
    assert identify(client)[0] in {401, 403}


def test_credentials_count_and_not_the_session(api: Api, ada: User, grace: User) -> None:
    """A browser in which one user is logged in may send the token of another one."""
    client = Client()
    client.force_login(ada)
    api.add_credentials(client, grace)
    status, body = identify(client)
    assert (status, body["identity"]["email"]) == (200, GRACE)


# ---- the gate


def test_user_with_unverified_address_is_not_identified(api: Api, ada: User, settings: Settings) -> None:
    """The address is checked for every request, even if a token is in the cache."""
    client = api.client_of(ada)
    assert identify(client)[1]["identity"]
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "EMAIL_VERIFIED": lambda user, email: email != ADA}
    assert identify(client) == (200, ANONYMOUS)


def test_disabled_chat(api: Api, ada: User, settings: Settings) -> None:
    """The response says that there must be no chat."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ENABLED": lambda request: False}
    assert identify(api.client_of(ada)) == (200, {"enabled": False})


def test_failing_callable(api: Api, ada: User, settings: Settings) -> None:
    """The status is 503, because the visitor could not be determined."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "EMAIL_VERIFIED": lambda user, email: 1 / 0}
    assert identify(api.client_of(ada)) == (503, ANONYMOUS)


def test_ninja_with_required_log_in(settings: Settings, monkeypatch: pytest.MonkeyPatch, ada: User) -> None:
    """The middleware exempts the views of the third block, and the authenticator decides."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    add_recipe(settings, monkeypatch, "Django Ninja", urls=2)
    assert identify(Api("ninja").client_of(ada))[1]["identity"]["email"] == ADA
    assert identify(Client())[0] == 401


def test_user_is_not_identified_during_impersonation(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, ada: User, grace: User, hubspot: TokenServer
) -> None:
    """django-hijack records the impersonation in the session."""
    add_recipe(settings, monkeypatch, "Django REST framework")
    client = Client()
    client.force_login(grace)
    assert client.post("/hijack/acquire/", {"user_pk": ada.pk}).status_code == 302
    assert identify(client) == (200, ANONYMOUS)
    assert hubspot.calls == 0


def test_token_for_impersonation(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, ada: User, hubspot: TokenServer
) -> None:
    """The callable of the section recognises a token with the claim. Other tokens identify their user."""
    add_recipe(settings, monkeypatch, "Django REST framework")
    sys.modules["chat"].ChatIdentityView.authentication_classes = [JWTAuthentication]
    settings.HUBSPOT_IDENTIFY = {
        **settings.HUBSPOT_IDENTIFY,
        "IMPERSONATED": function_of_the_page("docs/clients", "has_token_of_colleague"),
    }
    token = AccessToken.for_user(ada)
    token["act"] = {"sub": "grace"}
    assert identify(Client(headers={"Authorization": f"Bearer {token}"})) == (200, ANONYMOUS)
    assert hubspot.calls == 0
    assert identify(Api("simplejwt").client_of(ada))[1]["identity"]["email"] == ADA


def test_user_without_a_database_record_is_anonymous(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, ada: User, hubspot: TokenServer
) -> None:
    """The stateless class of simplejwt makes users that have no address, and every other attribute."""
    add_recipe(settings, monkeypatch, "Django REST framework")
    sys.modules["chat"].ChatIdentityView.authentication_classes = [JWTStatelessUserAuthentication]
    assert identify(Api("simplejwt").client_of(ada)) == (200, ANONYMOUS)
    assert hubspot.calls == 0


def function_of_the_page(page: str, name: str) -> Any:
    (block,) = (block for block in code_blocks(page) if f"def {name}" in block)
    return vars(run_as_module(block))[name]


# ---- HubSpot


def test_view_responds_while_hubspot_does_not(
    api: Api, ada: User, hubspot: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two seconds the view reports that the identity is pending. A later request gets it."""
    monkeypatch.setattr(hubspot_client, "READ_TIMEOUT", 30.0)  # so that HubSpot's response is still used
    hubspot.set_scenario("held")
    client = api.client_of(ada)
    response = client.get(URL)
    assert response.status_code == 202
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["Cache-Control"] == "private, no-store"
    body = response.json()
    assert (body["identity"], hubspot.calls) == (None, 1)
    hubspot.release()
    status, later = identify(client)
    assert (status, later["identity"]["email"], later["subject"]) == (200, ADA, body["subject"])
    assert hubspot.calls == 1


def test_asynchronous_view(settings: Settings, ada: User, hubspot: TokenServer) -> None:
    """The asynchronous function's result makes the same responses."""

    async def view(request: HttpRequest) -> HttpResponse:
        request.user = ada
        return (await services.aidentify(request, wait=0.2)).as_response()

    settings.ROOT_URLCONF = urlconf(path(URL[1:], view))
    hubspot.set_scenario("held")
    pending: Any = async_to_sync(AsyncClient().get)(URL)
    hubspot.release()
    assert (pending.status_code, pending.headers["Retry-After"]) == (202, "1")
    response = pending
    while response.status_code == 202:
        response = async_to_sync(AsyncClient().get)(URL)
    assert response.json()["identity"]["email"] == ADA
    assert response.headers["Vary"] == "*"


# ---- second factors


@pytest.fixture
def device(ada: User) -> TOTPDevice:
    """A device that the user has confirmed."""
    return TOTPDevice.objects.create(user=ada, name="phone", confirmed=True)


def log_in(user: User, device: TOTPDevice | None = None) -> Client:
    """Log in with the password, and with a device if there is one."""
    client = Client()
    client.force_login(user)
    if device:
        session = client.session
        session[DEVICE_ID_SESSION_KEY] = device.persistent_id
        session.save()
    return client


def identity_of_endpoint(client: Client) -> Any:
    """The identity from the endpoint, after the fetch of a token."""
    response = client.get("/hubspot/identity/", headers={"X-HubSpot-Identify": "1"})
    while response.status_code == 202:
        response = client.get("/hubspot/identity/", headers={"X-HubSpot-Identify": "1"})
    assert response.status_code == 200
    return response.json()["identity"]


def test_user_who_has_not_used_the_device_is_anonymous(ada: User, device: TOTPDevice, hubspot: TokenServer) -> None:
    """After the password alone, the user is anonymous. After the second factor, the user is identified."""
    assert identity_of_endpoint(log_in(ada)) is None
    assert hubspot.calls == 0
    assert identity_of_endpoint(log_in(ada, device))["email"] == ADA
    assert identity_of_endpoint(log_in(ada)) is None  # although a token is in the cache


@pytest.mark.parametrize("confirmed", [None, False])
def test_user_without_a_confirmed_device_is_identified(ada: User, confirmed: bool | None) -> None:
    """The site has not asked for a second factor, so there is none that is missing."""
    if confirmed is not None:
        TOTPDevice.objects.create(user=ada, name="phone", confirmed=confirmed)
    assert identity_of_endpoint(log_in(ada))["email"] == ADA


def test_site_without_the_middleware_of_django_otp(ada: User, device: TOTPDevice, settings: Settings) -> None:
    """Users are identified, because it is unknown whether the device was used."""
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "django_otp" not in name]
    assert identity_of_endpoint(log_in(ada))["email"] == ADA


def test_client_with_a_token_needs_no_device(api: Api, ada: User, device: TOTPDevice) -> None:
    """The site decides about the second factor when it issues the token. A session is different."""
    status, body = identify(api.client_of(ada))
    assert status == 200
    assert (body["identity"] is None) == (api.way == "session")


def test_recipe_for_users_with_a_second_factor(ada: User, grace: User, device: TOTPDevice, settings: Settings) -> None:
    """Users without a device are anonymous as well."""
    visitor = function_of_the_page("docs/visitors", "visitor_with_second_factor")
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "VISITOR": visitor}
    assert identity_of_endpoint(log_in(grace)) is None
    assert identity_of_endpoint(log_in(ada)) is None
    assert identity_of_endpoint(log_in(ada, device))["email"] == ADA
