"""The gate between a request and an identity, and the visitors that pass it."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import logging
import pickle
import re
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
from users.models import EmailAsKey, NoEmail, OtherField, Plain, Proxy, WithUUID

from hubspot_identify.conf import build_config
from hubspot_identify.exceptions import ConfigurationError, InvalidVisitorError
from hubspot_identify.visitors import MAX_CONTEXT_SIZE, Visitor, normalize_email, user_visitor, visitor_of

LONGEST = f"{'a' * 60}@{'b' * 63}.{'c' * 63}.{'d' * 57}.example"  # 254 characters
ADDRESS = "ada@example.com"
SETTINGS = {"API_KEY": "key", "EMAIL_VERIFIED": True}


def ada(**changes: Any) -> User:
    return User(
        **{"pk": 1, "username": "ada", "email": ADDRESS, "first_name": "Ada", "last_name": "Lovelace", **changes}
    )


def request_of(user: object = None, **session: object) -> HttpRequest:
    """A request as the middlewares of sessions and authentication leave it."""
    request = HttpRequest()
    request.user = ada() if user is None else user  # type: ignore[assignment]
    request.session = session  # type: ignore[assignment]
    return request


def identified(request: HttpRequest, **settings: object) -> Visitor | None:
    return visitor_of(request, build_config({**SETTINGS, **settings}))


# The address


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("ada@example.com", "ada@example.com"),
        ("Ada@EXAMPLE.Com", "ada@example.com"),
        ("ada+chat@example.com", "ada+chat@example.com"),
        ("ada@localhost", "ada@localhost"),
        (LONGEST, LONGEST),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@BüCHER.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
        ("ada@пример.рф", "ada@xn--e1afmkfd.xn--p1ai"),
        (SafeString("ada@example.com"), "ada@example.com"),
    ],
)
def test_an_address_has_one_spelling(given_: str, kept: str) -> None:
    """Lower case and A-labels, whatever was typed in; so two spellings of one address are one visitor."""
    assert normalize_email(given_) == kept
    assert type(normalize_email(given_)) is str
    assert Visitor(given_).email == kept


@pytest.mark.parametrize(
    "address",
    [
        "",
        f"a{LONGEST}",
        "ada",
        "@example.com",
        "ada@",
        "ada@@example.com",
        "ada@exa mple.com",
        " ada@example.com",
        "ada@example.com\n",
        "ada@example.com\0",
        "ada\r\nBcc: x@example.com",
        "ada@example.com, eve@example.com",
        '"a\tb"@example.com',
        "ada@-example.com",
        "ada@example..com",
        f"{'a' * 65}@{'b' * 63}.{'c' * 63}.{'d' * 63}.example",
        "a" * 1_000_000,
        f"ada@{'ü' * 1_000_000}.example",
        f"ada@{'ü' * 64}.example",  # within 254 as it stands, and too long a label
        f"{'a' * 60}@{'.'.join(['ü' * 15] * 11)}.example",  # within 254 as it stands, and not as A-labels
        "ada@\ud800.example",
        "\ud800@example.com",
        # Folded to ASCII by some step or other, these would be another's address:
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
def test_a_doubtful_address_is_refused(address: str) -> None:
    """What is no address, and what two programs might read as two different ones, identifies nobody.

    The error quotes no part of it, and no other error that does hangs on it.
    """
    with pytest.raises(InvalidVisitorError) as caught:
        normalize_email(address)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert len(str(caught.value)) < 100
    if len(address) > 5:
        assert address not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (f"a{LONGEST}", "is too long."),
        (f"{'a' * 60}@{'.'.join(['ü' * 15] * 11)}.example", "is too long or has control characters."),
        ("ada@example.com\0", "is too long or has control characters."),
        ("adä@example.com", "has characters before the @ that are not ASCII."),
        ('"eve@example.com"@example.org', "has quoted or encoded words before the @."),
        ('"ada"@example.com', "has quoted or encoded words before the @."),
        ("=?utf-8?q?eve=40example.com=3e=00?=foo@example.org", "has quoted or encoded words before the @."),
        ("ada", "is not valid."),
    ],
)
def test_a_refusal_says_why(address: str, problem: str) -> None:
    """In the log, and to whoever runs the doctor."""
    with pytest.raises(InvalidVisitorError, match=f"^The e-mail address {re.escape(problem)}$"):
        normalize_email(address)


def test_a_domain_that_can_be_read_in_two_ways() -> None:
    """The same of a domain."""
    with pytest.raises(
        InvalidVisitorError, match=r"^The domain of the e-mail address has no unambiguous ASCII form\.$"
    ):
        normalize_email("ada@straße.example")


@pytest.mark.parametrize("address", [None, b"ada@example.com", 5, ["ada@example.com"]])
def test_an_address_is_text(address: object) -> None:
    """Anything else is refused by its type."""
    with pytest.raises(InvalidVisitorError, match=rf"^The e-mail address is a {type(address).__name__}, not text\.$"):
        normalize_email(address)


@given(st.emails() | st.text() | st.builds("{}@{}".format, st.text(), st.text()))
def test_a_spelling_is_final_and_changes_nobody(address: str) -> None:
    """Any text is refused or has a spelling: printable ASCII, the same when spelled again, the same before the @."""
    try:
        spelled = normalize_email(address)
    except InvalidVisitorError:
        return
    assert spelled.isascii()
    assert spelled.isprintable()
    assert len(spelled) <= 254
    assert normalize_email(spelled) == spelled
    assert spelled.rpartition("@")[0] == address.rpartition("@")[0].lower()


# Names and context


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("Ada", "Ada"),
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
def test_names_are_cleaned(given_: str, kept: str) -> None:
    """Controls, surrogates and marks of direction are dropped, white space is one space, and 255 characters stay."""
    visitor = Visitor(ADDRESS, given_, given_)
    assert (visitor.first_name, visitor.last_name) == (kept, kept)


@given(st.text(st.characters()))
def test_any_name_can_be_sent_and_logged(name: str) -> None:
    """What is left of any text is valid Unicode on one line, and stays the same when cleaned again."""
    kept = Visitor(ADDRESS, name).first_name
    kept.encode()
    assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in kept)
    assert len(kept) <= 255
    assert Visitor(ADDRESS, kept).first_name == kept


@pytest.mark.parametrize("name", [None, 5, b"Ada"])
def test_a_name_is_text(name: Any) -> None:
    """Anything else is a mistake of the caller's, who is told the type."""
    with pytest.raises(InvalidVisitorError, match=rf"^A name is a {type(name).__name__}, not text\.$"):
        Visitor(ADDRESS, name)


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ((), ()),
        ({}, ()),
        ({"plan": "pro", "city": "Köln"}, (("city", "Köln"), ("plan", "pro"))),
        ([["plan", "pro"]], (("plan", "pro"),)),
        ([("note", "two\nlines\tand\0 \ud800\x1bmore")], (("note", "two\nlines\tand more"),)),
        ([("a\0b", "")], (("ab", ""),)),
        ({"x": "y" * (MAX_CONTEXT_SIZE - len('{"x": ""}'))}, (("x", "y" * (MAX_CONTEXT_SIZE - len('{"x": ""}'))),)),
    ],
)
def test_context_is_pairs_of_text_in_order(given_: Any, kept: object) -> None:
    """A mapping or pairs, sorted, without controls, up to 4096 characters of JSON."""
    assert Visitor(ADDRESS, context=given_).context == kept


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        (None, r"The context is a NoneType, not pairs of text\."),
        ("plan=pro", r"The context is a str, not pairs of text\."),
        ([("plan",)], r"The context is not made of pairs of text\."),
        (["ab"], r"The context is not made of pairs of text\."),
        ({"plan": 5}, r"The context is not made of pairs of text\."),
        ([("plan", "a"), ("plan", "b")], r"The context has a name twice, or one without letters\."),
        ([("plan", "a"), ("plan\0", "b")], r"The context has a name twice, or one without letters\."),
        ({"": "a"}, r"The context has a name twice, or one without letters\."),
        ({"x": "y" * (MAX_CONTEXT_SIZE + 1)}, r"The context is longer than 4096 characters of JSON\."),
        ({"x": "ü" * (MAX_CONTEXT_SIZE // 6)}, r"The context is longer than 4096 characters of JSON\."),
        ({"x": "y" * 1_000_000}, r"The context is longer than 4096 characters of JSON\."),
    ],
)
def test_other_context_is_refused(context: Any, problem: str) -> None:
    """The error says what is wrong with it and quotes none of it."""
    with pytest.raises(InvalidVisitorError, match=f"^{problem}$"):
        Visitor(ADDRESS, context=context)


@given(st.dictionaries(st.text(st.characters(), min_size=1), st.text(st.characters()), max_size=4))
def test_any_context_that_is_kept_can_be_sent(context: dict[str, str]) -> None:
    """What is kept is valid Unicode."""
    try:
        visitor = Visitor(ADDRESS, context=context)  # type: ignore[arg-type]
    except InvalidVisitorError:
        return
    json.dumps(dict(visitor.context), ensure_ascii=False).encode()


def test_a_visitor_is_a_value() -> None:
    """Equal by content, hashable, frozen, copied and pickled whole, and silent about itself."""
    visitor = Visitor("Ada@example.com", "Ada", "Lovelace", {"plan": "pro"})  # type: ignore[arg-type]
    assert visitor == Visitor("ada@example.com", " Ada", "Lovelace", (("plan", "pro"),))
    assert len({visitor, copy.deepcopy(visitor), pickle.loads(pickle.dumps(visitor))}) == 1
    assert dataclasses.replace(visitor, email="EVE@example.com").email == "eve@example.com"
    assert repr(visitor) == "Visitor()"
    with pytest.raises(dataclasses.FrozenInstanceError):
        visitor.email = "eve@example.com"  # type: ignore[misc]


# The default builder


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
        (NoEmail(pk=1, phone="1"), None),
        (WithUUID(email=ADDRESS, first_name=None), Visitor(ADDRESS)),
        (WithUUID(email=ADDRESS, first_name="Ada"), Visitor(ADDRESS, "Ada")),
        (EmailAsKey(email=ADDRESS), Visitor(ADDRESS)),
        (Proxy(pk=1, email=ADDRESS, first_name="Ada"), Visitor(ADDRESS, "Ada")),
        (SimpleNamespace(pk=1, email=ADDRESS), Visitor(ADDRESS)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_default_builder_knows_any_user_model(user: object, visitor: Visitor | None) -> None:
    """Address and names from wherever the model says; nobody without a row, or without an address."""
    assert user_visitor(user, request_of(user)) == visitor
    assert user_visitor(user, None) == visitor


# The gate


def test_a_verified_user_passes() -> None:
    """All five questions answered well, the visitor is the session's user."""
    assert identified(request_of()) == Visitor(ADDRESS, "Ada", "Lovelace")


def test_the_questions_are_asked_in_their_order_and_stop_at_the_first_no() -> None:
    """ENABLED, logged in, impersonated, VISITOR, verified: none is asked once an earlier one said no."""
    asked: list[str] = []

    def answer(name: str, value: object) -> Callable[..., object]:
        def callable_(*args: object) -> object:
            asked.append(name)
            return value

        return callable_

    class Watched:
        pk = 1

        @property
        def is_authenticated(self) -> object:
            return answer("logged in", good["logged in"])()

    visitor = Visitor(ADDRESS)
    answers: dict[str, tuple[object, object]] = {
        "ENABLED": (True, False),
        "logged in": (True, False),
        "IMPERSONATED": (False, True),
        "VISITOR": (visitor, None),
        "EMAIL_VERIFIED": (True, False),
    }
    good: dict[str, object] = {name: yes for name, (yes, _) in answers.items()}

    def ask() -> Visitor | None:
        asked.clear()
        callables = {name: answer(name, value) for name, value in good.items() if name.isupper()}
        return identified(request_of(Watched()), **callables)

    assert ask() == visitor
    assert asked == list(answers)
    for number, (name, (yes, no)) in enumerate(answers.items(), 1):
        good[name] = no
        assert ask() is None
        assert asked == list(answers)[:number]
        good[name] = yes


@pytest.mark.parametrize(
    "user",
    [
        AnonymousUser(),
        SimpleNamespace(pk=1, email=ADDRESS),
        SimpleNamespace(pk=1, email=ADDRESS, is_authenticated=lambda: True),
        SimpleNamespace(pk=1, email=ADDRESS, is_authenticated=1),
    ],
    ids=["anonymous", "says nothing", "says it by a method", "says 1"],
)
def test_only_a_plain_true_means_logged_in(user: object) -> None:
    """A user object that does not say so itself is nobody, and VISITOR never sees it."""
    assert identified(request_of(user), VISITOR=lambda user, request: Visitor(ADDRESS)) is None


def test_a_request_without_user_is_nobody() -> None:
    """Where a page is made before the authentication, VISITOR is not asked about a user that isn't there."""
    assert identified(HttpRequest(), VISITOR=lambda user, request: Visitor(user.email)) is None


def test_a_site_without_users_has_its_visitors_all_the_same(settings: Settings) -> None:
    """Where django.contrib.auth is not installed, VISITOR alone knows who somebody is; the default knows nobody."""
    settings.INSTALLED_APPS = ["django.contrib.sessions", "hubspot_identify"]
    request = HttpRequest()
    request.session = {"customer": ADDRESS}  # type: ignore[assignment]
    assert identified(request, VISITOR=lambda user, request: Visitor(request.session["customer"])) == Visitor(ADDRESS)
    assert identified(request) is None


def test_a_request_without_session_has_its_user() -> None:
    """Users may come from elsewhere than a session, as in APIs."""
    request = request_of()
    del request.session
    assert identified(request) == Visitor(ADDRESS, "Ada", "Lovelace")


@pytest.mark.parametrize("flag", ["is_hijacked", "is_impersonate"])
def test_a_flag_on_the_user_is_impersonation(flag: str) -> None:
    """The marks that django-hijack and django-impersonate put on the user are enough by themselves."""
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
def test_a_mark_in_the_session_is_impersonation(key: str, marks: list[object], cleared: list[object]) -> None:
    """The same for what the packages keep in the session, whether or not their middleware runs."""
    for mark in marks:
        assert identified(request_of(**{key: mark})) is None
    for mark in cleared:
        assert identified(request_of(**{key: mark})) is not None


def test_the_mark_of_loginas_may_have_another_name(settings: Settings) -> None:
    """django-loginas lets sites choose the key in the session."""
    settings.LOGINAS_FROM_USER_SESSION_FLAG = "came_from"
    assert identified(request_of(came_from="1:signed")) is None
    assert identified(request_of(loginas_from_user="1:signed")) is not None


def test_home_made_impersonation_is_asked_for() -> None:
    """IMPERSONATED is called with the request, and a true answer means nobody."""

    def impersonated(request: HttpRequest) -> Any:
        return request.session.get("acting_as")

    assert identified(request_of(acting_as="eve"), IMPERSONATED=impersonated) is None
    assert identified(request_of(), IMPERSONATED=impersonated) is not None


def test_who_is_not_enabled_is_nobody() -> None:
    """A callable ENABLED decides for each request; off is off for all."""
    enabled = {"ENABLED": lambda request: "yes" in request.session}
    assert identified(request_of(yes=1), **enabled) is not None
    assert identified(request_of(), **enabled) is None
    assert identified(request_of(), ENABLED=False) is None


def test_an_unverified_address_is_nobody() -> None:
    """EMAIL_VERIFIED is asked about the very user and the address in its one spelling; a falsy answer means no."""
    user = ada(email="Ada@Example.com")
    asked: list[tuple[object, str]] = []
    answers: list[Any] = [None, False, True]

    def verified(user: object, address: str) -> Any:
        asked.append((user, address))
        return answers[len(asked) - 1]

    visitors = [identified(request_of(user), EMAIL_VERIFIED=verified) for _ in answers]
    assert visitors == [None, None, Visitor(ADDRESS, "Ada", "Lovelace")]
    assert asked == [(user, ADDRESS)] * 3


def test_no_user_is_identified_if_email_verified_is_false() -> None:
    """The setting lets a site show the chat before it knows which addresses have been verified."""
    assert identified(request_of(), EMAIL_VERIFIED=False) is None


def test_a_visitor_of_another_type_is_a_mistake() -> None:
    """A VISITOR that returns something else is told so, by type alone."""
    with pytest.raises(TypeError, match=r"^HUBSPOT_IDENTIFY\['VISITOR'\] returned a str, not a Visitor or None\.$"):
        identified(request_of(), VISITOR=lambda user, request: ADDRESS)


class Promise:
    """What an event loop could wait for, and is no coroutine."""

    __await__ = iter


@pytest.mark.parametrize("key", ["ENABLED", "IMPERSONATED", "EMAIL_VERIFIED"])
@pytest.mark.parametrize(
    "answer", [lambda *args: asyncio.sleep(0, False), lambda *args: Promise()], ids=["coroutine", "awaitable"]
)
def test_an_awaitable_is_no_yes(key: str, answer: Callable[..., object]) -> None:
    """A callable that hands on what an asynchronous one returned has not answered: that would always be true."""
    with pytest.raises(ConfigurationError, match=rf"^HUBSPOT_IDENTIFY\['{key}'\] returned an awaitable: write a "):
        identified(request_of(), **{key: answer})


@pytest.mark.parametrize(
    ("user", "name"),
    [
        (ada(email="not an address"), "User 1"),
        (WithUUID(pk=uuid.UUID(int=7), email="not an address"), f"User {uuid.UUID(int=7)}"),
        (EmailAsKey(email="not an address"), "User (with a key of text)"),
    ],
)
def test_an_unusable_address_is_anonymous_and_logged_without_it(
    user: User, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the user by a key that can't be the address, and says what is wrong."""
    with caplog.at_level(logging.INFO):
        assert identified(request_of(user)) is None
        assert identified(request_of(user)) is None  # within a minute, which needs no second line
    assert caplog.messages == [f"{name} is not identified: The e-mail address is not valid."]


@given(name=st.text(), value=st.text())
def test_nothing_the_client_sends_changes_who_it_is(name: str, value: str) -> None:
    """Parameters, bodies, headers and cookies are not looked at: the request offers nothing but user and session."""

    class Reluctant:
        def __init__(self, user: object) -> None:
            self.user = user
            self.session = {name: value} if name not in MARKS else {}

    request: Any = Reluctant(ada())
    assert identified(request) == Visitor(ADDRESS, "Ada", "Lovelace")


MARKS = {"hijack_history", "_impersonate", "exit_users_pk", "loginas_from_user"}
