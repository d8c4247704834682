"""The named endpoints, for programs. Their docstrings are what the API page shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.context import LocalContext

from cgclora.config import ConfigError
from evals.leaderboard.exports import board_as_json
from evals.leaderboard.run_sources import Library
from evals.runs.facts import run_facts
from evals.runs.run_dir import RunError
from evals.runs.scored_run import UNREADABLE
from ui.components.figures import expert_names
from ui.components.forms import task_named
from ui.engine.client import EngineError, Wait
from ui.engine.engine import Engine

if TYPE_CHECKING:
    from cgclora.inference.request import Answer, Piece


def add_endpoints(engine: Engine, library: Library) -> None:
    """Add `/generate`, `/tasks`, `/gates`, `/leaderboard` and `/runs` to the app being built.

    Args:
        engine: Who answers.
        library: The runs that the leaderboards are made of.
    """

    def generate(
        request: gr.Request, task: str, prompt: str, cluster: str = "", labels_only: bool = False
    ) -> dict[str, Any]:
        """Answer one prompt with a task's experts.

        It is answered in one batch with what visitors and other programs ask. A call is refused
        while the model is loading, when too many wait, and when one caller asks too often: call
        again a few seconds later.

        Args:
            request: Who calls; Gradio says it.
            task: Name of the task, see /tasks.
            prompt: The whole prompt.
            cluster: Name of the adapter; by default the first one that knows the task.
            labels_only: Allow the task's own labels only; without effect where the task is not a
                classification.

        Returns:
            `answer` (text), `finish` (end, stop or length), `tokens`, `seconds`, `parsed` (kind,
            columns, items, unparsed) and `gates` (share of common and specific experts).
        """
        _check_texts(task=task, prompt=prompt, cluster=cluster)
        _check_switches(labels_only=labels_only)
        try:
            engine.rates.count(request)
            found = engine.find(task, cluster)
            form = task_named(task)
            to_label = labels_only and form.kind == "classification"
            choices = form.answers() if to_label else None
            asked = engine.request(found, task, prompt, form.max_new_tokens, choices)
            with closing(engine.ask([asked])) as pieces:
                reply = _whole(pieces)
            gates = engine.gates(found, task)
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
            "gates": {
                "common": gates.common_share(),
                "specific": 1 - gates.common_share(),
            },
        }

    def tasks() -> dict[str, list[dict[str, Any]]]:
        """List the tasks of all adapters that can be used.

        Returns:
            `tasks`: for each its cluster, name, titles, descriptions, kind, field names and labels.
        """
        listed = [
            (cluster, task_named(name))
            for cluster in engine.clusters()
            for name in engine.tasks(cluster)
        ]
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
                for cluster, task in listed
            ]
        }

    def gates(task: str, cluster: str = "") -> dict[str, Any]:
        """The gate of a task: how it weighs its experts in every adapted layer.

        Args:
            task: Name of the task, see /tasks.
            cluster: Name of the adapter; by default the first one that knows the task.

        Returns:
            `layers` (L paths), `experts` (names), `weights` (L rows, a value for each expert) and
            `shares` (a value for each expert, averaged over the layers, sum 1).
        """
        _check_texts(task=task, cluster=cluster)
        try:
            found = engine.find(task, cluster)
            of_task = engine.gates(found, task)
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

    def leaderboard(cluster: str = "", local: bool = True) -> dict[str, Any]:
        """The leaderboards: who answers a set of tasks best, and how sure that is.

        Args:
            cluster: medical or general; by default both.
            local: With the runs that were made on this machine.

        Returns:
            `boards`: for each its id, cluster, split, tasks and entries. An entry has rank (shared
            by those that cannot be told apart), overall score and score by task with intervals,
            all in [0, 1], seeds, budgets, and the names of its runs.
        """
        _check_texts(cluster=cluster)
        _check_switches(local=local)
        found = library.leaderboards(local=local).boards
        if cluster and cluster not in (known := {board.cluster for board in found}):
            raise _refusal(f"no board of the cluster {cluster!r}: there are {sorted(known)}.")
        return {
            "boards": [
                board_as_json(board, library) for board in found if cluster in ("", board.cluster)
            ]
        }

    def runs(name: str = "") -> dict[str, Any]:
        """List the runs, or say where one run's numbers come from.

        Args:
            name: Name of a run; by default all are listed.

        Returns:
            `runs` (names) without a name; with one its method, seed, scores by task, data, adapter
            and backbone hashes, commit, versions and hardware.
        """
        _check_texts(name=name)
        if not name:
            return {"runs": library.names()}
        try:
            return {"name": name, **run_facts(library.run(name))}
        except UNREADABLE as error:
            said = isinstance(error, RunError)
            raise _refusal(str(error) if said else f"{name} is damaged: {error!r}") from error

    for endpoint in (generate, tasks, gates, leaderboard, runs):
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_limit=None)


def _whole(pieces: Iterator[Piece | Wait]) -> Answer:
    """The answer, unless whoever asked hangs up before it is there."""
    for piece in pieces:
        if not isinstance(piece, Wait) and piece.answer is not None:
            return piece.answer
        if _has_left():
            raise _refusal("nobody waits for the answer any more.")
    raise _refusal("the answer was given up.")


def _has_left() -> bool:
    """Whether the stream that the call's answer goes to was closed; only Gradio's queue knows."""
    page, name = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    event = page._queue.event_ids_to_events.get(name) if page and name else None
    return event is not None and not event.alive


def _check_texts(**values: object) -> None:
    """Gradio checks no types of an endpoint."""
    for name, value in values.items():
        if not isinstance(value, str):
            raise _refusal(f"{name} must be a text.")


def _check_switches(**values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, bool):
            raise _refusal(f"{name} must be true or false.")


def _refusal(reason: str) -> gr.Error:
    return gr.Error(reason, print_exception=False)
