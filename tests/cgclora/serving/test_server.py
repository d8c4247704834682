"""The completions server: a real one on loopback, with clusters of random weights."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from cgclora.__main__ import main
from cgclora.inference.batch import Batch
from cgclora.inference.engine import Engine, generate
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Answer, DecodingError, Piece, Request
from cgclora.inference.request_queue import Call, Limits, QueueFullError
from cgclora.serving.server import application
from evals.runs.engines import LocalEngine, ServerEngine
from tests.helpers.serving import CONFIGS, PROMPTS, serve
from tests.helpers.tiny import make_backbone, save_backbone

LONG = 200


def until(condition: Any) -> None:
    end = time.monotonic() + 120  # a busy machine
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# Answers ----------------------------------------------------------------------------------


def test_models_are_the_backbone_the_tasks_and_the_clusters_of_shared_tasks(served):
    found = httpx.get(f"{served.url}/models").json()
    names = [model["id"] for model in found["data"]]
    assert names == ["tiny-qwen2", "auto", "a", "b", "c", "d", "small/b", "large/b"]
    assert found["object"] == "list"


def test_a_model_is_found_by_its_name_slashes_and_all(served):
    client = OpenAI(base_url=served.url, api_key="none")
    listed = list(client.models.list())
    for model in listed:
        assert client.models.retrieve(model.id) == model
        assert httpx.get(f"{served.url}/models/{model.id}").json() == model.to_dict()
        assert httpx.get(f"{served.url}/models/{quote(model.id, safe='')}").is_success
    assert client.models.retrieve("large/c").id == "large/c"  # not listed, but it answers


@pytest.mark.parametrize("name", ["nothing", "large/a", "small/", "/a", "a%00", "天"])
def test_a_model_that_is_not_there_is_not_found_in_openai_s_format(served, name):
    response = httpx.get(f"{served.url}/models/{name}")
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "does not exist" in error["message"]


def test_without_routers_there_is_no_model_that_chooses(clusters):
    clusters.remove("small")
    client = TestClient(application(Engine(clusters.backbone, clusters)))
    assert client.get("/v1/models/large/c").status_code == 200
    assert client.get("/v1/models/auto").status_code == 404


@pytest.mark.parametrize(
    ("model", "task", "cluster"),
    [
        ("a", "a", "small"),
        ("d", "d", "large"),
        ("b", "b", "small"),
        ("large/b", "b", "large"),
        ("large/c", "c", "large"),
        ("tiny-qwen2", None, None),
    ],
)
def test_a_model_answers_as_its_task_does(served, model, task, cluster):
    answer = served.expected(task, PROMPTS[1], cluster=cluster)
    found = served.post(model=model, prompt=PROMPTS[1], temperature=0).json()
    (choice,) = found["choices"]
    assert choice["text"] == answer.text
    assert choice["finish_reason"] == ("length" if answer.finish == "length" else "stop")
    assert found["model"] == model
    assert found["usage"] == {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": answer.prompt_tokens + answer.tokens,
    }


def test_the_bare_backbone_gets_a_prompt_as_it_is(served):
    """The API means the text of the prompt, and no adapter was trained with more."""
    tokenizer = make_backbone().tokenizer
    for prompt in (PROMPTS[1], PROMPTS[1] + "\n"):
        found = served.post(model="tiny-qwen2", prompt=prompt, temperature=0, max_tokens=1).json()
        assert found["usage"]["prompt_tokens"] == len(tokenizer(prompt)["input_ids"])


def test_a_separator_at_the_end_of_a_prompt_is_not_added_a_second_time(served):
    expected = served.expected("c", PROMPTS[0]).text
    assert served.text(model="c", prompt=PROMPTS[0] + "\n答：") == expected
    assert served.text(model="c", prompt=PROMPTS[0]) == expected
    twice = served.expected("c", PROMPTS[0] + "\n答：")
    found = served.post(model="c", prompt=PROMPTS[0] + "\n答：\n答：", temperature=0).json()
    assert found["usage"]["prompt_tokens"] == twice.prompt_tokens


def test_settings_reach_the_answer(served):
    options = {"temperature": 0.9, "top_p": 0.8, "seed": 5}
    expected = served.expected("a", PROMPTS[2], 24, **options).text
    assert served.text(model="a", prompt=PROMPTS[2], max_tokens=24, **options) == expected
    stop = expected[3]
    cut = served.post(model="a", prompt=PROMPTS[2], max_tokens=24, stop=stop, **options).json()
    assert cut["choices"][0]["text"] == expected[: expected.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop"


def test_a_draw_without_a_seed_differs_from_call_to_call(served):
    texts = {served.text(model="a", prompt="The cat", temperature=2.0) for _ in range(4)}
    assert len(texts) > 1


def test_a_list_of_prompts_gets_an_answer_each(served):
    found = served.post(model="d", prompt=list(PROMPTS), temperature=0).json()
    assert [choice["index"] for choice in found["choices"]] == list(range(len(PROMPTS)))
    texts = [choice["text"] for choice in found["choices"]]
    assert texts == [served.expected("d", prompt).text for prompt in PROMPTS]


def test_a_stream_gives_the_same_text_piece_by_piece(served):
    answer = served.expected("a", PROMPTS[0], 24)
    events = list(
        served.events(
            model="a", prompt=PROMPTS[0], max_tokens=24, stream_options={"include_usage": True}
        )
    )
    *pieces, last = events
    choices = [event["choices"][0] for event in pieces]
    assert "".join(choice["text"] for choice in choices) == answer.text
    assert len(pieces) > 2
    assert [choice["finish_reason"] is None for choice in choices] == [True] * (
        len(choices) - 1
    ) + [False]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == answer.tokens
    assert len({event["id"] for event in events}) == 1


def test_a_stream_gives_the_same_text_to_clients_that_split_lines_as_python_does(
    served, monkeypatch
):
    said = "".join(map(chr, range(1, 0x2100))) + "天😀"
    assert len(said.splitlines()) > 10
    answer = Answer(said, "end", prompt_tokens=1, tokens=1, seconds=0.0)
    monkeypatch.setattr(
        Engine, "submit", lambda self, call, requests: call.tell(Piece(0, said, answer))
    )
    response = served.post(model="a", prompt="x", stream=True)
    *events, end = [line for line in response.text.splitlines() if line]
    assert end == "data: [DONE]"
    found = [json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in events]
    assert "".join(found) == said


def test_auto_finds_the_task_of_each_prompt(served):
    prompt = "请写一首关于秋天的诗：落叶"
    found = served.post(model="auto", prompt=prompt, temperature=0).json()
    assert found["model"] == "small/b"
    assert found["choices"][0]["text"] == served.expected("b", prompt).text
    refused = served.post(model="auto", prompt="What is the capital of France?")
    assert refused.status_code == 400
    assert "name a task" in refused.json()["error"]["message"]


# Batches ----------------------------------------------------------------------------------


def test_mixed_requests_at_once_share_batches_and_get_the_answers_of_one_by_one(served):
    models = ["a", "b", "c", "d", "large/b", "tiny-qwen2"]
    asked = [(models[i % len(models)], PROMPTS[i % len(PROMPTS)], 8 + i) for i in range(20)]

    def ask(one: tuple[str, str, int]) -> str:
        return served.text(model=one[0], prompt=one[1], max_tokens=one[2])

    before = served.engine.served.batches
    alone = [ask(one) for one in asked]
    assert served.engine.served.batches - before == len(asked)
    before = served.engine.served.batches
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(ask, asked))
    assert together == alone
    assert served.engine.served.batches - before <= len(asked) // 2


def test_a_short_question_does_not_wait_for_a_long_answer(served):
    with ThreadPoolExecutor(1) as pool:
        before = served.engine.served.batches
        # No stop is found: the answer takes all its tokens, unless the model ends it.
        long = pool.submit(served.post, model="a", prompt=["The cat"] * 8, max_tokens=LONG)
        until(lambda: served.engine.served.batches > before)
        assert served.text(model="c", prompt=PROMPTS[1], max_tokens=2)
        assert not long.done()
        assert long.result().status_code == 200


class Heard:
    """Collects what a call is told."""

    def __init__(self) -> None:
        self.pieces: list[Piece | Exception] = []
        self.call = Call(self.pieces.append)

    def answers(self) -> list[Answer]:
        return [p.answer for p in self.pieces if isinstance(p, Piece) and p.answer]


@pytest.fixture
def clusters(folders: Path) -> Clusters:
    found = Clusters(make_backbone())
    for name in CONFIGS:
        found.add(name, folders / name)
    return found


def test_a_full_queue_refuses_all_requests_of_a_call_until_others_leave(clusters):
    engine = Engine(clusters.backbone, clusters, Limits(queue=3))  # not entered: nobody answers
    first, second = Heard(), Heard()
    engine.submit(first.call, [Request("a", "x")] * 2)
    with pytest.raises(QueueFullError, match="2 wait, 3 may"):
        engine.submit(second.call, [Request("a", "x")] * 2)
    first.call.cancelled = True
    engine.submit(second.call, [Request("a", "x")] * 3)
    with engine:
        until(lambda: len(second.answers()) == 3)
    assert not first.pieces


def test_a_full_server_tells_its_clients_when_to_come_back(clusters):
    engine = Engine(clusters.backbone, clusters, Limits(queue=1))  # not entered: nobody answers
    engine.submit(Heard().call, [Request("a", "x")])
    reply = TestClient(application(engine)).post(
        "/v1/completions", json={"model": "a", "prompt": "x"}
    )
    assert reply.status_code == 503
    assert reply.headers["Retry-After"] == "1"
    assert reply.json()["error"]["code"] == "queue_full"


def test_a_refusal_says_when_to_ask_again(clusters, monkeypatch):
    now = 100.0
    monkeypatch.setattr("cgclora.inference.request_queue.time.monotonic", lambda: now)
    engine = Engine(clusters.backbone, clusters, Limits(queue=40))
    assert engine.seconds_until_room == 1
    engine.submit(Heard().call, [Request("a", "x")] * 40)
    assert engine.seconds_until_room == 1  # nothing is known yet
    for _ in range(10):
        engine._queue.take(1)
        now += 1.5
    assert engine.seconds_until_room == 12  # a quarter of 30, one each 1.5 s
    engine.submit(Heard().call, [Request("a", "x")] * 10)
    with pytest.raises(QueueFullError, match=r"40 may\. Ask again in 15 s\.$") as refused:
        engine.submit(Heard().call, [Request("a", "x")])
    assert refused.value.seconds == 15
    now += 10_000
    assert engine.seconds_until_room == 60
    engine._queue.take(40)  # nobody waits any more: what was before says nothing of what comes
    assert engine.seconds_until_room == 1


def test_a_call_that_the_queue_can_never_hold_is_not_told_to_come_again(clusters):
    engine = Engine(clusters.backbone, clusters, Limits(queue=3))
    with pytest.raises(DecodingError, match="4 prompts are more than the 3"):
        engine.submit(Heard().call, [Request("a", "x")] * 4)


def test_a_caller_that_cannot_be_told_loses_its_answers_and_nobody_else_s(clusters, caplog):
    engine = Engine(clusters.backbone, clusters, Limits(workers=1))
    told, others = [], Heard()

    def tell(piece: Piece | Exception) -> None:
        told.append(piece)
        raise KeyError("gone")

    engine.submit(Call(tell), [Request("a", "The cat", max_new_tokens=LONG)])
    engine.submit(others.call, [Request("c", PROMPTS[1])])
    later = Heard()
    with engine:
        until(lambda: others.pieces and others.answers())
        engine.submit(later.call, [Request("a", "x")])
        until(later.answers)
    assert 1 <= len(told) <= 2  # what it was told first, and at most that it ended
    assert "KeyError: 'gone'" in caplog.text


def test_long_prompts_are_not_read_together(clusters, monkeypatch):
    engine = Engine(clusters.backbone, clusters, Limits(batch_tokens=64))
    heard, together = Heard(), []
    prefill = Batch.prefill_states
    monkeypatch.setattr(
        Batch,
        "prefill_states",
        lambda self: (together.append(len(self.requests)), prefill(self))[1],
    )
    long = "天" * 60
    assert len(engine._encode(Request("a", long)).ids) > 32
    engine.submit(heard.call, [Request("a", long, max_new_tokens=2)] * 3)
    with engine:
        until(lambda: len(heard.answers()) == 3)
    assert together == [1, 1, 1]


def test_requests_whose_cluster_has_gone_fail_and_the_others_of_the_batch_do_not(clusters):
    engine = Engine(clusters.backbone, clusters)
    kept, lost = Heard(), Heard()
    engine.submit(lost.call, [Request("c", PROMPTS[0])])
    engine.submit(kept.call, [Request("a", PROMPTS[0])])
    clusters.remove("large")
    with engine:
        until(lambda: kept.answers() and lost.pieces)
    (error,) = lost.pieces
    assert "'c'" in str(error)
    expected = generate(clusters.backbone, [Request("a", PROMPTS[0])], clusters)[0]
    assert kept.answers()[0].text == expected.text


def test_what_is_too_long_is_refused_before_it_waits(clusters, monkeypatch):
    engine = Engine(clusters.backbone, clusters, Limits(prompt_tokens=20, answer_tokens=10))
    with pytest.raises(DecodingError, match="longer than the 10"):
        engine.submit(Heard().call, [Request("a", "x", max_new_tokens=11)])
    with pytest.raises(DecodingError, match="more than the 20"):
        engine.submit(Heard().call, [Request("a", "天" * 30, max_new_tokens=2)])
    monkeypatch.setattr("cgclora.inference.engine.encode_requests", None)  # would be called
    with pytest.raises(DecodingError, match="641 characters are more than the 20 tokens"):
        engine.submit(Heard().call, [Request("a", "x" * 641, max_new_tokens=2)])
    with pytest.raises(DecodingError, match="queue must be at least 1"):
        Limits(queue=0)


def test_an_end_stops_answers_on_their_way_and_waiting_ones(clusters):
    engine = Engine(clusters.backbone, clusters, Limits(batch_size=1, workers=1))
    heard = [Heard(), Heard()]
    with engine:
        for one in heard:
            engine.submit(one.call, [Request("a", "The cat", max_new_tokens=LONG)])
        until(lambda: heard[0].pieces)
    assert all(isinstance(one.pieces[-1], DecodingError) for one in heard)


@pytest.mark.parametrize("streamed", [True, False])
def test_the_work_of_a_client_that_goes_away_stops(served, monkeypatch, streamed):
    steps: list[int] = []
    step = Batch.step_hidden

    def slow_step(batch: Batch, tokens: list[int]) -> Any:
        steps.append(len(tokens))
        time.sleep(0.02)
        return step(batch, tokens)

    monkeypatch.setattr(Batch, "step_hidden", slow_step)
    body = {"model": "a", "prompt": ["The cat"] * 4, "max_tokens": LONG, "stream": streamed}
    with httpx.Client(timeout=1 if not streamed else 20) as client:
        if streamed:
            with client.stream("POST", f"{served.url}/completions", json=body) as response:
                lines = response.iter_lines()
                while not steps:  # the first line may come of the prompt alone
                    next(lines)
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{served.url}/completions", json=body)
    taken = 0
    while taken < len(steps):  # a busy machine hears of it late
        taken = len(steps)
        time.sleep(0.5)
    assert 0 < taken < LONG - 50


# Errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "nothing"}, 404, "model"),
        ({"model": "large/a"}, 404, "model"),
        ({"model": ""}, 400, "model"),
        ({"prompt": None}, 400, "prompt"),
        ({"prompt": [1, 2.0]}, 400, "prompt"),
        ({"prompt": [1, True]}, 400, "prompt"),
        ({"prompt": [1, "x"]}, 400, "prompt"),
        ({"prompt": [[1], [2, "x"]]}, 400, "prompt"),
        ({"prompt": [[]]}, 400, None),
        ({"prompt": [300]}, 400, None),
        ({"prompt": [-1]}, 400, None),
        ({"prompt": [10**400]}, 400, None),
        ({"prompt": [2] * 256}, 400, None),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": ["x"] * 257}, 400, "prompt"),
        ({"prompt": ""}, 400, None),
        ({"prompt": ["x"] * 3, "n": 100}, 400, "n"),
        ({"n": 0}, 400, "n"),
        ({"n": 129}, 400, "n"),
        ({"n": 10**400}, 400, "n"),
        ({"n": True}, 400, "n"),
        ({"n": 2, "best_of": 3}, 400, "best_of"),
        ({"best_of": []}, 400, "best_of"),
        ({"echo": 1}, 400, "echo"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"logprobs": -1}, 400, "logprobs"),
        ({"logprobs": 21}, 400, "logprobs"),
        ({"logprobs": "all"}, 400, "logprobs"),
        ({"prompt_logprobs": -1}, 400, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, 400, "prompt_logprobs"),
        ({"stream_options": {"continuous_usage_stats": True}}, 400, "stream_options"),
        ({"stream_options": [1]}, 400, "stream_options"),
        ({"presence_penalty": 0.1}, 400, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"messages": []}, 400, "messages"),
        ({"top_k": 5}, 400, "top_k"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 1.5}, 400, "max_tokens"),
        ({"max_tokens": 1 << 20}, 400, None),
        ({"temperature": -1}, 400, None),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 0}, 400, None),
        ({"seed": -1}, 400, None),
        ({"seed": 1 << 63}, 400, "seed"),
        ({"seed": 10**400}, 400, "seed"),
        ({"temperature": 10**400}, 400, "temperature"),
        ({"stop": "x" * 101}, 400, "stop"),
        ({"stop": [1]}, 400, "stop"),
        ({"stop": [""]}, 400, None),
        ({"stream": "yes"}, 400, "stream"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openai_s_format(served, body, status, param):
    response = served.post(**{"model": "a", "prompt": "x", **body})
    assert response.status_code == status
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]
    assert (error["code"] == "model_not_found") == (status == 404)


def test_bodies_that_are_no_json_objects_are_refused(served):
    def status(content: bytes, kind: str = "application/json") -> int:
        return httpx.post(
            f"{served.url}/completions", content=content, headers={"Content-Type": kind}
        ).status_code

    assert status(b"{") == 400
    assert status(b"[]") == 400
    assert status(b'"\xff"') == 400
    asked = rb'{"model": "a", "prompt": "%s"}'
    assert status(asked % rb"\ud83d\ude00") == 200
    assert status(asked % rb"\ud83d") == 400
    assert status(asked % "\ud83d".encode(errors="surrogatepass")) == 400
    assert status(b"{}", "text/plain") == 415  # what a page elsewhere may send without asking
    assert status(b" " * (5 << 20)) == 413
    assert httpx.get(f"{served.url}/nothing").json()["error"]["message"] == "Not Found"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("Application/JSON; Charset=UTF-8", 200),
        ("application/json ;charset=utf-8", 200),
        ("application/jsonl", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=application/json", 415),
        ("", 415),
    ],
)
def test_a_media_type_is_read_without_its_case_and_parameters(served, kind, status):
    body = json.dumps({"model": "a", "prompt": "x", "max_tokens": 1})
    headers = {"Content-Type": kind}
    response = httpx.post(f"{served.url}/completions", content=body, headers=headers)
    assert response.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "models", {"GET", "HEAD"}),
        ("DELETE", "models/small/b", {"GET", "HEAD"}),
        ("PURGE", "models", {"GET", "HEAD"}),
        ("OPTIONS", "models", {"GET", "HEAD"}),
        ("PUT", "../health", {"GET", "HEAD"}),
        ("GET", "completions", {"POST"}),
        ("HEAD", "completions/", {"POST"}),
        ("GET", "load_lora_adapter", {"POST"}),
    ],
)
def test_a_method_that_a_path_does_not_have_is_told_from_those_that_it_has(
    served, method, path, allowed
):
    response = httpx.request(method, f"{served.url}/{path}")
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == allowed
    if method != "HEAD":
        assert response.json()["error"]["message"] == "Method Not Allowed"


@pytest.mark.parametrize("path", ["models", "models/small/b", "../health"])
def test_head_is_get_without_a_body(served, path):
    whole, head = (httpx.request(method, f"{served.url}/{path}") for method in ("GET", "HEAD"))
    assert head.status_code == whole.status_code == 200
    assert head.headers["Content-Length"] == str(len(whole.content))
    assert head.content == b""


def test_a_path_means_the_same_with_a_slash_at_its_end(served):
    for path in ("models", "models/small/b"):
        plain, slash = (httpx.get(f"{served.url}/{path}{end}") for end in ("", "/"))
        assert slash.json() == plain.json()
    assert served.post("completions/", model="a", prompt="x").status_code == 200


# Web pages of other origins ---------------------------------------------------------------


PAGE = "https://page.example"


def preflight(client: TestClient, origin: str) -> httpx.Response:
    """What a browser sends before a page's script may ask with a key, by the fetch standard."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    }
    return client.options("/v1/completions", headers=headers)


