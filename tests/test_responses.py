"""The exceptions for HubSpot's error responses: their classes and attributes, and what they must not contain."""

from __future__ import annotations

import datetime
import email.utils
import json
import math
import pickle
import time
from collections.abc import Sequence
from typing import Any

import pytest
import responses
from hypothesis import example, given
from hypothesis import strategies as st

from hubspot_identify._hubspot.client import TokenClient
from hubspot_identify._hubspot.responses import (
    MAX_SECRETS,
    MAX_TEXT,
    MAX_TEXTS,
    Response,
    error_from_response,
    parse_retry_after,
    personal_data,
)
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
URL = f"{CONFIG.base_url}{CONFIG.token_path}"
ID = "0d1e2f3a-aaaa-bbbb-cccc-000000000001"


def response_error(status: int, body: object = b"", **headers: str) -> HubSpotIdentifyError:
    """Return the exception that the client raises for a response."""
    raw = body if isinstance(body, (bytes, str)) else json.dumps(body)
    with responses.RequestsMock(assert_all_requests_are_fired=True) as mock:
        mock.post(URL, raw, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})
        with pytest.raises(HubSpotIdentifyError) as caught:
            TokenClient().create_token(ADA, CONFIG)
    return caught.value


def api_error(status: int, body: object = b"", **headers: str) -> APIError:
    """Return the exception that the client raises for an error response of HubSpot's."""
    error = response_error(status, body, **headers)
    assert isinstance(error, APIError)
    return error


def error_without(secrets: Sequence[str], body: object) -> APIError:
    """Return the exception for a response 400, with the secrets removed."""
    error = error_from_response(Response(400, {}, json.dumps(body).encode(), secrets))
    assert isinstance(error, APIError)
    return error


@pytest.mark.parametrize(
    ("status", "error_class", "in_text"),
    [
        (400, InvalidRequestError, []),
        (401, AuthenticationError, ["HUBSPOT_IDENTIFY['API_KEY']"]),
        (403, PermissionDeniedError, ["conversations.visitor_identification.tokens.create"]),
        (404, InvalidRequestError, ["BASE_URL", "TOKEN_PATH"]),
        (410, InvalidRequestError, ["TOKEN_PATH"]),
        (423, UnavailableError, []),
        (429, RateLimitError, []),
        (477, UnavailableError, []),
        (488, InvalidRequestError, ["BASE_URL"]),
        (499, InvalidRequestError, []),
        (500, UnavailableError, []),
        (599, UnavailableError, []),
    ],
)
def test_status_decides_the_class_of_the_exception(
    status: int, error_class: type[APIError], in_text: list[str]
) -> None:
    """The exception has all that HubSpot documents as attributes. Its text names the settings to check."""
    error = api_error(
        status,
        {
            "status": "error",
            "category": "SOME_CATEGORY",
            "subCategory": "some.subcategory",
            "correlationId": ID,
            "message": "Something went wrong.",
            "context": {"missingScopes": ["scope-a", "scope-b"]},
            "links": {"scopes": "https://developers.hubspot.com/scopes"},
            "errors": [{"message": "x", "code": "y", "in": "z", "context": {}}],
        },
        Retry_After="7",
    )
    assert type(error) is error_class
    assert [text for text in (str(status), "SOME_CATEGORY", ID, *in_text) if text not in str(error)] == []
    assert "Something went wrong." not in str(error)
    assert error.args == (str(error),)
    assert vars(error) == {
        "status": status,
        "category": "SOME_CATEGORY",
        "hubspot_message": "Something went wrong.",
        "correlation_id": ID,
        "context": {"missingScopes": ["scope-a", "scope-b"]},
        "links": {"scopes": "https://developers.hubspot.com/scopes"},
        "retry_after": 7.0,
        "policy": "",
        "key_rejected": False,
    }


