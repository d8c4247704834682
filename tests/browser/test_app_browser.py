"""The whole app as a visitor meets it: real backbone, shipped adapters, a real browser."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.app_server import ADAPTERS, serve
from tests.browser.app_tour import View, browsing, looking, settle, show, tabs_of, use
from tests.browser.axe import violations

pytestmark = [pytest.mark.browser, pytest.mark.backbone]

SAID = "#answer-0 :is(.card.live, .card.done) .said:not(.hint)"
"""What was answered so far; what was asked before may be answered all at once."""

TASKS = ("SentimentAnalyze", "CHIP-STS", "KUAKE-QIC")  # short answers, whichever is shipped
LONG_TASKS = ("CMeIE", "Summary")
TABS = ("try", "gates", "leaderboard", "benchmark", "compare", "train", "export", "about")
MINUTES = 60_000


def shipped_task(*, long: bool = False) -> tuple[str, str]:
    """Cluster and name of a task with a short answer, or with a long one."""
    for config in sorted(ADAPTERS.glob("*/config.json")):
        for task in LONG_TASKS if long else TASKS:
            if f'"{task}"' in config.read_text(encoding="utf-8"):
                return config.parent.name, task
    problem = f"no adapter with such a task lies in {ADAPTERS}"
    if "CGCLORA_ADAPTERS" in os.environ:
        pytest.skip(problem)
    pytest.fail(problem)  # those that we ship know such tasks


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    shipped_task()
    with serve() as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One for all visits, so that scripts come from its cache."""
    context = browser.new_context(locale="zh-CN", viewport={"width": 1280, "height": 900})
    yield context
    context.close()


@dataclass
class Visit:
    """A page, what went wrong on it, and whom it asked."""

    page: Page
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


@pytest.fixture
def visit(context: BrowserContext) -> Iterator[Visit]:
    visit = Visit(context.new_page())
    page = visit.page
    page.set_default_timeout(5 * MINUTES)  # a first start converts the backbone
    page.on("console", lambda said: said.type == "error" and visit.errors.append(said.text))
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("request", lambda sent: visit.hosts.add(urlsplit(sent.url).hostname or ""))
    yield visit
    page.evaluate("localStorage.clear()")
    page.close()
    assert visit.errors == []
    assert visit.hosts <= {"127.0.0.1", ""}


def test_a_task_is_picked_a_sample_answered_and_its_gate_shown(server: str, visit: Visit) -> None:
    cluster, task = shipped_task()
    page = visit.page
    page.goto(f"{server}/?cluster={cluster}")
    page.locator(f"#tasks label:has(input[value='{task}'])").click()
    expect(page.locator(".task code")).to_have_text(task)
    expect(page).to_have_url(re.compile(f"task={task}"))
    page.locator(".status.ready").wait_for()

    page.locator("#samples button").first.click()
    page.locator("#answer-0 .card.done").wait_for()
    page.locator("#answer-1 .card.done").wait_for()
    answer = page.locator("#answer-0 .said").inner_text()
    assert answer.strip()
    assert page.locator("#parsed .chip.big").inner_text() == answer.strip()
    assert page.locator("#parsed .verdict").count() == 1
    assert page.locator("#answer-0").get_attribute("aria-live") == "polite"
    assert re.search(r"\d 词元/秒", page.locator("#answer-0 .facts").inner_text())

    shares = [int(share) for share in re.findall(r"(\d+)%", page.locator(".shares").inner_text())]
    assert sum(shares) in (99, 100, 101)  # rounded
    assert page.locator("#share-bar .bars path").count() >= 1
    assert page.locator("#heat-map .hm image").count() >= 1
    page.screenshot()  # what cannot be painted raises


def test_what_a_visitor_types_is_never_markup(server: str, visit: Visit) -> None:
    cluster, task = shipped_task()
    page = visit.page
    page.goto(f"{server}/?cluster={cluster}&task={task}&lang=en")
    expect(page.locator("#run")).to_have_text("Answer")
    page.locator(".status.ready").wait_for()
    page.locator("#field-0 textarea, #field-0 input").fill("<img src=x onerror=alert(1)>{{x}}${y}")
    page.locator("#run").click()
    page.locator("#answer-0 .card.done").wait_for()
    assert page.locator("#work img").count() == 0


RUN = """async stop => {
  const shown = async name => {
    while (!document.querySelector(name)) await new Promise(resolve => setTimeout(resolve, 2));
    return document.querySelector(name);
  };
  (await shown("#run")).click();
  const button = await shown("#stop");
  if (stop) button.click();
}"""
"""Run, and stop at once if told to: an answer may be out before a mouse gets there."""


