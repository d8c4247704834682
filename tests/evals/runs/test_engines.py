"""The engine for servers against a real one: `transformers serve` on loopback, tiny models."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from tokenizers.processors import TemplateProcessing

from cgclora.config import PromptFormat
from cgclora.data.chat import Message
from cgclora.inference.engine import generate
from cgclora.inference.request import Answer, Request
from cgclora.models.backbone import Backbone, load_backbone
from evals.__main__ import main
from evals.data import datasets
from evals.runs.engines import LocalEngine, ServerEngine
from evals.runs.evaluate import predict
from evals.runs.run_dir import RunError, read_run
from tests.helpers.tiny import make_model, make_tokenizer

MODELS = {"KUAKE-QIC": "one", "SentimentAnalyze": "two"}
LINES = [
    {"task_dataset": task, "input": f"第{place}句：灯光柔和", "target": "积极"}
    for place in range(4)
    for task in MODELS
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models of different weights, `one` and `two`."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(MODELS.values()):
        model = make_model("llama", seed=seed)
        model.config.max_position_embeddings = 1024  # the tasks' longest answers must fit
        model.save_pretrained(folder / name)
        tokenizer = make_tokenizer()
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
        )  # as real tokenizers do: a server adds the start token by this rule
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    path = tmp_path_factory.mktemp("data") / "test.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    return datasets.read(path)


@dataclass(frozen=True)
class Server:
    """A server's address, and its process."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def serve(models: Path) -> Iterator[Server]:
    """`transformers serve` in the folder of the models, whose names are then its models' names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "transformers.cli.transformers", "serve", "--device", "cpu"]
    log = models / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *words, "--host", "127.0.0.1", "--port", str(port)],
            cwd=models,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(f"http://127.0.0.1:{port}/v1", process)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/health", process, log)
        yield server
    finally:
        server.kill()


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 240  # a busy machine
    while time.monotonic() < until and process.poll() is None:
        try:
            httpx.get(url).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with serve(models) as found:
        yield found


def local(models: Path, task: str) -> Backbone:
    return load_backbone(str(models / MODELS[task]), device="cpu", dtype="float32")


def ask(server: Server, *requests: Request, **options: Any) -> list[Answer]:
    found = dict(ServerEngine(server.url, MODELS, **options).answers(requests))
    return [found[place] for place in range(len(requests))]


class Watched:
    """An engine that counts what it is asked and what it gives; after `most` answers, kill it."""

    def __init__(self, engine: ServerEngine, victim: Server | None = None, most: int = 0) -> None:
        self.engine = engine
        self.victim = victim
        self.most = most
        self.asked = self.given = 0
        self.parallel = engine.parallel

    def facts(self, tasks: Sequence[str]) -> dict[str, Any]:
        return self.engine.facts(tasks)

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        self.asked += len(requests)
        for found in self.engine.answers(requests):
            self.given += 1
            yield found
            if self.victim and self.given == self.most:
                self.victim.kill()


def test_a_server_gives_the_answers_that_the_same_models_give_here(
    tmp_path, models, server, dataset
):
    run = predict(tmp_path / "run", ServerEngine(server.url, MODELS), dataset, method="Server")
    assert run.manifest["decoding"]["models"] == MODELS
    columns = ["id", "prediction", "finish", "tokens"]
    for task in MODELS:
        one = datasets.only(dataset, [task])
        engine = LocalEngine(local(models, task), {}, batch_size=1)
        expected = predict(tmp_path / task, engine, one, method="Here").predictions()
        rows = run.predictions()
        found = rows[rows["task"] == task].reset_index(drop=True)
        # A last token may end inside a character; the server shows the half of it.
        found["prediction"] = found["prediction"].str.rstrip("\ufffd")
        expected["prediction"] = expected["prediction"].str.rstrip("\ufffd")
        assert found[columns].to_dict("list") == expected[columns].to_dict("list")
    assert run.predictions()["prediction"].nunique() == len(LINES)
    assert run.manifest["tokens"] == run.predictions()["tokens"].sum()


def test_an_answer_has_no_more_tokens_than_asked_for_and_says_that_it_was_cut(server):
    requests = [Request("KUAKE-QIC", "灯光柔和", max_new_tokens=most) for most in (1, 7)]
    assert [(a.tokens, a.finish) for a in ask(server, *requests)] == [(1, "length"), (7, "length")]


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(models, server):
    free = Request("KUAKE-QIC", "灯光柔和", max_new_tokens=20)
    (whole,) = ask(server, free)
    stop = whole.text[-4:-2]  # a text of two characters that comes up for sure
    request = Request("KUAKE-QIC", "灯光柔和", max_new_tokens=20, stop=(stop, "never said"))
    (answer,) = ask(server, request)
    (here,) = generate(
        local(models, "KUAKE-QIC"),
        [Request(None, "灯光柔和", max_new_tokens=20, stop=request.stop)],
    )
    assert answer.text == here.text == whole.text[: whole.text.index(stop)]
    assert answer.finish == here.finish == "stop"
    assert answer.tokens == here.tokens < whole.tokens


def test_the_separator_stands_between_prompt_and_answer(server):
    joined = Request("KUAKE-QIC", "灯光柔和：\n", max_new_tokens=5)
    apart = Request("KUAKE-QIC", "灯光柔和", max_new_tokens=5)
    assert (
        ask(server, joined, prompts=PromptFormat(""))[0].text
        == ask(server, apart, prompts=PromptFormat("：\n"))[0].text
    )
    whole, other = (
        ask(server, request, prompts=PromptFormat(separator))[0].text
        for request, separator in ((joined, ""), (apart, "：\n"))
    )
    assert whole == other
    assert whole != ask(server, apart)[0].text


def test_a_model_that_the_server_does_not_have_is_named(tmp_path, server, dataset):
    engine = ServerEngine(server.url, {"*": "nobodys-model"}, parallel=1)
    with pytest.raises(RunError, match="refuses a request for model nobodys-model with status 500"):
        predict(tmp_path / "run", engine, dataset, method="Server")


def test_a_task_without_a_model_is_named(server):
    with pytest.raises(RunError, match=r"no model name is given for task NER: .* '\*'"):
        ask(server, Request("NER", "灯光柔和"))


def test_an_address_without_completions_is_reported_with_its_status(server):
    with pytest.raises(RunError, match="status 404"):
        list(ServerEngine(server.url + "/v1", MODELS).answers([Request("KUAKE-QIC", "灯")]))


def test_a_run_goes_on_elsewhere_when_its_server_dies_under_it(tmp_path, models, server, dataset):
    whole = predict(tmp_path / "whole", ServerEngine(server.url, MODELS), dataset, method="Server")
    with serve(models) as mortal:
        first = Watched(ServerEngine(mortal.url, MODELS, parallel=2), mortal, most=3)
        with pytest.raises(RunError, match="Is the server up"):
            predict(tmp_path / "run", first, dataset, method="Server")
    assert 3 <= first.given < len(LINES)
    second = Watched(ServerEngine(server.url, MODELS))
    run = predict(tmp_path / "run", second, dataset, method="Server")
    assert second.asked == len(LINES) - first.given
    assert run.predictions().equals(whole.predictions())


class Door(BaseHTTPRequestHandler):
    """What stands before a shared server: it wants a key, and hangs up now and then."""

    protocol_version = "HTTP/1.1"  # connections stay open
    inner = ""
    key: str | None = None
    hang_up_at: Collection[int] = ()
    knocks = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).knocks += 1
        if self.knocks in self.hang_up_at:
            self.close_connection = True
        elif self.key and self.headers["Authorization"] != f"Bearer {self.key}":
            self.reply(401, b"a key is needed.")
        else:
            headers = {"Content-Type": "application/json"}
            answer = httpx.post(self.inner + self.path, content=body, headers=headers)
            self.reply(answer.status_code, answer.content)

    def reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def door(server: Server, **facts: Any) -> Iterator[str]:
    """The address of a door before the server."""
    kind = type("This", (Door,), {"inner": server.url.removesuffix("/v1"), **facts})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/v1"
        found.shutdown()


def test_a_request_is_made_again_once_where_the_server_hangs_up(server):
    requests = [Request("KUAKE-QIC", "灯" * (place + 1), max_new_tokens=3) for place in range(5)]
    with door(server, hang_up_at={2, 5}) as url:
        found = dict(ServerEngine(url, MODELS, parallel=1).answers(requests))
    expected = ask(server, *requests)
    assert [found[place].text for place in range(5)] == [answer.text for answer in expected]
    with door(server, hang_up_at={2, 3}) as url, pytest.raises(RunError, match="Is the server up"):
        list(ServerEngine(url, MODELS, parallel=1).answers(requests))


def test_the_command_line_sends_the_key_of_the_environment_and_keeps_it_out_of_the_run(
    tmp_path, server, monkeypatch, capsys
):
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES[:2])), encoding="utf-8")
    words = ["predict", "--data", str(path), "--run", str(tmp_path / "run"), "--method", "Server"]
    words += [f"--model={task}={name}" for task, name in MODELS.items()]
    monkeypatch.delenv("CGCLORA_SERVER_KEY", raising=False)
    with door(server, key="open-sesame") as url:
        assert main([*words, "--server", url]) == 6
        said = capsys.readouterr().err
        assert "status 401: a key is needed. Its key goes into CGCLORA_SERVER_KEY" in said
        monkeypatch.setenv("CGCLORA_SERVER_KEY", "open-sesame")
        assert main([*words, "--server", url]) == 0
    assert len(read_run(tmp_path / "run").predictions()) == 2
    written = [path.read_bytes() for path in (tmp_path / "run").iterdir()]
    assert not any(b"open-sesame" in content for content in written)


def test_the_command_line_asks_for_the_models_of_a_bundle_and_its_tasks_only(tmp_path, server):
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    task, name = next(iter(MODELS.items()))
    models = tmp_path / "models.json"
    models.write_text(json.dumps({"separator": "\n", "models": {task: name}}), encoding="utf-8")
    words = ["predict", "--data", str(path), "--run", str(tmp_path / "run"), "--method", "Server"]
    assert main([*words, "--server", server.url, "--models", str(models)]) == 0
    run = read_run(tmp_path / "run")
    assert run.manifest["decoding"]["models"] == {task: name}


class ChatDoor(Door):
    """A server of chat completions that answers with what it was asked."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = [self.path, *([one["role"], one["content"]] for one in body["messages"])]
        message = {"role": "assistant", "content": json.dumps(said)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.reply(200, json.dumps({"choices": [choice]}).encode())


def test_a_server_with_a_chat_template_gets_messages() -> None:
    talk = (Message("system", "简"), Message("user", "问"))
    requests = [Request("KUAKE-QIC", "灯"), Request("KUAKE-QIC", messages=talk)]
    with ThreadingHTTPServer(("127.0.0.1", 0), ChatDoor) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        engine = ServerEngine(f"http://127.0.0.1:{found.server_port}/v1", MODELS, chat=True)
        answers = dict(engine.answers(requests))
        found.shutdown()
    path = "/v1/chat/completions"
    assert [json.loads(answers[place].text) for place in range(2)] == [
        [path, ["user", "灯"]],
        [path, ["system", "简"], ["user", "问"]],
    ]
    assert engine.facts(["KUAKE-QIC"])["decoding"]["chat"] is True
