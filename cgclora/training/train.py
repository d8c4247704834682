"""Train adapters on many tasks at once: one, or any number side by side on one backbone.

A single run takes the same path. Batches come from `cgclora.data.sampling`, the loss from `loss`,
a run's schedule, log and checkpoints from `member`, shared passes from `side_by_side` and
`expert_bank`, files from `cgclora.storage.run_dir`, several processes from `distributed`.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cgclora.adapter import Adapter
from cgclora.config import ConfigError
from cgclora.data.records import Encoded, Record, data_hash, encode, sample_per_task
from cgclora.data.sampling import Collator
from cgclora.inference.router import TaskRouter
from cgclora.models.backbone import Backbone
from cgclora.models.checkpoint import fingerprint
from cgclora.models.vocabulary import end_ids, pad_id, readable
from cgclora.storage import atomic_io, provenance
from cgclora.storage.adapter_dir import read_manifest
from cgclora.storage.run_dir import TrainingDiverged, claim, hold
from cgclora.training.distributed import Processes
from cgclora.training.runs.member import Member
from cgclora.training.runs.scoring import DevScores
from cgclora.training.runs.trackers import Trackers
from cgclora.training.settings import TrainingRun, TrainingSettings
from cgclora.training.side_by_side import SideBySide, resume

Progress = Callable[[dict[str, Any]], None]


def print_progress(facts: Mapping[str, Any]) -> None:
    """Write a line of progress to standard error."""
    run = f"{facts['run']}: " if facts["runs"] > 1 else ""
    parts = [f"{run}step {facts['step']}/{facts['steps']}"]
    names = {"loss": "loss", "dev_loss": "dev loss", "dev_score": "dev score"}
    parts += [f"{name} {facts[key]:.4f}" for key, name in names.items() if key in facts]
    if "scoring_seconds" in facts:
        parts[-1] += f" ({facts['scoring_seconds']:.0f} s of scoring)"
    if facts["seconds_left"] is not None:
        parts.append(f"{facts['seconds_left'] / 60:.1f} min left")
    print(" · ".join(parts), file=sys.stderr, flush=True)


def train(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    train_records: Sequence[Record],
    dev_records: Sequence[Record],
    settings: TrainingSettings,
    run_folder: str | Path,
    *,
    progress: Progress = print_progress,
    stop: Callable[[], bool] | None = None,
    report_to: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Train an attached adapter, or go on with a run that was interrupted in this folder.

    Afterwards the adapter, a fresh one before, holds the best weights by its settings, those with
    the lowest dev loss or the highest dev score, and has a router. Under `accelerate launch` the
    processes share each step's batch, and process 0 writes; with an FSDP config they share the
    backbone, too, which can only be trained then (see `distributed`). Every task needs records of
    both kinds.

    `progress` is called with `run`, `runs`, `step`, `steps`, `seconds_left` and losses. `stop` is
    called after each step of a single process; true writes a checkpoint and ends the run, to be
    resumed later. `report_to` names trackers, see `cgclora.training.runs.trackers`. `options` are
    the further fields of `TrainingRun`, such as `facts` and `judge`.
    Returns the manifest of the saved adapter.

    Raises:
        ConfigError: `best_by` is "score", and there is no judge or a metric that it cannot compute.
        DataError: A task has no usable record.
        TrainingError: The folder holds another run or one that is under way, or an FSDP config does
            not work with it.
        TrainingDiverged: The loss is not finite.
        TrainingStopped: `stop` returned true.
    """
    run = TrainingRun(
        adapter, train_records, dev_records, settings, Path(run_folder).absolute(), **options
    )
    (outcome,) = train_side_by_side(
        [run], tokenizer, progress=progress, stop=stop, report_to=report_to
    )
    if isinstance(outcome, TrainingDiverged):
        raise outcome
    return outcome


