"""The page's events and the endpoints, without a browser."""

import json
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

import app
from evals.tasks import TASKS
from tests.helpers.tiny_models import tiny_models
from tests.ui.test_app import loaded_engine, save_adapter, save_adapters
from ui.components import forms
from ui.components.texts import TEXTS, text
from ui.engine.engine import AppEngine
from ui.engine.questions import BARE
from ui.engine.settings import Settings
from ui.server.rates import Rates
from ui.shell import Shell
from ui.tabs.registry import TABS, Services, TabEntry
from ui.tabs.try_it.tab import TryIt


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapters(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def engine(adapters: Path) -> AppEngine:
    return loaded_engine(adapters)


# Page -----------------------------------------------------------------------------------------


def test_all_that_a_question_holds_comes_from_the_browser(engine: AppEngine) -> None:
    # What lay on the server would be ahead of the rest by the messages on their way.
    page = app.build(engine, Settings())
    inputs = {part for event in page.fns.values() for part in event.inputs}
    assert inputs
    assert not [part for part in inputs if isinstance(part, gr.State)]


def visitor(session: str = "one", **query: str) -> gr.Request:
    return SimpleNamespace(session_hash=session, query_params=query, headers={}, client=None)  # type: ignore[return-value]


def tab_of(engine: AppEngine) -> TryIt:
    with gr.Blocks() as page:
        shell = Shell(page)
        with shell.tab("try"):
            return TryIt(shell, engine)


def ask(tab: TryIt, begun: dict[Any, Any], task: str, words: str) -> Iterator[dict[Any, Any]]:
    """The answer to what `begun` has begun, as the browser asks for it."""
    boxes: list[str | None] = [None] * (2 * forms.SLOTS)
    boxes[0] = words
    prompt = TASKS[task].prompt({"text": words})
    ticket = begun[tab.answers.ticket]
    asked = (ticket, "general", task, prompt, prompt, False, 64, [BARE])
    return tab.answer(visitor(), *asked, *boxes)


@pytest.mark.parametrize("newer", ["task", "cluster", "sample", "question", "stop", "closed"])
def test_an_answer_writes_nothing_once_something_newer_began(engine: AppEngine, newer: str) -> None:
    tab = tab_of(engine)
    old = ask(tab, tab.answers.begin("general", [BARE], visitor()), "SentimentAnalyze", "好")
    next(old)
    next(old)
    begin: dict[str, Callable[[], Any]] = {
        "task": lambda: tab.choose_task("general", "NER", visitor()),
        "cluster": lambda: tab.choose_cluster("my-own", visitor()),
        "sample": lambda: tab.ask_sample("SentimentAnalyze", 1, "general", [BARE], visitor()),
        "question": lambda: tab.answers.begin("general", [BARE], visitor()),
        "stop": lambda: tab.answers.cancel("general", [BARE], visitor()),
        "closed": lambda: tab.shell._forget(visitor()),
    }
    begin[newer]()
    now = tab.answers.catch_up(visitor())
    assert list(old) == []
    assert tab.answers.catch_up(visitor()) == now


def test_the_newest_answer_is_written_to_its_end(engine: AppEngine) -> None:
    tab = tab_of(engine)
    *_, last = ask(tab, tab.answers.begin("general", [BARE], visitor()), "SentimentAnalyze", "好")
    assert last[tab.run]["visible"]
    assert not last[tab.stop]["visible"]
    assert tab.answers.catch_up(visitor()) == last


def test_answers_on_another_page_go_on(engine: AppEngine) -> None:
    tab = tab_of(engine)
    answer = ask(tab, tab.answers.begin("general", [BARE], visitor()), "SentimentAnalyze", "好")
    next(answer)
    tab.choose_task("general", "NER", visitor("two"))
    assert list(answer)


@pytest.mark.parametrize("end", ["stop", "refused"])
def test_run_comes_back_for_a_question_that_nobody_answers(engine: AppEngine, end: str) -> None:
    tab = tab_of(engine)
    waiting = tab.answers.begin("general", [BARE], visitor())
    assert not waiting[tab.run]["visible"]
    ended = (
        tab.answers.cancel("general", [BARE], visitor())
        if end == "stop"
        else tab.answers.refuse("general", [BARE], visitor())
    )
    assert ended[tab.run]["visible"]
    assert not ended[tab.stop]["visible"]
    assert (TEXTS["not_taken"][0] in ended[tab.answers.cards[0]]["value"]) == (end == "refused")
    assert list(ask(tab, waiting, "SentimentAnalyze", "好")) == []


def test_a_refused_question_and_every_finished_one_settle_the_page(engine: AppEngine) -> None:
    events = app.build(engine, Settings()).get_config_file()["dependencies"]
    names = {event["id"]: event["api_name"] for event in events}
    asked = [event["id"] for event in events if names[event["id"]].startswith("answer")]
    assert asked
    for answer in asked:
        after = [event for event in events if event["trigger_after"] == answer]
        assert [event["trigger_only_on_failure"] for event in after] == [False, True]
        assert not any(event["queue"] for event in after)


def test_only_answers_and_pushes_stand_in_the_queue(engine: AppEngine) -> None:
    events = app.build(engine, Settings()).get_config_file()["dependencies"]
    queued = {event["api_name"] for event in events if event["queue"] is not False}
    assert queued - {"_forget"} == {
        "answer",
        "answer_1",
        "compute",
        "push_chosen",
        "generate",
        "tasks",
        "gates",
        "leaderboard",
        "runs",
    }


def test_a_cluster_found_damaged_while_loading_gives_way_to_another(tmp_path: Path) -> None:
    save_adapter(tmp_path / "broken", ("NER",))
    (tmp_path / "broken" / "adapter.safetensors").write_bytes(b"no tensors here")
    save_adapter(tmp_path / "sound", ("Couplet",))
    engine = AppEngine(tmp_path, tiny_models())
    tab = tab_of(engine)
    assert tab.open(visitor())[tab.cluster]["value"] == "broken"
    assert tab.shell.clock not in tab.watch("broken", "NER", visitor())
    engine.start()
    assert engine.wait(60)
    shown = tab.watch("broken", "NER", visitor())
    assert shown[tab.cluster]["value"] == "sound"
    assert shown[tab.task]["value"] == "Couplet"
    assert [name for _, name in shown[tab.cluster]["choices"]] == ["sound"]
    assert shown[tab.gate_map] is not None
    assert not shown[tab.shell.clock].active


def test_nothing_can_be_asked_when_no_adapter_is_left(tmp_path: Path) -> None:
    save_adapter(tmp_path / "broken", ("NER",))
    (tmp_path / "broken" / "adapter.safetensors").write_bytes(b"no tensors here")
    tab = tab_of(loaded_engine(tmp_path))
    assert tab.watch("broken", "NER", visitor())[tab.body]["visible"] is False


# Server ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(engine: AppEngine) -> Iterator[Client]:
    page = app.build(engine, Settings())
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield Client(url, verbose=False)
    page.close()


def test_tasks_endpoint_lists_every_task_of_the_usable_adapters(client: Client) -> None:
    tasks = client.predict(api_name="/tasks")["tasks"]
    assert [(task["cluster"], task["name"]) for task in tasks] == [
        ("general", "Couplet"),
        ("general", "SentimentAnalyze"),
        ("general", "NER"),
        ("my-own", "greet"),
        ("my-own", "<b>bold</b>"),
    ]


def test_generate_endpoint_gives_answer_parsed_result_and_gates(client: Client) -> None:
    reply = client.predict(task="NER", prompt="你好", api_name="/generate")
    assert reply["cluster"] == "general"
    assert reply["tokens"] >= 1
    assert reply["parsed"]["columns"] == ["type", "mention"]
    assert reply["gates"]["common"] + reply["gates"]["specific"] == pytest.approx(1)


def test_gates_endpoint_gives_a_row_for_every_layer(client: Client, engine: AppEngine) -> None:
    gates = client.predict(task="NER", api_name="/gates")
    assert len(gates["weights"]) == len(gates["layers"]) == 14
    assert len(gates["experts"]) == 5
    assert gates["weights"] == pytest.approx(engine.gates("general", "NER").weights, abs=1e-6)


def test_no_endpoint_waits_for_the_model(adapters: Path) -> None:
    page = app.build(AppEngine(adapters, tiny_models()), Settings())  # never started
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    client = Client(url, verbose=False)
    for _ in range(3):  # no wave larger than the queue, which refuses what does not fit
        calls = [client.submit(task="NER", api_name="/gates") for _ in range(24)]
        calls += [client.submit(task="NER", prompt="你好", api_name="/generate") for _ in range(6)]
        for call in calls:
            with pytest.raises(AppError, match=r"still loading|again in a few seconds"):
                call.result(30)
    page.close()


def test_who_asks_too_often_is_told_when_to_come_back(adapters: Path) -> None:
    engine = AppEngine(adapters, tiny_models(), rates=Rates(2))
    page = app.build(engine, Settings())
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    client = Client(url, verbose=False)
    for reason in ("still loading", "still loading", r"ask again in \d+ s"):
        with pytest.raises(AppError, match=reason):
            client.predict(task="NER", prompt="你好", api_name="/generate")
    page.close()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"prompt": None}, {"prompt": 5}, {"prompt": {}}, {"labels_only": "false"}),
        *({"task": ["NER"]}, {"cluster": {}}),
    ],
)
def test_values_of_a_wrong_type_are_refused(client: Client, wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(AppError, match=f"{name} must be"):
        client.predict(**{"task": "NER", "prompt": "你好", **wrong}, api_name="/generate")


@pytest.mark.parametrize(
    ("endpoint", "wrong"),
    [
        ("gates", {"task": {}}),
        ("leaderboard", {"cluster": {}}),
        ("leaderboard", {"local": "yes"}),
        ("runs", {"name": []}),
    ],
)
def test_every_endpoint_refuses_values_of_a_wrong_type(
    client: Client, endpoint: str, wrong: dict[str, object]
) -> None:
    (name,) = wrong
    with pytest.raises(AppError, match=f"{name} must be"):
        client.predict(**wrong, api_name=f"/{endpoint}")


def test_only_classifications_are_held_to_their_labels(client: Client) -> None:
    replies = [
        client.predict(task="NER", prompt="你好", labels_only=only, api_name="/generate")
        for only in (False, True)
    ]
    assert replies[0]["answer"] == replies[1]["answer"]
    label = client.predict(
        task="SentimentAnalyze", prompt="你好", labels_only=True, api_name="/generate"
    )
    assert label["answer"] in TASKS["SentimentAnalyze"].labels


def test_an_unknown_task_is_answered_with_those_that_are_known(client: Client) -> None:
    with pytest.raises(AppError, match="SentimentAnalyze"):
        client.predict(task="nothing", prompt="你好", api_name="/generate")


def test_only_the_named_endpoints_are_public(client: Client) -> None:
    api = client.view_api(return_format="dict")
    assert set(api["named_endpoints"]) == {"/generate", "/tasks", "/gates", "/leaderboard", "/runs"}
    assert not api["unnamed_endpoints"]


def test_no_file_of_the_project_can_be_fetched(client: Client) -> None:
    import httpx

    for path in ("app.py", "assets/style/base.css", "../../etc/passwd", app.__file__):
        reply = httpx.get(f"{client.src}gradio_api/file={path}")
        assert reply.status_code in (403, 404), path


def test_an_assistant_finds_the_same_endpoints_as_tools(engine: AppEngine) -> None:
    import httpx

    page = app.build(engine, Settings())
    settings = {"prevent_thread_lock": True, "quiet": True, "server_name": "127.0.0.1"}
    _, url, _ = page.launch(mcp_server=True, **settings)
    tools = httpx.get(f"{url}gradio_api/mcp/schema").json()
    page.close()
    assert {tool["name"] for tool in tools} == {"generate", "tasks", "gates", "leaderboard", "runs"}
    assert all(tool["description"] for tool in tools)


def test_the_leaderboard_endpoint_names_runs_that_the_runs_endpoint_explains(
    client: Client,
) -> None:
    board = client.predict(cluster="medical", api_name="/leaderboard")["boards"][0]
    names = [name for entry in board["entries"] for name in entry["runs"]]
    assert set(names) <= set(client.predict(api_name="/runs")["runs"])
    assert {*board["clusters"]} == {"medical", "general"}
    best, tasks = board["entries"][0], set()
    for name in best["runs"]:  # one a cluster
        facts = client.predict(name=name, api_name="/runs")
        assert facts["method"] == best["method"]
        tasks |= facts["scores"].keys()
    assert tasks == {task["name"] for task in board["tasks"]}


@pytest.mark.parametrize(
    ("endpoint", "values", "reason"),
    [
        ("/leaderboard", {"cluster": "nowhere"}, "medical"),
        ("/runs", {"name": "../../etc"}, "no run is called"),
    ],
)
def test_a_board_or_run_that_is_not_there_is_refused(
    client: Client, endpoint: str, values: dict[str, str], reason: str
) -> None:
    with pytest.raises(AppError, match=reason):
        client.predict(**values, api_name=endpoint)


# Tabs -----------------------------------------------------------------------------------------


def test_a_tab_is_added_by_one_entry(engine: AppEngine) -> None:
    made: list[gr.HTML] = []

    def build(shell: Shell, services: Services) -> None:
        made.append(gr.HTML("from outside"))

        def show(request: gr.Request) -> dict[gr.HTML, str]:
            return {made[0]: services.engine.clusters()[0]}

        shell.on_show("extra", show, [], made)

    extra = TabEntry("extra", ("另一个", "Extra"), build)
    page = app.build(engine, Settings(), [*TABS, extra])
    components = page.get_config_file()["components"]
    tabs = [part["props"] for part in components if part["type"] == "tabitem"]
    assert [tab["id"] for tab in tabs] == [*(tab.id for tab in TABS), "extra"]
    assert text("tab extra", "en") == "Extra"
    assert text("tab extra", "zh") == "另一个"


def test_every_tab_declares_what_it_writes_into_the_address(engine: AppEngine) -> None:
    events = app.build(engine, Settings()).get_config_file()["dependencies"]
    written = {
        key
        for event in events
        for names in re.findall(r"(\[[^\]]*\])\.forEach\(\(name, place\)", event["js"] or "")
        for key in json.loads(names)
    }
    declared = [key for tab in TABS for key in tab.link_keys]
    assert written - {"tab"}
    for key in written - {"tab"}:
        assert any(fnmatch(key, pattern) for pattern in declared), key


def test_an_event_without_progress_leaves_no_record_of_it_in_the_browser(engine: AppEngine) -> None:
    events = app.build(engine, Settings()).get_config_file()["dependencies"]
    ours = [event for event in events if event["api_visibility"] == "private" and event["outputs"]]
    assert len(ours) > 50
    assert [event["id"] for event in ours if event["show_progress_on"] != []] == []


def test_a_tab_opens_with_a_single_call(engine: AppEngine) -> None:
    config = app.build(engine, Settings()).get_config_file()
    names = {
        part["id"]: part["props"]["id"]
        for part in config["components"]
        if part["type"] == "tabitem"
    }
    called = [
        names[target]
        for event in config["dependencies"]
        for target, kind in event["targets"]
        if kind == "select" and target in names and event["backend_fn"]
    ]
    assert called == [tab.id for tab in TABS if tab.id != "try"]


def test_a_page_shows_all_parts_of_the_tab_that_its_address_names(engine: AppEngine) -> None:
    page = app.build(engine, Settings())
    (opened,) = (fn for fn in page.fns.values() if getattr(fn.fn, "__name__", "") == "_show")
    request = SimpleNamespace(session_hash="one", query_params={"tab": "train"}, headers={})
    assert opened.fn is not None
    assert opened.inputs == []
    shown = {part.elem_id for part in opened.fn(request)}
    assert {"train-source", "train-report", "train-command", "train-jobs"} <= shown
    assert not any(name and name.startswith(("bench", "board")) for name in shown)
