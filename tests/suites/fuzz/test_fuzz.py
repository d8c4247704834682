"""Values and calls that no page sends; `make fuzz` makes twenty thousand of them."""

import json
import random
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from gradio.routes import App
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.suites.fuzz import run
from tests.suites.fuzz.calls import call
from tests.suites.fuzz.http import API, AS_JSON, Page
from ui.engine.settings import AppLimits
from ui.server.files import PROJECT, UploadQuota, public_path
from ui.server.guard import Guard
from ui.server.page import Page as Guarded
from ui.server.page import is_plain
from ui.server.service import around

HALF_A_CHARACTER = '"\\ud800"'


# The short form --------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_calls() -> None:
    events = tuple(
        {"id": number, "inputs": [1], "queue": False, "targets": [[1, "x"]]} for number in range(3)
    )
    page = Page(events, {1: {"type": "textbox"}})
    first, again = ([call(random.Random(n), page, "me") for n in range(200)] for _ in range(2))
    assert first == again
    assert {one.method for one in first} >= {"GET", "POST"}


def test_the_app_bears_calls_that_no_page_makes() -> None:
    found = run.measure(250, seed=11)
    assert found["reached"] == dict.fromkeys(found["reached"], True), json.dumps(found, indent=1)


def test_errors_in_a_log_are_counted_by_their_place() -> None:
    log = "\n".join(
        [
            "Traceback (most recent call last):",
            '  File "/somewhere/ui/components/forms.py", line 17, in task_named',
            "    if name in TASKS:",
            "TypeError: unhashable type: 'list'",
            json.dumps({"time": "", "level": "error", "event": "no answer", "at": ["a.py:1 f"]}),
            json.dumps({"time": "", "level": "info", "event": "request"}),
        ]
    ).replace('{"time": ""', '{"time": "2026"')
    assert run.wrong_inside(log) == {
        "TypeError at components/forms.py task_named": 1,
        "no answer at a.py:1 f": 1,
    }


# The guard -------------------------------------------------------------------------------------


async def _echo(request: Request) -> JSONResponse:
    return JSONResponse({"path": request.url.path, "bytes": len(await request.body())})


@pytest.fixture(scope="module")
def guarded() -> TestClient:
    routes = [Route("/{path:path}", _echo, methods=["GET", "POST"])]
    return TestClient(Guard(Starlette(routes=routes), UploadQuota(12_000_000)))


def test_what_a_page_sends_comes_through_whole(guarded: TestClient) -> None:
    quoted = 'a visitor\'s own "session_hash": ""'
    body = json.dumps({"data": ["你好 👩‍⚕️", 1.5, None, quoted]}).encode()
    assert guarded.post(f"{API}/queue/join", content=body).json()["bytes"] == len(body)
    assert guarded.get(f"{API}/file=/x/图.png").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"{API}/call/generate", f'{{"data": [{HALF_A_CHARACTER}]}}', 400),
        (f"{API}/queue/join", f'{{"session_hash": {HALF_A_CHARACTER}}}', 400),
        (f"{API}/queue/join", '{"data": [], "session_hash" : ""}', 400),
        (f"{API}/queue/join", " " * 5_000_000, 413),
        (f"{API}/component_server", "{}", 404),
        (f"{API}/proxy=http://example.org", "", 404),
        (f"{API}/file=http://example.org/x", "", 404),
        (f"{API}/file=%00", "", 404),
        ("/" + "x" * 3000, "", 404),
    ],
)
def test_what_no_handler_should_see_is_turned_away(
    guarded: TestClient, path: str, body: str, status: int
) -> None:
    assert guarded.post(path, content=body).status_code == status


def test_files_have_a_limit_of_their_own(guarded: TestClient) -> None:
    assert guarded.post(f"{API}/upload", content=" " * 5_000_000).status_code == 200


def test_uploads_have_one_together() -> None:
    routes = [Route("/{path:path}", _echo, methods=["POST"])]
    now = 0.0
    quota = UploadQuota(9_000_000, lambda: now)
    client = TestClient(Guard(Starlette(routes=routes), quota))
    assert client.post(f"{API}/upload", content=" " * 5_000_000).status_code == 200
    now = 1800
    with pytest.raises(ClientDisconnect):  # in the middle, as if its line were dead
        client.post(f"{API}/upload", content=" " * 5_000_000)
    assert client.post(f"{API}/upload", content=" ").status_code == 429
    assert client.post(f"{API}/queue/join", content="{}").status_code == 200
    now = 3601
    assert client.post(f"{API}/upload", content=" " * 3_000_000).status_code == 200


