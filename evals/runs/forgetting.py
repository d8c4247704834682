"""Forgetting: what an adapter costs the backbone on texts that have nothing to do with its tasks.

The bare backbone and the adapted one read the same passages. Each passage is read from its start as
plain text, without prompt template or separator, and costs some nats a token: the mean of
-log p(token | the tokens before it). What it costs more with the adapter is forgotten. An adapter's
effect depends on the task, so a passage is read with several tasks of the adapter, and their mean
counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from cgclora.adapter import Adapter, folded_in
from cgclora.config import ConfigError
from cgclora.data.records import DataError
from cgclora.models.backbone import Backbone
from cgclora.models.vocabulary import readable, unreadable_word
from cgclora.storage import provenance
from cgclora.storage.layer_shapes import WEIGHTS_FILE
from cgclora.training.loss import TargetLoss
from evals.data.prose import Prose, read_prose
from evals.runs import run_dir
from evals.runs.engines import LocalEngine
from evals.runs.run_dir import Run, RunError
from evals.scoring.statistics import FloatArray, mean_estimate

TASKS_PER_TEXT = 4
"""Tasks with which a passage is read: the time grows with their number. Which tasks a passage gets
is random, so the interval over passages holds the noise of that draw, too."""

MAX_TOKENS = 512
"""A longer passage is read up to here."""

PASS_TOKENS = 1024
"""Padded tokens of a pass."""

DRAW = 0
"""Seed that draws each passage's tasks: the same for all methods."""

_Job = tuple[Adapter | None, str | None, int]
"""Adapter, task and place of a passage to be read."""


@dataclasses.dataclass(frozen=True)
class Forgetting:
    """Passages read by the bare backbone and by an adapted one.

    Attributes:
        prose: The n passages.
        tasks: With which the adapted backbone read; none for the bare backbone itself.
        tasks_per_text: With how many of them each passage was read.
        tokens: Number of predicted tokens of each passage, [n].
        bare: Nats a token of each passage, [n].
        adapted: The same with the adapter, the mean over the tasks, [n].
        stamp: Code, versions and hardware, see `cgclora.storage.provenance`.
    """

    prose: Prose
    tasks: tuple[str, ...]
    tasks_per_text: int
    tokens: tuple[int, ...]
    bare: FloatArray
    adapted: FloatArray
    stamp: Mapping[str, Any]

    def facts(self) -> dict[str, Any]:
        """The measurement for a manifest, as JSON values.

        `overall` and, by language, `languages` have the mean nats a token `bare` and `adapted`, and
        their `difference` as an `Estimate` over passages. `differences` are those of the passages,
        from which methods are compared; `texts` says which passages they are.
        """
        places = self.prose.languages()
        return {
            "texts": {
                "name": self.prose.name,
                "hash": self.prose.hash,
                "count": len(self.prose.passages),
                "tokens": sum(self.tokens),
            },
            "tasks": list(self.tasks),
            "tasks_per_text": self.tasks_per_text,
            "overall": self._summary([*range(len(self.bare))]),
            "languages": {name: self._summary(of) for name, of in places.items() if name},
            "differences": np.round(self.adapted - self.bare, 5).tolist(),
            **self.stamp,
        }

    def _summary(self, places: Sequence[int]) -> dict[str, Any]:
        bare, adapted = self.bare[places], self.adapted[places]
        return {
            "bare": float(bare.mean()),
            "adapted": float(adapted.mean()),
            "difference": dataclasses.asdict(mean_estimate(adapted - bare)),
        }


