"""What the server remembers of pages and calls."""

import json
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio.server_messages import EstimationMessage
from gradio.state_holder import StateHolder

import app
from tests.ui.test_app import loaded_engine, save_adapters
from ui.engine.settings import Settings
from ui.server import memory


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    engine = loaded_engine(save_adapters(tmp_path_factory.mktemp("adapters")))
    page = app.launch(engine, Settings(), quiet=True, server_name="127.0.0.1")
    yield page
    page.close()


def test_a_call_is_remembered_in_little(page: gr.Blocks) -> None:
    holder = StateHolder()
    holder.set_blocks(page)
    tracemalloc.start()
    for call in range(20):
        assert holder[f"call {call}"].blocks_config.fns == page.fns
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 20 < 60_000


def test_words_to_a_page_that_has_left_go_nowhere(page: gr.Blocks) -> None:
    queue = page._queue
    gone: Any = SimpleNamespace(alive=True, _id="event", session_hash="has left")
    queue.send_message(gone, EstimationMessage(rank=0, queue_size=1))
    assert "has left" not in queue.pending_messages_per_session


def test_of_pages_and_calls_those_spoken_of_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_SESSIONS", 3)
    recent = memory.RecentSessions[set[int]](set)
    for number, name in enumerate("abc"):
        recent[name] = {number}
    assert recent["a"] == {0}
    recent["d"] = {3}
    assert [*recent] == ["c", "a", "d"]
    assert recent["b"] == set()
    assert "b" not in recent


def test_an_event_that_pages_handle_alone_is_refused(page: gr.Blocks) -> None:
    alone = [number for number, event in page.fns.items() if event.fn is None]
    assert alone
    with httpx.Client(base_url=str(page.local_url)) as client:
        for number in alone:
            body = {"data": [], "fn_index": number, "session_hash": "one"}
            reply = client.post("gradio_api/run/predict", json=body)
            assert "load it again" in json.loads(reply.text)["error"]
