"""HubSpot's refusals: each status an error named by what the caller would do, however odd the body."""

from __future__ import annotations

import datetime
import email.utils
import json
import math
import pickle
import time
from typing import Any

import pytest
import responses
from hypothesis import example, given
from hypothesis import strategies as st

from hubspot_identify.answers import MAX_SECRETS, MAX_TEXT, MAX_TEXTS, error_of, parse_retry_after, personal_data
from hubspot_identify.client import TokenClient
from hubspot_identify.conf import build_config
from hubspot_identify.exceptions import (
    APIError,
    AuthenticationError,
    HubSpotIdentifyError,
    InvalidRequestError,
    PermissionDeniedError,
    RateLimitError,
    UnavailableError,
    UnexpectedResponseError,
)
from hubspot_identify.visitors import Visitor

KEY = "pat-na1-1b2c3d4e"
ADA = Visitor("ada@example.com")
CONFIG = build_config({"API_KEY": KEY, "EMAIL_VERIFIED": True})
URL = "https://api.hubapi.com/conversations/v3/visitor-identification/tokens/create"
ID = "0d1e2f3a-aaaa-bbbb-cccc-000000000001"

NOT_ACCEPTED = "it does not accept the visitor's data"
LOOK = "look at BASE_URL and TOKEN_PATH"
SCOPE = "conversations.visitor_identification.tokens.create"
MEANINGS: dict[int, tuple[type[APIError], str]] = {
    400: (InvalidRequestError, NOT_ACCEPTED),
    401: (AuthenticationError, "the key in HUBSPOT_IDENTIFY['API_KEY'] is wrong, expired or was deactivated"),
    402: (InvalidRequestError, "it refused"),
    403: (
        PermissionDeniedError,
        f"the key lacks the scope {SCOPE}, or the account is below Professional",
    ),
    404: (InvalidRequestError, f"there is no such path: {LOOK}"),
    405: (InvalidRequestError, f"this path takes no POST: {LOOK}"),
    410: (InvalidRequestError, "this version of the API is no more: look at TOKEN_PATH"),
    415: (InvalidRequestError, f"it does not accept JSON here: {LOOK}"),
    422: (InvalidRequestError, NOT_ACCEPTED),
    423: (UnavailableError, "the account is locked for a moment"),
    429: (RateLimitError, "too many calls"),
    477: (UnavailableError, "the account is being moved between data centres"),
    488: (
        InvalidRequestError,
        "the account is in another data centre: create a new key, or set BASE_URL to that data centre's host",
    ),
    **dict.fromkeys((500, 502, 503, 504, 520, 521, 522, 523, 524, 525), (UnavailableError, "it is in trouble")),
}


def refusal(status: int, body: object = b"", **headers: str) -> APIError:
    """The error that the client raises for a response of HubSpot's."""
    error = response_error(status, body, **headers)
    assert isinstance(error, APIError)
    return error


def response_error(status: int, body: object = b"", **headers: str) -> HubSpotIdentifyError:
    """The error that the client raises for any response."""
    raw = body if isinstance(body, (bytes, str)) else json.dumps(body)
    with responses.RequestsMock(assert_all_requests_are_fired=True) as mock:
        mock.post(URL, raw, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})
        client = TokenClient()
        with pytest.raises(HubSpotIdentifyError) as caught:
            client.create_token(ADA, CONFIG)
    return caught.value


@pytest.mark.parametrize("status", MEANINGS)
def test_each_status_is_its_error(status: int) -> None:
    """With everything HubSpot documents in the body: the class, every attribute, and the text in full."""
    error = refusal(
        status,
        {
            "status": "error",
            "category": "SOME_CATEGORY",
            "subCategory": "some.subcategory",
            "correlationId": ID,
            "message": "That did not work.",
            "context": {"missingScopes": ["scope-a", "scope-b"]},
            "links": {"scopes": "https://developers.hubspot.com/scopes"},
            "errors": [{"message": "x", "code": "y", "in": "z", "context": {}}],
        },
        Retry_After="7",
    )
    kind, meaning = MEANINGS[status]
    assert type(error) is kind
    assert str(error) == f"HubSpot answered {status}: {meaning} (category SOME_CATEGORY, correlation id {ID})"
    assert error.args == (str(error),)
    assert vars(error) == {
        "status": status,
        "category": "SOME_CATEGORY",
        "hubspot_message": "That did not work.",
        "correlation_id": ID,
        "context": {"missingScopes": ["scope-a", "scope-b"]},
        "links": {"scopes": "https://developers.hubspot.com/scopes"},
        "retry_after": 7.0,
        "policy": "",
        "key_rejected": False,
    }