def test_stop_ends_the_answer_and_the_next_one_works(server: str, visit: Visit) -> None:
    cluster, task = shipped_task(long=True)  # a label could be out before the click
    page = visit.page
    page.goto(f"{server}/?cluster={cluster}&task={task}")
    page.locator(".status.ready").wait_for()
    settle(page)  # what opens the page would take the place of an answer that is stopped by then
    page.evaluate(RUN, "stop it")
    page.locator("#answer-0 .card.done").wait_for()
    page.locator("#run").wait_for()
    page.evaluate(RUN, "")
    page.locator("#answer-0 .card.done").wait_for()
    page.locator("#run").wait_for()
    assert page.locator("#answer-0 .said").inner_text().strip()


def test_another_task_leaves_no_trace_of_the_answer_before(server: str, visit: Visit) -> None:
    cluster, task = shipped_task(long=True)
    page = visit.page
    page.goto(f"{server}/?cluster={cluster}&task={task}&lang=en")
    page.locator(".status.ready").wait_for()
    page.locator("#run").click()
    page.locator(SAID).first.wait_for()
    page.locator(f"#tasks label:not(:has(input[value='{task}']))").first.click()
    expect(page.locator(".task code")).not_to_have_text(task)
    expect(page.locator("#answer-0 .card.empty")).to_have_count(1)
    page.wait_for_timeout(1500)  # for what may still come
    expect(page.locator("#answer-0 .card.empty")).to_have_count(1)
    expect(page.locator("#run")).to_be_visible()


def test_a_second_example_is_answered_in_place_of_the_first(server: str, visit: Visit) -> None:
    cluster, task = shipped_task(long=True)
    page = visit.page
    page.goto(f"{server}/?cluster={cluster}&task={task}")
    page.locator(".status.ready").wait_for()
    with page.expect_request(lambda request: "queue/join" in request.url):
        page.locator("#samples button").nth(0).click()
    page.locator(SAID).first.wait_for()
    with page.expect_request(lambda request: "queue/join" in request.url) as second:
        page.locator("#samples button").nth(1).click()
    assert page.locator("#prompt textarea").input_value() in second.value.post_data_json["data"]
    page.locator(SAID).first.wait_for()
    page.locator("#run").wait_for()


def test_what_is_typed_last_is_asked_on_a_slow_network(server: str, visit: Visit) -> None:
    cluster, task = shipped_task()
    page = visit.page
    page.goto(f"{server}/?cluster={cluster}&task={task}")
    page.locator(".status.ready").wait_for()
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"latency": 150, "downloadThroughput": -1, "uploadThroughput": -1}
    network.send("Network.emulateNetworkConditions", {"offline": False, **slow})
    field = page.locator("#field-0 textarea, #field-0 input")
    field.fill("")
    field.press_sequentially("孩子发烧三天了还咳嗽", delay=60)
    with page.expect_request(lambda request: "queue/join" in request.url) as asked:
        page.locator("#run").click()
    values = asked.value.post_data_json["data"]
    assert values[3] == values[4]  # not taken for a prompt of the visitor's own
    assert "孩子发烧三天了还咳嗽" in values
    page.locator("#run").wait_for()


def test_a_question_that_the_queue_refuses_can_be_asked_again(server: str, visit: Visit) -> None:
    cluster, task = shipped_task()
    page = visit.page
    page.goto(f"{server}/?cluster={cluster}&task={task}")
    page.locator(".status.ready").wait_for()
    page.route("**/queue/join*", lambda route: route.fulfill(status=503, json={"detail": "full"}))
    page.locator("#run").click()
    page.locator("#answer-0 .notice").wait_for()
    assert page.locator("#run").is_visible()
    page.unroute("**/queue/join*")
    page.locator("#run").click()
    page.locator("#answer-0 .card.done").wait_for()
    assert [error for error in visit.errors if "503" not in error] == []
    visit.errors.clear()


def test_an_expert_that_is_knocked_out_changes_the_weights_and_the_answer_follows(
    server: str, visit: Visit
) -> None:
    cluster, task = shipped_task()
    page = visit.page
    page.goto(f"{server}/?tab=gates&cluster={cluster}&task={task}")
    page.locator("#knock-0").click()
    page.locator("#gates-effect-map .hm image").first.wait_for()
    original, changed = page.locator("#gates-outcome .split").all()
    assert original.locator("i").count() == changed.locator("i").count()
    shares = re.findall(r"(\d+)%", changed.get_attribute("aria-label") or "")
    assert shares[0] == "0"
    assert int(shares[1]) > 0
    assert page.locator("#gates-outcome .said:not(.hint)").count() == 2
    assert page.locator("#gates-outcome .label-bars tbody tr").count() >= 2
    slider = page.locator("#expert-1 input[type=range]")
    slider.focus()
    slider.press("ArrowLeft")  # a key, too, lets the answer follow
    expect(page.locator("#gates-outcome .split").nth(1)).not_to_have_attribute(
        "aria-label", changed.get_attribute("aria-label") or ""
    )
    page.locator("#gates-reset").click()
    page.locator("#gates-outcome .split").nth(1).wait_for(state="detached")
    assert page.locator("#expert-0 input[type=number]").input_value() == "1"