def shared(response: httpx.Response) -> dict[str, str]:
    """The headers that say with whom a reply is shared."""
    prefix = "access-control-"
    found = response.headers.items()
    return {name.removeprefix(prefix): value for name, value in found if name.startswith(prefix)}


@pytest.mark.parametrize(("allowed", "said"), [([PAGE, "http://a.b"], PAGE), (["*"], "*")])
def test_a_page_of_an_allowed_origin_may_ask_and_read_every_reply(
    clusters, allowed, said, monkeypatch
):
    engine = Engine(clusters.backbone, clusters)
    app = application(engine, key="secret", allow_origins=allowed)
    client = TestClient(app, raise_server_exceptions=False)
    before = preflight(client, PAGE)
    assert before.status_code == 200  # without the key, which browsers send afterwards alone
    assert shared(before)["allow-origin"] == said
    assert "POST" in shared(before)["allow-methods"]
    named = shared(before)["allow-headers"].split(",")
    assert named == ["authorization", "content-type", "x-stainless-os"]
    key = {"Authorization": "Bearer secret"}
    with monkeypatch.context() as patch:
        patch.setattr("cgclora.serving.models.model_names", None)
        replies = {
            500: client.get("/v1/models", headers={"Origin": PAGE, **key}),
            401: client.get("/v1/models", headers={"Origin": PAGE}),
            404: client.get("/v1/nothing", headers={"Origin": PAGE, **key}),
        }
    replies[200] = client.get("/v1/models", headers={"Origin": PAGE, "Cookie": "a=b", **key})
    for status, reply in replies.items():
        assert reply.status_code == status
        assert shared(reply)["allow-origin"] == said
        assert shared(reply)["expose-headers"] == "Retry-After"
        assert "allow-credentials" not in shared(reply)
    assert "allow-credentials" not in shared(before)


