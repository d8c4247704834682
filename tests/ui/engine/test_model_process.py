"""The model in a process of its own says what it says in the page's, and may die."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from cgclora.inference.request import DecodingError
from tests.ui.engine.model_work import closed, count, fail
from tests.ui.engine.questions import PROMPT, TASKS, replies
from tests.ui.test_app import ask, pieces
from ui.engine.client import EngineError, Wait
from ui.engine.engine import AppEngine
from ui.engine.model_process import ModelEndedError, ModelProcess
from ui.engine.model_server import Start
from ui.engine.models import Models, loader

WITHOUT_TORCH = """
import sys
import app
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def started(folders: tuple[Path, Path]) -> Iterator[tuple[AppEngine, ModelProcess]]:
    """An engine whose model is in another process."""
    adapters, backbone = folders
    models = ModelProcess(Start(str(backbone), int8=False))
    engine = AppEngine(adapters, models)
    engine.start()
    assert engine.wait(120)
    assert engine.status.ready, engine.status.problem
    yield engine, models
    engine.end(0)


def becomes(what: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return what()


def test_it_says_what_it_says_in_this_process(started, folders):
    engine, _ = started
    adapters, backbone = folders
    here = AppEngine(adapters, Models(loader(str(backbone), int8=False)))
    here.start()
    assert here.wait(60)
    assert json.dumps(replies(engine)) == json.dumps(replies(here))
    assert engine.facts == here.facts
    texts = ["灯光柔和", "", "a b c"]
    assert engine.token_counts(texts) == here.token_counts(texts)
    assert engine.all_gates("two").weights.tolist() == here.all_gates("two").weights.tolist()
    here.end(0)


def test_the_page_has_no_torch():
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], check=True, capture_output=True, text=True
    )
    assert found.stdout.splitlines()[-1] == "[]"


def test_errors_come_as_what_they_are_or_as_their_words(started):
    _, models = started
    for error, kind, words in (
        (EngineError("ask again"), EngineError, "^ask again$"),
        (DecodingError("too long"), DecodingError, "^too long$"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"), ValueError, "no text"),
        (KeyError("there"), RuntimeError, "^KeyError: 'there'$"),
    ):
        values = models.run(fail, error)
        assert next(values) != os.getpid()
        with pytest.raises(kind, match=words):
            next(values)


def test_closing_a_call_stops_its_work(started):
    _, models = started
    (before,) = models.run(closed)
    with closing(models.run(count)) as counting:
        assert [next(counting) for _ in range(3)] == [0, 1, 2]
    assert becomes(lambda: [*models.run(closed)] == [before + 1], 10)


def test_nobody_else_may_call(started):
    _, models = started
    with pytest.raises(AuthenticationError):
        Client(models._address, authkey=b"guessed")
    assert stat.S_IMODE(Path(models._address).parent.stat().st_mode) == 0o700
    (count,) = models.run(closed)  # it goes on
    assert count >= 0


def test_the_queue_is_followed(started):
    engine, _ = started
    for _ in range(20):
        with closing(ask(engine, "one", TASKS[1], PROMPT, 64)) as asked:
            next(asked)
    assert becomes(lambda: engine.waiting == 0, 10)
    assert engine.seconds_until_room >= 1


def test_signals_for_the_page_leave_it_alone(started):
    engine, models = started
    for one in (signal.SIGINT, signal.SIGTERM):
        models._process.send_signal(one)
    assert pieces(engine, "one", TASKS[1], PROMPT, 4)
    assert models._process.poll() is None


def test_a_model_that_dies_is_started_again_and_says_the_same(started):
    engine, models = started
    expected = [piece.text for piece in pieces(engine, "one", TASKS[1], PROMPT, 8)]
    asked = ask(engine, "one", TASKS[1], PROMPT, 256)
    while isinstance(next(asked), Wait):
        pass
    models._process.kill()
    with pytest.raises(ModelEndedError, match=r"signal 9; perhaps the memory was full"):
        list(asked)
    assert becomes(lambda: not engine.status.ready, 10)
    with pytest.raises(EngineError):
        ask(engine, "one", TASKS[1], PROMPT, 8)
    assert engine.adapters() == ("one", "two")
    assert becomes(lambda: engine.status.ready)
    assert [piece.text for piece in pieces(engine, "one", TASKS[1], PROMPT, 8)] == expected


def test_a_backbone_that_does_not_load_is_a_sentence_and_the_process_ends_with_the_page(tmp_path):
    models = ModelProcess(Start(str(tmp_path), int8=False))
    with pytest.raises(ModelEndedError, match="is being started"):
        next(models.run(count))
    engine = AppEngine(tmp_path / "adapters", models)
    engine.start()
    assert engine.wait(120)
    assert "config.json" in engine.status.problem
    models._process.stdin.close()  # as the system does for a page that was killed
    assert models._process.wait(30) == 0
    with pytest.raises(ModelEndedError, match="exit code 0"):
        next(models.run(count))
    engine.end(0)