def test_other_adapters_answer_beside_the_chosen_one(server: str, visit: Visit) -> None:
    page = visit.page
    page.goto(f"{server}/?cluster=medical&task=KUAKE-QIC")
    page.locator(".status.ready").wait_for()
    page.locator("#beside label", has_text="LoRA (Full)").click()
    expect(page.locator("#answers .card")).to_have_count(3)
    page.locator("#samples button").first.click()
    expect(page.locator("#answers .card.done")).to_have_count(3)
    page.locator("#labels tbody tr").first.wait_for()
    assert page.locator("#labels thead th").count() == 3
    for column in range(3):
        cells = page.locator(f"#labels tbody td:nth-of-type({column + 1})").all_inner_texts()
        assert 97 <= sum(int(cell.rstrip("%")) for cell in cells) <= 103  # rounded


def test_a_text_finds_its_task_and_a_question_comes_back_after_a_reload(
    server: str, visit: Visit
) -> None:
    page = visit.page
    page.goto(f"{server}/?cluster=medical&task=CMeEE-V2")
    page.locator(".status.ready").wait_for()
    words = page.locator("#free-input input, #free-input textarea")
    words.fill("给出上联：春风得意马蹄疾")
    expect(page.locator("#guesses label").first).to_contain_text(re.compile(r"\d+%"))
    words.press("Enter")
    expect(page.locator(".task code")).to_have_text("Couplet")
    expect(page).to_have_url(re.compile("task=Couplet"))
    page.locator("#run").click()
    page.locator("#recent-questions button").wait_for()
    page.reload()
    page.locator("#samples button").first.wait_for()
    page.locator("#recent-questions button").click()
    expect(page.locator("#prompt textarea")).to_have_value(re.compile("春风得意马蹄疾"))


def test_a_number_of_the_leaderboard_opens_its_samples_and_can_be_shared(
    server: str, visit: Visit
) -> None:
    page = visit.page
    page.goto(f"{server}/?tab=leaderboard&lang=en")
    page.locator("#board-table tbody tr").first.wait_for()
    best_first = page.locator("#board-table tbody th").all_inner_texts()
    task = page.locator("#board-table [data-sort]").last
    task.click()
    expect(page.locator("#board-table [aria-sort=descending]")).to_have_count(1)
    assert sorted(page.locator("#board-table tbody th").all_inner_texts()) == sorted(best_first)
    page.locator("#board-table tbody [data-cell]").last.click()
    page.locator("#samples-list tbody tr, #samples-list li").first.wait_for()
    shown = page.locator("#samples-list").inner_text()
    expect(page).to_have_url(re.compile("entry=|cell=|board_"))
    page.goto(page.url)
    expect(page.locator("#samples-list")).to_have_text(shown, use_inner_text=True)
    page.locator("#board-view label").nth(2).click()
    page.locator("#board-plot .js-plotly-plot").wait_for()


def test_the_page_changes_its_language_and_keeps_its_tab(server: str, visit: Visit) -> None:
    page = visit.page
    page.goto(f"{server}/?tab=about&lang=zh")
    expect(page.locator("#tab-about-button")).to_have_text("关于")
    page.locator("#language").click()
    expect(page.locator("#tab-about-button")).to_have_text("About")
    expect(page.locator("#tab-about-button")).to_have_attribute("aria-selected", "true")
    expect(page.locator("html")).to_have_attribute("lang", "en")


# Each width, scheme and language occurs.


def test_no_tab_has_a_serious_violation(server: str, browser: Browser) -> None:
    found = {}
    with looking(browser, View(1280, "light", "zh")) as page:
        page.goto(f"{server}/?cluster=medical&task=IMCS-V2-NER")  # entities, of not many words
        page.locator(".status.ready").wait_for()
        assert tabs_of(page) == [*TABS]
        for tab in TABS:
            page.locator(f"#tab-{tab}-button").click()
            page.locator(f"#tab-{tab}").wait_for()
            use(page, tab)
            if wrong := violations(page, None if tab == TABS[0] else f"#tab-{tab}"):
                found[tab] = wrong
    assert not found, json.dumps(found, ensure_ascii=False, indent=1)


def test_no_tab_scrolls_sideways_or_has_a_serious_violation_on_a_telephone(
    server: str, browser: Browser
) -> None:
    found = {}
    cluster, task = shipped_task()
    view = View(390, "dark", "en")
    with looking(browser, view) as page:
        for tab in TABS:
            show(page, server, view, tab, cluster=cluster, task=task)
            assert page.evaluate("document.documentElement.scrollWidth") <= view.width, tab
            if wrong := violations(page, None if tab == TABS[0] else f"#tab-{tab}"):
                found[tab] = wrong
    assert not found, json.dumps(found, ensure_ascii=False, indent=1)
