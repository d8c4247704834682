"""Metrics: against scikit-learn, rouge-chinese and sacrebleu, by hand, and as sums over samples."""

import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jieba
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_chinese import Rouge
from sklearn.metrics import accuracy_score, f1_score
from transformers import BasicTokenizer

from evals.scoring.metrics import METRICS, Pair, UnknownMetricError, get_metric, sample_scores
from evals.tasks.parsing import Parsed

ROOT = Path(__file__).resolve().parents[3]
SECTIONS = ("主诉", "现病史", "辅助检查", "既往史", "诊断", "建议")
LABEL_F1 = {"macro-f1": "macro", "weighted-f1": "weighted", "micro-f1/labels": "micro"}
KINDS = dict.fromkeys(("accuracy", *LABEL_F1), "label") | {
    "rouge-l/sections": "sections",
    "numeric-match": "number",
}
TEXTUAL = [name for name in METRICS if name.startswith(("rouge", "bleu", "chrf"))]
TEXTUAL.remove("rouge-l/sections")

# Lone surrogates too, which JSON can hold; often the characters that tokenizers treat specially.
any_text = st.text(
    st.one_of(
        st.sampled_from("头痛发热吗无，。！？?.…”’ \n\r\t\u3000\x00\x1c\u200b😀éÀaB7"),
        st.characters(exclude_categories=()),
    ),
    max_size=30,
)
# An answer may say something that no reference says; a reference is never empty.
answers = st.sampled_from(["相关", "不相关", "是的", "", "胡说", "A", "b"])
references = st.sampled_from(["相关", "不相关", "是的", "未见"])


def label_pair(predicted: str, expected: str) -> Pair:
    return Pair(predicted, expected, *(_label(text) for text in (predicted, expected)))


def _label(text: str) -> Parsed:
    return Parsed("label", ((text,),) if text else ())


def text_pair(prediction: str, target: str) -> Pair:
    return Pair(prediction, target, Parsed("text", ()), Parsed("text", ()))


def item_pair(predicted: str, expected: str) -> Pair:
    """Terms of one character each."""
    read = (Parsed("terms", tuple((term,) for term in text)) for text in (predicted, expected))
    return Pair(predicted, expected, *read)


def section_pair(predicted: dict[str, str], expected: dict[str, str]) -> Pair:
    read = (Parsed("sections", tuple(report.items())) for report in (predicted, expected))
    return Pair("", "", *read)


def pair_for(name: str, prediction: str, target: str) -> Pair:
    """The two texts as an answer of the kind that the metric reads."""
    kind = KINDS.get(name, "terms")
    if kind == "label":
        return label_pair(prediction, target)
    if kind == "sections":
        return section_pair(
            {"主诉": prediction, "诊断": target}, {"诊断": target, "建议": prediction}
        )
    if kind == "number":
        read = (Parsed("number", ((t, ""),) if t else ()) for t in (prediction, target))
        return Pair(prediction, target, *read)
    return item_pair(prediction, target)


def score(name: str, pairs: list[Pair]) -> float:
    metric = get_metric(name)
    return float(metric.score(metric.statistics(pairs).sum(0)))


def f1(right: int, predicted: int, expected: int) -> float:
    return 2 * right / (predicted + expected)


def common_length(first: str, second: str) -> int:
    """Longest common subsequence by the textbook's table."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, left in enumerate(first):
        for j, right in enumerate(second):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


# ---- the table


def test_every_metric_says_its_name_and_the_libraries_it_rests_on():
    assert {name: metric.name for name, metric in METRICS.items()} == {
        name: name for name in METRICS
    }
    assert get_metric("chrf").version == f"1+sacrebleu-{sacrebleu.__version__}"
    assert get_metric("rouge-1/jieba").version == f"1+rouge-chinese-1.0.3+jieba-{jieba.__version__}"
    assert get_metric("accuracy").version == "1"


def test_an_unknown_name_meets_its_neighbours():
    with pytest.raises(UnknownMetricError, match=r"'Rouge-L/jeiba'; did you mean rouge-l/jieba"):
        get_metric("Rouge-L/jeiba")
    with pytest.raises(UnknownMetricError, match="the metrics are micro-f1/items, accuracy"):
        get_metric("?")


def test_importing_loads_no_library_that_is_slow():
    slow = ("torch", "transformers", "jieba", "rouge_chinese", "sacrebleu", "sklearn")
    code = "import sys, evals.scoring.metrics\n"
    code += f"print([name for name in {slow} if name in sys.modules])"
    assert _python(code).stdout.strip() == "[]"


def test_scoring_writes_nothing_and_needs_no_torch():
    code = """
