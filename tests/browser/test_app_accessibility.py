"""axe-core finds nothing serious on any tab: wide and narrow, light and dark, both languages."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.app_server import serve
from tests.browser.app_tour import View, browsing, looking, show, tab_names
from tests.browser.axe import violations

pytestmark = [pytest.mark.browser, pytest.mark.backbone]

# Each width, scheme and language occurs.
VIEWS = (View(1280, "light", "zh"), View(390, "dark", "en"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve() as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_no_tab_has_a_serious_violation(server: str, browser: Browser, view: View) -> None:
    found = {}
    tabs = tab_names(browser, server)
    assert tabs
    with looking(browser, view) as page:
        for tab in tabs:
            show(page, server, view, tab)
            if wrong := violations(page):
                found[tab] = wrong
    assert not found, json.dumps(found, ensure_ascii=False, indent=1)
