"""Scores: each is a function of sums over samples, so that it can be bootstrapped with products.

    statistics(pairs)   [n, d]   one row for each sample
    score(sums)         [...]    from sums [..., d] of rows, each as often as a resample drew it

With draws [R, n], how often each of R resamples drew each sample, the scores of all resamples are
`score(draws @ statistics(pairs))`. A mean over samples is the case of two columns, the sample's
value and 1.

Columns may depend on the pairs (the classes of an F1). To compare two methods, call `statistics`
once, on the pairs of both.

Scores lie in [0, 1]; where there is nothing to divide by, a score is 0. Libraries load on first
use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from evals.tasks.names import UnknownNameError
from evals.tasks.parsing import Parsed

if TYPE_CHECKING:
    import jieba
    from rouge_chinese import Rouge
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from transformers import BasicTokenizer

FloatArray = npt.NDArray[np.float64]

Average = Literal["macro", "weighted", "micro"]
Tokenizer = Callable[[str], Sequence[str]]
"""A text's words, none of them white space or with white space inside."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One answer beside its reference.

    Attributes:
        prediction: what the model said.
        target: the reference.
        predicted: the prediction, read by the task's reader.
        expected: the target, read by the same reader.
    """

    prediction: str
    target: str
    predicted: Parsed
    expected: Parsed


@dataclass(frozen=True)
class Metric:
    """A way to score answers.

    Attributes:
        name: says tokenizer or averaging too, as scores of the same family differ by it.
        version: changes when a score may change; with the versions of the libraries it rests on.
        statistics: pairs to rows [n, d].
        score: sums of rows [..., d] to scores [...] in [0, 1].
    """

    name: str
    version: str
    statistics: Callable[[Sequence[Pair]], FloatArray]
    score: Callable[[FloatArray], FloatArray]


class UnknownMetricError(UnknownNameError):
    """No metric has this name."""


def get_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        UnknownMetricError: there is none; the message lists similar names, or all.
    """
    if name not in METRICS:
        raise UnknownMetricError("metric", name, METRICS)
    return METRICS[name]


def sample_scores(metric: Metric, statistics: FloatArray) -> FloatArray:
    """What each sample would score if it were alone.

    Args:
        metric: whose statistics these are.
        statistics: [n, d].

    Returns:
        [n]. Their mean is the score of the whole for metrics that are means over samples only.
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
    """[n, 3]: how many items are right, predicted, expected; each item once in a sample."""
    items = ((frozenset(p.predicted.items), frozenset(p.expected.items)) for p in pairs)
    return _rows(
        ((len(found & wanted), len(found), len(wanted)) for found, wanted in items), columns=3
    )


def _item_f1(sums: FloatArray) -> FloatArray:
    """Micro F1, as PromptCBLUE's scorer: 0 when nothing is right, even if nothing was expected."""
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

    Classes are the labels that occur, sorted by code points. An answer without a label is the class
    "", which is wrong, as no reference is empty.

    Raises:
        ValueError: an answer is not of the kind `label`.
    """
    predicted = [_label(pair.predicted) for pair in pairs]
    expected = [_label(pair.expected) for pair in pairs]
    columns = {label: column for column, label in enumerate(sorted({*predicted, *expected}))}
    counts = np.zeros((len(pairs), 3, len(columns)))
    for row, (found, wanted) in enumerate(zip(predicted, expected, strict=True)):
        counts[row, 0, columns[wanted]] = found == wanted
        counts[row, 1, columns[found]] = 1
        counts[row, 2, columns[wanted]] = 1
    return counts.reshape(len(pairs), 3 * len(columns))


def _label_f1(average: Average) -> Callable[[FloatArray], FloatArray]:
    """F1 over classes, as scikit-learn's `f1_score(average=..., zero_division=0)`.

    A class that nothing predicts and nothing expects is absent: it does not enter the average.
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
    """1 when both say the same in any order; so too when neither says anything."""
    return frozenset(pair.predicted.items) == frozenset(pair.expected.items)


