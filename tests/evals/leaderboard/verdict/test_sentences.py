"""The words of a verdict: what is claimed, in both languages, with the numbers behind it."""

import dataclasses
import re
from pathlib import Path

import pytest

from evals.leaderboard.board import boards, restrict
from evals.leaderboard.verdict.findings import Choice, Pair, Sharing, Verdict, verdict
from evals.leaderboard.verdict.sentences import sentences
from evals.scoring.effect_sizes import OVERALL, Gain
from evals.scoring.power import Power
from evals.scoring.statistics import Estimate

RESULTS = Path(__file__).parents[4] / "assets" / "results"
BOARDS = boards(RESULTS).boards


def gain(value: float, low: float, high: float, p: float, adjusted: float | None = None) -> Gain:
    return Gain(value, low, high, 0.01, p, 500, p if adjusted is None else adjusted)


SHARING = Sharing(
    method="CGC-LoRA",
    reference="LoRA (Single)",
    candidates=3,
    gains={
        "NER": gain(0.07, 0.03, 0.11, 0.001, 0.003),
        "Couplet": gain(-0.02, -0.03, -0.01, 0.002, 0.004),
        "mine": gain(0.0, -0.03, 0.03, 0.9),
        OVERALL: gain(0.017, 0.005, 0.03, 0.002),
    },
    helped=("NER",),
    hurt=("Couplet",),
    undecided=("mine",),
    within_training_noise=(),
)
PAIR = Pair(
    best="CGC-LoRA",
    other="LoRA (Full)",
    gain=gain(0.013, -0.004, 0.03, 0.1, 0.2),
    probability=0.95,
    power=Power(0.02, 0.025, 237, 1211),
    training_error=None,
)
EMPTY = Verdict(
    tasks=("NER", "Couplet", "mine"),
    entries=("CGC-LoRA", "LoRA (Full)"),
    best=Estimate(0.45, 0.43, 0.47, 0.01, 500),
    nearest=None,
    sharing=None,
    pairs=(),
    choices=(),
    budget=None,
    within=None,
    seeds=(3, 3),
    single_seed=(),
    few_records={},
    backbones=(),
)
LARGE = Choice(
    *("CGC-LoRA", 5_700_000, None, "surely better", "LoRA (Full)", 1_900_000),
    gain(0.018, 0.009, 0.026, 0.001, 0.002),
)
SMALL = Choice(
    *("LoRA (Full)", 1_900_000, 5_700_000, "within budget", "CGC-LoRA", 5_700_000),
    gain(-0.018, -0.026, -0.009, 0.001),
)


def said(kind: str, language: str = "en", **changes) -> list[str]:
    """The sentences of a kind for a verdict that has these findings."""
    found = sentences(dataclasses.replace(EMPTY, **changes), language)
    return [one.text for one in found if one.kind == kind]


def test_sharing_counts_the_tasks_and_names_them():
    assert said("sharing", sharing=SHARING) == [
        "Sharing helps 1 of 3 tasks and hurts 1; 1 is undecided (CGC-LoRA, the best of 3 that "
        "share, against LoRA (Single): mean +1.7 points, 95% interval [+0.5, +3.0], p = 0.002; "
        "helps Named entities +7.0 [+3.0, +11.0]; hurts Couplets -2.0 [-3.0, -1.0])."
    ]
    assert said("sharing", "zh", sharing=SHARING) == [
        "3 个任务中，共享使 1 个受益、1 个受损，1 个不能确定（3 种共享方法中最好的 CGC-LoRA 与 "
        "LoRA (Single) 相比：平均 +1.7 分，95% 区间 [+0.5, +3.0]，p = 0.002；"
        "受益：新闻实体识别 +7.0 [+3.0, +11.0]；受损：对对联 -2.0 [-3.0, -1.0]）。"
    ]


def test_sharing_that_decides_nothing_claims_nothing():
    changes = {"helped": (), "hurt": (), "undecided": tuple(EMPTY.tasks), "candidates": 1}
    (text,) = said("sharing", sharing=dataclasses.replace(SHARING, **changes))
    assert text.startswith(
        "Whether sharing helps or hurts is undecided on each of 3 tasks (CGC-LoRA against LoRA "
    )
    assert "helps NER" not in text


