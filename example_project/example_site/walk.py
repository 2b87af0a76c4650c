"""A check of the whole site, from login to the support agent's inbox, with the requests that a browser would send."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urljoin

import requests

from .people import PASSWORD, PEOPLE
from .sandbox import PORTAL

RETRY_DELAYS = (0.4, 1.0, 2.0, 5.0, 10.0)  # seconds: three of identify.js, and more for a slow machine


class UnexpectedResultError(Exception):
    """A step did not have the expected result."""


def walk(origin: str) -> Iterator[str]:
    """Go through the site, and yield the result of each step.

    Raises:
        UnexpectedResultError: with the actual and the expected result.
    """
    email = PEOPLE["ada"]["email"]
    browser = Browser(origin)

    script = browser.script("/")
    yield f"page: one script element, identity from {script['data-endpoint']}"
    expect("no identity", result := browser.identify(script))
    yield f"endpoint, not logged in: {result}"
    expect("unknown visitor", result := browser.chat("Hello, who am I?"))
    yield f"inbox: {result}"

    browser.log_in("ada", PASSWORD)
    yield "logged in as ada"
    expect(f"token for {email}", result := browser.identify(browser.script("/")))
    yield f"endpoint: {result}"
    expect(f"known contact {email}, verified", result := browser.chat("And now?"))
    yield f"inbox: {result}"

    inline = json.loads(browser.script("/inline/").get("data-identity", "{}"))
    expect(email, inline.get("email", "no identity"))
    yield f"inline page: token for {email} in its script element"

    browser.log_out()
    yield "logged out"
    expect("no identity", result := browser.identify(browser.script("/")))
    yield f"endpoint: {result}"
    browser.forget_chat()
    expect("unknown visitor", result := browser.chat("Hello again?"))
    yield f"inbox: {result}"


def expect(expected: str, result: str) -> None:
    if result != expected:
        raise UnexpectedResultError(f"The result was {result!r} instead of {expected!r}.")


class Browser:
    """Sends the requests that a browser, ``identify.js`` and HubSpot's widget would send."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.session = requests.Session()
        self.session.trust_env = False
        self.identity: dict[str, Any] | None = None
        self.forget_chat()

    def forget_chat(self) -> None:
        """Replace the chat's cookie, which ``identify.js`` deletes when the visitor changes."""
        self.utk = uuid.uuid4().hex

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        response = self.session.request(method, urljoin(self.origin, path), timeout=60, **arguments)
        if not response.ok:
            raise UnexpectedResultError(f"{method} {path} returned HTTP {response.status_code}.")
        return response

    def script(self, path: str) -> dict[str, str]:
        """Return the attributes of the app's script element in a page."""
        scripts = ScriptParser()
        scripts.feed(self.request("GET", path).text)
        elements = [each for each in scripts.attributes if each.get("src", "").endswith("/identify.js")]
        if len(elements) != 1:
            raise UnexpectedResultError(f"{path} contains {len(elements)} script elements of the app instead of one.")
        return elements[0]

    def identify(self, script: dict[str, str]) -> str:
        """Fetch the identity from the endpoint, again as long as it responds with 202."""
        for delay in (*RETRY_DELAYS, None):
            response = self.request("GET", script["data-endpoint"], headers={"X-HubSpot-Identify": "1"})
            if response.status_code != 202 or delay is None:
                break
            time.sleep(delay)
        self.identity = response.json()["identity"]
        return f"token for {self.identity['email']}" if self.identity else "no identity"

    def chat(self, text: str) -> str:
        """Send a message like the widget, with e-mail and token if known, and return its visitor in the inbox."""
        email, token = (self.identity["email"], self.identity["token"]) if self.identity else ("", "")
        # The widget encodes the e-mail address, but not the token.
        identity = f"email={quote(email, safe='')}&identificationToken={token}&" if self.identity else ""
        self.request("GET", f"/sandbox/livechat-public/{PORTAL}/?{identity}messagesUtk={self.utk}")
        message = {"email": email, "token": token, "utk": self.utk, "page": "/", "text": text}
        number = self.request("POST", f"/sandbox/chat/{PORTAL}/thread/", json=message).json()["thread"]
        for thread in self.request("GET", "/sandbox/inbox.json").json()["threads"]:
            if thread["id"] == number and thread["messages"][-1:] == [text]:
                return f"known contact {thread['email']}, verified" if thread["verified"] else "unknown visitor"
        raise UnexpectedResultError(f"The inbox has no conversation {number} that ends with {text!r}.")

    def log_in(self, username: str, password: str) -> None:
        self._post("/login/", {"username": username, "password": password})

    def log_out(self) -> None:
        self._post("/logout/", {})

    def _post(self, path: str, data: dict[str, str]) -> None:
        self.request("GET", "/login/")
        response = self.request(
            "POST", path, data={**data, "csrfmiddlewaretoken": self.session.cookies["csrftoken"]}, allow_redirects=False
        )
        if response.status_code != 302:
            raise UnexpectedResultError(f"POST {path} returned HTTP {response.status_code} instead of a redirect.")


class ScriptParser(HTMLParser):
    """Collects the attributes of the script elements in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.attributes.append({name: value or "" for name, value in attrs})
