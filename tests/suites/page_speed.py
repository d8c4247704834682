"""How long a visitor waits: `python -m tests.suites.page_speed --json OUT`.

A measurement, not a test: it says what was reached on this machine. Starts the app, or measures the
one at `--url`. Medians of several runs; leave the machine to it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Error, Page

from cgclora.models.embedded import embedded_folder, embedded_tokenizer
from cgclora.storage.atomic_io import write_json
from tests.browser.app_server import held, serve, start
from tests.browser.app_tour import View, browsing, looking, settle, show, tab_names
from tests.helpers.measured import stamp

PROMPT_TOKENS = 100
BARS = {
    "start": 2.0,
    "started": 6.0,
    "first start": 45.0,
    "paint": 2.0,
    "tabs": 2.0,
    "switch": 0.3,
    "filter": 0.1,
    "token": 1.5,
}
"""Most seconds that each may take."""

MEMORY_BARS = {"first start, peak": 2.5e9, "at rest, two clusters": 1.5e9}
"""Most bytes that the app's process may hold."""

_VIEW = View(1280, "light", "zh")
_SENTENCE = "孩子三天前开始发烧，最高三十九度，还有咳嗽和流鼻涕，吃了退烧药以后又烧起来。"
_SEARCHES = ("CGC", "LoRA", "MOE")

_WATCH_TABS = """(() => {
  const look = () => {
    const tab = document.querySelector("#tabs [role=tab]");
    if (!tab?.offsetParent) return requestAnimationFrame(look);
    window.tabsSeen = performance.now();
  };
  look();
})()"""

_FIRST_PAINT = 'performance.getEntriesByName("first-contentful-paint")[0].startTime'

# Seconds until the panel is there, and until nothing in the page changes any more.
_SWITCH = """([button, panel, quiet]) => new Promise((done) => {
  const start = performance.now();
  let seen = null;
  let last = start;
  const changes = new MutationObserver(() => { last = performance.now(); });
  const whole = { childList: true, subtree: true, attributes: true, characterData: true };
  changes.observe(document.body, whole);
  document.querySelector(button).click();
  const look = () => {
    const now = performance.now();
    const shown = document.querySelector(panel);
    if (seen === null && shown?.offsetParent && shown.innerText.trim()) seen = now;
    const waited = now - Math.max(last, seen ?? now);
    if (waited < quiet && now - start < 20000) return requestAnimationFrame(look);
    changes.disconnect();
    done([(seen - start) / 1000, (Math.max(last, seen) - start) / 1000]);
  };
  requestAnimationFrame(look);
})"""

# The answer before is still there when the button is pressed.
_FIRST_TOKEN = """() => new Promise((done) => {
  const start = performance.now();
  let begun = false;
  document.querySelector("#run").click();
  const look = () => {
    begun ||= !document.querySelector("#answer-0 .card.done");
    const said = document.querySelector("#answer-0 .said:not(.hint)");
    if (begun && said?.textContent.trim()) done((performance.now() - start) / 1000);
    else requestAnimationFrame(look);
  };
  look();
})"""


@dataclass(frozen=True)
class Timing:
    """What took how long.

    Attributes:
        name: What was timed.
        seconds: Of each run.
        bar: Most seconds that it may take; None where nothing was promised.
    """

    name: str
    seconds: list[float]
    bar: float | None = None

    @property
    def median(self) -> float:
        """Of all runs, in seconds."""
        return statistics.median(self.seconds)

    @property
    def reached(self) -> bool | None:
        """Whether the median is within the bar; None without one."""
        return None if self.bar is None else self.median <= self.bar


