"""Example inputs with their right answers, written for this project."""

import json
from dataclasses import dataclass
from pathlib import Path

from evals.tasks import TASKS

SAMPLES = Path(__file__).resolve().parents[2] / "assets" / "samples"
"""Where they lie; a data folder like any other, with a test split."""


@dataclass(frozen=True)
class Sample:
    """One example.

    Attributes:
        task: name of its task.
        fields: a value for each field of the task.
        reference: the right answer, as the dataset would write it.
        choices: what the prompt offers to choose from; None for free text.
    """

    task: str
    fields: dict[str, str]
    reference: str
    choices: tuple[str, ...] | None


def load_samples(folder: Path = SAMPLES) -> dict[str, list[Sample]]:
    """The examples of every task that has some, tasks in the order of `TASKS`.

    Args:
        folder: holds folders of JSON files, each a list of objects with the attributes of `Sample`.

    Raises:
        FileNotFoundError: they hold no JSON file.
        ValueError: an entry is not a sample of a known task; the message names file and entry.
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
