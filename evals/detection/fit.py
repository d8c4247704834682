"""Fits the detector of `evals.detection.detector` and scores it.

Each record is used in several forms, so that any kind of input works:

    whole   the prompt
    raw     its main field alone, without instruction and options
    both    both texts of a task that compares two, on two lines or in quotation marks
    cut     the beginning of the main field, as during typing; for training only

The main field is a prompt without the wordings that many prompts of its task share. All tasks have
the same weight. The arithmetic is in float64 with a fixed order and seed, and weights are rounded
to int8 at the end, so that the same data gives the same file.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save
from scipy.sparse import csr_array
from scipy.special import log_softmax

from cgclora.analysis.intervals import wilson_interval
from cgclora.data.records import Record
from cgclora.data.sources import SPLITS
from cgclora.data.text_features import BUCKETS, FloatArray, IntArray, features, is_han
from cgclora.storage import atomic_io, provenance
from evals.data import datasets
from evals.data.datasets import Dataset
from evals.detection.detector import FORMAT, Detector, load_detector
from evals.tasks import CHOICES, TASKS
from evals.tasks.parsing import SEPARATOR

LICENCE = "CC BY-NC 4.0 (research only), as the data that it was fitted on"

EPOCHS = 3
BATCH = 256
RATE = 0.02
DECAY = 5e-6
SEED = 0

_BINS = 10
_FORMS = ("whole", "raw", "both")


# Forms of a record ------------------------------------------------------------------------

_GAP = "\0"  # in place of a prompt's choices
_ANSWER = re.compile(r"\s*答[：:]\s*$")
_LABELLED = re.compile(r"^(?:（\d）|[^：，。“]{2,4}：)")
_QUOTED = re.compile(r"“([^“”]+)”[^“”]*?“(.+)”", re.S)
_ALTERNATIVES = re.compile(r"“[^“”]{1,4}”(?:或“[^“”]{1,4}”)")
_SPEAKERS = ("患者：", "医生：")
_MAX_WORDING = 160  # characters


@dataclass(frozen=True)
class Wordings:
    """Fixed beginnings, endings and lines that many prompts of a task share."""

    beginnings: frozenset[str]
    endings: frozenset[str]
    lines: frozenset[str]


def wordings(records: Sequence[Record]) -> Wordings:
    """Beginnings and endings of at least 2 % of a task's prompts, and lines of half of them.

    For tasks that compare two texts, a line of 2 % of the prompts counts, too.
    """
    beginnings, endings, lines = Counter[str](), Counter[str](), Counter[str]()
    for record in records:
        prompt = _without_choices(record)
        lines.update(set(prompt.split("\n")))
        for at, character in enumerate(prompt[: _MAX_WORDING // 2], start=1):
            if character in "\n：:“" and not prompt.endswith(_SPEAKERS, 0, at):
                beginnings[prompt[:at]] += 1
        for at in range(max(0, len(prompt) - _MAX_WORDING), len(prompt) - 3):
            if prompt[at] in "\n”，":
                endings[prompt[at:]] += 1
    least = max(5, len(records) / 50)
    # Dialogues share lines such as "患者：好的", which are part of the input.
    often = least if _compares(records[0].task) else len(records) / 2

    def frequent(texts: Counter[str], bound: float) -> frozenset[str]:
        return frozenset(text for text, count in texts.items() if count >= bound)

    return Wordings(frequent(beginnings, least), frequent(endings, least), frequent(lines, often))


def main_fields(record: Record, shared: Wordings) -> tuple[str, ...]:
    """The bare text of a record, or both compared texts; () if the prompt cannot be split."""
    prompt, compares = _without_choices(record), _compares(record.task)
    if compares and (quoted := _QUOTED.search(_ALTERNATIVES.sub("", prompt))):
        return quoted[1].strip(), quoted[2].strip()
    starts = range(min(_MAX_WORDING, len(prompt)), 0, -1)
    start = next((at for at in starts if prompt[:at] in shared.beginnings), 0)
    ends = range(max(start, len(prompt) - _MAX_WORDING), len(prompt))
    end = next((at for at in ends if prompt[at:] in shared.endings), len(prompt))
    lines = [line for line in prompt[start:end].split("\n") if line not in shared.lines]
    if compares:
        lines = [_LABELLED.sub("", line) for line in lines]
        return (lines[0], "\n".join(lines[1:])) if len(lines) > 1 and all(lines[:2]) else ()
    text = re.sub(r"\n临床发现实体：.*", "", "\n".join(lines))
    if record.task == "AncientPoem":
        text = _poem(text)
    return () if _GAP in text or not text.strip() else (text.strip(),)


def forms(record: Record, shared: Wordings) -> dict[str, str]:
    """The forms of a record except `cut`."""
    parts = main_fields(record, shared)
    seen = {"whole": record.prompt}
    if parts:
        seen["raw"] = parts[0]
    if len(parts) == 2:
        lines = datasets.draw(record.id, 0)[0] % 2
        seen["both"] = "\n".join(parts) if lines else f"“{parts[0]}”，“{parts[1]}”"
    return seen


def _cut(record: Record, text: str) -> str:
    """The first characters: 1 to all of them, more often few."""
    share = int.from_bytes(datasets.draw(record.id, 1)[:4]) / 2**32
    return text[: max(1, round(len(text) ** share))]


def _without_choices(record: Record) -> str:
    prompt = _ANSWER.sub("", record.prompt)
    return prompt.replace(SEPARATOR.join(record.choices), _GAP) if record.choices else prompt


def _compares(task: str) -> bool:
    """Whether a task's main field is a pair of texts."""
    names = {field.name for field in TASKS[task].fields} - {CHOICES}
    return names in ({"first", "second"}, {"query", "title"}, {"query", "answer"})