# ---- ROUGE


def _rouge(order: int | None, tokenizer: Tokenizer) -> Callable[[str, str], float]:
    """F1 of two texts as rouge-chinese has it: ROUGE-`order`, or ROUGE-L if that is None.

    ROUGE-N compares the sets of n-grams, ROUGE-L takes the longest common subsequence of all words.
    The library takes half a second and 150 MiB for two texts of 1,000 words, which is what a model
    that repeats itself writes; so the counts are ours, and tests hold them against its scores. Its
    guard against dividing by 0, 1e-8 in the denominator, leaves two equal texts just below 1.
    """

    def score(prediction: str, target: str) -> float:
        found, wanted = _words(tokenizer, prediction), _words(tokenizer, target)
        if order is None:
            right, predicted, expected = _common_length(found, wanted), len(found), len(wanted)
        else:
            grams, references = _ngrams(found, order), _ngrams(wanted, order)
            right, predicted, expected = len(grams & references), len(grams), len(references)
        precision = right / predicted if predicted else 0.0
        recall = right / expected if expected else 0.0
        return 2.0 * ((precision * recall) / (precision + recall + 1e-8))

    return score


def _rouge_of_texts(
    order: int | None, tokenizer: Tokenizer
) -> Callable[[Sequence[Pair]], FloatArray]:
    """Rows [n, 2] of ROUGE over whole answers."""
    score = _rouge(order, tokenizer)
    return _values(lambda pair: score(pair.prediction, pair.target))


def _rouge_of_sections(pairs: Sequence[Pair]) -> FloatArray:
    """[n, 2]: sum of ROUGE-L over the sections of the reference, and how many they are.

    As PromptCBLUE's scorer does it for IMCS-V2-MRG: each section that the reference has is compared
    with the section of the same title, words as in `_bert_words`. A section that the prediction
    lacks, or that is empty, reads `无 。`; sections that the reference lacks are passed over. The
    score is the mean over all sections of all samples, six a sample where reports are complete.

    Raises:
        ValueError: an answer is not of the kind `sections`.
    """
    score = _rouge(None, _bert_words)
    rows = []
    for pair in pairs:
        found, wanted = _sections(pair.predicted), _sections(pair.expected)
        scores = [score(found.get(title, ""), content) for title, content in wanted.items()]
        rows.append((sum(scores), len(scores)))
    return _rows(rows, columns=2)


def _sections(parsed: Parsed) -> dict[str, str]:
    if parsed.kind != "sections":
        raise ValueError(
            f"rouge-l/sections compares sections, not answers of kind {parsed.kind!r}: "
            "use rouge-l/char"
        )
    return {row[0]: row[1] for row in parsed.items}


@lru_cache(maxsize=1 << 14)
def _words(tokenizer: Tokenizer, text: str) -> tuple[str, ...]:
    """The words that rouge-chinese counts; as in PromptCBLUE's scorer, an empty text is `无 。`."""
    words = tokenizer(text) or ("无", "。")
    # The library cuts sentences first, which parts a word with more than six dots.
    return tuple(" ".join(_sentence_cutter().cut_sent(" ".join(words))).split())


def _ngrams(words: Sequence[str], order: int) -> frozenset[tuple[str, ...]]:
    return frozenset(zip(*(words[start:] for start in range(order)), strict=False))


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence (bit-parallel: Hyyrö 2004).

    Bit i of `row` is 0 where one more word of `first`, the i-th, is matched.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    row = full = (1 << len(first)) - 1
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(first) - row.bit_count()


def _characters(text: str) -> list[str]:
    return [*"".join(text.split())]


def _jieba_words(text: str) -> list[str]:
    return [word for word in _segmenter().cut(text) if not word.isspace()]


