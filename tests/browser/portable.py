"""What the tests can do in every browser: a tab with few methods of its own, and that tab in WebKit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from selenium.common.exceptions import JavascriptException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from support.browser import TIMEOUT
from urllib3.exceptions import ReadTimeoutError

from browser.site import Site

CONTAINER = "#hubspot-messages-iframe-container"
LAUNCHER = ".hubspot-identify-launcher button"  # the app's own button, which is there until the chat is loaded
ANONYMOUS = "unknown"  # what the sandbox's chat calls a visitor who is not identified

# Polled by the browser, so that the test goes on as soon as it is true.
HAS_CHAT_FOR = """([container, visitor]) =>
    document.querySelectorAll(container).length === 1 && window.__hubspotSandbox?.visitor === visitor"""
HAS_LOGGED = """([kind, times]) =>
    window.__hubspotSandbox?.log.filter((entry) => entry.what === kind).length >= times"""
HAS_EVENT = "([name, times]) => window.recordedEvents?.filter((event) => event[0] === name).length >= times"
IS_VISIBLE = """Boolean(document.getElementById("hubspot-conversations-iframe")
    ?.checkVisibility({visibilityProperty: true}))"""
LOG_OUT_IN_THE_PAGE = "fetch('/logout/').then(() => hubspotIdentify.update())"
SEND_MESSAGE = """(text) => {
    document.getElementById("launcher").click();
    document.forms.compose.elements.text.value = text;
    document.forms.compose.requestSubmit();
}"""


def email(name: str) -> str:
    return name if name == ANONYMOUS else f"{name}@example.com"


class PortableTab(ABC):
    """A tab of a browser that visits the site."""

    def __init__(self, site: Site) -> None:
        self.site = site

    # -- what each browser does in its own way

    @abstractmethod
    def go(self, path: str = "/") -> None:
        """Open a page of the site, and wait until it has loaded."""

    @abstractmethod
    def run(self, script: str, argument: Any = None) -> Any:
        """Evaluate a JavaScript expression in the page, call it if it is a function, and return its value."""

    @abstractmethod
    def run_in_chat(self, script: str, argument: Any = None) -> Any:
        """Evaluate a JavaScript expression in the chat's iframe."""

    @abstractmethod
    def wait_until(self, condition: str, argument: Any = None) -> None:
        """Wait until a JavaScript expression or function is true in the page."""

    @abstractmethod
    def click(self, selector: str) -> None:
        """Click an element of the page with the mouse."""

    @abstractmethod
    def hover(self, selector: str) -> None:
        """Move the mouse over an element of the page."""

    @abstractmethod
    def press(self, key: str) -> None:
        """Press a key, such as ``Tab`` or ``Enter``."""

    @abstractmethod
    def cookies(self) -> dict[str, str]:
        """Return the cookies of the page by their names."""

    @abstractmethod
    def set_cookie(self, name: str, value: str) -> None:
        """Set a cookie as HubSpot does: for the host without ``www.``, and for its subdomains."""

    @abstractmethod
    def delete_cookie(self, name: str) -> None: ...

    # -- the rest

    def log_in(self, name: str, then: str = "/") -> None:
        self.go(f"/login/{name}/?next={then}")

    def log_out(self, then: str = "/") -> None:
        self.go(f"/logout/?next={then}")

    def log_out_in_the_page(self) -> None:
        """Log out by a request of a script. The document stays."""
        self.run(LOG_OUT_IN_THE_PAGE)

    def go_back(self, pages: int = 1) -> None:
        """Start to go back. Unlike the methods of the tools, this does not wait for the page, which may be restored."""
        self.run("pages => { setTimeout(() => history.go(-pages)); }", pages)  # after the tool has got its response

    def expect_visitor(self, name: str) -> None:
        """Wait until there is exactly one chat, and HubSpot has identified this visitor in it."""
        self.wait_until(HAS_CHAT_FOR, [CONTAINER, email(name)])

    def wait_for_chat(self) -> None:
        """Wait until the chat reacts to the visitor."""
        self.wait_until("window.__hubspotSandbox?.visitor")

    def wait_for_visibility(self, is_visible: bool) -> None:
        """Wait until the chat is visible, or hidden or removed."""
        self.wait_until(f"is => {IS_VISIBLE} === is", is_visible)

    def send_message(self, text: str) -> None:
        """Open the chat and send a message."""
        self.wait_for_chat()
        self.run_in_chat(SEND_MESSAGE, text)
        self.wait_for_event("conversationStarted")

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """The entries of this kind in the log of the sandbox's widget."""
        log: list[dict[str, Any]] = self.run("window.__hubspotSandbox?.log ?? []")
        return [entry for entry in log if entry["what"] == kind]

    def emails(self, kind: str) -> list[str | None]:
        """The e-mail addresses in those entries."""
        return [entry["email"] for entry in self.logged(kind)]

    def wait_for_log(self, kind: str, times: int = 1) -> None:
        self.wait_until(HAS_LOGGED, [kind, times])

    def wait_for_event(self, name: str, times: int = 1) -> None:
        """Wait until identify.js has emitted this event so often."""
        self.wait_until(HAS_EVENT, [name, times])

    @property
    def events(self) -> list[str]:
        """The events of the app so far, in order, without those that it passes on from HubSpot."""
        names = {"ready", "identified", "anonymous", "failed", "reset"}
        return [name for name, _ in self.run("recordedEvents") if name in names]

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.run("hubspotIdentify.status()")
        return status

    @property
    def settings(self) -> dict[str, Any]:
        """HubSpot's settings in the page."""
        settings: dict[str, Any] = self.run("window.hsConversationsSettings")
        return settings

    def cookie(self, name: str) -> str | None:
        return self.cookies().get(name)


