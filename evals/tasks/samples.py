"""Example inputs with their right answers, written for this project."""

import json
from dataclasses import dataclass
from pathlib import Path

from evals.tasks import TASKS

SAMPLES = Path(__file__).resolve().parents[2] / "assets" / "samples"
"""A data folder with a test split."""

OWN_EXAMPLE = SAMPLES / "own_tasks.jsonl"
"""Records of tasks that are not built in: what a user's own file may look like."""


@dataclass(frozen=True)
class Sample:
    """One example.

    Attributes:
        task: Its name.
        fields: A value for each field of the task.
        reference: The right answer in the format of the dataset.
        choices: Offered by the prompt; None for free text.
    """

    task: str
    fields: dict[str, str]
    reference: str
    choices: tuple[str, ...] | None


def load_samples(folder: Path = SAMPLES) -> dict[str, list[Sample]]:
    """The examples of every task that has some, tasks in the order of `TASKS`.

    `folder` holds folders of JSON files, each a list of objects with the attributes of `Sample`.

    Raises:
        FileNotFoundError: There is no JSON file.
        ValueError: An entry is not a sample of a known task; the message names file and entry.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in TASKS}
    paths = sorted(folder.glob("*/*.json"))
    if not paths:
        raise FileNotFoundError(f"no samples in {folder}: expected files such as firefly/test.json")
    for path in paths:
        for number, entry in enumerate(json.loads(path.read_text(encoding="utf-8")), start=1):
            try:
                choices = entry["choices"]
                sample = Sample(
                    task=entry["task"],
                    fields=entry["fields"],
                    reference=entry["reference"],
                    choices=None if choices is None else tuple(choices),
                )
                samples[sample.task].append(sample)
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path}, entry {number}: not a sample ({error!r})") from error
    return {name: of_task for name, of_task in samples.items() if of_task}
