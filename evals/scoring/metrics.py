"""Scores as functions of sums over samples, so that a matrix product bootstraps them.

    statistics(pairs)   [n, d]   one row for each sample
    score(sums)         [...]    from sums [..., d] of rows, weighted by the draws of a resample

With draws [R, n], the counts of each sample in R resamples, the scores of all resamples are
`score(draws @ statistics(pairs))`. A mean over samples has two columns, the sample's value and 1.

Columns may depend on the pairs (the classes of an F1). To compare two methods, call `statistics`
once, on the pairs of both. Scores lie in [0, 1]; 0 / 0 is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from evals.scoring.text_scores import (
    TextScore,
    bert_words,
    bleu,
    characters,
    chrf,
    jieba_words,
    rouge,
)
from evals.tasks.names import UnknownNameError
from evals.tasks.parsing import Language, Parsed

FloatArray = npt.NDArray[np.float64]

Average = Literal["macro", "weighted", "micro"]


@dataclass(frozen=True, slots=True)
class Pair:
    """An answer and its reference: as text, and as parsed by the task's reader."""

    prediction: str
    target: str
    predicted: Parsed
    expected: Parsed


@dataclass(frozen=True)
class Metric:
    """A way to score answers.

    Attributes:
        name: Includes the tokenizer or averaging.
        version: Changes when a score may change; includes the versions of libraries.
        title_zh: Title in Chinese.
        title_en: Title in English.
        statistics: Pairs to rows [n, d].
        score: Sums of rows [..., d] to scores [...] in [0, 1].
        higher_is_better: Must hold for the main metric of a task, since a board ranks by its mean.
    """

    name: str
    version: str
    title_zh: str
    title_en: str
    statistics: Callable[[Sequence[Pair]], FloatArray]
    score: Callable[[FloatArray], FloatArray]
    higher_is_better: bool = True


class UnknownMetricError(UnknownNameError):
    """No metric has this name."""


def get_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        UnknownMetricError: There is none; the message lists similar names, or all.
    """
    if name not in METRICS:
        raise UnknownMetricError("metric", name, METRICS)
    return METRICS[name]


def sample_scores(metric: Metric, statistics: FloatArray) -> FloatArray:
    """The scores [n] of single samples from the metric's statistics [n, d].

    Their mean is the score of the whole only for metrics that are means over samples.
    """
    return metric.score(statistics)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Elementwise quotient, 0 where the denominator is 0."""
    zeros = np.zeros(np.shape(denominator))
    return np.divide(numerator, denominator, out=zeros, where=np.asarray(denominator) > 0)


def _f1(right: FloatArray, predicted: FloatArray, expected: FloatArray) -> FloatArray:
    """F1 from counts: the harmonic mean of right / predicted and right / expected."""
    return _ratio(2 * right, predicted + expected)


def _rows(rows: Iterable[tuple[float, ...]], columns: int) -> FloatArray:
    return np.array([*rows], dtype=np.float64).reshape(-1, columns)


# ---- items and labels


def _item_counts(pairs: Sequence[Pair]) -> FloatArray:
    """[n, 3]: numbers of right, predicted and expected items; each item once in a sample."""
    items = ((frozenset(p.predicted.items), frozenset(p.expected.items)) for p in pairs)
    return _rows(((len(ours & gold), len(ours), len(gold)) for ours, gold in items), columns=3)


def _item_f1(sums: FloatArray) -> FloatArray:
    """Micro F1 of PromptCBLUE's scorer: 0 if nothing is right, even if nothing was expected."""
    return _f1(sums[..., 0], sums[..., 1], sums[..., 2])


def _label(parsed: Parsed) -> str:
    if parsed.kind != "label":
        raise ValueError(
            f"this metric compares labels, not answers of kind {parsed.kind!r}: "
            "use micro-f1/items or exact-match"
        )
    return parsed.items[0][0] if parsed.items else ""


def _label_counts(pairs: Sequence[Pair]) -> FloatArray:
    """[n, 3 C]: right, predicted, expected, each a block of one column for each class.

    Classes are the labels that occur, sorted by code points. An answer without a label is of the
    class "", which is wrong, since no reference is empty.

    Raises:
        ValueError: An answer is not of the kind `label`.
    """
    predicted = [_label(pair.predicted) for pair in pairs]
    expected = [_label(pair.expected) for pair in pairs]
    columns = {label: column for column, label in enumerate(sorted({*predicted, *expected}))}
    counts = np.zeros((len(pairs), 3, len(columns)))
    for row, (label, gold) in enumerate(zip(predicted, expected, strict=True)):
        counts[row, 0, columns[gold]] = label == gold
        counts[row, 1, columns[label]] = 1
        counts[row, 2, columns[gold]] = 1
    return counts.reshape(len(pairs), 3 * len(columns))


def _label_f1(average: Average) -> Callable[[FloatArray], FloatArray]:
    """F1 over classes, as scikit-learn's `f1_score(average=..., zero_division=0)`.

    A class that is neither predicted nor expected does not enter the average.
    """

    def score(sums: FloatArray) -> FloatArray:
        classes = sums.shape[-1] // 3
        right, predicted, expected = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, classes), -2, 0)
        if average == "micro":
            return _f1(right.sum(-1), predicted.sum(-1), expected.sum(-1))
        weights = expected if average == "weighted" else (predicted + expected > 0).astype(float)
        each = _f1(right, predicted, expected)
        return _ratio((each * weights).sum(-1), weights.sum(-1))

    return score


# ---- means over samples


def _values(value: Callable[[Pair], float]) -> Callable[[Sequence[Pair]], FloatArray]:
    """Rows [n, 2] of a metric that is a mean over samples: the sample's value and 1."""
    return lambda pairs: _rows(((value(pair), 1) for pair in pairs), columns=2)