def starts(browser: Browser, runs: int) -> list[Timing]:
    """From the start of the app's process to something to see, to the app, and to an answer.

    The visitor is there at once, and asks as soon as the model is loaded. Caches are warm.
    """
    names = ("first paint", "app's own page", "model ready", "first token")
    seconds: list[list[float]] = [[] for _ in names]
    for run in range(runs + 1):
        started = time.monotonic()
        with start() as app, looking(browser, _VIEW) as page:
            waits = (_painted, _tabs_shown, _ready, _first_words)
            for own, wait in zip(seconds, waits, strict=True):
                wait(page, app.address)
                if run:
                    own.append(time.monotonic() - started)
    bars = (BARS["start"], None, None, BARS["started"])
    return [
        Timing(f"process start to {name}", own, bar)
        for name, own, bar in zip(names, seconds, bars, strict=True)
    ]


def first_start(browser: Browser) -> tuple[Timing, dict[str, int]]:
    """From the process's start to a loaded model where no cache is, once; and bytes held.

    Bytes are known on Linux only.
    """
    with tempfile.TemporaryDirectory() as cache:
        started = time.monotonic()
        with start({"CGCLORA_CACHE": cache}) as app, looking(browser, _VIEW) as page:
            _painted(page, app.address)
            page.locator(".status.ready").wait_for(timeout=300_000)
            seconds = time.monotonic() - started
            peak = held(app.process.pid, "VmHWM")
    with start() as app, looking(browser, _VIEW) as page:
        _painted(page, app.address)
        _ready(page, app.address)
        rest = held(app.process.pid, "VmRSS")
    memory = zip(MEMORY_BARS, (peak, rest), strict=True)
    return (
        Timing("first start to model ready", [seconds], BARS["first start"]),
        {name: held for name, held in memory if held is not None},
    )


def _painted(page: Page, address: str) -> None:
    while True:
        try:
            page.goto(address, wait_until="commit")
            break
        except Error:  # nobody listens yet
            time.sleep(0.02)
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")


def _tabs_shown(page: Page, _: str) -> None:
    page.locator("#tabs [role=tab]").first.wait_for()


def _ready(page: Page, _: str) -> None:
    page.locator(".status.ready").wait_for()


def _first_words(page: Page, _: str) -> None:
    page.locator("#prompt textarea").fill(_SENTENCE)
    page.locator("#run").click()
    page.wait_for_function(
        "document.querySelector('#answer-0 .said:not(.hint)')?.textContent.trim()"
    )


def first_paint(browser: Browser, address: str, runs: int) -> list[Timing]:
    """From asking for the page to its first content, and to its tabs; everything is cached."""
    paint, tabs = [], []
    with looking(browser, _VIEW) as page:
        page.add_init_script(_WATCH_TABS)
        for run in range(runs + 1):
            page.goto(address)
            page.locator("#tabs [role=tab]").first.wait_for()
            page.locator(".status.ready").wait_for()
            settle(page)
            if run:  # the first one fills the cache
                paint.append(page.evaluate(_FIRST_PAINT) / 1000)
                tabs.append(page.evaluate("window.tabsSeen") / 1000)
    return [
        Timing("first contentful paint", paint, BARS["paint"]),
        Timing("tabs visible", tabs, BARS["tabs"]),
    ]


def switches(browser: Browser, address: str, runs: int) -> list[Timing]:
    """From a click on a tab to its content: the panel's first words, and all of it."""
    names = tab_names(browser, address)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(runs):
        with looking(browser, _VIEW) as page:
            page.goto(f"{address}/?tab={names[0]}")
            page.locator(".status.ready").wait_for()
            settle(page)
            for name in [*names[1:], names[0]]:
                asked = [f"#tab-{name}-button", f"#tab-{name}", 400]
                seen[name].append(page.evaluate(_SWITCH, asked))
    timings = []
    for name, pairs in seen.items():
        panel, complete = zip(*pairs, strict=True)
        timings += [
            Timing(f"tab {name}: first words", [*panel]),
            Timing(f"tab {name}: complete", [*complete], BARS["switch"]),
        ]
    return timings