WRONG_TYPES = {
    "category": 5,
    "message": ["x"],
    "correlationId": {},
    "context": [],
    "links": "https://x",
    "policyName": None,
}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b""),
        (400, b"\xff\xfe\x00"),
        (400, []),
        (400, WRONG_TYPES),
        (400, {"context": {"a": "text"}, "links": {"b": 5}}),
        (502, "<html><h1>Bad gateway</h1>"),
    ],
    ids=["empty", "no text", "list", "wrong types", "wrong types inside", "HTML"],
)
def test_every_field_of_an_error_response_is_optional(status: int, body: object) -> None:
    """A response without usable fields raises the class for its status, and the attributes are empty."""
    error = api_error(status, body)
    assert type(error) is (InvalidRequestError if status == 400 else UnavailableError)
    assert str(status) in str(error)
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


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, b""),
        (403, "<h1>Forbidden</h1>"),
        (403, {"message": "Forbidden"}),
        (401, {"category": 5, "correlationId": "two words"}),
    ],
)
def test_401_or_403_of_an_intermediary_is_unexpected(status: int, body: object) -> None:
    """A firewall that blocks one visitor's name is no evidence that the key is wrong."""
    error = response_error(status, body)
    assert type(error) is UnexpectedResponseError
    assert error.status == status
    assert "API_KEY" not in str(error)


def test_correlation_id_header_shows_that_a_response_is_from_hubspot() -> None:
    """The correlation ID may be in the header only."""
    error = api_error(403, b"", X_HubSpot_Correlation_Id=ID)
    assert (type(error), error.correlation_id) == (PermissionDeniedError, ID)


@pytest.mark.parametrize(
    ("status", "body", "key_rejected"),
    [
        (401, {"category": "INVALID_AUTHENTICATION"}, True),
        (401, {"category": "EXPIRED_AUTHENTICATION"}, True),
        (403, {"category": "MISSING_SCOPES"}, True),
        (488, {"status": "error", "message": "Unknown Hub", "correlationId": ID, "correctHublet": "eu1"}, True),
        (401, {"correlationId": ID}, False),
        (403, {"category": "OTHER"}, False),
        (488, {}, False),
        (488, {"category": "OTHER", "correctHublet": None}, False),
        (488, {"correctHublet": "eu1.evil.example"}, False),
        (400, {"correctHublet": "eu1"}, False),
        (404, {"category": "MISSING_SCOPES"}, False),
    ],
)
def test_key_is_rejected_only_if_hubspot_says_so(status: int, body: object, key_rejected: bool) -> None:
    """The status is not enough: the response must have one of HubSpot's categories, or name the right data centre."""
    assert api_error(status, body).key_rejected is key_rejected


@pytest.mark.parametrize(
    ("data_centre", "base_url"),
    [
        ("eu1", '"https://api-eu1.hubapi.com"'),
        ("na2", '"https://api-na2.hubapi.com"'),
        ("na1", '"https://api.hubapi.com"'),
        ("eu1/?", "BASE_URL"),
    ],
)
def test_error_for_another_data_centre_names_it_and_the_base_url(data_centre: str, base_url: str) -> None:
    """A 488 for a key that does not contain its data centre has one of two solutions: the URL, or a new key."""
    error = api_error(488, {"status": "error", "message": "Unknown Hub", "correctHublet": data_centre})
    assert error.key_rejected is (data_centre in str(error))
    assert base_url in str(error)
    assert "new key" in str(error)


@pytest.mark.parametrize(
    ("status", "body", "in_text"),
    [
        (400, {"category": "VALIDATION_ERROR", "message": "hsCustomerAgentContext is required"}, True),
        (400, {"errors": [{"message": "required", "in": "hsCustomerAgentContext"}]}, True),
        (422, {"context": {"required": ["hsCustomerAgentContext"]}}, True),
        (400, {"category": "VALIDATION_ERROR", "message": "email is invalid"}, False),
        (500, {"message": "hsCustomerAgentContext"}, False),
    ],
)
def test_error_of_a_path_that_requires_context_names_the_settings(status: int, body: object, in_text: bool) -> None:
    """It names the setting that selects the path, and the one that can provide the context."""
    error = api_error(status, body)
    assert not error.key_rejected
    assert [text in str(error) for text in ("TOKEN_PATH", "VISITOR", "context")] == [in_text] * 3