def train_side_by_side(
    runs: Sequence[TrainingRun],
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens: int | None = None,
    progress: Progress = print_progress,
    stop: Callable[[], bool] | None = None,
    report_to: Sequence[str] = (),
) -> list[dict[str, Any] | TrainingDiverged]:
    """Train several adapters of one backbone in the same passes, each as if it were alone.

    They may differ in method, rank, seed, rates, tasks, data and steps; each may be resumed alone.
    `tokens` is the largest number of padded tokens of a shared pass (None: by device); `progress`,
    `stop` and `report_to` are as for `train`.

    Returns:
        For each run the manifest of the saved adapter, or why it alone diverged.

    Raises:
        ConfigError: Two runs share a folder or an adapter, there are several backbones, or a
            tracker is not known or not installed.
        DataError, TrainingError, TrainingStopped: As `train`.
    """
    trackers = Trackers(report_to)
    provenance.commit()  # cached from here on: a commit made during the run is not the run's code
    model = _model_of(runs)
    processes = Processes(runs[0].adapter.device)
    prepare = _Preparation(tokenizer, model, processes)
    members = [prepare(run) for run in runs]
    manifests: dict[Member, dict[str, Any]] = {}

    def finish(member: Member) -> None:
        member.adapter.load_state_dict(member.best)
        manifests[member] = _save(member, len(runs))

    with ExitStack() as held:
        if processes.writes:
            for member in members:
                held.enter_context(hold(member.run.folder))
                claim(member.run.folder, member.facts["identity"])
        processes.wait()  # until process 0 has the folders
        identities = atomic_io.json_text([member.facts["identity"] for member in members])
        name = atomic_io.sha256(identities.encode())
        reached = resume(members, name)
        active = [member for member in members if not member.ended]
        for member in (one for one in members if one.ended):
            saved = member.run.folder / "adapter"
            if saved.exists():
                member.adapter.load_state_dict(member.best)
                manifests[member] = read_manifest(saved)[0]
            else:
                finish(member)
        if active:
            held.callback(trackers.close)
            listener = _Progress(active, progress)

            def report(member: Member, facts: dict[str, Any]) -> None:
                if processes.writes:
                    trackers(member.run, member.step, facts)
                    listener(member, facts)

            _take_steps(
                SideBySide(active, model, processes, name, reached, tokens, finish, report), stop
            )
    return [manifests.get(member) or cast(TrainingDiverged, member.error) for member in members]


def _model_of(runs: Sequence[TrainingRun]) -> PreTrainedModel:
    """The backbone that all runs share.

    Raises:
        ConfigError: There is none, or an adapter or folder is named twice.
    """
    for name, values in (
        ("an adapter", [id(run.adapter) for run in runs]),
        ("a folder", [run.folder for run in runs]),
    ):
        if len(set(values)) < len(values):
            raise ConfigError(f"two of the runs share {name}: give each one of its own.")
    models = {id(run.adapter.model): run.adapter.model for run in runs}
    if len(models) != 1:
        raise ConfigError(
            f"the adapters to train together are on {len(models)} backbones: attach them to one."
        )
    return next(iter(models.values()))