def _poem(text: str) -> str:
    """The verse alone, without the line or bracket with its title in 《》."""
    if quoted := re.search("“(.*?)”", text):
        text = quoted[1]
    text = re.sub(r"（[^（）]*《[^》]*》）", "", text)
    return "\n".join(line for line in text.split("\n") if "《" not in line)


# Examples ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examples:
    """N texts.

    Attributes:
        features: Sparse float32 [N, B].
        tasks: int [N], the columns of the tasks.
        forms: [N].
    """

    features: csr_array
    tasks: IntArray
    forms: npt.NDArray[np.str_]


def examples(
    records: Iterable[Record], shared: Mapping[str, Wordings], tasks: Sequence[str], *, cut: bool
) -> Examples:
    """The forms of records as features, with `cut` also beginnings of main fields."""
    rows, columns, kinds = list[tuple[IntArray, FloatArray]](), list[int](), list[str]()
    for record in records:
        seen = forms(record, shared[record.task])
        if cut and "raw" in seen:
            seen["cut"] = _cut(record, seen["raw"])
        rows += map(features, seen.values())
        columns += [tasks.index(record.task)] * len(seen)
        kinds += seen
    buckets, values = (np.concatenate(part) for part in zip(*rows, strict=True))
    ends = np.cumsum([0, *(len(row) for row, _ in rows)])
    table = csr_array((values.astype(np.float32), buckets, ends), shape=(len(rows), BUCKETS))
    return Examples(table, np.array(columns), np.array(kinds))


def _example_weights(data: Examples) -> FloatArray:
    """Weights with equal sums for all tasks, and for whole prompts and other forms of a task."""
    groups = 2 * data.tasks + (data.forms == "whole")
    weights: FloatArray = 1 / np.bincount(groups)[groups]
    weights /= weights.mean()
    return weights


# Models -----------------------------------------------------------------------------------


def logistic_regression(data: Examples) -> FloatArray:
    """Softmax regression over the tasks, and in one more column a sigmoid for whole prompts (Adam).

    Returns:
        Weights [B + 1, T + 1]; the last row is the bias.
    """
    tasks = int(data.tasks.max()) + 1
    importance, whole = _example_weights(data), data.forms == "whole"
    parameters = np.zeros((BUCKETS + 1, tasks + 1))
    first, second = np.zeros_like(parameters), np.zeros_like(parameters)
    generator, step = np.random.default_rng(SEED), 0
    steps = EPOCHS * (len(data.tasks) // BATCH)
    for _ in range(EPOCHS):
        order = generator.permutation(len(data.tasks))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows, step = order[start : start + BATCH], step + 1
            matrix = data.features[rows].toarray().astype(np.float64)
            logits = matrix @ parameters[:-1] + parameters[-1]
            errors = np.empty_like(logits)
            chances = np.exp(log_softmax(logits[:, :-1], axis=1))
            errors[:, :-1] = chances - np.eye(tasks)[data.tasks[rows]]
            errors[:, -1] = 1 / (1 + np.exp(-logits[:, -1])) - whole[rows]
            errors *= importance[rows, None] / len(rows)
            slope = np.vstack([matrix.T @ errors, errors.sum(axis=0)])
            slope[:-1] += DECAY * parameters[:-1]
            first += 0.1 * (slope - first)
            second += 0.01 * (slope * slope - second)
            scaled = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + 1e-6)
            parameters -= RATE * (1 - (step - 1) / steps) * scaled
    return parameters


def best_temperature(logits: FloatArray, data: Examples) -> float:
    """The temperature with the lowest log loss, mean over the forms."""

    def loss(temperature: float) -> float:
        chances = log_softmax(logits / temperature, axis=1)
        right = chances[np.arange(len(chances)), data.tasks]
        return -float(np.mean([right[data.forms == form].mean() for form in _kinds(data.forms)]))

    return float(min(np.geomspace(0.25, 4, 65), key=loss))


def _kinds(forms: npt.NDArray[np.str_]) -> list[str]:
    """The forms that occur, in a fixed order."""
    return [form for form in _FORMS if (forms == form).any()]


# Scores -----------------------------------------------------------------------------------


