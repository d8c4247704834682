"""Proposes the task of a text, with a probability, in a few milliseconds.

A text is a whole prompt or the bare input of a task: a search, a couplet's first line, a dialogue.
The detector is a linear model over hashed characters and pairs of characters:

    logits [T] = features [B] @ weights [B, T] + bias [T],   p = softmax(logits / temperature)

Tasks over the same kind of text share the probability; a text without Chinese characters gives the
uniform distribution. `evals.detection.fit` makes the shipped file.
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
"""Version of the file and of the features."""

FILE = Path(__file__).parents[2] / "assets" / "detection.safetensors"
"""The shipped detector."""

_MIN_HAN = 0.3  # share of Chinese among a text's letters from which on it is fully trusted
_LAST = "答："


class DetectionError(ValueError):
    """No task can be proposed."""


@dataclass(frozen=True)
class Guess:
    """A candidate task of a text, with its probability among the tasks to choose from."""

    task: str
    probability: float


class Detector:
    """Proposes tasks.

    Args:
        tasks: Names of the T tasks in the order of the columns.
        weights: int8 [B, T + 1]; the last column separates whole prompts from bare texts.
        scales: float32 [T + 1]: the quantization step of each column.
        bias: float32 [T + 1].
        temperature: Divides the logits.
        characters: uint8 [8192], a bit for each code point below 65536: the characters seen in
            training.
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
        """Candidate tasks of a text, the most probable first; the probabilities sum to 1.

        A prompt in the template of one of these tasks is of that task. Otherwise a task that the
        detector was not fitted on has probability 0, unless there are no others.

        Args:
            text: A whole prompt or a bare text.
            tasks: Names to choose from; None takes those the detector was fitted on.

        Raises:
            DetectionError: The text is empty, or no task is given.
            UnknownTaskError: No task has one of these names.
        """
        if not text.strip():
            raise DetectionError("there is no text to find the task of: type or paste some.")
        names = self.tasks if tasks is None else tuple(dict.fromkeys(tasks))
        if not names:
            raise DetectionError("there is no task to choose from: name at least one.")
        cleaned = _clean(text)
        matching = [name for name in names if _split(get_task(name), *cleaned) is not None]
        chances = dict.fromkeys(names, 0.0) | self._probabilities(text, matching or names)
        return [
            Guess(name, chances[name]) for name in sorted(names, key=lambda name: -chances[name])
        ]

    def prompt_probability(self, text: str) -> float:
        """The probability that a text is a whole prompt, with an instruction."""
        return float(1 / (1 + np.exp(-self._logits(text)[-1])))

    def _probabilities(self, text: str, names: Sequence[str]) -> dict[str, float]:
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
        """A weight in [0, 1]: low for a text with little Chinese or a single character."""
        characters = normalised(text.strip())
        letters = code_points(
            "".join(c for c in characters if unicodedata.category(c)[0] not in "PZC")
        )
        if not letters.size:
            return 0.0
        chinese = self._known[np.minimum(letters, 65535)] & is_han(letters)
        digits = (letters >= ord("0")) & (letters <= ord("9"))
        share = chinese.sum() / max(1, letters.size - digits.sum())
        return float(min(1.0, share / _MIN_HAN, chinese.sum() / 2))


def load_detector(path: str | Path = FILE) -> Detector:
    """Read a detector, by default the shipped one.

    Raises:
        DetectionError: The file is missing, damaged or of an unknown format.
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
    """The fields of a task's prompt: the inverse of `Task.prompt`, in linear time.

    The width of punctuation, spaces at the ends of lines, and a last line "答：" are ignored.

    Returns:
        A value for each field, or None if the text is not a prompt in the task's template.
    """
    return _split(task, *_clean(text))


def _clean(text: str) -> tuple[str, str]:
    """The text without line-end spaces and the last line; the same with folded punctuation."""
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
        if chosen := [o for o in options[name] if folded.startswith(_fold(o), at)]:
            end = at + len(max(chosen, key=len))
        elif options[name]:
            return None
        elif number == len(pieces) - 1:
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
    """The text with full-width punctuation, character for character."""
    return text.translate(_WIDTHS)


_WIDTHS = str.maketrans(":,?!()", "：，？！（）")


@cache
def _pieces(task: Task) -> tuple[tuple[str, str, str], ...]:
    """The fields in the order of a template: name, fixed text before, fixed text after."""
    wording, names, fixed = task.template.removesuffix(_LAST).rstrip(), list[str](), [""]
    fields = {field.name for field in task.fields}
    for literal, name, _, _ in string.Formatter().parse(wording):
        fixed[-1] += _fold(literal)
        if name == CHOICES and name not in fields:
            fixed[-1] += _fold(SEPARATOR.join(task.labels))
        elif name:
            names.append(name)
            fixed.append("")
    return tuple(zip(names, fixed, fixed[1:], strict=False))