def test_text_contains_the_category_or_the_correlation_id_alone() -> None:
    """Each of them is optional."""
    assert "SOME_CATEGORY" in str(api_error(400, {"category": "SOME_CATEGORY"}))
    assert ID in str(api_error(400, {"correlationId": ID}))


def test_rate_limit_response_has_its_own_fields() -> None:
    """A 429 has ``errorType`` in place of a category, and ``policyName``."""
    body = {"status": "error", "errorType": "RATE_LIMIT", "policyName": "TEN_SECONDLY_ROLLING", "correlationId": ID}
    error = api_error(429, body, Retry_After="3")
    assert (error.category, error.policy, error.retry_after) == ("RATE_LIMIT", "TEN_SECONDLY_ROLLING", 3.0)


def test_retry_after_date_is_converted_to_seconds_from_now() -> None:
    """HubSpot may send a date instead of seconds."""
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    seconds = api_error(503, Retry_After=in_a_minute).retry_after
    assert seconds is not None
    assert 30 < seconds <= 60


NOW = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        (" 12 ", 12.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:28:30 -0000", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("1.5", None),
        ("١٢", None),
        ("9" * 10, None),
        ("Wed, 99 Oct 2015 07:28:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    """A header that is neither, according to RFC 9110, is ignored. The result is never negative."""
    assert parse_retry_after(value, now=NOW) == seconds


DATES = st.datetimes(timezones=st.just(datetime.UTC))


@given(st.text() | DATES.map(email.utils.format_datetime) | DATES.map(str) | st.integers().map(str))
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
def test_any_retry_after_is_a_finite_number_of_seconds_or_ignored(value: str) -> None:
    """No value of the header raises an exception."""
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("category", "errorType", "message", "correlationId", "context", "links", "policyName", "errors")


@pytest.mark.slow
@given(
    status=st.integers(400, 599),
    headers=st.dictionaries(st.sampled_from(["Retry-After", "X-HubSpot-Correlation-Id"]), st.text()),
    body=st.binary()
    | JSON.map(json.dumps).map(str.encode)
    | st.dictionaries(st.sampled_from(FIELDS), JSON).map(json.dumps).map(str.encode),
)
@example(status=401, headers={}, body=b"")
@example(status=500, headers={}, body=b"")
@example(status=400, headers={}, body=b'{"category": "A", "message": "text"}')
def test_any_error_response_is_an_exception_with_short_texts(status: int, headers: dict[str, str], body: bytes) -> None:
    """The text of the exception is one printable line, and the attributes are short and of their types."""
    error = error_from_response(Response(status, headers, body))
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
    ("message", "expected"),
    [
        ("x" * 501, "x" * 500 + "…"),
        ("one\r\ntwo\x1b[31m\u202e\u2028three", "one  two [31m  three"),
        ("No contact Ada@Example.COM here", "No contact *** here"),
        ("No contact ada%2540example.com here", "No contact *** here"),
        ("See https://x.example/?email=ada%40example.com&a=b now", "See https://x.example/?email=***&a=b now"),
        ("See https://x.example/?email=eve%40example.com&a=b now", "See *** now"),
        ("No contact ada@bücher.example here", "No contact *** here"),
        (f"Key {KEY.upper()} is wrong", "Key *** is wrong"),
    ],
)
def test_message_of_hubspot_is_one_line_without_secrets(message: str, expected: str) -> None:
    """It is cut, made printable, and contains neither an e-mail address nor the key, in any case or encoding."""
    assert api_error(400, {"message": message}).hubspot_message == expected


def test_encoded_key_is_removed_from_the_message() -> None:
    """A proxy that quotes the URL of a request in ``hapikey`` mode quotes the encoded key."""
    error = error_without(["a/b c"], {"message": "GET /?hapikey=a%2Fb+c&x a/b c a%2fb%20c"})
    assert error.hubspot_message == "GET /?hapikey=***&x *** ***"


def test_error_reporters_do_not_find_the_message_of_hubspot() -> None:
    """Sentry and others use an attribute ``message`` as the text of an exception."""
    error = api_error(400, {"message": "a text of HubSpot"})
    assert error.hubspot_message == "a text of HubSpot"
    assert not hasattr(error, "message")
    assert "a text of HubSpot" not in f"{error} {error.args}"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("ADA or ada or Ada%20Lovelace", "*** or *** or ***%20***"),
        ("{\\nAda\\n}", "{\\n***\\n}"),
        ("name=O%27Brien O&#39;Brien O'BRIEN O+Brien", "name=*** O&#39;*** *** O+***"),
        ("Zo%C3%AB zo\\u00eb Zoë ZOË", "*** *** *** ***"),
        ("an order of an Li Lima", "*** order of *** *** Lima"),
        ("plan=Gold+%2B or gold + or gold", "plan=*** or *** or gold"),
    ],
)
def test_names_and_context_values_are_removed_from_hubspots_texts(message: str, expected: str) -> None:
    """They are replaced in any case and encoding; very short ones only as whole words."""
    visitors = [
        Visitor("ada@example.com", "Ada", "Lovelace"),
        Visitor("ada@example.com", "Zoë", "O'Brien"),
        Visitor("ada@example.com", "An", "Li", (("plan", "gold +"), ("note", ""))),
    ]
    secrets = [text for visitor in visitors for text in personal_data(visitor)]
    body = {"message": message, "context": {message: [message]}, "links": {message: f"https://x.example/ {message}"}}
    error = error_without(secrets, body)
    assert error.hubspot_message == expected
    assert error.context == {expected: [expected]}
    assert error.links == {expected: f"https://x.example/ {expected}"}


def test_number_of_texts_kept_of_a_response_is_limited() -> None:
    """A response with thousands of texts does not occupy a thread with replacing names in them."""
    many = {f"name{number}": [f"text{number}"] for number in range(10 * MAX_TEXTS)}
    links = {name: f"https://{text}.example/" for name, (text,) in many.items()}
    error = error_without(["key"], {"context": many, "links": links})
    assert (len(error.context), len(error.links)) == (MAX_TEXTS, MAX_TEXTS)


def test_no_text_is_kept_if_the_visitor_has_too_many_secrets() -> None:
    """A name of hundreds of words does not occupy a thread either."""
    secrets = [f"secret{number}" for number in range(MAX_SECRETS + 1)]
    error = error_without(secrets, {"category": "A", "message": "secret7"})
    assert (error.category, error.hubspot_message) == ("", "***")


@pytest.mark.parametrize(("value", "kept"), [("VALIDATION_ERROR", True), ("ALI_x", False), ("id:lovelaces", False)])
def test_identifier_is_kept_unless_a_name_is_a_whole_word_of_it(value: str, kept: bool) -> None:
    """``VALIDATION_ERROR`` contains the name "Ali", but not as a word."""
    secrets = personal_data(Visitor("ada@example.com", "Ali", "Lovelace"))
    error = error_without(secrets, {"category": value, "correlationId": value, "policyName": value})
    assert (error.category, error.correlation_id, error.policy) == ((value,) * 3 if kept else ("",) * 3)
    assert (value in str(error)) is kept


@pytest.mark.parametrize(
    "value", [KEY, KEY.upper(), f"x-{KEY}", "A\nERROR forged", "ada@example.com", "\x1b[31mA", "A" * 101, "Ä"]
)
def test_value_that_is_not_an_identifier_is_dropped(value: str) -> None:
    """The texts that reach the log contain neither secrets nor control characters."""
    error = api_error(400, {"category": value, "errorType": value, "correlationId": value, "policyName": value})
    assert (error.category, error.correlation_id, error.policy) == ("", "", "")
    assert value not in str(error)
    assert str(error).isprintable()


def test_secrets_are_removed_from_context_and_links() -> None:
    """This applies to names and values. Only links to https are kept."""
    error = api_error(
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


def test_exceptions_can_be_pickled() -> None:
    """Task queues pickle exceptions."""
    error = api_error(429, {"errorType": "RATE_LIMIT", "policyName": "DAILY", "message": "m"}, Retry_After="5")
    copy: Any = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
