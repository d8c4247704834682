"""The benchmark form, read into an evaluation plan and the facts of its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.experiments.evaluation_plan import (
    DataFacts,
    EvaluationPlan,
    data_facts,
    is_official_data_known,
)
from evals.methods import method_of
from evals.tasks import TASKS, Language
from evals.tasks.samples import SAMPLES
from ui.components import answering_models
from ui.components.answering_models import adapter_title
from ui.components.own_tasks import Corrections
from ui.components.texts import text
from ui.engine.engine import COMPARED, AppEngine
from ui.engine.questions import BARE
from ui.engine.settings import AppLimits
from ui.server.files import check_upload

OFFICIAL, OWN, UPLOAD = "official", "samples", "upload"

_STAND_IN = Path("my-test.jsonl")


@dataclass(frozen=True)
class BenchmarkForm:
    """What is evaluated."""

    adapter: str  # name of an adapter, or `BARE`
    source: str  # `OFFICIAL`, `OWN` or `UPLOAD`
    upload: Path | None
    tasks: tuple[str, ...]  # those that are chosen; some may not fit the adapter or the data
    per_task: int  # largest number of records of a task; 0 takes all
    corrections: Corrections  # of the upload's own tasks

    @classmethod
    def read(cls, engine: AppEngine, *values: Any) -> BenchmarkForm:
        """From the values of adapter, source, file, tasks, number, and `OwnTasks.inputs`.

        Each may be missing.
        """
        adapter, source, upload, tasks, number, *table = values
        names = adapter_names(engine)
        return cls(
            adapter if adapter in names else names[0],
            source if source in {OFFICIAL, UPLOAD} else OWN,
            Path(upload) if upload else None,
            tuple(map(str, tasks or ())),
            max(0, int(number)) if isinstance(number, int | float) else 0,
            Corrections.of(*table),
        )

    @property
    def uploads(self) -> list[Path]:
        """The uploaded file, if it is what is evaluated."""
        return [self.upload] if self.source == UPLOAD and self.upload else []

    def facts(self, limits: AppLimits) -> DataFacts | None:
        """Tasks and records of the data; None before a file is uploaded.

        Raises:
            DataError: It cannot be used.
            OSError: It cannot be read.
        """
        if self.source == UPLOAD:
            if self.upload is None:
                return None
            check_upload(self.upload, limits)
            return data_facts(self.upload)
        return data_facts(SAMPLES if self.source == OWN else None)

    def usable_tasks(self, engine: AppEngine, facts: DataFacts | None) -> tuple[str, ...]:
        """Tasks that can be answered and scored, built-in ones first."""
        present = TASKS if facts is None else facts.tasks
        able = present if self.adapter == BARE else engine.tasks(self.adapter)
        return tuple(task for task in present if task in able)

    def chosen_tasks(self, engine: AppEngine, facts: DataFacts | None) -> tuple[str, ...]:
        """The chosen ones of `usable_tasks`."""
        return tuple(task for task in self.usable_tasks(engine, facts) if task in self.tasks)

    def plan(
        self,
        engine: AppEngine,
        facts: DataFacts | None,
        source: Path | None = None,
        backbone: str | None = None,
    ) -> EvaluationPlan:
        """The evaluation plan.

        Without a source the uploaded file is one on the user's machine; `backbone` replaces the
        embedded one.
        """
        tasks, bare = self.chosen_tasks(engine, facts), self.adapter == BARE
        # Without a list the command takes all tasks that the adapter knows.
        every = tasks == self.usable_tasks(engine, facts)
        config = None if bare else engine.configs[self.adapter]
        manifest = {} if bare else engine.manifests[self.adapter]
        places = {OFFICIAL: None, OWN: SAMPLES, UPLOAD: source or _STAND_IN}
        return EvaluationPlan(
            method_of(config, manifest),
            tasks=None if every else tasks,
            per_task=self.per_task,
            adapter=None if bare else engine.path(self.adapter),
            label="" if bare else self.adapter.removeprefix(f"{COMPARED}/"),
            source=places[self.source],
            skip_bad=bool(facts and facts.problems),
            backbone=backbone,
        )


def sources() -> tuple[str, ...]:
    """Available sources of data."""
    return (OFFICIAL, OWN, UPLOAD) if is_official_data_known() else (OWN, UPLOAD)


def adapter_names(engine: AppEngine) -> tuple[str, ...]:
    """Names of the adapters, and of the bare backbone."""
    return (*engine.adapters(), BARE)


def adapter_choices(engine: AppEngine, language: Language) -> list[tuple[str, str]]:
    """Choices of adapters and the bare backbone, see `answering_models.adapter_choices`."""
    bare = f"{adapter_title(engine, BARE, language)}\n{text('bench_bare_note', language)}"
    return [*answering_models.adapter_choices(engine, language), (bare, BARE)]