def filtering(browser: Browser, address: str, runs: int) -> list[Timing]:
    """From the request that a search in the leaderboard sends to its answer."""
    seconds = []
    with looking(browser, _VIEW) as page:
        show(page, address, _VIEW, "leaderboard")
        box = page.locator("#board-find input, #board-find textarea")
        for run in range(runs + 1):
            with page.expect_response(lambda reply: "/run/predict" in reply.url) as reply:
                box.fill(_SEARCHES[run % len(_SEARCHES)])
            reply.value.finished()
            timing = reply.value.request.timing
            seconds.append((timing["responseEnd"] - timing["requestStart"]) / 1000)
            settle(page)
    return [Timing("leaderboard search, server", seconds[1:], BARS["filter"])]


def first_token(browser: Browser, address: str, runs: int) -> list[Timing]:
    """From a click to the first words of an answer, for a prompt of `PROMPT_TOKENS` tokens."""
    prompt = make_prompt()
    seconds = []
    with looking(browser, _VIEW) as page:
        page.goto(address)
        page.locator(".status.ready").wait_for()
        settle(page)
        for run in range(runs + 1):
            # Another prompt each time: nothing is to be remembered from the one before.
            page.locator("#prompt textarea").fill(f"{prompt[1:]}{'。！？…'[run % 4]}")
            settle(page)
            seconds.append(page.evaluate(_FIRST_TOKEN))
            _stop(page)
    return [Timing(f"first token, {PROMPT_TOKENS}-token prompt", seconds[1:], BARS["token"])]


def make_prompt() -> str:
    """A prompt of `PROMPT_TOKENS` tokens of the embedded backbone, the beginning included."""
    tokenizer = embedded_tokenizer(embedded_folder(lambda stage, fraction: None))
    words = ""
    for character in _SENTENCE * PROMPT_TOKENS:
        if len(tokenizer(words + character)["input_ids"]) > PROMPT_TOKENS:
            return words
        words += character
    raise RuntimeError("the sentence is too short for the prompt.")  # no token is that long


def _stop(page: Page) -> None:
    if page.locator("#stop").is_visible():
        page.locator("#stop").click()
    page.locator("#run").wait_for()
    settle(page)


def measure(browser: Browser, address: str, runs: int) -> list[Timing]:
    """All of it, in the order in which a visitor meets it."""
    parts = (first_paint, switches, filtering, first_token)
    return [timing for part in parts for timing in part(browser, address, runs)]


def report(timings: list[Timing], memory: dict[str, int], runs: int) -> dict[str, Any]:
    """The measurement with what it was measured on."""
    return {
        **stamp(),
        "runs": runs,
        "timings": [
            {**asdict(timing), "median": timing.median, "reached": timing.reached}
            for timing in timings
        ],
        "memory": [
            {
                "name": name,
                "bytes": held,
                "bar": MEMORY_BARS[name],
                "reached": held <= MEMORY_BARS[name],
            }
            for name, held in memory.items()
        ],
    }


def table(timings: list[Timing]) -> str:
    """Value, bar and whether it was reached, a line each."""
    verdicts = {True: "reached", False: "MISSED", None: ""}
    return "\n".join(
        f"{timing.name:<36} {timing.median:7.3f} s  "
        f"{'' if timing.bar is None else f'{timing.bar:.1f} s':>6}  {verdicts[timing.reached]}"
        for timing in timings
    )


@contextmanager
def _running(url: str | None) -> Iterator[str]:
    with nullcontext(url.rstrip("/")) if url else serve() as address:
        yield address


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the report")
    parser.add_argument("--url", help="of a running app; by default one is started")
    parser.add_argument("--runs", type=int, default=5, help="of which the median is taken")
    options = parser.parse_args()
    with browsing() as browser:
        timings: list[Timing] = []
        memory: dict[str, int] = {}
        if not options.url:
            first, memory = first_start(browser)
            timings = [first, *starts(browser, options.runs)]
        with _running(options.url) as address:
            timings += measure(browser, address, options.runs)
    if options.json:
        write_json(options.json, report(timings, memory, options.runs))
    print(table(timings))
    for name, size in memory.items():
        print(f"{name:<36} {size / 1e9:7.2f} GB {MEMORY_BARS[name] / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