class _Preparation:
    """Makes members of runs; what several have in common is worked out once."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, processes: Processes
    ) -> None:
        self.tokenizer = tokenizer
        self.processes = processes
        self.fingerprint = fingerprint(model)
        self.backbone = Backbone(model, tokenizer, str(model.name_or_path), self.fingerprint)
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.positions = positions if positions and positions > 0 else sys.maxsize
        self.pad_id = pad_id(model, tokenizer)
        self.readable = readable(model)
        self.ends = end_ids(model.generation_config, tokenizer)
        self._cache: dict[Any, Any] = {}

    def __call__(self, run: TrainingRun) -> Member:
        """A member, with the facts of its manifest: `identity`, `records` and `too_long`."""
        adapter, settings = run.adapter, run.settings
        tasks = adapter.config.tasks
        run.folder.mkdir(parents=True, exist_ok=True)
        if unknown := sorted(settings.records_of.keys() - set(tasks)):
            raise ConfigError(f"records_of names tasks that the adapter does not know: {unknown}.")
        max_records = {
            "train": [settings.records_of.get(task, settings.records_per_task) for task in tasks],
            "dev": [settings.dev_records_per_task] * len(tasks),
        }
        max_length = min(settings.max_length, self.positions)
        only = None if run.only is None else tuple(run.only)
        is_chat = adapter.config.template is not None
        data, too_long, hashes = {}, Counter[str](), {}
        for split, records in (("train", run.train_records), ("dev", run.dev_records)):
            hashing = partial(data_hash, conversations=is_chat)
            digest = self._once(("hash", id(records), is_chat), hashing, records)
            key = ("ids", digest, tasks, adapter.config.prompt_format, max_length, only)
            encoded, skipped = self._once(key, self._encode, run, records, max_length)
            data[split] = sample_per_task(encoded, max_records[split], settings.seed)
            too_long += skipped
            hashes[f"{split}_data"] = digest
        identity = {
            "config": adapter.config.to_dict(),
            "settings": settings.to_dict(),
            "backbone": self.fingerprint,
            **hashes,
        }
        scores = None
        if settings.best_by == "score":
            assert run.judge is not None  # noqa: S101 - checked by the run
            scores = DevScores(run, run.judge, self.backbone, self.processes)
            identity["metrics"] = scores.metrics
        if only is None:
            router = ("router", hashes["train_data"], tasks)
            adapter.files = self._once(router, fit_router, run.train_records, tasks).to_files()
        else:
            weights = atomic_io.sha256(save(adapter.state_dict()))
            identity |= {"only": list(only), "weights_at_start": weights}
        facts = {
            "identity": identity,
            "records": {split: len(items) for split, items in data.items()},
            "too_long": dict(too_long),
        }
        collator = Collator(self.pad_id, settings.weighting, self.positions)
        return Member(run, data, collator, self.processes, facts, scores)

    def _once(self, key: tuple[Any, ...], work: Callable[..., Any], *arguments: Any) -> Any:
        if key not in self._cache:
            self._cache[key] = work(*arguments)
        return self._cache[key]

    def _encode(
        self, run: TrainingRun, records: Sequence[Record], max_length: int
    ) -> tuple[list[Encoded], Counter[str]]:
        encoded, skipped = encode(
            records,
            self.tokenizer,
            run.adapter.config.tasks,
            prompt_format=run.adapter.config.prompt_format,
            max_length=max_length,
            needed=run.only,
            readable_ids=self.readable,
            ends=self.ends,
        )
        if run.adapter.config.template is None and (later := later_answers(records)):
            print(
                f"left out {later} later turns of conversations, of which plain prompts take the "
                "first; with a chat template all are trained",
                file=sys.stderr,
            )
        if skipped:
            print(f"left out as longer than {max_length} tokens: {dict(skipped)}", file=sys.stderr)
        return encoded, skipped


class _Progress:
    """Passes on what members log, with the time that all of them will take."""

    def __init__(self, members: Sequence[Member], listener: Progress) -> None:
        self.members = members
        self.listener = listener
        self.started = time.monotonic()
        self.first = [member.step for member in members]
        # Tokens of a step: those of two members may differ.
        self.sizes = [
            sum(one.sampler.lengths) / math.ceil(len(one.train) / one.records_a_step)
            for one in members
        ]

    def __call__(self, member: Member, facts: Mapping[str, Any]) -> None:
        done = remaining = 0.0
        for one, size, first in zip(self.members, self.sizes, self.first, strict=True):
            done += size * (one.step - first)
            remaining += 0 if one.ended or one.error else size * (one.steps - one.step)
        seconds = time.monotonic() - self.started
        self.listener(
            {
                "run": member.run.folder.name,
                "runs": len(self.members),
                "step": member.step,
                "steps": member.steps,
                "seconds_left": seconds / done * remaining if done else None,
                **facts,
            }
        )


def _save(member: Member, members: int) -> dict[str, Any]:
    """Save a member's adapter; its manifest."""
    run = member.run
    if run.check is not None:
        run.check()
    if not member.processes.writes:
        return {}
    training = {
        **member.facts["identity"],
        "records": member.facts["records"],
        "too_long": member.facts["too_long"],
        "steps": member.step,
        "best_step": member.best_step,
        "best_dev_loss": member.best_loss,
        **(
            {"best_dev_score": member.best_score, "scoring": member.scores.facts()}
            if member.scores
            else {}
        ),
        "resumed_at": member.resumed_at,
        "seconds": round(member.seconds, 3),
        "side_by_side": members,
    }
    return member.adapter.save(
        run.folder / "adapter", dtype=run.dtype, facts={"training": training, **run.facts}
    )


def _take_steps(training: SideBySide, stop: Callable[[], bool] | None) -> None:
    """Train, and leave the backbone as it was but for the adapters."""
    model = training.model
    checkpointing = any(m.settings.gradient_checkpointing for m in training.members)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        training.run(stop)
    finally:
        if checkpointing:
            model.gradient_checkpointing_disable()
        model.eval()


def later_answers(records: Sequence[Record]) -> int:
    """How many answers follow the first ones of conversations."""
    return sum(record.later_answers for record in records)


def fit_router(records: Sequence[Record], tasks: Sequence[str]) -> TaskRouter:
    """The router that finds the tasks of prompts, fitted to all records of these tasks."""
    return TaskRouter.fit(
        {task: [one.prompt for one in records if one.task == task] for task in tasks}
    )