@pytest.mark.parametrize(
    ("outcome", "english", "chinese"),
    [
        ("helped", "Sharing helps Named entities (", "共享使“新闻实体识别”受益（"),
        ("hurt", "Sharing hurts Named entities (", "共享使“新闻实体识别”受损（"),
        (
            *("undecided", "Whether sharing helps or hurts Named entities is undecided ("),
            "共享对“新闻实体识别”有益还是有害，不能确定（",
        ),
    ],
)
def test_a_single_task_is_named_instead_of_counted(outcome, english, chinese):
    gains = {task: SHARING.gains[task] for task in ("NER", OVERALL)}
    groups = dict.fromkeys(("helped", "hurt", "undecided"), ()) | {outcome: ("NER",)}
    found = dataclasses.replace(SHARING, gains=gains, **groups)
    for language, start in (("en", english), ("zh", chinese)):
        (text,) = said("sharing", language, sharing=found)
        assert text.startswith(start)
        assert "mean" not in text


def test_a_tie_says_how_many_records_would_tell():
    assert said("tie", pairs=(PAIR,)) == [
        "CGC-LoRA and LoRA (Full) cannot be told apart (+1.3 points, 95% interval [-0.4, +3.0], "
        "adjusted p = 0.2): about 240 more test records a task would tell a difference of 2 "
        "points (80% power)."
    ]
    assert said("tie", "zh", pairs=(PAIR,)) == [
        "CGC-LoRA 与 LoRA (Full) 分不出高下（+1.3 分，95% 区间 [-0.4, +3.0]，校正后 p = 0.2）："
        "每个任务再加约 240 条测试样本，才能分辨 2 分的差距（检验功效 80%）。"
    ]


@pytest.mark.parametrize(
    ("power", "words"),
    [
        (Power(0.01, 0.02, 1, 100), "about 1 more test record a task would tell a difference of 1"),
        (Power(0.01, 0.02, 1, 100), "a difference of 1 point ("),
        (Power(0.026, 0.03, 1234, 100), "about 1,300 more test records"),
        (Power(0.026, 0.03, 1234, 100), "a difference of 2.6 points ("),
        (Power(0.02, 0.01, 0, 100), "would tell a difference of 2 points (80% power), so theirs"),
        (None, "these test records do not show how many more would tell."),
    ],
)
def test_numbers_and_plurals_fit(power, words):
    (text,) = said("tie", pairs=(dataclasses.replace(PAIR, power=power),))
    assert words in text


def test_other_ties_are_counted_and_stand_with_their_own_sign():
    names = ("A", "B", "C", "D", "E")
    pairs = (PAIR, *(dataclasses.replace(PAIR, other=name) for name in names))
    assert said("tie", pairs=pairs[:2])[1] == (
        "By Holm's rule CGC-LoRA cannot be told from 1 other method either (A -1.3 [-3.0, +0.4])."
    )
    text = said("tie", pairs=pairs)[1]
    assert "from 5 other methods either (A -1.3 [-3.0, +0.4], B -1.3" in text
    assert text.endswith("C -1.3 [-3.0, +0.4] and 2 more).")
    assert said("tie", "zh", pairs=pairs)[1].endswith("等 5 个）。")


def test_the_leader_is_sure_only_if_nothing_is_near_it():
    assert said("leader") == [
        "CGC-LoRA has the highest mean over 3 tasks (45.0 points, 95% interval [43.0, 47.0])."
    ]
    (text,) = said("leader", nearest=PAIR, tasks=("NER",))
    assert text == (
        "CGC-LoRA surely has the highest score on Named entities (45.0 points, 95% interval "
        "[43.0, 47.0]; over LoRA (Full), the next, +1.3 points, 95% interval [-0.4, +3.0], "
        "adjusted p = 0.2)."
    )
    assert "only method" in said("leader", entries=("CGC-LoRA",))[0]
    assert said("leader", entries=(), best=None) == ["No method has a score yet."]


