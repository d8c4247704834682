"""Answering models: a backbone in this process, or a server with OpenAI's completions API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import httpx

from cgclora.adapter import Adapter
from cgclora.config import PromptFormat
from cgclora.data.chat import Message, plain_text
from cgclora.inference.continuous.loop import default_rows
from cgclora.inference.engine import answers_of
from cgclora.inference.request import Answer, Finish, Request, longest_first
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone, public_name
from cgclora.models.hardware import PeakMemory
from cgclora.storage import provenance
from evals.runs.run_dir import RunError

KEY_VARIABLE = "CGCLORA_SERVER_KEY"
"""Environment variable that holds a server's API key, so that no command line shows it."""


PLAIN_PROMPTS = PromptFormat()

_REPORTS = {
    "classification",
    "forgetting",
    "gate effects",
    "added",
}  # of a manifest: added after the training


class LocalEngine:
    """A backbone in this process, bare or with adapters.

    Args:
        backbone: The model.
        adapters: The adapter of each task, attached to the backbone; a task without one is answered
            by the bare backbone.
        batch_size: Most requests in one batch, whose adapters mix; None takes as many as suit the
            device, see `default_rows`.
        bare_format: Prompt format of the bare backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Mapping[str, Adapter],
        *,
        batch_size: int | None = None,
        bare_format: PromptFormat = PLAIN_PROMPTS,
    ) -> None:
        self.bare_format = bare_format
        self.backbone = backbone
        self.adapters = adapters
        self.batch_size = default_rows(backbone) if batch_size is None else batch_size
        self._memory = PeakMemory(backbone.model.device)

    @property
    def parallel(self) -> int:
        """Most requests that are answered at the same time."""
        return self.batch_size

    def facts(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Backbone, adapters with their sizes and training, decoding, versions and hardware."""
        used: dict[int, tuple[Adapter, list[str]]] = {}
        for task in tasks:
            if task in self.adapters:
                adapter = self.adapters[task]
                used.setdefault(id(adapter), (adapter, []))[1].append(task)
        distinct = [adapter for adapter, _ in used.values()]
        is_bare = any(task not in self.adapters for task in tasks)
        has_format = is_bare and self.bare_format != PLAIN_PROMPTS
        return {
            "backbone": {
                "name": public_name(self.backbone.name),
                "fingerprint": self.backbone.fingerprint,
            },
            "adapters": [_adapter_facts(adapter, names) for adapter, names in used.values()],
            "trainable_parameters": sum(a.num_parameters() for a in distinct) or None,
            "total_rank": sum(a.config.total_rank for a in distinct) or None,
            "active_rank": max((a.config.active_rank for a in distinct), default=None),
            "training_seconds": sum(_training(a).get("seconds", 0) for a in distinct) or None,
            "decoding": {
                "engine": "cgclora",
                "temperature": 0,
                "batch_size": self.batch_size,
                **Runtime.of(self.backbone).facts(),
                **({"prompt_format": self.bare_format.to_dict()} if has_format else {}),
            },
            "peak_memory": self._memory.bytes(),
            **provenance.stamp(self.backbone.model),
        }

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Each request's place with its answer, as it comes from one batch of all adapters."""
        return answers_of(
            self.backbone,
            requests,
            [self.adapter_of(request) for request in requests],
            batch_size=self.batch_size,
            bare_format=self.bare_format,
        )

    def adapter_of(self, request: Request) -> Adapter | None:
        """The adapter that answers a request; None is the bare backbone.

        Several engines on one backbone may so answer together, see `answers_of`.
        """
        return self.adapters.get(request.task or "")


def _adapter_facts(adapter: Adapter, tasks: Sequence[str]) -> dict[str, Any]:
    manifest = {key: value for key, value in adapter.manifest.items() if key not in _REPORTS}
    return {"tasks": list(tasks), "manifest": manifest}


def _training(adapter: Adapter) -> Mapping[str, Any]:
    found: Mapping[str, Any] = adapter.manifest.get("training", {})
    return found