# Values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "你好", "👩‍⚕️", 0, -1.5, None, True, [], {"a": [1, "b"]}])
def test_what_json_can_say_plainly_is_plain(value: object) -> None:
    assert is_plain(value)


def deep(levels: int) -> object:
    value: object = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    ["\ud800", {"\udfff": 1}, float("nan"), float("inf"), [-1e308], 10**40, deep(900)],
    ids=["half a character", "in a name", "nan", "inf", "huge", "a long whole number", "deep"],
)
def test_what_handlers_would_stumble_over_is_not_plain(value: object) -> None:
    assert not is_plain(value)


# The page --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> "httpx.Client":  # an app of two handlers, with one component of each kind
    def show(*values: object) -> str:
        return json.dumps(values)

    def show_event(event: gr.EventData) -> str:
        return json.dumps(event._data)

    with Guarded() as blocks:
        parts = [gr.Slider(0, 2), gr.Checkbox(), gr.Textbox(), gr.Radio(["a"]), gr.Number()]
        said = gr.Textbox()
        gr.Button().click(show, parts, said, queue=False, api_visibility="private")
        gr.Button().click(show_event, None, said, queue=False, api_visibility="private")
    blocks.queue(api_open=False)
    engine = SimpleNamespace(limits=AppLimits())  # nobody asks how it is
    return TestClient(App.create_app(blocks, app_kwargs=around(engine)))  # type: ignore[arg-type]


def sent(page: httpx.Client, values: list[object]) -> httpx.Response:
    body = json.dumps({"data": values, "fn_index": 0, "session_hash": "me"})
    return page.post(f"{API}/run/predict", content=body, headers=AS_JSON)


def test_values_that_components_can_hold_reach_their_handler(page: httpx.Client) -> None:
    reply = sent(page, [1.5, True, "x", "a", 3])
    assert reply.status_code == 200
    assert json.loads(reply.json()["data"][0]) == [1.5, True, "x", "a", 3]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, None),
        (0, 7),
        (0, float("nan")),
        (0, "1"),
        (0, True),
        (1, "yes"),
        (2, ["x"]),
        (2, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}),
        (3, "b"),
        (3, {}),
        (4, 1e308),
        (4, "3"),
    ],
)
def test_a_value_that_its_component_cannot_hold_is_refused_without_a_traceback(
    page: httpx.Client, capsys: pytest.CaptureFixture[str], place: int, value: object
) -> None:
    values: list[object] = [1, True, "x", "a", 3]
    values[place] = value
    reply = sent(page, values)
    assert "nothing that the page sends" in reply.json()["error"]
    assert "Traceback" not in "".join(capsys.readouterr())


def test_an_event_that_comes_with_a_file_is_refused_where_it_is_read(
    page: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    event = {"value": [{"path": "/etc/passwd"}]}
    values = [1, True, "x", "a", 3]
    body = {"data": values, "fn_index": 0, "session_hash": "me", "event_data": event}
    # So the browser says that a file was uploaded.
    assert page.post(f"{API}/run/predict", json=body).status_code == 200
    reply = page.post(f"{API}/run/predict", json={**body, "data": [], "fn_index": 1})
    assert "nothing that the page sends" in reply.json()["error"]
    assert "Traceback" not in "".join(capsys.readouterr())


def test_too_few_values_are_refused(page: httpx.Client) -> None:
    assert "nothing that the page sends" in sent(page, [1]).json()["error"]


def test_nonsense_in_gradios_own_protocol_is_no_error_of_the_server(page: httpx.Client) -> None:
    unknown = page.post(f"{API}/call/v2/no-such-endpoint", json={})
    assert (unknown.status_code, unknown.json()) == (
        400,
        {"detail": "The request is invalid."},
    )
    nobody = page.get(f"{API}/queue/data?session_hash=nobody")  # its stream has begun by then
    assert "session_not_found" in nobody.text


def test_strangers_see_no_folder_outside_of_the_project() -> None:
    assert public_path("/somewhere/else/backbone") == "backbone"
    assert public_path(PROJECT / "assets" / "adapters" / "general") == "assets/adapters/general"
    assert public_path("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