@pytest.mark.parametrize("status", [status for status in MEANINGS if status not in (401, 403)])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        "<html><h1>Bad gateway</h1>",
        b"\xff\xfe\x00",
        [],
        {},
        None,
        {
            "category": 5,
            "message": ["x"],
            "correlationId": {},
            "context": [],
            "links": "https://x",
            "policyName": None,
        },
        {"context": {"a": "text"}, "links": {"b": 5}},
    ],
)
def test_every_field_is_optional(status: int, body: object) -> None:
    """HTML, nothing, other JSON and fields of other types: the same class, and attributes that say nothing."""
    error = refusal(status, body)
    kind, meaning = MEANINGS[status]
    assert type(error) is kind
    assert str(error) == f"HubSpot answered {status}: {meaning}"
    assert vars(error) == {
        "status": status,
        "category": "",
        "hubspot_message": "",
        "correlation_id": "",
        "context": {},
        "links": {},
        "retry_after": None,
        "policy": "",
        "key_rejected": False,
    }


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    "body", [b"", "<h1>Forbidden</h1>", {}, {"message": "Forbidden"}, {"category": 5, "correlationId": "two words"}]
)
def test_401_or_403_of_an_intermediary_is_unexpected(status: int, body: object) -> None:
    """A firewall that blocks one visitor's name says nothing about the key."""
    error = response_error(status, body)
    assert type(error) is UnexpectedResponseError
    assert error.status == status
    assert "key" not in str(error)


@pytest.mark.parametrize("status", [401, 403])
def test_401_or_403_with_the_header_of_hubspot_is_hubspots(status: int) -> None:
    """Its correlation id may be in the header alone."""
    error = refusal(status, b"", X_HubSpot_Correlation_Id=ID)
    assert (type(error), error.correlation_id) == (MEANINGS[status][0], ID)


@pytest.mark.parametrize(
    ("status", "body", "key_rejected"),
    [
        (401, {"category": "INVALID_AUTHENTICATION"}, True),
        (401, {"category": "EXPIRED_AUTHENTICATION"}, True),
        (403, {"category": "MISSING_SCOPES"}, True),
        (488, {"status": "error", "correctHublet": "eu1"}, True),
        (401, {"correlationId": ID}, False),
        (403, {"category": "OTHER"}, False),
        (488, {}, False),
        (404, {"category": "MISSING_SCOPES"}, False),
    ],
)
def test_key_is_rejected_only_where_hubspot_says_so(status: int, body: object, key_rejected: bool) -> None:
    """The status alone is no evidence: a category of HubSpot's, or its name of the right data centre, is."""
    assert refusal(status, body).key_rejected is key_rejected


def test_one_of_category_and_correlation_id_is_enough() -> None:
    """The text holds what there is."""
    assert str(refusal(400, {"category": "A"})).endswith("(category A)")
    assert str(refusal(400, {"correlationId": ID})).endswith(f"(correlation id {ID})")


def test_the_rate_limits_own_body_is_understood() -> None:
    """429 says errorType and policyName in place of a category, and the window where there is no Retry-After."""
    body = {"status": "error", "errorType": "RATE_LIMIT", "policyName": "TEN_SECONDLY_ROLLING", "correlationId": ID}
    error = refusal(429, body, X_HubSpot_RateLimit_Interval_Milliseconds="10000")
    assert (error.category, error.policy, error.retry_after) == ("RATE_LIMIT", "TEN_SECONDLY_ROLLING", 10.0)


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"Retry_After": "3", "X_HubSpot_RateLimit_Interval_Milliseconds": "10000"}, 3.0),
        (429, {"X_HubSpot_RateLimit_Interval_Milliseconds": "soon"}, None),
        (429, {"X_HubSpot_RateLimit_Interval_Milliseconds": "-1"}, None),
        (503, {"X_HubSpot_RateLimit_Interval_Milliseconds": "10000"}, None),
        (477, {"Retry_After": "86400"}, 86400.0),
        (423, {"Retry_After": "soon"}, None),
    ],
)
def test_the_time_to_wait(status: int, headers: dict[str, str], seconds: float | None) -> None:
    """Retry-After goes first; the window counts for 429 only; nonsense is nothing."""
    assert refusal(status, **headers).retry_after == seconds


def test_the_time_to_wait_until_a_date() -> None:
    """As far as it is from now."""
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    seconds = refusal(503, Retry_After=in_a_minute).retry_after
    assert seconds is not None
    assert 30 < seconds <= 60