def _bert_words(text: str) -> list[str]:
    """PromptCBLUE's: Chinese characters and punctuation one by one, others in lower-case runs."""
    words: list[str] = _bert_tokenizer().tokenize(text)
    return words


# Libraries that are slow to import, or that not every user of this module needs.


@cache
def _sentence_cutter() -> Rouge:
    from rouge_chinese import Rouge  # noqa: PLC0415 - see above

    return Rouge()


@cache
def _segmenter() -> jieba.Tokenizer:
    """Jieba with its own dictionary, whatever words this process has added to the shared one.

    Filled by hand, since `initialize` logs to stderr, and trusts a file in the temporary folder
    that anyone may have put there; it is no faster.
    """
    import jieba  # noqa: PLC0415 - see above

    segmenter = jieba.Tokenizer()
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return segmenter


@cache
def _bert_tokenizer() -> BasicTokenizer:
    from transformers import BasicTokenizer  # noqa: PLC0415 - see above; it needs no torch

    return BasicTokenizer(tokenize_chinese_chars=True)


# ---- BLEU and chrF


def _bleu(pair: Pair) -> float:
    """Sentence BLEU-4 over characters without white space (sacrebleu)."""
    return _share(_bleu_scorer().sentence_score(pair.prediction, [pair.target]).score)


def _chrf(pair: Pair) -> float:
    """Sentence chrF2 over 1 ... 6 characters, without white space (Popović 2015; sacrebleu)."""
    return _share(_chrf_scorer().sentence_score(pair.prediction, [pair.target]).score)


def _share(percent: float) -> float:
    return min(percent / 100, 1.0)  # equal texts may come out a rounding above 100


@cache
def _bleu_scorer() -> BLEU:
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 - as above

    return BLEU(tokenize="char", smooth_method="exp", effective_order=True)


@cache
def _chrf_scorer() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415 - as above

    return CHRF()


# ---- the table


def _version(own: int, *libraries: str) -> str:
    """Ours and those of libraries; a machine that only answers may lack them."""
    with suppress(metadata.PackageNotFoundError):
        return "+".join([str(own), *(f"{name}-{metadata.version(name)}" for name in libraries)])
    return str(own)


_JIEBA = _version(1, "rouge-chinese", "jieba")
_CHARACTERS = _version(1, "rouge-chinese")
_BERT = _version(1, "rouge-chinese", "transformers")
_SACREBLEU = _version(1, "sacrebleu")

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("micro-f1/items", "1", _item_counts, _item_f1),
            Metric("accuracy", "1", _values(_right_label), _mean),
            Metric("macro-f1", "1", _label_counts, _label_f1("macro")),
            Metric("weighted-f1", "1", _label_counts, _label_f1("weighted")),
            Metric("micro-f1/labels", "1", _label_counts, _label_f1("micro")),
            Metric("exact-match", "1", _values(_same_items), _mean),
            Metric("rouge-1/jieba", _JIEBA, _rouge_of_texts(1, _jieba_words), _mean),
            Metric("rouge-2/jieba", _JIEBA, _rouge_of_texts(2, _jieba_words), _mean),
            Metric("rouge-l/jieba", _JIEBA, _rouge_of_texts(None, _jieba_words), _mean),
            Metric("rouge-1/char", _CHARACTERS, _rouge_of_texts(1, _characters), _mean),
            Metric("rouge-2/char", _CHARACTERS, _rouge_of_texts(2, _characters), _mean),
            Metric("rouge-l/char", _CHARACTERS, _rouge_of_texts(None, _characters), _mean),
            Metric("rouge-l/char/promptcblue", _BERT, _rouge_of_texts(None, _bert_words), _mean),
            Metric("rouge-l/sections", _BERT, _rouge_of_sections, _mean),
            Metric("bleu-4/char", _SACREBLEU, _values(_bleu), _mean),
            Metric("chrf", _SACREBLEU, _values(_chrf), _mean),
        )
    }
)
"""Every metric by name."""