def _mean(sums: FloatArray) -> FloatArray:
    return _ratio(sums[..., 0], sums[..., 1])


def _right_label(pair: Pair) -> float:
    return _label(pair.predicted) == _label(pair.expected)


def _same_items(pair: Pair) -> float:
    """1 if both have the same items in any order, or none."""
    return frozenset(pair.predicted.items) == frozenset(pair.expected.items)


def _same_number(pair: Pair) -> float:
    """1 when the numbers are equal, whatever their units.

    Raises:
        ValueError: an answer is not of the kind `number`.
    """
    for parsed in (pair.predicted, pair.expected):
        if parsed.kind != "number":
            raise ValueError(
                f"numeric-match compares numbers, not answers of kind {parsed.kind!r}: "
                "use exact-match"
            )
    predicted, expected = pair.predicted.items, pair.expected.items
    return bool(predicted and expected and predicted[0][0] == expected[0][0])


# ---- texts


def _rouge_of_sections(pairs: Sequence[Pair]) -> FloatArray:
    """[n, 2]: sum of ROUGE-L over the sections of the reference, and their number.

    As in PromptCBLUE's scorer for IMCS-V2-MRG: each section of the reference is compared with the
    section of the same title, words as in `bert_words`. A section that is missing or empty in the
    prediction reads `无 。`; sections that the reference lacks are ignored. The score is the mean
    over all sections of all samples, six a sample in complete reports.

    Raises:
        ValueError: An answer is not of the kind `sections`.
    """
    score = rouge(None, bert_words)
    rows = []
    for pair in pairs:
        predicted = _sections(pair.predicted)
        scores = [
            score(predicted.get(title, ""), content)
            for title, content in _sections(pair.expected).items()
        ]
        rows.append((sum(scores), len(scores)))
    return _rows(rows, columns=2)


def _sections(parsed: Parsed) -> dict[str, str]:
    if parsed.kind != "sections":
        raise ValueError(
            f"rouge-l/sections compares sections, not answers of kind {parsed.kind!r}: "
            "use rouge-l/char"
        )
    return {row[0]: row[1] for row in parsed.items}


# ---- the table


def _version(number: int, *libraries: str) -> str:
    """Our version and those of libraries, which a machine that only answers may lack."""
    with suppress(metadata.PackageNotFoundError):
        return "+".join([str(number), *(f"{name}-{metadata.version(name)}" for name in libraries)])
    return str(number)


_JIEBA = _version(1, "rouge-chinese", "jieba")
_CHARACTERS = _version(1, "rouge-chinese")
_BERT = _version(1, "rouge-chinese", "transformers")
_SACREBLEU = _version(1, "sacrebleu")

_METRICS: dict[str, Metric] = {}

METRICS: Mapping[str, Metric] = MappingProxyType(_METRICS)
"""Every metric by name."""


def register(metric: Metric) -> Metric:
    """Add a metric, for tasks to name and boards to show.

    Raises:
        ValueError: There is a metric of this name.
    """
    if metric.name in METRICS:
        raise ValueError(f"there is a metric {metric.name!r} already: choose another name.")
    _METRICS[metric.name] = metric
    return metric


def metric_title(name: str, language: Language) -> str:
    """The title of a metric; the name of an unregistered one."""
    if name not in METRICS:
        return name
    return METRICS[name].title_zh if language == "zh" else METRICS[name].title_en


def _mean_of_texts(name: str, version: str, zh: str, en: str, score: TextScore) -> Metric:
    values = _values(lambda pair: score(pair.prediction, pair.target))
    return Metric(name, version, zh, en, values, _mean)


for _metric in (
    Metric("micro-f1/items", "1", "条目微平均 F1", "Micro F1 of items", _item_counts, _item_f1),
    Metric("accuracy", "1", "准确率", "Accuracy", _values(_right_label), _mean),
    Metric("macro-f1", "1", "宏平均 F1", "Macro F1", _label_counts, _label_f1("macro")),
    Metric("weighted-f1", "1", "加权 F1", "Weighted F1", _label_counts, _label_f1("weighted")),
    Metric(
        *("micro-f1/labels", "1", "标签微平均 F1", "Micro F1 of labels"),
        *(_label_counts, _label_f1("micro")),
    ),
    Metric("exact-match", "1", "完全匹配率", "Exact match", _values(_same_items), _mean),
    Metric("numeric-match", "1", "数值匹配率", "Numeric match", _values(_same_number), _mean),
    *(
        _mean_of_texts(
            f"rouge-{suffix.lower()}/{key}",
            version,
            f"ROUGE-{suffix}（{zh}）",
            f"ROUGE-{suffix} of {en}",
            rouge(order, tokenizer),
        )
        for key, version, zh, en, tokenizer in (
            ("jieba", _JIEBA, "jieba 分词", "words", jieba_words),
            ("char", _CHARACTERS, "按字", "characters", characters),
        )
        for suffix, order in (("1", 1), ("2", 2), ("L", None))
    ),
    _mean_of_texts(
        *("rouge-l/char/promptcblue", _BERT, "ROUGE-L（PromptCBLUE 分词）"),
        *("ROUGE-L of PromptCBLUE's words", rouge(None, bert_words)),
    ),
    Metric(
        *("rouge-l/sections", _BERT, "各章节 ROUGE-L", "ROUGE-L of sections"),
        *(_rouge_of_sections, _mean),
    ),
    _mean_of_texts("bleu-4/char", _SACREBLEU, "BLEU-4（按字）", "BLEU-4 of characters", bleu),
    _mean_of_texts("chrf", _SACREBLEU, "chrF", "chrF", chrf),
):
    register(_metric)
