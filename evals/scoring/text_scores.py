"""Scores of a text against a reference: ROUGE, BLEU and chrF, over words of several tokenizers.

Libraries that are slow to import or optional load on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jieba
    from rouge_chinese import Rouge
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from transformers import BasicTokenizer

Tokenizer = Callable[[str], Sequence[str]]
"""A text to its words, which contain no white space."""

TextScore = Callable[[str, str], float]
"""A prediction and its target to a score in [0, 1]."""


def rouge(order: int | None, tokenizer: Tokenizer) -> TextScore:
    """The F1 of rouge-chinese: ROUGE-`order`, or ROUGE-L if that is None.

    ROUGE-N compares the sets of n-grams, ROUGE-L takes the longest common subsequence of all words.
    The library takes half a second and 150 MiB for two texts of 1,000 words, which a model that
    repeats itself writes; so the counts are ours, and tests compare them with the library. Its 1e-8
    in the denominator leaves two equal texts just below 1.
    """

    def score(prediction: str, target: str) -> float:
        predicted, expected = _words(tokenizer, prediction), _words(tokenizer, target)
        if order is None:
            right, sizes = _common_length(predicted, expected), (len(predicted), len(expected))
        else:
            grams, references = _ngrams(predicted, order), _ngrams(expected, order)
            right, sizes = len(grams & references), (len(grams), len(references))
        precision, recall = (right / size if size else 0.0 for size in sizes)
        return 2.0 * ((precision * recall) / (precision + recall + 1e-8))

    return score


@lru_cache(maxsize=1 << 14)
def _words(tokenizer: Tokenizer, text: str) -> tuple[str, ...]:
    """The words counted by rouge-chinese; as in PromptCBLUE's scorer, an empty text is `无 。`."""
    words = tokenizer(text) or ("无", "。")
    # The library splits sentences first, and so splits a word with more than six dots.
    return tuple(" ".join(_sentence_cutter().cut_sent(" ".join(words))).split())


def _ngrams(words: Sequence[str], order: int) -> frozenset[tuple[str, ...]]:
    return frozenset(zip(*(words[start:] for start in range(order)), strict=False))


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence (bit-parallel: Hyyrö 2004).

    Bit i of `row` is 0 if the i-th word of `first` extends the match.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    row = full = (1 << len(first)) - 1
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(first) - row.bit_count()


def characters(text: str) -> list[str]:
    """All characters except white space."""
    return [*"".join(text.split())]


def jieba_words(text: str) -> list[str]:
    """Words of jieba with its default dictionary."""
    return [word for word in _segmenter().cut(text) if not word.isspace()]


def bert_words(text: str) -> list[str]:
    """PromptCBLUE's words: single Chinese characters and punctuation, lower-case runs of others."""
    words: list[str] = _bert_tokenizer().tokenize(text)
    return words


@cache
def _sentence_cutter() -> Rouge:
    from rouge_chinese import Rouge  # noqa: PLC0415 - see above

    return Rouge()


@cache
def _segmenter() -> jieba.Tokenizer:
    """Jieba with its default dictionary, without words that this process has added.

    Not by `initialize`, which logs to stderr and trusts a cache file in the temporary folder that
    anyone may have written.
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


def bleu(prediction: str, target: str) -> float:
    """Sentence BLEU-4 over characters without white space (sacrebleu)."""
    return _share(_bleu_scorer().sentence_score(prediction, [target]).score)


def chrf(prediction: str, target: str) -> float:
    """Sentence chrF2 over 1 ... 6 characters, without white space (Popović 2015; sacrebleu)."""
    return _share(_chrf_scorer().sentence_score(prediction, [target]).score)


def _share(percent: float) -> float:
    return min(percent / 100, 1.0)  # rounding may take equal texts above 100


@cache
def _bleu_scorer() -> BLEU:
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 - as above

    return BLEU(tokenize="char", smooth_method="exp", effective_order=True)


@cache
def _chrf_scorer() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415 - as above

    return CHRF()