NOW = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:28:30 -0000", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("1.5", None),
        ("-1", None),
        ("1e3", None),
        ("1, 2", None),
        ("١٢", None),
        ("9" * 10, None),
        ("Wed, 99 Oct 2015 07:28:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    """As RFC 9110 has it, never negative, and nothing else."""
    assert parse_retry_after(value, now=NOW) == seconds


DATES = st.datetimes(timezones=st.just(datetime.UTC))


@given(st.text() | DATES.map(email.utils.format_datetime) | DATES.map(str) | st.integers().map(str))
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
def test_no_retry_after_breaks_anything(value: str) -> None:
    """Any header is a finite number of seconds from now on, or nothing."""
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("category", "errorType", "message", "correlationId", "context", "links", "policyName", "errors")


@given(
    status=st.integers(400, 599),
    headers=st.dictionaries(st.sampled_from(["Retry-After", "X-HubSpot-RateLimit-Interval-Milliseconds"]), st.text()),
    body=st.binary()
    | JSON.map(json.dumps).map(str.encode)
    | st.dictionaries(st.sampled_from(FIELDS), JSON).map(json.dumps).map(str.encode),
)
@example(status=401, headers={}, body=b"")
@example(status=500, headers={}, body=b"")
def test_no_answer_breaks_anything(status: int, headers: dict[str, str], body: bytes) -> None:
    """Any body is an error whose text is one printable line and whose attributes are short and of their types."""
    error = error_of(status, headers, body)
    assert str(error).isprintable()
    assert len(str(error)) < 500
    if isinstance(error, UnexpectedResponseError):
        return
    texts = [error.hubspot_message, error.category, error.correlation_id, error.policy]
    texts += [text for link in error.links.items() for text in link]
    texts += [text for name, values in error.context.items() for text in (name, *values)]
    assert all(text.isprintable() and len(text) <= MAX_TEXT + 1 for text in texts)
    assert error.retry_after is None or error.retry_after >= 0


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("x" * 501, "x" * 500 + "…"),
        ("x" * 500, "x" * 500),
        ("one\r\ntwo\x1b[31m\u202e\u2028three", "one  two [31m  three"),
        ("No contact Ada@Example.COM here", "No contact *** here"),
        ("No contact ada%40example.com here", "No contact *** here"),
        ("No contact ada%2540example.com here", "No contact *** here"),
        ("See https://x.example/?email=ada%40example.com&a=b now", "See https://x.example/?email=***&a=b now"),
        ("See https://x.example/?email=eve%40example.com&a=b now", "See *** now"),
        ("No contact ada@bücher.example here", "No contact *** here"),
        (f"Key {KEY.upper()} is wrong", "Key *** is wrong"),
        (f"Key {KEY}.", "Key ***."),
    ],
)
def test_what_hubspot_says_is_one_line_without_secrets(message: str, kept: str) -> None:
    """The message is cut, made printable, and says neither address nor key, however spelled."""
    assert refusal(400, {"message": message}).hubspot_message == kept


def test_a_key_is_hidden_in_its_encoded_form_too() -> None:
    """A proxy that quotes the address of a request in hapikey mode quotes the key encoded."""
    error = error_of(400, {}, b'{"message": "GET /?hapikey=a%2Fb+c&x a/b c a%2fb%20c"}', secrets=("a/b c",))
    assert error.hubspot_message == "GET /?hapikey=***&x *** ***"


def test_error_reporters_find_no_text_of_hubspot() -> None:
    """Sentry and others use an attribute ``message`` as the text of an exception."""
    error = refusal(400, {"message": "a text of HubSpot"})
    assert error.hubspot_message == "a text of HubSpot"
    assert not hasattr(error, "message")
    assert "a text of HubSpot" not in f"{error} {error.args}"


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("ADA or ada or Ada%20Lovelace", "*** or *** or ***%20***"),
        ("{\\nAda\\n}", "{\\n***\\n}"),
        ("name=O%27Brien O&#39;Brien O'BRIEN O+Brien", "name=*** O&#39;*** *** O+***"),
        ("Zo%C3%AB zo\\u00eb Zoë ZOË", "*** *** *** ***"),
        ("an order of an Li Lima", "*** order of *** *** Lima"),
        ("plan=Gold+%2B or gold + or gold", "plan=*** or *** or gold"),
    ],
)
def test_hubspots_texts_name_no_visitor(message: str, kept: str) -> None:
    """Names and context values are replaced in any case and encoding; very short ones only as whole words."""
    visitors = [
        Visitor("ada@example.com", "Ada", "Lovelace"),
        Visitor("ada@example.com", "Zoë", "O'Brien"),
        Visitor("ada@example.com", "An", "Li", {"plan": "gold +", "note": ""}),
    ]
    secrets = [text for visitor in visitors for text in personal_data(visitor)]
    body = {"message": message, "context": {message: [message]}, "links": {message: f"https://x.example/ {message}"}}
    error = error_of(400, {}, json.dumps(body).encode(), secrets=secrets)
    assert isinstance(error, APIError)
    assert error.hubspot_message == kept
    assert error.context == {kept: [kept]}
    assert error.links == {kept: f"https://x.example/ {kept}"}


def test_little_is_kept_of_a_long_response() -> None:
    """A server that sends thousands of texts does not keep a thread busy with replacing names in them."""
    many = {f"name{number}": [f"text{number}"] for number in range(10 * MAX_TEXTS)}
    links = {name: f"https://{text}.example/" for name, (text,) in many.items()}
    error = error_of(400, {}, json.dumps({"context": many, "links": links}).encode(), secrets=["key"])
    assert isinstance(error, APIError)
    assert (len(error.context), len(error.links)) == (MAX_TEXTS, MAX_TEXTS)


def test_nothing_is_kept_for_a_visitor_with_too_much_to_replace() -> None:
    """A name of hundreds of words does not keep a thread busy either."""
    secrets = [f"secret{number}" for number in range(MAX_SECRETS + 1)]
    error = error_of(400, {}, json.dumps({"category": "A", "message": "secret7"}).encode(), secrets=secrets)
    assert isinstance(error, APIError)
    assert (error.category, error.hubspot_message) == ("", "***")


@pytest.mark.parametrize("field", ["category", "correlationId", "policyName"])
@pytest.mark.parametrize(("value", "kept"), [("VALIDATION_ERROR", True), ("ALI_x", False), ("id:lovelaces", False)])
def test_identifiers_survive_names_that_are_a_part_of_them(field: str, value: str, kept: bool) -> None:
    """``VALIDATION_ERROR`` contains the name of every Ali. A name that is a whole word is not logged."""
    body = json.dumps({field: value}).encode()
    error = error_of(400, {}, body, secrets=personal_data(Visitor("ada@example.com", "Ali", "Lovelace")))
    assert isinstance(error, APIError)
    assert f"{error.category}{error.correlation_id}{error.policy}" == (value if kept else "")
    assert (value in str(error)) == (kept and field != "policyName")


@pytest.mark.parametrize("field", ["category", "errorType", "correlationId", "policyName"])
@pytest.mark.parametrize(
    "value",
    [KEY, KEY.upper(), f"x-{KEY}", "A\nERROR forged", "A B", "ada@example.com", "\x1b[31mA", "A" * 101, "Ä", ""],
)
def test_words_that_reach_the_log_are_words(field: str, value: str) -> None:
    """What can't be an identifier, or is the key, is not taken for one."""
    error = refusal(400, {field: value})
    assert (error.category, error.correlation_id, error.policy) == ("", "", "")
    assert str(error) == f"HubSpot answered 400: {NOT_ACCEPTED}"


def test_context_and_links_are_cleaned_as_the_message_is() -> None:
    """Names and values both; links lead to https only."""
    error = refusal(
        403,
        {
            "correlationId": ID,
            "context": {"ada@example.com": ["ok", 5, f"{KEY} \x1b[31m"], "other": "no list"},
            "links": {
                "help\n": "https://help.example/",
                "mail": f"https://x.example/?{KEY}",
                "script": "javascript:alert(1)",
                "plain": "http://x.example",
            },
        },
    )
    assert error.context == {"***": ["ok", "***  [31m"]}
    assert error.links == {"help ": "https://help.example/", "mail": "https://x.example/?***"}


def test_errors_survive_another_process() -> None:
    """Task queues pickle exceptions."""
    error = refusal(429, {"errorType": "RATE_LIMIT", "policyName": "DAILY", "message": "m"}, Retry_After="5")
    copy: Any = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("kind", [*{kind for kind, _ in MEANINGS.values()}])
def test_all_refusals_are_of_one_tree(kind: type[Exception]) -> None:
    """One except clause catches HubSpot's trouble, another its refusals."""
    assert issubclass(kind, APIError)
    assert issubclass(kind, HubSpotIdentifyError)