@pytest.mark.parametrize("allowed", [[], ["https://other.example"], ["https://page.example:8443"]])
def test_a_page_of_another_origin_may_not_ask(clusters, allowed):
    app = application(Engine(clusters.backbone, clusters), allow_origins=allowed)
    client = TestClient(app)
    before = preflight(client, PAGE)
    assert not before.is_success
    assert "allow-origin" not in shared(before)
    assert "allow-origin" not in shared(client.get("/v1/models", headers={"Origin": PAGE}))


def test_a_key_is_wanted_where_one_is_set(folders):
    with serve(folders, key="secret") as guarded:
        assert httpx.get(f"{guarded.url}/models").status_code == 401
        wrong = {"Authorization": "Bearer guess"}
        assert httpx.get(f"{guarded.url}/models", headers=wrong).status_code == 401
        for bad in ("secret", "Basic secret", "Bearersecret", "Bearer", ""):
            wrong = {"Authorization": bad}
            assert httpx.get(f"{guarded.url}/models", headers=wrong).status_code == 401
        for right in ({"Authorization": "Bearer secret"}, {"Authorization": "bearer secret"}):
            assert httpx.get(f"{guarded.url}/models", headers=right).status_code == 200
        assert guarded.post(model="a", prompt="x").status_code == 401
        assert guarded.post("unload_lora_adapter", lora_name="small").status_code == 401