class ServerEngine:
    """A server with OpenAI's completions API, such as vLLM with one LoRA name a task.

    Args:
        url: Where it is, such as `http://127.0.0.1:8000/v1`.
        models: The server's model name for each task; `*` stands for all others, and `{task}` in
            a name for the task, as `python -m cgclora serve` names its models.
        prompts: The plain prompts that the adapters were trained with.
        chat: Whether the server writes the prompts by a chat template: it then gets messages.
        key: Its API key, if it wants one.
        parallel: Requests under way at once; the server makes batches of them.
        timeout: Seconds to wait for one answer.
    """

    def __init__(
        self,
        url: str,
        models: Mapping[str, str],
        *,
        prompts: PromptFormat = PLAIN_PROMPTS,
        chat: bool = False,
        key: str | None = None,
        parallel: int = 32,
        timeout: float = 300.0,
    ) -> None:
        self.url = url.rstrip("/")
        self.models = models
        self.prompt_format = prompts
        self.chat = chat
        self.parallel = parallel
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = timeout

    def facts(self, tasks: Sequence[str]) -> dict[str, Any]:
        """What is known of a server: its model names; not its address, which may be private."""
        return {
            **dict.fromkeys(("backbone", "trainable_parameters", "total_rank", "active_rank")),
            "adapters": [],
            "training_seconds": None,
            "decoding": {
                "engine": "server",
                "temperature": 0,
                "models": {task: self._model(task) for task in tasks},
                **({"chat": True} if self.chat else {}),
            },
            "peak_memory": None,
            **provenance.stamp(None),
        }

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Each request's place with its answer, as the server gives them.

        Raises:
            RunError: The server cannot be reached, refuses a request, or speaks something else.
        """
        waiting = iter(longest_first(requests))
        with (
            httpx.Client(headers=self._headers, timeout=self._timeout) as client,
            ThreadPoolExecutor(self.parallel) as pool,
        ):
            running: dict[Future[Answer], int] = {}

            def start() -> None:
                for place in waiting:
                    running[pool.submit(self._ask, client, requests[place])] = place
                    if len(running) >= self.parallel:
                        return

            try:
                start()
                while running:
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(done), done.result()
                    start()
            finally:
                for future in running:
                    future.cancel()

    def _model(self, task: str | None) -> str:
        model = self.models.get(task or "", self.models.get("*"))
        if model is None:
            raise RunError(f"no model name is given for task {task}: add it, or one for '*'.")
        return model.replace("{task}", task or "")

    def _asked(self, request: Request) -> dict[str, Any]:
        """The question as the server takes it."""
        if not self.chat:
            return {"prompt": plain_text(request.asked, self.prompt_format)}
        messages = request.messages or (Message("user", request.prompt),)
        return {"messages": [one.to_openai() for one in messages]}

    def _post(self, client: httpx.Client, body: Mapping[str, Any]) -> httpx.Response:
        """Asks again where a server hangs up: it may close a kept connection as it is used."""
        address = f"{self.url}/chat/completions" if self.chat else f"{self.url}/completions"
        try:
            return client.post(address, json=body)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            return client.post(address, json=body)

    def _ask(self, client: httpx.Client, request: Request) -> Answer:
        body = {
            "model": self._model(request.task),
            **self._asked(request),
            "max_tokens": request.max_new_tokens,
            "temperature": 0,
            **({"stop": list(request.stop)} if request.stop else {}),
        }
        try:
            response = self._post(client, body)
            response.raise_for_status()
            found = response.json()
            choice = found["choices"][0]
            usage = found.get("usage") or {}
            finish: Finish = "length" if choice.get("finish_reason") == "length" else "end"
            said = choice["message"]["content"] or "" if self.chat else choice["text"]
            text, stopped = _before_stop(said, request.stop)
            return Answer(
                text,
                "stop" if stopped else finish,
                int(usage.get("prompt_tokens", 0)),
                int(usage.get("completion_tokens", 0)),
                response.elapsed.total_seconds(),
            )
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            key = f" Its key goes into {KEY_VARIABLE}." if status in {401, 403} else ""
            raise RunError(
                f"the server refuses a request for model {body['model']} with status "
                f"{status}: {error.response.text[:200]}{key}"
            ) from error
        except httpx.HTTPError as error:
            raise RunError(f"no answer from {self.url}: {error!r}. Is the server up?") from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            api = "chat completions" if self.chat else "completions"
            raise RunError(f"{self.url} does not speak the {api} API: {error!r}.") from error


def _before_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text, and whether there was one: some servers leave it in."""
    ends = [at for at in map(text.find, stop) if at >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
