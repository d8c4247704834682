"""A visit to every tab of the app, each with something real to see."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode

import gradio as gr
from playwright.sync_api import Browser, Page, expect, sync_playwright

from evals.tasks import Language
from tests.browser.app_server import FLAGS
from tests.browser.driver import find_browser
from ui.components.texts import I18N

Scheme = Literal["light", "dark"]

expect.set_options(timeout=30_000)  # other tests may keep the processor busy

_PATIENCE = 300_000  # ms; a first start converts the backbone
_QUIET = 700  # ms without any change
_LONGEST = 20_000  # ms; a tab that watches a job never comes to rest

# What to click in a tab, and what is there when its work is done.
_WORK = {
    # The button comes back when all who were asked have answered.
    "try": ("#samples button", ("#answer-0 .card.done", "#run")),
    "gates": ("#gates-run", ("#gates-effects .js-plotly-plot",)),
}

_SETTLE = """([quiet, longest]) => new Promise((done) => {
  const start = performance.now();
  let last = start;
  const seen = new MutationObserver(() => { last = performance.now(); });
  const whole = { childList: true, subtree: true, attributes: true, characterData: true };
  seen.observe(document.body, whole);
  const look = () => {
    const now = performance.now();
    if (now - last < quiet && now - start < longest) return setTimeout(look, 50);
    seen.disconnect();
    done();
  };
  look();
})"""


@dataclass(frozen=True)
class View:
    """How the app is looked at.

    Attributes:
        width: Of the window, in pixels.
        scheme: Light or dark.
        language: Of the page.
    """

    width: int = 1280
    scheme: Scheme = "light"
    language: Language = "zh"

    @property
    def name(self) -> str:
        """Such as `1280-light-zh`."""
        return f"{self.width}-{self.scheme}-{self.language}"


@contextmanager
def browsing() -> Iterator[Browser]:
    """A Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visiting(built: gr.Blocks, asked: str) -> Iterator[Page]:
    """An English page of an app that a test has built.

    Args:
        built: Launched here, and closed in the end.
        asked: The query of its address.

    Raises:
        AssertionError: Something went wrong on the page.
    """
    _, url, _ = built.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", i18n=I18N
    )
    with browsing() as browser:
        page = browser.new_page(locale="en-US")
        page.set_default_timeout(120_000)
        wrong: list[str] = []
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{url}?{asked}")
        yield page
        assert wrong == []
    built.close()


@contextmanager
def looking(browser: Browser, view: View) -> Iterator[Page]:
    """A page that nothing was opened in yet."""
    size = {"width": view.width, "height": 900 if view.width > 600 else 844}
    locale = "zh-CN" if view.language == "zh" else "en-US"
    context = browser.new_context(viewport=size, color_scheme=view.scheme, locale=locale)
    page = context.new_page()
    page.set_default_timeout(_PATIENCE)
    yield page
    context.close()


def tab_names(browser: Browser, address: str) -> list[str]:
    """The names of the tabs, in their order."""
    with looking(browser, View()) as page:
        page.goto(address)
        return tabs_of(page)


def tabs_of(page: Page) -> list[str]:
    """The names of a page's tabs; it must be wide, so that none is in the menu of the others."""
    page.locator("#tabs [role=tab]").first.wait_for()
    settle(page)
    found = page.locator("#tabs [role=tab]").evaluate_all("all => all.map((one) => one.id)")
    return [name[1] for name in (re.fullmatch(r"tab-(.+)-button", one) for one in found) if name]


def show(page: Page, address: str, view: View, tab: str, **asked: str) -> None:
    """Open a tab by its address, do what shows it at work, and wait until nothing changes.

    Args:
        page: Of that view.
        address: Of the app.
        view: Whose language the address asks for.
        tab: One of `tab_names`.
        asked: More of the address.
    """
    page.goto(f"{address}/?{urlencode({'tab': tab, 'lang': view.language, **asked})}")
    page.locator(f"#tab-{tab}").wait_for()
    page.locator(".status.ready").wait_for()
    use(page, tab)


def use(page: Page, tab: str) -> None:
    """Do what shows an open tab at work, and wait until nothing changes."""
    settle(page)
    if tab in _WORK:
        clicked, shown = _WORK[tab]
        page.locator(clicked).first.click()
        for one in shown:
            page.locator(one).wait_for()
        settle(page)


def settle(page: Page) -> None:
    """Wait until the page has not changed for a moment, or for as long as it is worth."""
    page.evaluate(_SETTLE, [_QUIET, _LONGEST])