def test_a_key_may_have_any_characters(folders):
    with serve(folders, key="schlüssel") as guarded:
        for encoding, status in (("utf-8", 200), ("latin-1", 401)):
            sent = {"Authorization": "Bearer schlüssel".encode(encoding)}
            assert httpx.get(f"{guarded.url}/models", headers=sent).status_code == status


def test_an_error_of_ours_in_a_stream_is_told_apart_and_logged(served, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        raise RuntimeError("secret place /home/somebody")

    monkeypatch.setattr(Batch, "prefill_states", fail)
    response = served.post(model="a", prompt="x", stream=True)
    event = json.loads(response.text.removeprefix("data: "))
    assert event["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert "RuntimeError: secret place" in caplog.text


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error_of_ours(
    served, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    url = httpx.URL(served.url)
    with socket.create_connection((url.host, url.port)) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        time.sleep(0.2)
    time.sleep(0.5)
    assert "Traceback" not in caplog.text


def test_an_error_of_ours_tells_clients_nothing(served, monkeypatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("secret place /home/somebody")

    monkeypatch.setattr(Engine, "submit", fail)
    response = served.post(model="a", prompt="x")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text


# Adapters that come and go ----------------------------------------------------------------


def test_clusters_come_and_go_while_an_answer_streams(folders):
    with serve(folders, adapters_folder=folders) as server:
        expected = server.expected("c", PROMPTS[0], 64).text
        body = {"model": "c", "prompt": PROMPTS[0], "max_tokens": 64, "temperature": 0}
        with httpx.stream(
            "POST", f"{server.url}/completions", json={**body, "stream": True}, timeout=60
        ) as response:
            lines = response.iter_lines()
            received = [next(lines)]
            assert server.post("load_lora_adapter", lora_name="new", lora_path="small").is_success
            assert server.text(model="new/a", prompt="x") == server.expected("a", "x").text
            assert server.post("unload_lora_adapter", lora_name="large").is_success
            assert server.post(**body).status_code == 404
            received += lines
        events = [json.loads(line[6:]) for line in received if line and not line.endswith("]")]
        assert "".join(event["choices"][0]["text"] for event in events) == expected


def test_adapters_come_from_the_folder_that_is_allowed_alone(served, folders):
    def load(path: str, name: str = "other") -> httpx.Response:
        return served.post("load_lora_adapter", lora_name=name, lora_path=path)

    for path in ("..", "/etc", "../x", "a\0b"):
        assert load(path).status_code == 403
    for path in ("missing", "."):
        refused = load(path)
        assert refused.status_code == 400
        assert str(folders) not in refused.text
        assert "holds no adapter" in refused.text
    assert load("small", "small").status_code == 400  # is there already
    assert load("small", "a/b").status_code == 400
    assert served.post("unload_lora_adapter", lora_name="other").status_code == 404
    assert served.post("load_lora_adapter", lora_name="x").status_code == 400
    assert set(served.engine.clusters.adapters) == set(CONFIGS)


def test_without_a_folder_adapters_stay(folders):
    with serve(folders) as server:
        asked = {"lora_name": "small", "lora_path": str(folders / "small")}
        assert server.post("load_lora_adapter", **asked).status_code == 403
        assert server.post("unload_lora_adapter", **asked).status_code == 403


# The command ------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_interrupted(folders, tmp_path):
    words = ["--backbone", save_backbone(tmp_path / "tiny"), "--device", "cpu", "--port", "0"]
    words += ["--adapter", folders / "small", "--adapter", f"big={folders / 'large'}"]
    words += ["--api-key-variable", "A_KEY", "--dtype", "float32", "--allow-origin", PAGE.upper()]
    command = [sys.executable, "-m", "cgclora", "serve", *map(str, words)]
    # Where this process was started in the background it ignores the signal, and children would.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "A_KEY": "secret"}
    ) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "http" in line)
            url = line.split()[-1]
            assert url.startswith("http://127.0.0.1:")
            refused = httpx.get(f"{url}/models", headers={"Origin": PAGE})
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert shared(refused)["allow-origin"] == PAGE
            found = httpx.get(f"{url}/models", headers={"Authorization": "Bearer secret"}).json()
            names = {model["id"] for model in found["data"]}
            assert {"tiny", "auto", "a", "b", "c", "d", "small/b", "big/b"} == names
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            signal.signal(signal.SIGINT, earlier)
            process.kill()


def test_a_key_that_is_not_there_and_a_port_that_is_taken_are_said(monkeypatch, capsys):
    monkeypatch.delenv("A_KEY", raising=False)
    assert main(["serve", "--api-key-variable", "A_KEY"]) == 2
    assert "A_KEY holds no key" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 1
    assert "in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "99999"], "'99999' is no port: take 0 to 65535"),
        (["--port", "-1"], "is no port"),
        (["--adapter", "=folder"], "'=folder' has no name before '='"),
        (["--allow-origin", "page.example"], "'page.example' is no origin: give scheme, host"),
        (["--allow-origin", "https://page.example/"], "is no origin"),
        (["--allow-origin", "https://*.example"], "is no origin"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_before_anything_is_loaded(
    words, message, capsys
):
    with pytest.raises(SystemExit, match="2"):
        main(["serve", *words])
    assert message in capsys.readouterr().err


# Evaluation -------------------------------------------------------------------------------


def test_an_evaluation_through_the_server_gives_the_predictions_of_one_here(served):
    clusters = served.engine.clusters
    tasks = {"a": "small", "b": "small"}
    requests = [
        Request(task, prompt, max_new_tokens=12, stop=("\n",))
        for task in tasks
        for prompt in PROMPTS
    ]
    local = LocalEngine(
        clusters.backbone, {task: clusters.adapters[name] for task, name in tasks.items()}
    )
    expected = dict(local.answers(requests))
    found = dict(ServerEngine(served.url, {"*": "{task}"}).answers(requests))
    for place in range(len(requests)):
        for name in ("text", "tokens", "prompt_tokens"):
            assert getattr(found[place], name) == getattr(expected[place], name)
