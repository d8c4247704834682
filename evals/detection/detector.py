"""Which task a text is for: a proposal with its probability, in a few milliseconds.

A text may be a whole prompt or the bare thing that a task is about: a search, a couplet's first
line, a dialogue. The detector is a linear model over hashed characters and pairs of characters:

    logits [T] = features [B] @ weights [B, T] + bias [T],   p = softmax(logits / temperature)

What it cannot know stays uncertain: tasks over the same kind of text share the probability, and a
text without Chinese characters says nothing. `evals.detection.fit` makes the file that ships.
"""

from __future__ import annotations

import json
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from cgclora.data.text_features import (
    BUCKETS,
    FloatArray,
    code_points,
    features,
    is_han,
    normalised,
)
from evals.tasks import CHOICES, Task, get_task
from evals.tasks.parsing import SEPARATOR

FORMAT = 1
"""Of the file; another one means other features."""

FILE = Path(__file__).parents[2] / "assets" / "detection.safetensors"
"""The shipped detector."""

_ENOUGH_HAN = 0.3  # share of Chinese among a text's letters from which on it is trusted in full
_LAST = "答："


class DetectionError(ValueError):
    """No task can be proposed; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Guess:
    """A task that a text may be for.

    Attributes:
        task: Its name.
        probability: In [0, 1], among the tasks that were asked about.
    """

    task: str
    probability: float


class Detector:
    """Proposes tasks.

    Args:
        tasks: Names of the T tasks in the order of the columns.
        weights: int8 [B, T + 1]; the last column tells whole prompts from bare texts.
        scales: float32 [T + 1]: what a step of a column's weights is worth.
        bias: float32 [T + 1].
        temperature: What the logits are divided by.
        characters: uint8 [8192], a bit a code point below 65536: the characters that are known.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        weights: npt.NDArray[np.int8],
        scales: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        temperature: float,
        characters: npt.NDArray[np.uint8],
    ) -> None:
        columns = len(tasks) + 1
        shapes = ((BUCKETS, columns), (columns,), (columns,), (8192,))
        if tuple(a.shape for a in (weights, scales, bias, characters)) != shapes:
            raise DetectionError(f"a detector of {len(tasks)} tasks has arrays of shapes {shapes}")
        self.tasks = tuple(tasks)
        self._weights, self._scales = weights, scales.astype(np.float64)
        self._bias, self._temperature = bias.astype(np.float64), temperature
        self._known = np.unpackbits(characters).astype(bool)

    def guesses(self, text: str, tasks: Sequence[str] | None = None) -> list[Guess]:
        """The tasks that the text may be for, best first; their probabilities sum to 1.

        A prompt that the template of one of these tasks made is of that task. Otherwise a task
        that the detector was not fitted on has probability 0, unless there are no others.

        Args:
            text: A whole prompt or a bare text.
            tasks: Names of the tasks to choose from; None takes those the detector was fitted on.

        Raises:
            DetectionError: The text is empty, or no task is given.
            UnknownTaskError: No task has one of these names.
        """
        if not text.strip():
            raise DetectionError("there is no text to find the task of: type or paste some.")
        asked = self.tasks if tasks is None else tuple(dict.fromkeys(tasks))
        if not asked:
            raise DetectionError("there is no task to choose from: name at least one.")
        cleaned = _clean(text)
        made = [name for name in asked if _split(get_task(name), *cleaned) is not None]
        chances = self._chances(text, made or asked)
        found = {**dict.fromkeys(asked, 0.0), **chances}
        return [Guess(name, found[name]) for name in sorted(asked, key=lambda name: -found[name])]

    def prompt_probability(self, text: str) -> float:
        """How sure it is that a text is a whole prompt, with an instruction, in [0, 1]."""
        return float(1 / (1 + np.exp(-self._logits(text)[-1])))

    def _chances(self, text: str, names: Sequence[str]) -> dict[str, float]:
        columns = [self.tasks.index(name) for name in names if name in self.tasks]
        if not columns:
            return dict.fromkeys(names, 1 / len(names))
        logits = self._logits(text)[columns] / self._temperature
        chances = np.exp(logits - logits.max())
        trust = self._trust(text)
        chances = trust * chances / chances.sum() + (1 - trust) / len(columns)
        return {self.tasks[at]: float(p) for at, p in zip(columns, chances, strict=True)}

    def _logits(self, text: str) -> FloatArray:
        buckets, values = features(text)
        products: FloatArray = values @ self._weights[buckets].astype(np.float64)
        return products * self._scales + self._bias

    def _trust(self, text: str) -> float:
        """In [0, 1]: whether the text is Chinese, as the tasks are, and more than a character."""
        characters = normalised(text.strip())
        letters = code_points(
            "".join(c for c in characters if unicodedata.category(c)[0] not in "PZC")
        )
        if not letters.size:
            return 0.0
        chinese = self._known[np.minimum(letters, 65535)] & is_han(letters)
        digits = (letters >= ord("0")) & (letters <= ord("9"))
        share = chinese.sum() / max(1, letters.size - digits.sum())
        return float(min(1.0, share / _ENOUGH_HAN, chinese.sum() / 2))  # one character says little


