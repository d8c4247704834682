"""What stands around the page: settings, limits, health, log, the end."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

import app
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.inference.request import Request
from tests.browser.app_server import ROOT, start, wait_until_ready
from tests.helpers.tiny import make_backbone, make_model, make_tokenizer
from tests.helpers.tiny_models import tiny_models
from tests.ui.test_app import save_adapters
from ui.engine.client import BusyError, EngineError, Wait
from ui.engine.engine import AppEngine
from ui.engine.models import Models
from ui.engine.questions import BARE
from ui.engine.settings import AppLimits, Settings, SettingsError, variable
from ui.server import log
from ui.server.rates import Rates
from ui.server.service import around, state

SECRET = "这句话只有我知道"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapters(tmp_path_factory.mktemp("adapters"))


def ready(adapters: Path, limits: AppLimits | None = None) -> AppEngine:
    engine = AppEngine(adapters, tiny_models(limits))
    engine.start()
    assert engine.wait(60)
    return engine


def question(
    engine: AppEngine, prompt: str = "你好", *, most: int = 8, beside: tuple[str, ...] = ()
) -> list[Request]:
    return [engine.request(name, "NER", prompt, most) for name in ("general", *beside)]


# Settings --------------------------------------------------------------------------------------


def test_every_limit_is_read_from_the_environment() -> None:
    for name in vars(AppLimits()):
        limits = AppLimits.from_environment({variable(name): "7"})
        assert vars(limits) == {**vars(AppLimits()), name: 7}


@pytest.mark.parametrize("value", ["0", "-1", "many", "1e3", "٣", "1.5", " 3", "9" * 10])
def test_a_limit_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match=r"CGCLORA_MAX_PER_MINUTE .* number of at least 1"):
        Settings.from_environment({"CGCLORA_MAX_PER_MINUTE": value})


def test_a_switch_that_is_neither_on_nor_off_is_refused() -> None:
    with pytest.raises(SettingsError, match="CGCLORA_INT8 is 'yes': give 1 for yes or 0 for no"):
        Settings.from_environment({"CGCLORA_INT8": "yes"})


def test_adapters_may_be_listed_by_folder_or_hub_id(tmp_path: Path) -> None:
    adapters = Path(__file__).parents[3] / "assets" / "adapters"
    shipped = [str(adapters / name) for name in ("general", "medical")]
    environment = {"CGCLORA_ADAPTERS": ", ".join(shipped), "CGCLORA_RUNS": str(tmp_path)}
    folder = Settings.from_environment(environment).adapters
    assert [str(path.resolve()) for path in sorted(folder.iterdir())] == shipped
    with pytest.raises(SettingsError, match=r"CGCLORA_ADAPTERS: me/none .* hub"):
        Settings.from_environment({"CGCLORA_ADAPTERS": "me/none"})


def test_the_app_says_what_is_wrong_with_its_environment() -> None:
    said = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={**os.environ, "CGCLORA_MAX_JOBS": "none", "GRADIO_SERVER_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode == 1
    assert said.stderr.strip().endswith(
        "CGCLORA_MAX_JOBS is 'none': give a whole number of at least 1."
    )


# AppLimits ----------------------------------------------------------------------------------------


def asked_by(address: str, forwarded: str = "") -> Any:
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    return SimpleNamespace(client=SimpleNamespace(host=address), headers=headers)


def test_each_visitor_has_a_rate_of_their_own() -> None:
    now = [0.0]
    rates = Rates(2, clock=lambda: now[0])
    for _ in range(2):
        rates.count(asked_by("1.1.1.1"))
    with pytest.raises(BusyError, match=r"ask again in 6[01] s"):
        rates.count(asked_by("1.1.1.1"))
    rates.count(asked_by("2.2.2.2"))
    now[0] = 60.0
    rates.count(asked_by("1.1.1.1"))


def test_a_visitor_behind_a_proxy_cannot_pretend_to_be_another() -> None:
    rates = Rates(1, proxied=True)
    rates.count(asked_by("10.0.0.1", "6.6.6.6, 8.8.8.8, 10.1.1.1"))
    with pytest.raises(BusyError):  # what stands before the proxy's word is the visitor's own
        rates.count(asked_by("10.0.0.1", "7.7.7.7, 8.8.8.8, 10.1.1.1"))
    rates.count(asked_by("10.0.0.1", "8.8.8.8, 9.9.9.9, 10.1.1.1"))


def test_without_a_proxy_nobody_believes_what_a_request_says_of_itself() -> None:
    rates = Rates(1)
    rates.count(asked_by("10.0.0.1", "8.8.8.8"))
    with pytest.raises(BusyError):
        rates.count(asked_by("10.0.0.1", "9.9.9.9"))


def test_visitors_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.server.rates._MOST_VISITORS", 10)
    now = [0.0]
    rates = Rates(5, clock=lambda: now[0])
    for number in range(100):
        now[0] += 10.0
        rates.count(asked_by(f"1.1.1.{number}"))
    assert len(rates._times) <= 10


def test_questions_at_once_share_a_batch(adapters: Path) -> None:
    engine = ready(adapters)
    alone = [answers(engine, question(engine, prompt)) for prompt in ("你好", "天气", "吃饭")]
    served = engine.models.inference.served  # type: ignore[union-attr]
    before = served.batches
    found: dict[int, list[str]] = {}
    threads = [
        threading.Thread(
            target=lambda n=n, p=p: found.update({n: answers(engine, question(engine, p))})
        )
        for n, p in enumerate(("你好", "天气", "吃饭"))
    ]
    with engine.models.backbone.lock:  # type: ignore[union-attr]  # so that all have come before a pass
        for thread in threads:
            thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join(60)
    assert [found[n] for n in range(3)] == alone
    assert served.batches - before < 3


def answers(engine: AppEngine, asked: list[Request]) -> list[str]:
    told = [piece for piece in engine.ask(asked) if not isinstance(piece, Wait)]
    return [piece.answer.text for piece in told if piece.answer is not None]


def test_what_waits_is_told_how_many_come_first_and_what_does_not_fit_is_refused(
    adapters: Path,
) -> None:
    engine = ready(adapters, AppLimits(at_once=1, waiting=2))
    with engine.models.backbone.lock:  # type: ignore[union-attr]  # nothing is answered meanwhile
        running = [engine.ask(question(engine)) for _ in range(2)]  # as many as there are workers
        for one in running:
            assert isinstance(next(one), Wait)
        first, second = engine.ask(question(engine)), engine.ask(question(engine))
        assert next(first) == Wait(0)
        assert next(second) == Wait(1)
        assert engine.waiting == 2
        with pytest.raises(BusyError, match="2 wait, 2 may"):
            next(engine.ask(question(engine)))
        first.close()  # who leaves makes room
        assert next(second) == Wait(0)
        third = engine.ask(question(engine))
        assert isinstance(next(third), Wait)
    for one in (*running, second, third):
        assert list(one)[-1].answer is not None  # type: ignore[union-attr]


def test_an_answer_that_takes_too_long_is_given_up(adapters: Path) -> None:
    engine = ready(adapters)
    object.__setattr__(engine.limits, "answer_seconds", -1)  # over as soon as it has begun
    with pytest.raises(EngineError, match="took longer"):
        list(engine.ask(question(engine, most=64, beside=(BARE,))))


def waiting_becomes(engine: AppEngine, count: int) -> bool:
    deadline = time.monotonic() + 10
    while engine.waiting != count and time.monotonic() < deadline:
        time.sleep(0.05)
    return engine.waiting == count


def test_a_program_that_hangs_up_leaves_nothing_to_be_answered(adapters: Path) -> None:
    engine = AppEngine(adapters, tiny_models(AppLimits(at_once=1)))
    page = app.launch(engine, Settings(), quiet=True, server_name="127.0.0.1")
    assert engine.wait(60)
    with engine.models.backbone.lock:  # type: ignore[union-attr]  # nothing is answered meanwhile
        running = [engine.ask(question(engine)) for _ in range(2)]  # as many as there are workers
        for one in running:
            next(one)
        with httpx.Client(base_url=str(page.local_url)) as client:
            path = "gradio_api/call/generate"
            event = client.post(path, json={"data": ["NER", "你好", "", False]}).json()["event_id"]
            with client.stream("GET", f"{path}/{event}"):
                assert waiting_becomes(engine, 1)
        assert waiting_becomes(engine, 0)
    for one in running:
        list(one)
    page.close()


# Health ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(adapters: Path) -> Iterator[str]:
    page = app.launch(ready(adapters), Settings(), quiet=True, server_name="127.0.0.1")
    yield str(page.local_url)
    page.close()


def test_health_and_readiness_say_what_is_loaded(served: str) -> None:
    for path in ("health", "ready"):
        reply = httpx.get(served + path)
        told = reply.json()
        assert reply.status_code == 200
        assert (told["status"], told["model"], told["waiting"]) == ("ok", "ready", 0)
        assert told["versions"].keys() >= {"cgclora", "torch", "gradio"}


def test_a_server_that_is_loading_or_has_failed_is_healthy_but_not_ready(adapters: Path) -> None:
    def fail(progress: object) -> Any:
        raise RuntimeError("no model")

    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    for load, model in ((lambda progress: make_backbone(), "loading"), (fail, "failed")):
        engine = AppEngine(adapters, Models(load))
        if model == "failed":
            engine.start()
            assert engine.wait(60)
        client = TestClient(Starlette(**around(engine)))
        assert client.get("/health").status_code == 200
        reply = client.get("/ready")
        assert (reply.status_code, reply.json()["model"]) == (503, model)


def test_replies_have_the_headers_that_keep_a_page_to_itself(served: str) -> None:
    headers = httpx.get(served).headers
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert "object-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_the_page_is_compressed_and_streams_are_not_held_back(served: str) -> None:
    page = httpx.get(served)
    assert page.headers["Content-Encoding"] == "gzip"
    assert int(page.headers["Content-Length"]) < len(page.content) / 4
    plain = httpx.get(served, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    stream = f"{served}gradio_api/queue/data?session_hash=nobody"
    with httpx.stream("GET", stream, timeout=5) as events:
        assert events.headers["Content-Type"].startswith("text/event-stream")
        assert "Content-Encoding" not in events.headers


def test_a_request_keeps_a_plain_id_and_gets_one_in_place_of_any_other(served: str) -> None:
    given = httpx.get(served + "health", headers={"X-Request-ID": "abcdef-123"})
    assert given.headers["x-request-id"] == "abcdef-123"
    for strange in ("short", 'x"}\\u0000{"y', "a" * 65):
        own = httpx.get(served + "health", headers={"X-Request-ID": strange}).headers
        assert len(own["x-request-id"]) == 32


# Log -------------------------------------------------------------------------------------------


def logged(record: logging.LogRecord) -> dict[str, Any]:
    line = log._AsJson().format(record)
    assert "\n" not in line
    return dict(json.loads(line))


def test_an_error_is_logged_by_its_type_and_place_without_its_words() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, "f", 1, "no answer", (), sys.exc_info()
        )
    mark = log.request_id.set("abcdef-123")
    line = logged(record)
    log.request_id.reset(mark)
    assert (line["error"], line["request"], line["event"]) == (
        "ValueError",
        "abcdef-123",
        "no answer",
    )
    assert line["at"][0].startswith("test_service.py:")
    assert SECRET not in json.dumps(line, ensure_ascii=False)


def test_a_line_of_the_log_is_one_whatever_a_path_holds() -> None:
    record = logging.getLogger("x").makeRecord("x", logging.INFO, "f", 1, "a\u2028b\x85c", (), None)
    line = log._AsJson().format(record)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["event"] == "a\u2028b\x85c"


# A process of its own --------------------------------------------------------------------------


def test_the_log_of_a_server_holds_no_text_of_a_visitor(tmp_path: Path) -> None:
    model = make_model("qwen2").to(torch.bfloat16)  # what `load_backbone` makes of it if it can
    model.save_pretrained(tmp_path / "backbone")
    make_tokenizer().save_pretrained(tmp_path / "backbone")
    Adapter.attach(model, AdapterConfig(tasks=("NER",))).save(tmp_path / "adapters" / "own")
    settings = {
        "CGCLORA_ADAPTERS": str(tmp_path / "adapters"),
        "CGCLORA_BACKBONE": str(tmp_path / "backbone"),
        "CGCLORA_JSON_LOG": "1",
        "CGCLORA_RUNS": str(tmp_path / "runs"),
    }
    with start(settings) as running:
        wait_until_ready(running)
        client = Client(running.address, verbose=False)
        call = client.submit(task="NER", prompt=SECRET, api_name="/generate")
        assert call.result(60)["tokens"] >= 1
        with pytest.raises(AppError):
            client.predict(task=SECRET, prompt=SECRET, api_name="/generate")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(40) == 0
        lines = [line for line in running.log.read_text("utf-8").splitlines() if line[:1] == "{"]
    events = [json.loads(line) for line in lines]
    assert {"request", "ending"} <= {event["event"] for event in events}
    paths = [event["path"] for event in events if event["event"] == "request"]
    assert "/ready" in paths
    assert SECRET not in "".join(lines)
    assert SECRET.encode("unicode_escape").decode() not in "".join(lines)


def test_what_was_taken_is_answered_when_the_end_has_come(adapters: Path) -> None:
    engine = ready(adapters)
    asked = engine.ask(question(engine, most=32))
    with engine.models.backbone.lock:  # type: ignore[union-attr]
        assert next(asked) == Wait(0)
        ending = threading.Thread(target=engine.end, args=(60,))
        ending.start()
        while not engine.ending:
            time.sleep(0.01)
        assert state(engine)["status"] == "ending"
    assert list(asked)[-1].answer is not None  # type: ignore[union-attr]
    ending.join(60)
    assert not ending.is_alive()
    with pytest.raises(BusyError, match="shutting down"):
        next(engine.ask(question(engine)))


def test_the_end_does_not_wait_for_ever(adapters: Path) -> None:
    engine = ready(adapters)
    asked = engine.ask(question(engine, most=64))
    with engine.models.backbone.lock:  # type: ignore[union-attr]
        assert next(asked) == Wait(0)
        ending = threading.Thread(target=engine.end, args=(0.1,))
        ending.start()
        time.sleep(0.5)
    ending.join(60)
    assert not ending.is_alive()
    with pytest.raises(ValueError, match="cancelled"):
        list(asked)
