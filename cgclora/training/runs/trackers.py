"""Experiment trackers: each run's losses, gates and rates in TensorBoard, W&B, MLflow or trackio.

Each library is driven by its own client, which has several runs in a process side by side. A
tracker that fails is left out from there on: training does not depend on it.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from cgclora.config import AdapterConfig, ConfigError
from cgclora.storage import atomic_io
from cgclora.training.settings import TrainingRun, TrainingSettings

PROJECT = "cgclora"
"""Where runs are listed; each library's own environment variable sets another name."""


class Tracker(Protocol):
    """A run in a tracker."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Add a point to the curves of these names."""

    def finish(self) -> None:
        """Close the run."""


class _TensorBoard:
    """Event files below a run's folder."""

    def __init__(self, run: TrainingRun, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional

        writer: Any = SummaryWriter
        self._writer = writer(str(run.folder / "tensorboard"), purge_step=step)
        self._writer.add_text("config", json.dumps(_config(run), ensure_ascii=False), step)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


def _wandb(run: TrainingRun, _: int) -> Tracker:
    import wandb  # noqa: PLC0415 - optional

    made: Tracker = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=run.folder.name,
        id=atomic_io.sha256(str(run.folder).encode())[:16],  # resumed with the run
        resume="allow",
        reinit="create_new",  # those of other runs go on
        dir=str(run.folder),
        config=_config(run),
    )
    return made


def _trackio(run: TrainingRun, _: int) -> Tracker:
    import trackio  # noqa: PLC0415 - optional

    made: Tracker = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=run.folder.name,
        resume="allow",
        config=_config(run),
    )
    return made


class _MLflow:
    """A run by MLflow's client, since `mlflow.log_metrics` knows one run a process."""

    def __init__(self, run: TrainingRun, _: int) -> None:
        import mlflow  # noqa: PLC0415 - optional

        self._client = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        made = self._client.create_run(experiment, run_name=run.folder.name)
        self._id = made.info.run_id
        for key, value in _config(run).items():
            self._client.log_param(self._id, key, str(value)[:500])

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def finish(self) -> None:
        self._client.set_terminated(self._id)


_STARTS: Mapping[str, Callable[[TrainingRun, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _wandb,
    "mlflow": _MLflow,
    "trackio": _trackio,
}

TRACKERS = tuple(_STARTS)


def check(names: Sequence[str]) -> None:
    """Look whether these trackers can be used here.

    Raises:
        ConfigError: One is not known, or its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"there is no tracker {name!r}: choose from {', '.join(TRACKERS)}.")
        if find_spec(name) is None:
            raise ConfigError(f"reporting to {name} needs its package: run `pip install {name}`.")


class Trackers:
    """Passes on what runs log to trackers: a run in each for each of ours, named by its folder.

    A tracker's run starts with the first line that is logged, and for TensorBoard what a resumed
    run logs again replaces what it had logged from there on.
    """

    def __init__(self, names: Sequence[str]) -> None:
        check(names)
        self._names = tuple(dict.fromkeys(names))
        self._started: dict[tuple[str, Path], Tracker] = {}
        self._failed: set[str] = set()

    def __call__(self, run: TrainingRun, step: int, facts: Mapping[str, Any]) -> None:
        """Report a line of a run's log."""
        values = curves(facts, run.adapter.config, run.settings)
        for name in self._names:
            self._guarded(name, partial(self._log, name, run, step, values))

    def close(self) -> None:
        """Close the runs."""
        for (name, _), tracker in self._started.items():
            self._guarded(name, tracker.finish)

    def _log(self, name: str, run: TrainingRun, step: int, values: dict[str, float]) -> None:
        tracker = self._started.get((name, run.folder))
        if tracker is None:
            tracker = self._started[name, run.folder] = _STARTS[name](run, step)
        tracker.log(values, step=step)

    def _guarded(self, name: str, work: Callable[[], None]) -> None:
        if name in self._failed:
            return
        try:
            work()
        except Exception as error:
            self._failed.add(name)
            print(
                f"cgclora: {name} takes no more reports, training goes on without it. "
                f"({atomic_io.in_short(error)})",
                file=sys.stderr,
            )


def curves(
    facts: Mapping[str, Any], config: AdapterConfig, settings: TrainingSettings
) -> dict[str, float]:
    """A line of a run's log as values by the names of their curves.

    `train/loss`, `dev/loss` and `dev/score` are over all tasks, `train loss/<task>` and so on of
    one; `gate/<task>/<expert>` are the learned weights of the experts that a task may use,
    `train/...` the rates and the norm of the gradient. No name is the folder of another, since
    MLflow may keep a file for each.
    """
    values: dict[str, float] = {}
    for curve, total, by_task in (
        ("train/loss", "loss", "losses"),
        ("dev/loss", "dev_loss", "dev_losses"),
        ("dev/score", "dev_score", "dev_scores"),
    ):
        if total in facts:
            values[curve] = facts[total]
            group = curve.replace("/", " ")
            values |= {f"{group}/{_plain(task)}": one for task, one in facts[by_task].items()}
    if "learning_rate" in facts:
        rate, of_gate = facts["learning_rate"], settings.gate_learning_rate
        values["train/learning_rate"] = rate
        values["train/grad_norm"] = facts["grad_norm"]
        if config.gate == "task":
            ratio = 1.0 if of_gate is None else of_gate / settings.learning_rate
            values["train/gate_learning_rate"] = rate * ratio
            values |= _gate_curves(facts["gates"], config)
    return values


def _gate_curves(gates: Sequence[Sequence[float]], config: AdapterConfig) -> dict[str, float]:
    values = {}
    for task, weights, usable in zip(config.tasks, gates, config.access(), strict=True):
        for expert, (weight, is_usable) in enumerate(zip(weights, usable, strict=True)):
            own = expert - config.common
            if is_usable:
                name = (
                    f"common-{expert + 1}" if own < 0 else f"specific-{own % config.specific + 1}"
                )
                values[f"gate/{_plain(task)}/{name}"] = weight
    return values


def _plain(task: str) -> str:
    """A task's name with the characters that all trackers take."""
    return re.sub(r"[^\w .-]", "_", task)


def _config(run: TrainingRun) -> dict[str, Any]:
    """Settings and sizes of a run."""
    config = run.adapter.config.to_dict()
    tasks = ", ".join(run.adapter.config.tasks)
    method = {"method": run.facts["method"]} if "method" in run.facts else {}
    return {**method, **config, "tasks": tasks, **run.settings.to_dict()}