def measure(
    backbone: Backbone,
    adapters: Mapping[str, Adapter],
    prose: Prose | None = None,
    *,
    tasks_per_text: int = TASKS_PER_TEXT,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Forgetting:
    """Read passages with the bare backbone and with adapters.

    What the bare backbone gives is kept with it, so that it reads the same passages once.

    Args:
        backbone: The model.
        adapters: The adapter of each task, attached to it, as for `LocalEngine`.
        prose: The passages; None takes our own.
        tasks_per_text: Tasks with which a passage is read; 0 takes all. All tasks are used equally
            often.
        progress: Called before each pass with the numbers of readings so far and in all; what it
            raises ends the measurement.

    Raises:
        ConfigError: A task is folded into the backbone, or `tasks_per_text` is negative.
        DataError: A passage has less than two tokens, or one that the backbone cannot read.
    """
    if folded_in(backbone.model) is not None:
        raise ConfigError("a task is folded into the backbone: unfold() it before measuring.")
    if tasks_per_text < 0:
        raise ConfigError(f"tasks_per_text is {tasks_per_text}: give a number from 0.")
    provenance.commit()  # cached from here on: a commit made meanwhile is not this code
    prose = prose or read_prose()
    ids = _encode(backbone, prose)
    known: dict[Prose, FloatArray] = backbone.state.setdefault(Forgetting, {})
    drawn = draw(len(ids), sorted(adapters), tasks_per_text)
    first = _first_alike(adapters)
    jobs: list[_Job] = [] if prose in known else [(None, None, place) for place in range(len(ids))]
    jobs += dict.fromkeys(
        (adapters[task], first[task], place) for place, tasks in enumerate(drawn) for task in tasks
    )
    nats = _read(backbone, ids, jobs, progress)
    if prose not in known:
        known[prose] = np.array([nats[None, place] for place in range(len(ids))])
    bare = known[prose]
    adapted = [
        np.mean([nats[first[task], place] for task in tasks]) if tasks else bare[place]
        for place, tasks in enumerate(drawn)
    ]
    return Forgetting(
        prose,
        tuple(sorted(adapters)),
        max(map(len, drawn)),
        tuple(len(one) - 1 for one in ids),
        bare,
        np.array(adapted),
        provenance.stamp(backbone.model),
    )


def measure_run(run: Run, engine: LocalEngine, prose: Prose | None = None, **options: Any) -> Run:
    """`measure` a finished run's model and put the facts into its manifest, for the leaderboard.

    Args:
        run: The run; scored or not.
        engine: What answered it, with its adapters still attached.
        prose: As for `measure`.
        options: Further ones of `measure`.

    Raises:
        RunError: Another backbone or other adapters answered the run.
        ConfigError, DataError: As `measure`.
    """
    tasks = [*run.manifest["tasks"]]
    if _answered_by(engine.facts(tasks)) != _answered_by(run.manifest):
        raise RunError(
            f"{run.folder} was answered by another backbone or by other adapters: name those that "
            "answered it, or evaluate these again with `python -m evals run --forgetting`."
        )
    adapters = {task: one for task, one in engine.adapters.items() if task in tasks}
    measured = measure(engine.backbone, adapters, prose, **options)
    return run_dir.annotate(run, {"forgetting": measured.facts()})


def _answered_by(manifest: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Fingerprint of the backbone, and by task the hash of the adapter's weights."""
    backbone = manifest.get("backbone") or {}
    weights = {
        task: one["manifest"].get("files", {}).get(WEIGHTS_FILE)
        for one in manifest.get("adapters") or ()
        for task in one["tasks"]
    }
    return backbone.get("fingerprint"), weights


def draw(texts: int, tasks: Sequence[str], per_text: int) -> list[list[str]]:
    """The tasks of each text: as many for each text, each task as often as another (or once less).

    Args:
        texts: Number of texts.
        tasks: May be none.
        per_text: Number of tasks of a text, at most all; 0 takes all.
    """
    count = min(per_text or len(tasks), len(tasks))
    drawn: list[list[str]] = [[] for _ in range(texts)]
    for place, text in enumerate(np.random.default_rng(DRAW).permutation(texts)):
        drawn[text] = [tasks[(place * count + i) % len(tasks)] for i in range(count)]
    return drawn


def _first_alike(adapters: Mapping[str, Adapter]) -> dict[str, str]:
    """For each task the first that has the same effect, as all tasks of a LoRA (Full) have."""
    seen: dict[tuple[Adapter, bytes], str] = {}
    return {
        task: seen.setdefault((adapter, adapter.rank_weights(task).cpu().numpy().tobytes()), task)
        for task, adapter in sorted(adapters.items())
    }


def _encode(backbone: Backbone, prose: Prose) -> list[list[int]]:
    """The token ids of each passage, with the start token if the backbone has one."""
    texts = [one.text for one in prose.passages]
    encoded: list[list[int]] = [ids[:MAX_TOKENS] for ids in backbone.tokenizer(texts)["input_ids"]]
    for passage, ids in zip(prose.passages, encoded, strict=True):
        where = f"passage {passage.id} of {prose.name}"
        if len(ids) < 2:
            raise DataError(f"{where} has less than two tokens: leave it out.")
        word = unreadable_word(ids, readable(backbone.model), backbone.tokenizer)
        if word is not None:
            raise DataError(f"{where} has {word!r}, which this backbone cannot read.")
    return encoded


@torch.no_grad()
def _read(
    backbone: Backbone,
    ids: Sequence[Sequence[int]],
    jobs: Sequence[_Job],
    progress: Callable[[int, int], None],
) -> dict[tuple[str | None, int], float]:
    """Nats a token by task and place of the passage."""
    with backbone.lock:
        loss = TargetLoss(backbone.model)
    device = backbone.model.device
    nats: dict[tuple[str | None, int], float] = {}
    for adapter, rows in _passes(jobs, [len(one) for one in ids]):
        progress(len(nats), len(jobs))
        tokens = [torch.tensor(ids[place]) for _, place in rows]
        batch = torch.nn.utils.rnn.pad_sequence(tokens, True, backbone.pad_id)
        width = batch.shape[1]
        starts = [torch.arange(len(one) - 1) + i * width for i, one in enumerate(tokens)]
        targets = torch.cat([one[1:] for one in tokens])
        route = nullcontext() if adapter is None else adapter.route([task for task, _ in rows])
        with backbone.lock, route:
            lost = loss(batch.to(device), torch.cat(starts).to(device), targets.to(device))
        of_rows = lost.double().cpu().split([len(one) for one in starts])
        nats |= {row: float(one.mean()) for row, one in zip(rows, of_rows, strict=True)}
    return nats


def _passes(
    jobs: Sequence[_Job], lengths: Sequence[int]
) -> list[tuple[Adapter | None, list[tuple[str | None, int]]]]:
    """Readings of one adapter each and of similar length, within `PASS_TOKENS`."""
    of_adapter: dict[Adapter | None, list[tuple[str | None, int]]] = {}
    for adapter, task, place in jobs:
        of_adapter.setdefault(adapter, []).append((task, place))
    passes = []
    for adapter, rows in of_adapter.items():
        rows.sort(key=lambda row: -lengths[row[1]])
        while rows:
            count = max(1, PASS_TOKENS // lengths[rows[0][1]])
            passes.append((adapter, rows[:count]))
            del rows[:count]
    return passes
