"""The class that the YAML files in `promptcblue` name; needs lm-evaluation-harness (`lm_eval`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask

from evals.runs.harness import pack
from evals.tasks import TASKS


class PromptCBLUETask(ConfigurableTask):  # type: ignore[misc]
    """A task of PromptCBLUE.

    Args:
        config: Of the YAML file, with `dataset_name`, our name of the task, and in `metadata` what
            `pack.documents` reads, and `separator`, a text to follow each prompt.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        own = {name: value for name, value in config.items() if name != "class"}
        settings = own.pop("metadata", None) or {}
        self.judged = TASKS[own["dataset_name"]]
        self.separator = str(settings.get("separator", ""))
        self.splits = pack.documents(self.judged, settings)
        asked, *examples = self.splits
        splits = {"test_split": asked, "training_split": examples[0] if examples else None}
        super().__init__(config={**pack.config(self.judged, settings), **splits, **own})

    def download(self, *_: Any, **__: Any) -> None:
        """Hand the documents over, which were read from the user's files."""
        self.dataset = {name: Dataset.from_list(rows) for name, rows in self.splits.items()}

    def doc_to_text(self, doc: Mapping[str, Any], *_: Any) -> str:
        """The prompt as it is, and the separator if one is wanted."""
        return f"{doc['input']}{self.separator}"

    def doc_to_target(self, doc: Mapping[str, Any], *_: Any) -> str:
        """The reference answer."""
        return str(doc["target"])

    def process_results(
        self, doc: Mapping[str, Any], results: Sequence[str]
    ) -> dict[str, pack.Graded]:
        """The answer beside its reference, for the score and each metric."""
        return pack.grade(self.judged, doc, results[0])

    def aggregation(self) -> dict[str, Callable[[Sequence[pack.Graded]], float]]:
        """What makes each score of all answers."""
        return pack.aggregations(self.judged)

    def higher_is_better(self) -> dict[str, bool]:
        """All are scores."""
        return dict.fromkeys(self.aggregation(), True)
