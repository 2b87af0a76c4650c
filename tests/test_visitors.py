"""Which visitor a request belongs to, and what a ``Visitor`` accepts."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import unicodedata
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings
from support.app_settings import configure
from support.pages import keep_token
from users.models import EmailAsKey, NoEmail, OneName, OtherField, Plain, Proxy, WithUUID

from hubspot_identify import services
from hubspot_identify.conf import build_config
from hubspot_identify.eligibility import visitor_of
from hubspot_identify.exceptions import InvalidVisitorError
from hubspot_identify.services import Identification
from hubspot_identify.visitors import MAX_CONTEXT_SIZE, Visitor, normalize_email, user_visitor

LONGEST = f"{'a' * 60}@{'b' * 63}.{'c' * 63}.{'d' * 57}.example"  # 254 characters
ADDRESS = "ada@example.com"
SETTINGS = {"API_KEY": "key", "EMAIL_VERIFIED": True}


def ada(**changes: Any) -> User:
    return User(
        **{"pk": 1, "username": "ada", "email": ADDRESS, "first_name": "Ada", "last_name": "Lovelace", **changes}
    )


def request_of(user: object = None, **session: object) -> Any:
    """Return a request with the attributes of the session and authentication middleware."""
    request: Any = HttpRequest()
    request.user = ada() if user is None else user
    request.session = session
    return request


def identified(request: HttpRequest, **settings: object) -> Visitor | None:
    return visitor_of(request, build_config({**SETTINGS, **settings}))


# The address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("Ada@EXAMPLE.Com", "ada@example.com"),
        ("ada+chat@example.com", "ada+chat@example.com"),
        ("ada@localhost", "ada@localhost"),
        (LONGEST, LONGEST),
        ("ada@BüCHER.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
        (SafeString("ada@example.com"), "ada@example.com"),
    ],
)
def test_email_address_is_normalised(address: str, expected: str) -> None:
    """It is in lower case with an ASCII domain, so two spellings of one address are one visitor."""
    assert normalize_email(address) == expected
    assert type(normalize_email(address)) is str
    assert Visitor(address).email == expected


@pytest.mark.parametrize(
    "address",
    [
        "",
        f"a{LONGEST}",
        "ada",
        "ada@exa mple.com",
        "ada@example.com\n",
        "ada@example.com\0",
        "ada\r\nBcc: x@example.com",
        "ada@example.com, eve@example.com",
        '"eve@example.com"@example.org',
        "=?utf-8?q?eve=40example.com=3e=00?=foo@example.org",
        "ada@example..com",
        "a" * 1_000_000,
        f"ada@{'ü' * 1_000_000}.example",
        f"ada@{'ü' * 64}.example",  # within 254 characters, but the label is too long
        f"{'a' * 60}@{'.'.join(['ü' * 15] * 11)}.example",  # within 254 characters, but not as ASCII
        "ada@\ud800.example",
        "\ud800@example.com",
        # These would become another person's address if a step converted them to ASCII:
        "m\u0131ke@example.com",  # dotless i: upper() makes it I
        "mi\u212ae@example.com",  # Kelvin sign: lower() makes it k
        "ada@exampl\u017fe.com",  # long s: NFKC makes it s
        "ada@\uff45xample.com",  # full width: NFKC makes it e
        "ada@exam\u200bple.com",  # zero width space: nameprep drops it
        "ada@exam\u00adple.com",  # soft hyphen: nameprep drops it
        "ada@example。com",  # ideographic full stop: IDNA makes it a dot
        "ada@straße.example",  # IDNA 2003 makes it strasse, IDNA 2008 another domain
        "ada@BÜCHER.example",
        "ada@bu\u0308cher.example",  # decomposed
        "\u0430da@example.com",  # Cyrillic a
    ],
)
def test_ambiguous_email_address_is_refused(address: str) -> None:
    """Neither an invalid address nor one that two programs could read differently identifies a visitor.

    The exception does not quote it, and chains no other exception that does.
    """
    with pytest.raises(InvalidVisitorError) as caught:
        normalize_email(address)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert len(str(caught.value)) < 100
    if len(address) > 5:
        assert address not in str(caught.value)


@pytest.mark.parametrize("value", [None, b"ada@example.com"])
def test_email_address_must_be_text(value: object) -> None:
    """The exception names the type."""
    with pytest.raises(InvalidVisitorError, match=type(value).__name__):
        normalize_email(value)


@given(st.emails() | st.text() | st.builds("{}@{}".format, st.text(), st.text()))
def test_normalisation_is_stable_and_keeps_the_local_part(address: str) -> None:
    """Any text is refused, or becomes printable ASCII that does not change when it is normalised again."""
    try:
        normalised = normalize_email(address)
    except InvalidVisitorError:
        return
    assert normalised.isascii()
    assert normalised.isprintable()
    assert len(normalised) <= 254
    assert normalize_email(normalised) == normalised
    assert normalised.rpartition("@")[0] == address.rpartition("@")[0].lower()


# Names and context


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("  Ada \t Augusta\n", "Ada Augusta"),
        ("Zoë 李 O'Brien-🦄", "Zoë 李 O'Brien-🦄"),
        ("👩‍💻", "👩‍💻"),
        ("A\0d\x1ba\x7f", "Ada"),
        ("Ada\ud800", "Ada"),
        ("\u202eadA\u2066", "adA"),
        ("Ada\u2028Lovelace", "Ada Lovelace"),
        ("</script><script>alert(1)</script>", "</script><script>alert(1)</script>"),
        ("a" * 1_000_000, "a" * 255),
        ("a" * 254 + " b", "a" * 254),
        (" " * 1_000_000 + "a", ""),
    ],
)
def test_names_are_cleaned(name: str, expected: str) -> None:
    """Control characters, surrogates and direction marks are removed, white space is collapsed, and length limited."""
    visitor = Visitor(ADDRESS, name, name)
    assert (visitor.first_name, visitor.last_name) == (expected, expected)


@given(st.text(st.characters()))
def test_any_cleaned_name_is_one_line_of_valid_unicode(name: str) -> None:
    """It does not change when it is cleaned again."""
    cleaned = Visitor(ADDRESS, name).first_name
    cleaned.encode()
    assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in cleaned)
    assert len(cleaned) <= 255
    assert Visitor(ADDRESS, cleaned).first_name == cleaned


def test_name_must_be_text() -> None:
    """The exception names the type."""
    name: Any = None
    with pytest.raises(InvalidVisitorError, match="NoneType"):
        Visitor(ADDRESS, name)


LONGEST_VALUE = "y" * (MAX_CONTEXT_SIZE - len('{"x": ""}'))


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, ()),
        ({"plan": "pro", "city": "Köln"}, (("city", "Köln"), ("plan", "pro"))),
        ([("note", "two\nlines\tand\0 \ud800\x1bmore")], (("note", "two\nlines\tand more"),)),
        ([["a\0b", ""]], (("ab", ""),)),
        ({"x": LONGEST_VALUE}, (("x", LONGEST_VALUE),)),
    ],
)
def test_context_is_sorted_and_cleaned(context: Any, expected: object) -> None:
    """It may be a mapping or pairs, of up to 4096 characters of JSON."""
    assert Visitor(ADDRESS, context=context).context == expected


@pytest.mark.parametrize(
    "context",
    [
        None,
        [("secret",)],
        ["ab"],
        {"secret": 5},
        [("secret", "a"), ("secret\0", "b")],
        {"": "secret"},
        {"secret": "y" * (MAX_CONTEXT_SIZE + 1)},
        {"secret": "ü" * (MAX_CONTEXT_SIZE // 6)},
        [("secret", "y" * MAX_CONTEXT_SIZE)] * 10_000,
    ],
    ids=[
        "None",
        "not a pair",
        "text for a pair",
        "number",
        "duplicate",
        "empty name",
        "too long",
        "too long as JSON",
        "megabytes",
    ],
)
def test_invalid_context_is_refused(context: Any) -> None:
    """The exception does not quote it."""
    with pytest.raises(InvalidVisitorError) as caught:
        Visitor(ADDRESS, context=context)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 100


@given(st.dictionaries(st.text(st.characters(), min_size=1), st.text(st.characters()), max_size=4))
def test_any_accepted_context_is_valid_unicode(context: Any) -> None:
    """It can be encoded as JSON and sent."""
    try:
        visitor = Visitor(ADDRESS, context=context)
    except InvalidVisitorError:
        return
    json.dumps(dict(visitor.context), ensure_ascii=False).encode()


def test_visitor_is_an_immutable_value() -> None:
    """Visitors with the same content are equal. They can be copied and pickled, and their ``repr`` shows nothing."""
    context: Any = {"plan": "pro"}
    visitor: Any = Visitor("Ada@example.com", "Ada", "Lovelace", context)
    assert visitor == Visitor("ada@example.com", " Ada", "Lovelace", (("plan", "pro"),))
    assert len({visitor, copy.deepcopy(visitor), pickle.loads(pickle.dumps(visitor))}) == 1
    assert dataclasses.replace(visitor, email="EVE@example.com").email == "eve@example.com"
    assert repr(visitor) == "Visitor()"
    with pytest.raises(dataclasses.FrozenInstanceError):
        visitor.email = "eve@example.com"


# The default VISITOR


@pytest.mark.parametrize(
    ("user", "visitor"),
    [
        (ada(), Visitor(ADDRESS, "Ada", "Lovelace")),
        (SimpleLazyObject(ada), Visitor(ADDRESS, "Ada", "Lovelace")),
        (ada(first_name="", last_name=""), Visitor(ADDRESS)),
        (ada(email=""), None),
        (ada(pk=None), None),
        (AnonymousUser(), None),
        (None, None),
        (Plain(pk=1, email=ADDRESS), Visitor(ADDRESS)),
        (OtherField(pk=1, mailbox=ADDRESS, email="invoices@example.com"), Visitor(ADDRESS)),
        (OtherField(pk=1, mailbox=None, email="invoices@example.com"), None),
        (OneName(pk=1, email=ADDRESS, name=" Ada King  Lovelace "), Visitor(ADDRESS, "Ada", "King Lovelace")),
        (OneName(pk=1, email=ADDRESS, name="Ada"), Visitor(ADDRESS, "Ada")),
        (OneName(pk=1, email=ADDRESS), Visitor(ADDRESS)),
        (SimpleNamespace(pk=1, email=ADDRESS, name="ada99", last_name=""), Visitor(ADDRESS)),
        (SimpleNamespace(pk=1, email=ADDRESS, get_email_field_name=lambda: None), Visitor(ADDRESS)),
        (NoEmail(pk=1, phone="1"), None),
        (WithUUID(email=ADDRESS, first_name=None), Visitor(ADDRESS)),
        (Proxy(pk=1, email=ADDRESS, first_name="Ada"), Visitor(ADDRESS, "Ada")),
        (SimpleNamespace(pk=1, email=ADDRESS), Visitor(ADDRESS)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_default_visitor_supports_any_user_model(user: object, visitor: Visitor | None) -> None:
    """The address comes from the field that the model names. A user without an address or a row is anonymous."""
    assert user_visitor(user, request_of(user)) == visitor
    assert user_visitor(user, None) == visitor


# The visitor of a request


def test_verified_user_is_identified() -> None:
    """The visitor is the user of the session."""
    assert identified(request_of()) == Visitor(ADDRESS, "Ada", "Lovelace")


def test_conditions_are_evaluated_in_order_up_to_the_first_that_fails(settings: Settings) -> None:
    """The order is ENABLED, logged in, impersonated, VISITOR, verified. Each is evaluated once, before the cache."""
    keep_token(ada())
    evaluated: list[str] = []

    def returning(name: str, value: object) -> Callable[..., object]:
        def callable_(*args: object) -> object:
            evaluated.append(name)
            return value

        return callable_

    class UserWithProperty:
        pk = 1

        @property
        def is_authenticated(self) -> object:
            return returning("logged in", values["logged in"])()

    visitor = Visitor(ADDRESS)
    conditions: dict[str, tuple[object, object]] = {
        "ENABLED": (True, False),
        "logged in": (True, False),
        "IMPERSONATED": (False, True),
        "VISITOR": (visitor, None),
        "EMAIL_VERIFIED": (True, False),
    }
    values: dict[str, object] = {name: passing for name, (passing, _) in conditions.items()}

    def identify() -> Identification:
        evaluated.clear()
        configure(settings, **{name: returning(name, value) for name, value in values.items() if name.isupper()})
        return services.identify(request_of(UserWithProperty()))

    assert identify().identity is not None
    assert evaluated == list(conditions)
    for number, (name, (passing, failing)) in enumerate(conditions.items(), 1):
        values[name] = failing
        assert identify() == Identification(None, None, enabled=name != "ENABLED")
        assert evaluated == list(conditions)[:number]
        values[name] = passing


@pytest.mark.parametrize(
    "user",
    [
        AnonymousUser(),
        SimpleNamespace(pk=1, email=ADDRESS),
        SimpleNamespace(pk=1, email=ADDRESS, is_authenticated=lambda: True),
        SimpleNamespace(pk=1, email=ADDRESS, is_authenticated=1),
    ],
    ids=["anonymous", "missing", "method", "1"],
)
def test_user_is_anonymous_unless_is_authenticated_is_true(user: object) -> None:
    """``VISITOR`` is not called for any other value."""
    assert identified(request_of(user), VISITOR=lambda user, request: Visitor(ADDRESS)) is None


def test_request_without_a_user_is_anonymous() -> None:
    """If a page is rendered before the authentication middleware, ``VISITOR`` is not called."""
    assert identified(HttpRequest(), VISITOR=lambda user, request: Visitor(user.email)) is None


def test_visitor_setting_identifies_without_django_auth(settings: Settings) -> None:
    """If ``django.contrib.auth`` is not installed, a custom ``VISITOR`` decides. The default identifies no visitor."""
    settings.INSTALLED_APPS = ["django.contrib.sessions", "hubspot_identify"]
    request: Any = HttpRequest()
    request.session = {"customer": ADDRESS}
    assert identified(request, VISITOR=lambda user, request: Visitor(request.session["customer"])) == Visitor(ADDRESS)
    assert identified(request) is None


def test_request_without_a_session_has_its_user() -> None:
    """In an API, the user may not come from a session."""
    request = request_of()
    del request.session
    assert identified(request) == Visitor(ADDRESS, "Ada", "Lovelace")


@pytest.mark.parametrize("flag", ["is_hijacked", "is_impersonate"])
def test_impersonated_user_is_anonymous(flag: str) -> None:
    """django-hijack and django-impersonate set an attribute of the user."""
    user = ada()
    setattr(user, flag, True)
    assert identified(request_of(user)) is None
    setattr(user, flag, False)
    assert identified(request_of(user)) is not None


@pytest.mark.parametrize(
    ("key", "marks", "cleared"),
    [
        ("hijack_history", [["1"], ["1", "2"]], [[], None]),
        ("_impersonate", [1, 0, "uuid"], [None]),
        ("exit_users_pk", [[["1", "backend"]]], [[], None]),
        ("loginas_from_user", ["1:signed"], [None]),
    ],
)
def test_session_of_an_impersonator_is_anonymous(key: str, marks: list[object], cleared: list[object]) -> None:
    """The session keys of four packages are known, so their middleware need not have run."""
    for mark in marks:
        assert identified(request_of(**{key: mark})) is None
    for mark in cleared:
        assert identified(request_of(**{key: mark})) is not None


def test_session_key_of_loginas_is_configurable(settings: Settings) -> None:
    """django-loginas has a setting for its session key."""
    settings.LOGINAS_FROM_USER_SESSION_FLAG = "came_from"
    assert identified(request_of(came_from="1:signed")) is None
    assert identified(request_of(loginas_from_user="1:signed")) is not None


def test_impersonated_setting_makes_a_request_anonymous() -> None:
    """``IMPERSONATED`` is called with the request. A true value means that the user is impersonated."""

    def impersonated(request: HttpRequest) -> Any:
        return request.session.get("acting_as")

    assert identified(request_of(acting_as="eve"), IMPERSONATED=impersonated) is None
    assert identified(request_of(), IMPERSONATED=impersonated) is not None


def test_user_with_an_unverified_address_is_anonymous() -> None:
    """``EMAIL_VERIFIED`` is called with the user and the normalised address. A false value means unverified."""
    user = ada(email="Ada@Example.com")
    calls: list[tuple[object, str]] = []
    results: list[Any] = [None, False, True]

    def verified(user: object, address: str) -> Any:
        calls.append((user, address))
        return results[len(calls) - 1]

    visitors = [identified(request_of(user), EMAIL_VERIFIED=verified) for _ in results]
    assert visitors == [None, None, Visitor(ADDRESS, "Ada", "Lovelace")]
    assert calls == [(user, ADDRESS)] * 3


def test_no_user_is_identified_if_email_verified_is_false() -> None:
    """The setting lets a site show the chat before it knows which addresses have been verified."""
    assert identified(request_of(), EMAIL_VERIFIED=False) is None


@pytest.mark.parametrize(
    ("user", "key"),
    [
        (ada(email="not an address"), "1"),
        (WithUUID(pk=uuid.UUID(int=7), email="not an address"), str(uuid.UUID(int=7))),
        (EmailAsKey(email="not an address"), ""),
    ],
)
def test_unusable_address_is_logged_without_the_address(user: User, key: str, caplog: pytest.LogCaptureFixture) -> None:
    """The user is anonymous. The log names the primary key, unless it is text that may be the address."""
    with caplog.at_level(logging.INFO):
        assert identified(request_of(user)) is None
        assert identified(request_of(user)) is None  # within a minute, so it is not logged again
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubspot_identify.eligibility", logging.INFO)
    assert key in record.getMessage()
    assert "not an address" not in record.getMessage()


class RequestWithoutData:
    """A request that raises ``AttributeError`` for parameters, bodies, headers and cookies."""

    def __init__(self, session: dict[str, object]) -> None:
        self.user = ada()
        self.session = session


IMPERSONATION_KEYS = ("hijack_history", "_impersonate", "exit_users_pk", "loginas_from_user")


@given(name=st.text().filter(lambda name: name not in IMPERSONATION_KEYS), value=st.text())
def test_client_cannot_change_the_visitor(name: str, value: str) -> None:
    """Of a request, only the user and the session are read, and no unknown key of the session matters."""
    request: Any = RequestWithoutData({name: value})
    assert identified(request) == Visitor(ADDRESS, "Ada", "Lovelace")