import sys
from evals.scoring.metrics import METRICS, Pair
from evals.tasks.parsing import Parsed
kinds = {
    "rouge-l/sections": Parsed("sections", (("诊断", "咳嗽"),)),
    "numeric-match": Parsed("number", (("3", "次"),)),
}
for name, metric in METRICS.items():
    read = kinds.get(name, Parsed("label", (("咳嗽",),)))
    metric.statistics([Pair("有点咳嗽", "咳嗽", read, read)])
assert "torch" not in sys.modules
"""
    done = _python(code)
    assert (done.stdout, done.stderr) == ("", "")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


# ---- every metric


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.tuples(any_text, any_text), max_size=5), cut=st.integers(0, 5))
def test_any_answers_have_scores_within_bounds_that_add_up(name, texts, cut):
    pairs = [pair_for(name, *both) for both in texts]
    metric = get_metric(name)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        rows = metric.statistics(pairs)
        alone = sample_scores(metric, rows)
        whole = metric.score(rows.sum(0))
    assert rows.shape[0] == alone.shape[0] == len(pairs)
    assert rows.dtype == alone.dtype == np.float64
    assert ((alone >= 0) & (alone <= 1)).all()
    assert 0 <= whole <= 1
    assert metric.score(rows[:cut].sum(0) + rows[cut:].sum(0)) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_weighted_sum_scores_as_a_sample_drawn_that_often(name):
    texts = [("相关", "相关"), ("胡说", "不相关"), ("不相关", "不相关"), ("", "是的")]
    pairs = [pair_for(name, *both) for both in texts]
    metric = get_metric(name)
    draws = np.array([[1, 1, 1, 1], [2, 0, 2, 0], [0, 3, 0, 1], [0, 0, 0, 0]], dtype=np.float64)
    resampled = metric.score(draws @ metric.statistics(pairs))
    expected = [
        score(
            name, [pair for pair, times in zip(pairs, row, strict=True) for _ in range(int(times))]
        )
        for row in draws
    ]
    assert resampled == pytest.approx(expected, abs=1e-12)
    assert resampled[-1] == 0
    assert len({round(value, 6) for value in expected}) > 1


@pytest.mark.parametrize("name", METRICS)
def test_parts_share_columns_with_the_whole(name):
    texts = [("相关", "相关"), ("胡说", "不相关"), ("不相关", "不相关")]
    pairs = [pair_for(name, *both) for both in texts]
    metric = get_metric(name)
    rows = metric.statistics(pairs)
    # Sample 2 may add columns, as for its class, but does not change what the others score.
    assert metric.score(rows[:2].sum(0)) == pytest.approx(score(name, pairs[:2]), abs=1e-12)
    assert sample_scores(metric, rows) == pytest.approx([score(name, [pair]) for pair in pairs])


# ---- labels


@given(st.lists(st.tuples(answers, st.one_of(references, answers)), min_size=1, max_size=40))
def test_label_scores_are_those_of_scikit_learn(labels):
    pairs = [label_pair(*both) for both in labels]
    predicted, expected = zip(*labels, strict=True)
    assert score("accuracy", pairs) == accuracy_score(expected, predicted)
    for name, average in LABEL_F1.items():
        right = f1_score(expected, predicted, average=average, zero_division=0)
        assert score(name, pairs) == pytest.approx(right, rel=1e-13)


@given(
    st.lists(st.tuples(answers, references), min_size=1, max_size=20),
    st.lists(st.integers(0, 19), min_size=1, max_size=20),
)
def test_a_class_that_a_resample_lacks_is_not_averaged(labels, drawn):
    drawn = [index % len(labels) for index in drawn]
    draws = np.bincount(drawn, minlength=len(labels)).astype(np.float64)
    predicted, expected = zip(*(labels[index] for index in drawn), strict=True)
    for name, average in LABEL_F1.items():
        metric = get_metric(name)
        resampled = metric.score(draws @ metric.statistics([label_pair(*both) for both in labels]))
        right = f1_score(expected, predicted, average=average, zero_division=0)
        assert resampled == pytest.approx(right, rel=1e-13)


def test_label_scores_by_hand():
    pairs = [label_pair(*both) for both in [("a", "a"), ("a", "b"), ("b", "b"), ("?", "b")]]
    # a: 1 right, 2 predicted, 1 expected; b: 1, 1, 3; ?: 0, 1, 0
    assert score("accuracy", pairs) == 2 / 4
    assert score("micro-f1/labels", pairs) == 2 / 4
    assert score("macro-f1", pairs) == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    assert score("weighted-f1", pairs) == pytest.approx((2 / 3 * 1 + 2 / 4 * 3) / 4)


def test_no_answer_is_wrong_and_a_class_of_its_own():
    pairs = [label_pair("", "a"), label_pair("a", "a")]
    assert score("accuracy", pairs) == 1 / 2
    assert score("macro-f1", pairs) == pytest.approx((2 / 3 + 0) / 2)


def test_the_columns_of_a_class_metric_are_blocks_in_the_order_of_the_labels():
    rows = get_metric("macro-f1").statistics([label_pair("z", "b"), label_pair("b", "b")])
    assert rows.tolist() == [[0, 0, 0, 1, 1, 0], [1, 0, 1, 0, 1, 0]]  # right, predicted, expected


@pytest.mark.parametrize("name", ["accuracy", *LABEL_F1])
def test_a_label_metric_refuses_other_answers(name):
    with pytest.raises(ValueError, match="compares labels, not answers of kind 'terms'"):
        get_metric(name).statistics([item_pair("a", "a")])


# ---- items


def test_micro_f1_over_items_by_hand():
    pairs = [item_pair("abx", "bac"), item_pair("", "d"), item_pair("e", ""), item_pair("", "")]
    assert get_metric("micro-f1/items").statistics(pairs).tolist() == [
        [2, 3, 3],
        [0, 0, 1],
        [0, 1, 0],
        [0, 0, 0],
    ]
    assert score("micro-f1/items", pairs) == pytest.approx(f1(2, 4, 4))


def test_an_item_said_twice_counts_once_and_only_in_its_own_sample():
    assert score("micro-f1/items", [item_pair("aa", "a")]) == 1
    assert score("micro-f1/items", [item_pair("a", "b"), item_pair("b", "a")]) == 0


def test_micro_f1_of_a_corpus_without_items_is_zero():
    assert score("micro-f1/items", [item_pair("", ""), item_pair("", "")]) == 0


def test_exact_match_is_about_sets_of_items():
    pairs = [item_pair("ab", "ba"), item_pair("", ""), item_pair("a", "ab"), item_pair("ab", "a")]
    metric = get_metric("exact-match")
    assert sample_scores(metric, metric.statistics(pairs)).tolist() == [1, 1, 0, 0]
    assert score("exact-match", pairs) == 1 / 2


# ---- ROUGE


def _joined(cut: Callable[[str], object], text: str) -> str:
    words = [word for word in cut(text) if word.strip()]  # the library counts blank lines as words
    return " ".join(words) or "无 。"


@pytest.mark.parametrize(
    ("tokenizer", "cut"),
    [
        ("jieba", jieba.lcut),
        ("char", list),
        ("char/promptcblue", BasicTokenizer(tokenize_chinese_chars=True).tokenize),
    ],
)
@settings(deadline=None)
@given(prediction=any_text, target=any_text)
def test_rouge_is_that_of_rouge_chinese(tokenizer, cut, prediction, target):
    right = Rouge().get_scores([_joined(cut, prediction)], [_joined(cut, target)])[0]
    for kind in ("rouge-1", "rouge-2", "rouge-l"):
        name = f"{kind}/{tokenizer}"
        if name in METRICS:
            assert score(name, [text_pair(prediction, target)]) == right[kind]["f"]


def test_rouge_agrees_where_the_library_cuts_a_word():
    prediction, target = "头痛........两天", "头痛......两天"
    right = Rouge().get_scores([_joined(jieba.lcut, prediction)], [_joined(jieba.lcut, target)])[0]
    assert right["rouge-1"]["f"] == pytest.approx(f1(3, 4, 3))  # "......" and ".."
    assert score("rouge-1/jieba", [text_pair(prediction, target)]) == right["rouge-1"]["f"]


@given(st.text("痛热咳", min_size=1, max_size=80), st.text("痛热咳", min_size=1, max_size=80))
def test_rouge_l_is_that_of_the_longest_common_subsequence(prediction, target):
    length = common_length(prediction, target)
    right = f1(length, len(prediction), len(target))
    assert score("rouge-l/char", [text_pair(prediction, target)]) == pytest.approx(right, abs=1e-7)


def test_rouge_by_hand():
    pair = text_pair("头痛三天", "头很痛，三天")
    assert score("rouge-1/char", [pair]) == pytest.approx(f1(4, 4, 6))
    assert score("rouge-2/char", [pair]) == pytest.approx(f1(1, 3, 5))
    assert score("rouge-l/char", [pair]) == pytest.approx(f1(4, 4, 6))
    jieba_pair = text_pair(
        "我来到北京", "他来到北京清华大学"
    )  # 我|来到|北京, 他|来到|北京|清华大学
    assert score("rouge-1/jieba", [jieba_pair]) == pytest.approx(f1(2, 3, 4))
    assert score("rouge-2/jieba", [jieba_pair]) == pytest.approx(f1(1, 2, 3))
    both = score("rouge-l/char", [pair, text_pair("a", "b")])
    assert both == pytest.approx(f1(4, 4, 6) / 2)


def test_white_space_is_no_character():
    assert score("rouge-l/char", [text_pair("头 痛\n", "头\u3000痛")]) == pytest.approx(1)


@pytest.mark.parametrize("tokenizer", ["jieba", "char", "char/promptcblue"])
def test_an_empty_text_reads_as_nothing_to_report(tokenizer):
    name = f"rouge-l/{tokenizer}"
    assert score(name, [text_pair(" \n", "无。")]) == pytest.approx(1)
    assert score(name, [text_pair("", "")]) == pytest.approx(1)
    assert score(name, [text_pair("无", "")]) == pytest.approx(f1(1, 1, 2))
    assert score(name, [text_pair("", "头痛")]) == 0


def test_promptcblue_takes_latin_words_whole_and_in_lower_case():
    # 有|hp|感|染|吗|？ and 有|没|有|hp|感|染|?; the marks differ
    pair = text_pair("有Hp感染吗？", "有没有HP感染?")
    assert score("rouge-l/char/promptcblue", [pair]) == pytest.approx(f1(4, 6, 7))
    # 体|温|37|.|5 and 体|温|37|度
    pair = text_pair("体温37.5", "体温37度")
    assert score("rouge-l/char/promptcblue", [pair]) == pytest.approx(f1(3, 5, 4))


def test_words_added_to_jieba_change_nothing():
    pair = text_pair("他来到北京", "我来到北京")
    before = score("rouge-1/jieba", [pair])
    jieba.add_word("来到北京", freq=10**9)
    try:
        assert jieba.lcut("他来到北京") == ["他", "来到北京"]
        # Other texts of the same words, since the words of the first are remembered.
        assert score("rouge-1/jieba", [text_pair("她来到北京", "你来到北京")]) == before
    finally:
        jieba.dt.initialized = False  # reads the dictionary again


def test_two_hundred_long_answers_take_well_under_a_second():
    text_rng = np.random.default_rng(0)
    alphabet = np.array([*"头痛发热咳嗽，。患者三天前无明显诱因出现"])
    pairs = [
        text_pair(*("".join(text_rng.choice(alphabet, 300)) for _ in "ab")) for _ in range(200)
    ]
    score("rouge-l/jieba", pairs[:1])  # the dictionary
    start = time.process_time()
    score("rouge-l/char", pairs)
    assert time.process_time() - start < 1  # the library takes six


# ---- sections


def test_sections_by_hand():
    expected = dict.fromkeys(SECTIONS, "无") | {"主诉": "头痛三天", "诊断": "偏头痛", "建议": ""}
    predicted = {"主诉": "头痛两天", "诊断": "头痛", "现病史": "无", "体格检查": "正常"}
    scores = {
        "主诉": f1(3, 4, 4),
        "现病史": 1,
        "辅助检查": f1(1, 2, 1),  # missing: "无 。" beside "无"
        "既往史": f1(1, 2, 1),
        "诊断": f1(2, 2, 3),
        "建议": 1,  # missing and empty: "无 。" both
    }
    rows = get_metric("rouge-l/sections").statistics([section_pair(predicted, expected)])
    assert rows[0].tolist() == pytest.approx([sum(scores.values()), 6])
    assert score("rouge-l/sections", [section_pair(predicted, expected)]) == pytest.approx(
        sum(scores.values()) / 6
    )


def test_sections_have_the_words_of_promptcblue():
    pair = section_pair(
        {"辅助检查": "ct正常"}, {"辅助检查": "CT未见异常"}
    )  # ct|正|常, ct|未|见|异|常
    assert score("rouge-l/sections", [pair]) == pytest.approx(f1(2, 3, 5))


def test_sections_of_all_samples_weigh_the_same():
    pairs = [
        section_pair({"诊断": "感冒"}, {"诊断": "感冒"}),
        section_pair({}, {"主诉": "头痛", "诊断": "感冒", "建议": "多喝水"}),
    ]
    assert score("rouge-l/sections", pairs) == pytest.approx(1 / 4)


def test_a_reference_without_sections_adds_nothing():
    pair = section_pair({"诊断": "感冒"}, {"诊断": "感冒"})
    assert score("rouge-l/sections", [pair, section_pair({"诊断": "感冒"}, {})]) == pytest.approx(1)
    assert score("rouge-l/sections", [section_pair({}, {})]) == 0


def test_the_section_metric_refuses_other_answers():
    with pytest.raises(ValueError, match="compares sections, not answers of kind 'text'"):
        get_metric("rouge-l/sections").statistics([text_pair("a", "a")])


# ---- BLEU and chrF


def test_bleu_by_hand():
    # 4 of 5 characters match, 2 of 4 pairs, 1 of 3 triples, 0 of 2 fours: smoothed to 1 / (2 * 2)
    pair = text_pair("头痛三天了", "头很痛三天")
    precisions = (4 / 5, 2 / 4, 1 / 3, 1 / 4)
    assert score("bleu-4/char", [pair]) == pytest.approx(math.prod(precisions) ** (1 / 4))
    short = text_pair("头痛", "头痛三")  # two orders only, and too short
    assert score("bleu-4/char", [short]) == pytest.approx(math.exp(1 - 3 / 2))
    mean = (math.prod(precisions) ** (1 / 4) + math.exp(1 - 3 / 2)) / 2
    assert score("bleu-4/char", [pair, short]) == pytest.approx(mean)


def test_chrf_by_hand():
    # Both sides have orders 1 and 2: precisions 1 and 1, recalls 2/3 and 1/2, which count twice.
    precision, recall = 1, (2 / 3 + 1 / 2) / 2
    right = 5 * precision * recall / (4 * precision + recall)
    assert score("chrf", [text_pair("头痛", "头痛三")]) == pytest.approx(right)


@given(any_text, any_text)
def test_bleu_and_chrf_are_those_of_sacrebleu(prediction, target):
    pair = text_pair(prediction, target)
    bleu = sacrebleu.sentence_bleu(prediction, [target], tokenize="char").score
    assert score("bleu-4/char", [pair]) == pytest.approx(bleu / 100)
    chrf = sacrebleu.sentence_chrf(prediction, [target]).score
    assert score("chrf", [pair]) == pytest.approx(chrf / 100)


@pytest.mark.parametrize("name", TEXTUAL)
def test_equal_texts_score_one_and_strangers_zero(name):
    assert score(name, [text_pair("患者头痛三天。", "患者头痛三天。")]) == pytest.approx(1)
    assert score(name, [text_pair("患者头痛三天", "GOOD")]) == 0


def test_a_machine_that_only_answers_needs_no_scoring_packages():
    code = """
from importlib import metadata
import sys
real = metadata.version
def version(name):
    if name in {"jieba", "rouge-chinese", "sacrebleu"}:
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
sys.modules |= dict.fromkeys(["jieba", "rouge_chinese", "sacrebleu"])
from evals.experiments.grid import Grid
from evals.scoring.metrics import METRICS
print(METRICS["rouge-1/jieba"].version)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
