"""The evaluations in their tab: progress, then scores."""

from __future__ import annotations

import shutil
from pathlib import Path

from evals.experiments.evaluation_plan import Earlier
from evals.jobs.queue import Job, Jobs
from evals.runs.progress import read_progress
from evals.runs.run_dir import MANIFEST_FILE, Run, RunError, partial_folder, read_run
from evals.tasks import Language
from ui.components.bilingual import Bilingual
from ui.engine.engine import Engine
from ui.engine.questions import BARE
from ui.tabs.benchmark import view
from ui.tabs.benchmark.form import adapter_title
from ui.tabs.jobs.panel import JobPanel

_REMEMBERED = 5  # earlier evaluations that the time of the next one is estimated by


class Evaluations(JobPanel):
    """Lists evaluations and shows the chosen one.

    Args:
        add: Makes components with words.
        engine: Knows the titles of adapters.
        jobs: The queue.
        folder: Holds the run folder of each evaluation, named as its job.
        allowed: Whether visitors see and change the jobs.
    """

    kind, prefix, tab, link_key = "evaluate", "bench", "benchmark", "bench_job"

    def __init__(
        self, add: Bilingual, engine: Engine, jobs: Jobs, folder: Path, *, allowed: bool
    ) -> None:
        super().__init__(add, jobs, allowed=allowed)
        self.engine = engine
        self.folder = folder

    def title(self, job: Job, language: Language) -> str:
        """Who answers."""
        name = str(job.facts.get("adapter", ""))
        return adapter_title(self.engine, name, language) if name else job.title

    def share_done(self, job: Job) -> float | None:
        """The share of records that are answered."""
        progress = read_progress(self.folder / job.id)
        return progress.done / progress.total if progress and progress.total else None

    def show(self, job: Job, language: Language, language_asked: str) -> str:
        """Progress of an evaluation, or its scores."""
        title, folder = self.title(job, language), self.folder / job.id
        if job.state == "done":
            return view.scored(job, title, self._run(job), language, language_asked)
        progress = read_progress(folder)
        is_answered = progress is None and (folder / MANIFEST_FILE).exists()
        return view.unscored(job, title, progress, language, is_answered=is_answered)

    def delete(self, id: str) -> None:  # noqa: A002 - it is the job's
        """Remove a job and its unfinished run; scores are kept."""
        super().delete(id)
        shutil.rmtree(partial_folder(self.folder / id), ignore_errors=True)

    def earlier(self, adapter: str) -> list[Earlier]:
        """What the newest evaluations of an adapter took, or of the bare backbone."""
        found: list[Earlier] = []
        for job in self.all():
            alike = (job.facts.get("adapter") == BARE) == (adapter == BARE)
            if (
                job.state == "done"
                and alike
                and len(found) < _REMEMBERED
                and (run := self._run(job))
            ):
                seconds = float(run.manifest.get("seconds") or 0.0)
                whole = (job.ended or 0.0) - (job.started or 0.0)
                found.append(Earlier(float(job.facts.get("work") or 0), seconds, whole))
        return found

    def _run(self, job: Job) -> Run | None:
        """A finished run; None if it is gone."""
        try:
            return read_run(self.folder / job.id)
        except RunError:
            return None