def load_detector(path: str | Path = FILE) -> Detector:
    """Read a detector from its file: the shipped one, if none is named.

    Raises:
        DetectionError: It is missing or damaged, or of a format that this code does not know.
    """
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {}).get("detector", "{}"))
            arrays: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.get("format") != FORMAT:
            raise DetectionError(
                f"{path} is a detector of format {about.get('format')}; this code reads {FORMAT}. "
                "Fit it anew: python -m evals detection fit"
            )
        return Detector(about["tasks"], temperature=about["temperature"], **arrays)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DetectionError):
            raise
        raise DetectionError(
            f"cannot read the detector {path} ({error}): get the file whole, or fit it anew with "
            "python -m evals detection fit"
        ) from error


# Fields -----------------------------------------------------------------------------------


def split_fields(task: Task, text: str) -> dict[str, str] | None:
    """The fields that make a prompt of a task: what `Task.prompt` does, undone.

    Widths of punctuation, spaces at the ends of lines, and a last line "答：" do not matter.
    Takes time in proportion to the text.

    Returns:
        A value for each field, or None if the text is not a prompt in the task's own wording.
    """
    return _split(task, *_clean(text))


def _clean(text: str) -> tuple[str, str]:
    """The text without what does not matter in a prompt; the same with its punctuation folded."""
    lines = text.strip().replace("\r\n", "\n").split("\n")
    text = "\n".join(line.rstrip() for line in lines)
    text = text.removesuffix(_LAST).removesuffix("答:").rstrip()
    return text, _fold(text)


def _split(task: Task, text: str, folded: str) -> dict[str, str] | None:
    pieces = _pieces(task)
    at, fields = 0, dict[str, str]()
    options = {field.name: field.options for field in task.fields}
    for number, (name, before, after) in enumerate(pieces):
        if not folded.startswith(before, at):
            return None
        at += len(before)
        is_last = number == len(pieces) - 1
        if chosen := [o for o in options[name] if folded.startswith(_fold(o), at)]:
            end = at + len(max(chosen, key=len))
        elif options[name]:
            return None
        elif is_last:
            end = len(text) - len(after)
        else:
            end = folded.find(after, at)
        if end <= at or not folded.startswith(after, end):
            return None
        fields[name] = text[at:end].strip()
        at = end
    is_whole = at + len(pieces[-1][2]) == len(text)
    return fields if is_whole and all(fields.values()) else None


def _fold(text: str) -> str:
    """The text with punctuation in one width, character for character."""
    return text.translate(_WIDTHS)


_WIDTHS = str.maketrans(":,?!()", "：，？！（）")


@cache
def _pieces(task: Task) -> tuple[tuple[str, str, str], ...]:
    """The fields in the order of a template: name, fixed wording before, fixed wording after."""
    wording, names, fixed = task.template.removesuffix(_LAST).rstrip(), list[str](), [""]
    known = {field.name for field in task.fields}
    for literal, name, _, _ in string.Formatter().parse(wording):
        fixed[-1] += _fold(literal)
        if name == CHOICES and name not in known:
            fixed[-1] += _fold(SEPARATOR.join(task.labels))
        elif name:
            names.append(name)
            fixed.append("")
    return tuple(zip(names, fixed, fixed[1:], strict=False))
