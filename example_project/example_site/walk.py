"""One walk through the site, from log-in to the support agent's inbox, as a browser would make it but without one."""

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

ASK_AGAIN = (0.4, 1.0, 2.0, 5.0, 10.0)  # seconds; identify.js has the first three, and a busy machine may need more


class SurpriseError(Exception):
    """Something on the way was not as it should be."""


def walk(origin: str) -> Iterator[str]:
    """Walk, and yield what was seen at each step.

    Raises:
        SurpriseError: in words, what was seen and what should have been.
    """
    email = PEOPLE["ada"]["email"]
    browser = Browser(origin)

    script = browser.script("/")
    yield f"page: one script element, identity from {script['data-endpoint']}"
    expect("nobody", seen := browser.identify(script))
    yield f"endpoint, not logged in: {seen}"
    expect("unknown visitor", seen := browser.chat("Hello, who am I?"))
    yield f"inbox: {seen}"

    browser.log_in("ada", PASSWORD)
    yield "logged in as ada"
    expect(f"token for {email}", seen := browser.identify(browser.script("/")))
    yield f"endpoint: {seen}"
    expect(f"known contact {email}, verified", seen := browser.chat("And now?"))
    yield f"inbox: {seen}"

    inline = json.loads(browser.script("/inline/").get("data-identity", "{}"))
    expect(email, inline.get("email", "nobody"))
    yield f"inline page: token for {email} in its script element"

    browser.log_out()
    yield "logged out"
    expect("nobody", seen := browser.identify(browser.script("/")))
    yield f"endpoint: {seen}"
    browser.forget_chat()
    expect("unknown visitor", seen := browser.chat("Hello again?"))
    yield f"inbox: {seen}"


def expect(wanted: str, seen: str) -> None:
    if seen != wanted:
        raise SurpriseError(f"saw {seen!r}, expected {wanted!r}")


class Browser:
    """Cookies, a page's script element, and what ``identify.js`` and HubSpot's widget do with it."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.session = requests.Session()
        self.session.trust_env = False
        self.identity: dict[str, Any] | None = None
        self.forget_chat()

    def forget_chat(self) -> None:
        """What ``identify.js`` does to the chat's cookie once another visitor is there."""
        self.utk = uuid.uuid4().hex

    def ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        response = self.session.request(method, urljoin(self.origin, path), timeout=60, **arguments)
        if not response.ok:
            raise SurpriseError(f"saw status {response.status_code} for {method} {path}")
        return response

    def script(self, path: str) -> dict[str, str]:
        """The attributes of the page's script element."""
        found = Scripts()
        found.feed(self.ask("GET", path).text)
        ours = [each for each in found.attributes if each.get("src", "").endswith("/identify.js")]
        if len(ours) != 1:
            raise SurpriseError(f"saw {len(ours)} script elements of the app in {path}, expected one")
        return ours[0]

    def identify(self, script: dict[str, str]) -> str:
        """Ask the endpoint who this is, again while it says that it's worth it."""
        for delay in (*ASK_AGAIN, None):
            response = self.ask("GET", script["data-endpoint"], headers={"X-HubSpot-Identify": "1"})
            if response.status_code != 202 or delay is None:
                break
            time.sleep(delay)
        self.identity = response.json()["identity"]
        return f"token for {self.identity['email']}" if self.identity else "nobody"

    def chat(self, text: str) -> str:
        """Present e-mail and token to the sandbox as the widget does, say something, and look into the inbox."""
        email, token = (self.identity["email"], self.identity["token"]) if self.identity else ("", "")
        # The widget encodes the e-mail and leaves the token as it is.
        known = f"email={quote(email, safe='')}&identificationToken={token}&" if self.identity else ""
        self.ask("GET", f"/sandbox/livechat/{PORTAL}/?{known}messagesUtk={self.utk}")
        message = {"email": email, "token": token, "utk": self.utk, "page": "/", "text": text}
        number = self.ask("POST", f"/sandbox/chat/{PORTAL}/thread/", json=message).json()["thread"]
        for thread in self.ask("GET", "/sandbox/inbox.json").json()["threads"]:
            if thread["id"] == number and thread["messages"][-1:] == [text]:
                return f"known contact {thread['email']}, verified" if thread["verified"] else "unknown visitor"
        raise SurpriseError(f"saw no conversation {number} that ends in {text!r} in the inbox")

    def log_in(self, username: str, password: str) -> None:
        self._post("/login/", {"username": username, "password": password})

    def log_out(self) -> None:
        self._post("/logout/", {})

    def _post(self, path: str, data: dict[str, str]) -> None:
        self.ask("GET", "/login/")
        answer = self.ask(
            "POST", path, data={**data, "csrfmiddlewaretoken": self.session.cookies["csrftoken"]}, allow_redirects=False
        )
        if answer.status_code != 302:
            raise SurpriseError(f"saw status {answer.status_code} for POST {path}, expected a redirect")


class Scripts(HTMLParser):
    """Collects the attributes of a page's script elements."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.attributes.append({name: value or "" for name, value in attrs})
