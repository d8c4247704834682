"""The models of the API: a model is a task, the bare backbone, or the routers' choice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cgclora.inference.multi_adapter import Clusters
from cgclora.models.backbone import public_name
from cgclora.serving.fields import ApiError

AUTO = "auto"
"""The model name with which the clusters' routers find each prompt's task."""


@dataclass(frozen=True)
class Target:
    """What answers a prompt; task and cluster are None for the bare backbone."""

    task: str | None
    cluster: str | None


def model_names(clusters: Clusters) -> list[str]:
    """The backbone, `auto` if there are routers, and the tasks.

    A task of several clusters is answered by the first; `<cluster>/<task>` names any of them.
    """
    adapters = clusters.adapters
    counts = Counter(task for adapter in adapters.values() for task in adapter.config.tasks)
    shared = [
        f"{name}/{task}"
        for name, adapter in adapters.items()
        for task in adapter.config.tasks
        if counts[task] > 1
    ]
    automatic = [AUTO] if clusters.has_routers else []
    names = [public_name(clusters.backbone.name), *automatic, *counts, *shared]
    return list(dict.fromkeys(names))


def check_model(model: str, clusters: Clusters) -> None:
    """Accept the names of `model_names`, and `<cluster>/<task>` of any task.

    Raises:
        ApiError: There is no such model.
    """
    if _resolve(model, clusters) is None and model not in model_names(clusters):
        raise _no_model(model)


def targets(model: str, questions: list[str | None], clusters: Clusters) -> list[Target]:
    """What answers each of the questions.

    Args:
        model: As `check_model`.
        questions: Their texts, which `auto` reads; None is unknown.
        clusters: With the tasks.

    Raises:
        ApiError: There is no such model, or `auto` has no text to read.
        ConfigError, DataError: The model is `auto` and the routers find no task for a question.
    """
    if (resolved := _resolve(model, clusters)) is not None:
        return [resolved] * len(questions)
    if model != AUTO:
        raise _no_model(model)
    found = []
    for question in questions:
        if question is None:
            message = f"the model {AUTO!r} finds the task by the prompt's text: send it as text."
            raise ApiError(400, message, param="prompt")
        routed = clusters.choose(question)
        found.append(Target(routed.task, routed.cluster))
    return found


def answering_name(model: str, found: list[Target]) -> str:
    """The name to report: of the task that `auto` found, if it is one, else as requested."""
    names = {f"{one.cluster}/{one.task}" for one in found}
    return names.pop() if model == AUTO and len(names) == 1 and found[0].task else model


def _resolve(model: str, clusters: Clusters) -> Target | None:
    """The target of a model name; None if it is unknown, or `auto`."""
    adapters = clusters.adapters
    for name, adapter in adapters.items():
        if model in adapter.config.tasks:
            return Target(model, name)
    for name, adapter in adapters.items():
        if (task := model.removeprefix(f"{name}/")) in adapter.config.tasks:
            return Target(task, name)
    return Target(None, None) if model == public_name(clusters.backbone.name) else None


def _no_model(model: str) -> ApiError:
    return ApiError(
        404,
        f"the model {model[:100]!r} does not exist: /v1/models lists the models.",
        param="model",
        code="model_not_found",
    )
