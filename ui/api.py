"""The named endpoints, for programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from cgclora.config import ConfigError
from cgclora.inference.request import Answer, Piece
from evals.leaderboard.exports import board_as_json
from evals.leaderboard.run_sources import Library
from evals.runs.run_dir import RunError
from evals.runs.scored_run import UNREADABLE, run_facts
from ui.components.figures import expert_names
from ui.components.forms import task_of
from ui.engine.client import EngineError, Wait
from ui.engine.engine import AppEngine


class Endpoints:
    """What the endpoints compute; docstrings of its public methods are shown on the API page."""

    def __init__(self, engine: AppEngine, library: Library) -> None:
        self._engine = engine
        self._library = library

    def generate(
        self,
        request: gr.Request,
        task: str,
        prompt: str,
        cluster: str = "",
        labels_only: bool = False,
    ) -> dict[str, Any]:
        """Answer one prompt with a task's experts.

        Prompts of visitors and programs share batches. A call is refused while the model is
        loading, when the queue is full, and when a caller exceeds the rate limit: call again a
        few seconds later.

        Args:
            request: The caller's; Gradio fills it in.
            task: Name of the task, see /tasks.
            prompt: The whole prompt.
            cluster: Name of the adapter; by default the first one that knows the task.
            labels_only: Allow the task's own labels only; without effect where the task is not a
                classification.

        Returns:
            `answer` (text), `finish` (end, stop or length), `tokens`, `seconds`, `parsed` (kind,
            columns, items, unparsed) and `gates` (share of common and specific experts).
        """
        _check(str, "a text", task=task, prompt=prompt, cluster=cluster)
        _check(bool, "true or false", labels_only=labels_only)
        try:
            self._engine.rates.count(request)
            found = self._engine.find(task, cluster)
            form = task_of(self._engine, found, task)
            to_label = labels_only and form.kind == "classification"
            choices = form.answers() if to_label else None
            asked = self._engine.request(found, task, prompt, form.max_new_tokens, choices)
            with closing(self._engine.ask([asked])) as pieces:
                reply = _whole(pieces)
            gates = self._engine.gates(found, task)
        except (EngineError, ConfigError, ValueError) as error:
            raise _refusal(str(error)) from error
        parsed = form.parse(reply.text)
        columns, items = parsed.table("en")
        return {
            "cluster": found,
            "task": task,
            "answer": reply.text,
            "finish": reply.finish,
            "tokens": reply.tokens,
            "seconds": reply.seconds,
            "parsed": {
                "kind": parsed.kind,
                "columns": list(columns),
                "items": [list(item) for item in items],
                "unparsed": list(parsed.unparsed),
            },
            "gates": {"common": gates.common_share(), "specific": 1 - gates.common_share()},
        }

    def tasks(self) -> dict[str, list[dict[str, Any]]]:
        """List the tasks of all adapters that can be used.

        Returns:
            `tasks`: for each its cluster, name, titles, descriptions, kind, field names and labels.
        """
        listed = {cluster: self._engine.tasks(cluster) for cluster in self._engine.clusters()}
        return {
            "tasks": [
                {
                    "cluster": cluster,
                    "name": task.name,
                    "title": {"zh": task.title_zh, "en": task.title_en},
                    "description": {"zh": task.description_zh, "en": task.description_en},
                    "kind": task.kind,
                    "fields": [field.name for field in task.fields],
                    "labels": list(task.labels),
                }
                for cluster, names in listed.items()
                for task in (task_of(self._engine, cluster, name) for name in names)
            ]
        }

    def gates(self, task: str, cluster: str = "") -> dict[str, Any]:
        """The gate of a task: the weights of its experts in every adapted layer.

        Args:
            task: Name of the task, see /tasks.
            cluster: Name of the adapter; by default the first one that knows the task.

        Returns:
            `layers` (L paths), `experts` (names), `weights` (L rows, a value for each expert) and
            `shares` (a value for each expert, averaged over the layers, sum 1).
        """
        _check(str, "a text", task=task, cluster=cluster)
        try:
            found = self._engine.find(task, cluster)
            of_task = self._engine.gates(found, task)
        except (EngineError, ConfigError) as error:
            raise _refusal(str(error)) from error
        return {
            "cluster": found,
            "task": task,
            "layers": list(of_task.layers),
            "experts": expert_names(of_task, "en"),
            "weights": of_task.weights.tolist(),
            "shares": of_task.shares().tolist(),
        }

    def leaderboard(self, cluster: str = "", local: bool = True) -> dict[str, Any]:
        """The leaderboards: methods ranked on a set of tasks, with confidence intervals.

        Args:
            cluster: medical or general, of which a board has tasks; by default any.
            local: With the runs that were made on this machine.

        Returns:
            `boards`: for each its id, tasks by cluster, split, facts of the tasks and entries; the
            most informative board first, and `part_of` names the one that has all of its runs. An
            entry has rank (shared by those that cannot be told apart), the 95 % interval of its
            rank, overall score and score by task with intervals, all in [0, 1], seeds, budgets, and
            the names of its runs.
        """
        _check(str, "a text", cluster=cluster)
        _check(bool, "true or false", local=local)
        found = self._library.leaderboards(local=local).boards
        if cluster and cluster not in (known := {one for board in found for one in board.clusters}):
            raise _refusal(f"no board of the cluster {cluster!r}: there are {sorted(known)}.")
        return {
            "boards": [
                board_as_json(board, self._library)
                for board in found
                if not cluster or cluster in board.clusters
            ]
        }

    def runs(self, name: str = "") -> dict[str, Any]:
        """List the runs, or give the provenance of one run.

        Args:
            name: Name of a run; by default all are listed.

        Returns:
            `runs` (names) without a name; with one its method, seed, scores by task, data, adapter
            and backbone hashes, commit, versions and hardware.
        """
        _check(str, "a text", name=name)
        if not name:
            return {"runs": self._library.names()}
        try:
            return {"name": name, **run_facts(self._library.run(name))}
        except UNREADABLE as error:
            is_known = isinstance(error, RunError)
            raise _refusal(str(error) if is_known else f"{name} is damaged: {error!r}") from error


def add_endpoints(engine: AppEngine, library: Library) -> None:
    """Add the endpoints to the page that is being built, each named as its method."""
    on = Endpoints(engine, library)
    for endpoint in (on.generate, on.tasks, on.gates, on.leaderboard, on.runs):
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_limit=None)


def _whole(pieces: Iterator[Piece | Wait]) -> Answer:
    """The complete answer, unless the caller disconnects before."""
    for piece in pieces:
        if not isinstance(piece, Wait) and piece.answer is not None:
            return piece.answer
        if _is_disconnected():
            raise _refusal("the caller disconnected.")
    raise _refusal("the answer was cancelled.")


def _is_disconnected() -> bool:
    """Whether the stream of the call was closed; only Gradio's queue knows."""
    page, name = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    event = page._queue.event_ids_to_events.get(name) if page and name else None
    return event is not None and not event.alive


def _check(kind: type, what: str, **values: object) -> None:
    """Refuse values of another type; Gradio does not check the types of an endpoint."""
    for name, value in values.items():
        if not isinstance(value, kind):
            raise _refusal(f"{name} must be {what}.")


def _refusal(reason: str) -> gr.Error:
    return gr.Error(reason, print_exception=False)
