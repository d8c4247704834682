"""A server on loopback, with clusters of random weights."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.inference.engine import Engine, generate
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Answer, Request
from cgclora.inference.request_queue import Limits
from cgclora.inference.router import TaskRouter
from cgclora.models.backbone import Backbone
from cgclora.serving.server import application
from tests.helpers.reference import scatter
from tests.helpers.tiny import make_backbone

CONFIGS = {
    "small": AdapterConfig(("a", "b"), common=2, expert_rank=2, embedding_size=4),
    "large": AdapterConfig(("c", "d", "b"), common=3, expert_rank=3, separator="\n答："),
}
PROMPTS = ("今天天气很好", "头痛和发热是感冒的常见症状。", "The cat", "这句话说的是什么意思？")


def save_adapters(folder: Path) -> None:
    """A folder with a saved adapter of each config; the small one has a router."""
    backbone = make_backbone()
    for seed, (name, config) in enumerate(CONFIGS.items()):
        adapter = scatter(Adapter.attach(backbone, config, name=name), seed=seed)
        adapter.save(folder / name)
        adapter.detach()
    things = ["今天天气很好", "头痛发热", "山高水长", "明月几时有", "我们去公园散步"]
    kinds = {"a": "请把下面的句子译成英文：", "b": "请写一首关于秋天的诗："}
    TaskRouter.fit({t: [kind + one for one in things] for t, kind in kinds.items()}).save(
        folder / "small"
    )


@dataclass(frozen=True)
class Served:
    """A running server, and what is behind it."""

    url: str
    engine: Engine

    def post(self, path: str = "completions", **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/{path}", json=body, timeout=60)

    def text(self, **body: Any) -> str:
        response = self.post(**{"temperature": 0, **body})
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["text"])

    def events(self, **body: Any) -> Iterator[dict[str, Any]]:
        body = {"temperature": 0, "stream": True, **body}
        with httpx.stream("POST", f"{self.url}/completions", json=body, timeout=60) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        assert lines.pop() == "data: [DONE]"
        yield from (json.loads(line.removeprefix("data: ")) for line in lines)

    def expected(self, task: str | None, prompt: str, tokens: int = 16, **options: Any) -> Answer:
        as_it_is = {"separator": ""} if task is None else {}
        request = Request(task, prompt, max_new_tokens=tokens, **as_it_is, **options)
        return generate(self.engine.backbone, [request], self.engine.clusters)[0]


@contextmanager
def serve(
    folders: Path,
    limits: Limits | None = None,
    *,
    backbone: Backbone | None = None,
    **options: Any,
) -> Iterator[Served]:
    """The adapters of `save_adapters` behind a server, or none without a folder."""
    clusters = Clusters(backbone or make_backbone())
    for name in CONFIGS:
        clusters.add(name, folders / name)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        Engine(clusters.backbone, clusters, limits or Limits()) as engine,
    ):
        app = application(engine, **options)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", engine)
        finally:
            server.should_exit = True
            thread.join()