class WebKitTab(PortableTab):
    """A tab of WebKit, which Selenium controls. Selenium cannot add the recorder to its pages, so the site must."""

    def __init__(self, driver: WebDriver, site: Site) -> None:
        super().__init__(site)
        if driver.current_url != "about:blank":  # the tab with which the browser starts
            driver.switch_to.new_window("tab")
        self._driver = driver
        self._window = driver.current_window_handle

    @property
    def driver(self) -> WebDriver:
        """The browser, in which this tab is the current one."""
        if self._driver.current_window_handle != self._window:
            self._driver.switch_to.window(self._window)
        return self._driver

    def go(self, path: str = "/") -> None:
        self.driver.get(self.site.url(path))

    def run(self, script: str, argument: Any = None) -> Any:
        # A policy of the page may forbid eval() to scripts, so this inserts the expression in the script.
        result = self.driver.execute_async_script(
            f"""const [argument, done] = arguments;
            (async () => {{
                const value = ({script});
                return typeof value === "function" ? value(argument) : value;
            }})().then((value) => done({{value}}), (error) => done({{error: String(error)}}));""",
            argument,
        )
        if "error" in result:
            raise AssertionError(result["error"])
        return result.get("value")

    def run_in_chat(self, script: str, argument: Any = None) -> Any:
        with self._chat():
            return self.run(script, argument)

    @contextmanager
    def _chat(self) -> Iterator[None]:
        self.driver.switch_to.frame(self._element(f"{CONTAINER} iframe"))
        yield
        self._driver.switch_to.default_content()

    def wait_until(self, condition: str, argument: Any = None) -> None:
        script = f"const value = ({condition}); return typeof value === 'function' ? value(...arguments) : value"
        wait = WebDriverWait(self.driver, TIMEOUT / 1000, 0.05, [JavascriptException, ReadTimeoutError])
        executor: Any = self.driver.command_executor
        executor.client_config.timeout = 2  # a script that runs while WebKit opens another page may never return
        try:
            wait.until(lambda driver: driver.execute_script(script, argument), f"{condition} of {argument}")
        finally:
            executor.client_config.timeout = 2 * TIMEOUT / 1000

    def _element(self, selector: str) -> WebElement:
        wait = WebDriverWait(self.driver, TIMEOUT / 1000, 0.05)
        return wait.until(lambda driver: driver.find_element(By.CSS_SELECTOR, selector), selector)

    def click(self, selector: str) -> None:
        self._element(selector).click()

    def hover(self, selector: str) -> None:
        ActionChains(self.driver).move_to_element(self._element(selector)).perform()

    def press(self, key: str) -> None:
        ActionChains(self.driver).send_keys(getattr(Keys, key.upper())).perform()

    def cookies(self) -> dict[str, str]:
        return {each["name"]: each["value"] for each in self.driver.get_cookies()}

    def set_cookie(self, name: str, value: str) -> None:
        host = str(urlsplit(self.site.origin).hostname).removeprefix("www.")
        self.driver.add_cookie({"name": name, "value": value, "domain": f".{host}", "path": "/"})

    def delete_cookie(self, name: str) -> None:
        self.driver.delete_cookie(name)