def test_choices_state_their_price():
    texts = said("choice", choices=(SMALL, LARGE))
    assert texts == [
        "Take CGC-LoRA (5.7 M parameters): every clearly smaller method is surely worse (against "
        "LoRA (Full), the best of them, +1.8 points, 95% interval [+0.9, +2.6], adjusted p = "
        "0.002).",
        "With fewer than 5.7 M parameters take LoRA (Full) (1.9 M parameters; against CGC-LoRA, "
        "-1.8 points, 95% interval [-2.6, -0.9], p = 0.001).",
    ]
    texts = said("choice", "zh", choices=(SMALL, LARGE), budget=2_000_000, within=SMALL)
    assert texts[0].startswith("参数不超过 2 M 时选 LoRA (Full)（参数 1.9 M；")
    assert said("choice", choices=(SMALL, LARGE), budget=10**7, within=LARGE)[0].startswith("Take")
    (first, _) = said("choice", choices=(SMALL, LARGE), budget=10**6, within=None)
    assert first.startswith("No method worth taking has at most 1 M parameters: the smallest is")


def test_a_tie_that_was_told_is_not_told_again():
    values = ("LoRA (Full)", 1_900_000, None, "not surely worse", "CGC-LoRA", 5_700_000)
    choice = Choice(*values, PAIR.gain.reversed())
    (alone,) = said("choice", choices=(choice,))
    assert "(1.9 M instead of 5.7 M parameters; against CGC-LoRA, -1.3 points" in alone
    (within,) = said("choice", choices=(choice,), budget=2_000_000, within=choice)
    assert within.startswith("With at most 2 M parameters take LoRA (Full) (1.9 M parameters; agai")
    assert said("choice", choices=(choice,), budget=6_000_000, within=choice) == [alone]
    (after,) = said("choice", choices=(choice,), pairs=(PAIR,))
    assert after.endswith("the best (1.9 M instead of 5.7 M parameters).")
    values = ("LoRA (Full)", 0, None, "untrained", "CGC-LoRA", 5_700_000)
    (bare,) = said("choice", choices=(Choice(*values, PAIR.gain.reversed()),), pairs=(PAIR,))
    assert "the best is CGC-LoRA (against CGC-LoRA, -1.3 points" in bare


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": (1, 1), "single_seed": ("A", "B")}, "Each method was trained once"),
        ({"seeds": (1, 3), "single_seed": ("A",)}, "A was trained once"),
        ({"seeds": (1, 3), "single_seed": ("A", "B", "C")}, "A, B and C were trained once"),
        ({"seeds": (2, 3)}, "have 2 to 3 seeds"),
        ({"few_records": {"NER": 30, "mine": 12}}, "on Named entities (30) and mine (12)"),
        ({"backbones": ("one", "other")}, "The backbones differ (one and other)"),
        (
            {"pairs": (dataclasses.replace(PAIR, training_error=0.021),)},
            "difference of CGC-LoRA and LoRA (Full) (standard error 2.1 points)",
        ),
        (
            {"sharing": dataclasses.replace(SHARING, within_training_noise=("NER",))},
            "The difference on Named entities is within training noise",
        ),
    ],
)
def test_limits_are_said(changes, words):
    (text,) = said("warning", **changes)
    assert words in text


def test_nothing_is_warned_of_without_a_reason():
    assert said("warning", nearest=dataclasses.replace(PAIR, training_error=0.001)) == []
    assert said("warning", seeds=None) == []


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("board", BOARDS, ids=[board.id for board in BOARDS])
def test_every_committed_board_has_a_whole_verdict(board, language):
    for part in (board, restrict(board, tasks=[board.tasks[0].name]), restrict(board, entries=[])):
        for budget in (None, 0, 2_000_000):
            texts = [one.text for one in sentences(verdict(part, budget=budget), language)]
            assert texts
            for text in texts:
                assert text.endswith("." if language == "en" else "。")
                assert not re.search(r"[{}]|None|[ (]1 (tasks|records|points|methods)|  ", text), (
                    text
                )
                assert text.count("(") == text.count(")")
                assert text.count("（") == text.count("）")


def test_both_languages_name_the_same_methods_and_numbers():
    found = verdict(BOARDS[0])
    for one, other in zip(sentences(found, "en"), sentences(found, "zh"), strict=True):
        numbers = [set(re.findall(r"[+-]\d+\.\d|p = [\d.]+\d", text.text)) for text in (one, other)]
        assert numbers[0] == numbers[1]
        assert one.kind == other.kind