def calibration_error(chances: FloatArray, right: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error over ten equal bins of the best guess's probability.

    Args:
        chances: float [N]: the probability of the best guess.
        right: bool [N]: whether it is right.
    """
    bins = np.minimum((chances * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=chances - right)  # sums over a bin
    return float(np.abs(gaps).sum() / len(chances))


def scores(
    chances: FloatArray, columns: IntArray, kinds: npt.NDArray[np.str_], names: Sequence[str]
) -> dict[str, Any]:
    """Accuracy, calibration and the most frequent confusions of each form.

    Args:
        chances: float [N, T].
        columns: int [N], the right tasks.
        kinds: [N], the forms.
        names: Of the T tasks.
    """
    report = {}
    for form in _kinds(kinds):
        p, tasks = chances[kinds == form], columns[kinds == form]
        order = np.argsort(-p, axis=1, kind="stable")
        hits = order == tasks[:, None]
        right = int(hits[:, 0].sum())
        mistakes = Counter(
            (names[task], names[guess])
            for task, guess in zip(tasks, order[:, 0], strict=True)
            if task != guess
        )
        low, high = wilson_interval(right, len(tasks))
        report[form] = {
            "texts": len(tasks),
            "accuracy@1": round(right / len(tasks), 4),
            "interval": [round(low, 4), round(high, 4)],
            "accuracy@3": round(float(hits[:, :3].any(axis=1).mean()), 4),
            "calibration error": round(calibration_error(p.max(axis=1), hits[:, 0]), 4),
            "confusions": {f"{a} as {b}": n for (a, b), n in mistakes.most_common(12)},
        }
    return report


def shipped_scores(
    detector: Detector, dataset: Dataset, shared: Mapping[str, Wordings]
) -> dict[str, Any]:
    """The `scores` of a detector's guesses, including its template matching and trust."""
    names, rows, kinds, columns = detector.tasks, list[list[float]](), list[str](), list[int]()
    for record in dataset.records:
        for form, text in forms(record, shared[record.task]).items():
            guesses = {guess.task: guess.probability for guess in detector.guesses(text)}
            rows.append([guesses[name] for name in names])
            kinds.append(form)
            columns.append(names.index(record.task))
    report = scores(np.array(rows), np.array(columns), np.array(kinds), names)
    prompts = [detector.prompt_probability(record.prompt) > 0.5 for record in dataset.records]
    report["whole"]["known as a prompt"] = round(float(np.mean(prompts)), 4)
    return report


# The file ---------------------------------------------------------------------------------


def fit(source: str | Path | None, out: Path) -> dict[str, Any]:
    """Fit a detector on the train split, calibrate it on dev, score it on dev and test.

    Args:
        source: Data folder; None takes that of `CGCLORA_DATA`.
        out: The `.safetensors` file to write; its manifest is written beside it as `.json`.

    Returns:
        The manifest.

    Raises:
        DataError: A split is missing or bad.
    """
    splits = {split: datasets.read(source, split=split) for split in SPLITS}
    train, dev = splits["train"], splits["dev"]
    names = train.tasks
    shared = {name: wordings(train.of_task(name)) for name in names}
    held_out = examples(dev.records, shared, names, cut=False)
    model = logistic_regression(examples(train.records, shared, names, cut=True))
    logits = held_out.features @ model[:-1, :-1] + model[-1, :-1]
    temperature = best_temperature(logits, held_out)
    content = _packed(model, names, temperature, _known_characters(train))
    out.write_bytes(content)  # before the manifest, which holds its hash
    detector = load_detector(out)
    manifest = {
        "format": FORMAT,
        "made by": "python -m evals detection fit",
        "licence": LICENCE,
        "code": provenance.commit(),
        "versions": provenance.versions(("cgclora", "numpy", "safetensors")),
        "data": {split: data.hash for split, data in splits.items()},
        "records": {split: len(data.records) for split, data in splits.items()},
        "settings": {
            **{"buckets": BUCKETS, "epochs": EPOCHS, "batch": BATCH, "rate": RATE},
            **{"decay": DECAY, "seed": SEED, "temperature": temperature},
        },
        "dev": shipped_scores(detector, dev, shared),
        "test": shipped_scores(detector, splits["test"], shared),
        "file": {"bytes": len(content), "sha256": atomic_io.sha256(content)},
    }
    atomic_io.write_json(out.with_suffix(".json"), manifest)
    return manifest


def _known_characters(dataset: Dataset) -> npt.NDArray[np.uint8]:
    """A bit for each code point below 65536: the Chinese characters of at least five prompts."""
    counts = Counter(c for record in dataset.records for c in set(record.prompt))
    codes = np.array([ord(c) for c, count in counts.items() if count >= 5])
    bits = np.zeros(65536, np.uint8)
    bits[codes[is_han(codes)]] = 1
    return np.packbits(bits)


def _packed(
    model: FloatArray, names: Sequence[str], temperature: float, characters: npt.NDArray[np.uint8]
) -> bytes:
    weights = model[:-1]
    scales = (np.abs(weights).max(axis=0) / 127).astype(np.float32)
    # One entry: safetensors writes several in random order.
    about = {"format": FORMAT, "tasks": list(names), "temperature": temperature, "licence": LICENCE}
    return save(
        {
            "weights": np.round(weights / scales).astype(np.int8),
            "scales": scales,
            "bias": model[-1].astype(np.float32),
            "characters": characters,
        },
        metadata={"detector": json.dumps(about, ensure_ascii=False)},
    )
