"""Tasks: prompts in the published wording, answers read by the scorer's rules."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.tasks import (
    CHOICES,
    TASKS,
    Parsed,
    Task,
    UnknownTaskError,
    clusters,
    exact_match,
    get_task,
    is_correct,
)

ROOT = Path(__file__).resolve().parents[1]
DATA = os.environ.get("CGCLORA_DATA", "")
needs_data = pytest.mark.skipif(
    not DATA, reason="set CGCLORA_DATA to the folder that holds promptcblue/ and firefly/"
)
ALL_TASKS = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)

NER_LEAD = "上述句子中的实体包含："
SR_LEAD = "当前对话中的症状及其阴阳性判断为："
HAS, HAS_NOT = "患有该症状", "没有患有该症状"
FOUND = "已有症状疾病或者假设未来可能发生的疾病等"
UNSAID = "没有回答、不知道、回答不明确或者模棱两可不好推断"

# Answers as the datasets write them, and the items in them, counted by hand.
ANSWERS = [
    (
        "CMeEE-V2",
        f"{NER_LEAD}\n疾病实体：麻疹，肺炎\n药物实体：",
        ["疾病", "药物"],
        "entities",
        [("疾病", "麻疹"), ("疾病", "肺炎")],
    ),
    ("CMeEE-V2", "上述句子没有指定类型实体", ["药物"], "entities", []),
    (
        "CMeIE",
        (
            "具有相关（导致）关系的头尾实体对如下：头实体为痛风，尾实体为关节红肿，发热。\n"
            "具有预防关系的头尾实体对如下："
        ),
        ["相关（导致）", "预防"],
        "triples",
        [("痛风", "相关（导致）", "关节红肿，发热")],
    ),
    ("CMeIE", "没有指定类型的三元组", ["预防"], "triples", []),
    ("CHIP-CDN", "胃溃疡，贫血", ["贫血", "胃溃疡", "胃炎"], "terms", [("胃溃疡",), ("贫血",)]),
    ("CHIP-CDN", "没有对应的标准化实体", ["胃炎"], "terms", []),
    (
        "CHIP-CDEE",
        (
            "上述句子中的临床发现事件如下：\n主体词：疼痛；发生状态：；描述词：阵发，轻度；解剖部位：头\n"
            "主体词：发热；发生状态：否定；描述词：；解剖部位："
        ),
        None,
        "events",
        [("疼痛", "", "阵发，轻度", "头"), ("发热", "否定", "", "")],
    ),
    (
        "CHIP-CDEE",
        "上述句子中的临床发现事件如下：\n主体词：血压：高；发生状态：不确定；描述词：；解剖部位：",
        None,
        "events",
        [("血压：高", "不确定", "", "")],
    ),
    ("CHIP-STS", "不是", ["是的", "不是"], "label", [("不是",)]),
    ("CHIP-STS", "相同", ["相同", "不同"], "label", [("相同",)]),
    ("CHIP-CTC", "体征(医生检测）", ["年龄", "体征(医生检测）"], "label", [("体征(医生检测）",)]),
    ("CHIP-CTC", "非上述类型", ["年龄", "疾病"], "label", [("非上述类型",)]),
    ("KUAKE-IR", "相关", ["相关", "不相关"], "label", [("相关",)]),
    ("KUAKE-IR", "不相关\n", ["相关", "不相关"], "label", [("不相关",)]),
    ("KUAKE-QIC", "医疗费用", ["医疗费用", "治疗方案"], "label", [("医疗费用",)]),
    ("KUAKE-QIC", "非上述类型", ["医疗费用"], "label", [("非上述类型",)]),
    ("KUAKE-QQR", "完全一致", None, "label", [("完全一致",)]),
    ("KUAKE-QQR", "后者是前者的语义子集", None, "label", [("后者是前者的语义子集",)]),
    ("KUAKE-QTR", "部分匹配", None, "label", [("部分匹配",)]),
    ("KUAKE-QTR", " 完全匹配", None, "label", [("完全匹配",)]),
    (
        "CHIP-MDCFNPC",
        f"上述对话中临床发现实体以及其阴阳性判别如下：\n低烧：{FOUND}\n气喘：{UNSAID}",
        [FOUND, UNSAID],
        "attributes",
        [("低烧", FOUND), ("气喘", UNSAID)],
    ),
    (
        "CHIP-MDCFNPC",
        f"上述对话中临床发现实体以及其阴阳性判别如下：\n口渴：{FOUND}",
        None,
        "attributes",
        [("口渴", FOUND)],
    ),
    (
        "IMCS-V2-NER",
        f"{NER_LEAD}\n症状实体：打喷嚏\n医学检查检验实体：血常规",
        ["症状", "医学检查检验"],
        "entities",
        [("症状", "打喷嚏"), ("医学检查检验", "血常规")],
    ),
    ("IMCS-V2-NER", f"{NER_LEAD}\n药物类别实体：", ["药物类别"], "entities", []),
    ("IMCS-V2-DAC", "给出诊断", ["给出诊断", "关于症状的询问"], "label", [("给出诊断",)]),
    ("IMCS-V2-DAC", "非上述类型", ["给出诊断"], "label", [("非上述类型",)]),
    (
        "IMCS-V2-SR",
        f"{SR_LEAD}\n鼻塞：{HAS}\n气促：{HAS_NOT}",
        None,
        "attributes",
        [("鼻塞", HAS), ("气促", HAS_NOT)],
    ),
    ("IMCS-V2-SR", f"{SR_LEAD}\n鼻塞：{HAS}", None, "attributes", [("鼻塞", HAS)]),
    (
        "IMCS-V2-MRG",
        (
            "上述问诊对话的诊疗报告如下：\n主诉：咳嗽。\n现病史：咳嗽：三天。\n辅助检查：\n"
            "既往史：不详。\n诊断：感冒。\n建议：休息。"
        ),
        None,
        "sections",
        [
            ("主诉", "咳嗽。"),
            ("现病史", "咳嗽：三天。"),
            ("辅助检查", ""),
            ("既往史", "不详。"),
            ("诊断", "感冒。"),
            ("建议", "休息。"),
        ],
    ),
    (
        "IMCS-V2-MRG",
        "上述问诊对话的诊疗报告如下：\n主诉：呕吐。\n诊断：胃炎。",
        None,
        "sections",
        [("主诉", "呕吐。"), ("诊断", "胃炎。")],
    ),
    ("MedDG", "吐了几次？", None, "text", [("吐了几次？",)]),
    ("MedDG", "先观察。\n多喝水。", None, "text", [("先观察。\n多喝水。",)]),
    ("ClassicalChinese", "客至，饮之酒。", None, "text", [("客至，饮之酒。",)]),
    ("ClassicalChinese", "他说：“走吧。”", None, "text", [("他说：“走吧。”",)]),
    ("Couplet", "云归山自静", None, "text", [("云归山自静",)]),
    ("Couplet", "一灯伴读，十里闻香", None, "text", [("一灯伴读，十里闻香",)]),
    ("AncientPoem", "孤雁过江去，数声秋水长。", None, "text", [("孤雁过江去，数声秋水长。",)]),
    ("AncientPoem", "归路晚，月当楼。", None, "text", [("归路晚，月当楼。",)]),
    ("Summary", "竹林土壤水分的季节变化", None, "text", [("竹林土壤水分的季节变化",)]),
    ("Summary", "旧书修复--以纸浆法为例", None, "text", [("旧书修复--以纸浆法为例",)]),
    ("KeywordRecognition", "竹林，土壤水分", None, "terms", [("竹林",), ("土壤水分",)]),
    ("KeywordRecognition", "纸浆法", None, "terms", [("纸浆法",)]),
    ("SentimentAnalyze", "积极", None, "label", [("积极",)]),
    ("SentimentAnalyze", "消极", None, "label", [("消极",)]),
    (
        "NER",
        "人名：无\n地名：昆明，大理\n机构名：白鹿书店",
        None,
        "entities",
        [("地名", "昆明"), ("地名", "大理"), ("机构名", "白鹿书店")],
    ),
    ("NER", "人名：无\n地名：无\n机构名：无", None, "entities", []),
    ("TextMatching", "相似", None, "label", [("相似",)]),
    ("TextMatching", "不相似", None, "label", [("不相似",)]),
]


def filled(task: Task) -> dict[str, str]:
    return {field.name: field.default or f"〈{field.name}〉" for field in task.fields}


@cache
def records(split: str) -> dict[str, list[dict[str, Any]]]:
    """The records of a split by task."""
    by_task = defaultdict(list)
    for dataset, key in (("promptcblue", "task_dataset"), ("firefly", "kind")):
        lines = (Path(DATA) / dataset / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
        for record in map(json.loads, filter(None, lines)):
            by_task[record[key]].append(record)
    return by_task


def test_the_tasks_are_those_of_the_two_collections() -> None:
    sizes = {cluster: len(names) for cluster, names in clusters().items()}
    assert sizes == {"medical": 16, "general": 8}
    assert [name for names in clusters().values() for name in names] == list(TASKS)


def test_importing_the_tasks_imports_no_model_library() -> None:
    code = "import sys, evals.tasks.samples; print({'torch', 'transformers'} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert answer.stdout.strip() == "set()"


def test_an_unknown_task_names_its_neighbours() -> None:
    with pytest.raises(UnknownTaskError, match=r"did you mean .*CHIP-CTC") as caught:
        get_task("chip-ctx")
    assert isinstance(caught.value, KeyError)
    with pytest.raises(UnknownTaskError, match="the tasks are CMeEE-V2, "):
        get_task("")
    assert get_task("NER") is TASKS["NER"]


@ALL_TASKS
def test_every_field_stands_in_the_prompt_once(task: Task) -> None:
    values = filled(task)
    prompt = task.prompt(values)
    for value in values.values():
        assert prompt.count(value) == 1
    assert prompt.endswith("\n答：") == (task.dataset == "promptcblue")


@ALL_TASKS
def test_a_task_without_a_required_field_says_so(task: Task) -> None:
    required = task.fields[0].name
    with pytest.raises(ValueError, match=f"{task.name}.*{required}.*empty"):
        task.prompt({**filled(task), required: " \n"})


def test_prompts_refuse_unknown_fields_and_options() -> None:
    with pytest.raises(ValueError, match="no field txet; its fields are text, choices"):
        TASKS["CHIP-CTC"].prompt({"txet": "年龄大于60岁"})
    with pytest.raises(ValueError, match="choose one of"):
        TASKS["ClassicalChinese"].prompt({"text": "月出", "instruction": "译成英文："})


def test_braces_in_a_field_stay_as_they_are() -> None:
    assert TASKS["Couplet"].prompt({"text": "{text} {0}"}).endswith("{text} {0}")


def test_default_choices_are_offered_until_a_record_brings_its_own() -> None:
    task = TASKS["KUAKE-QIC"]
    assert task.choices({"text": "咳嗽"}) == task.labels
    assert task.choices({"text": "咳嗽", CHOICES: "甲， 乙，"}) == ("甲", "乙")
    assert "选项：甲，乙\n" in task.prompt({"text": "咳嗽", CHOICES: "甲， 乙，"})
    assert TASKS["CHIP-STS"].choices({"first": "甲", "second": "乙"}) == ("是的", "不是")
    assert TASKS["MedDG"].choices({"dialogue": "患者：你好"}) is None


@pytest.mark.parametrize(("name", "answer", "choices", "kind", "items"), ANSWERS)
def test_a_well_formed_answer_is_read_whole(
    name: str, answer: str, choices: list[str] | None, kind: str, items: list[tuple[str, ...]]
) -> None:
    assert TASKS[name].parse(answer, choices) == Parsed(kind, tuple(items))


def test_every_task_has_two_answers_above() -> None:
    names = [name for name, *_ in ANSWERS]
    assert dict.fromkeys(TASKS, 2) == {name: names.count(name) for name in TASKS}


@pytest.mark.parametrize(
    ("name", "choices", "expected"),
    [
        ("CHIP-CTC", ["疾病"], "非上述类型"),
        ("KUAKE-QIC", None, "非上述类型"),
        ("IMCS-V2-DAC", ["给出诊断"], "非上述类型"),
        ("CHIP-STS", None, "是的"),
        ("CHIP-STS", ["相同", "不同"], "相同"),
        ("KUAKE-IR", None, "相关"),
        ("KUAKE-QQR", None, "完全一致"),
        ("KUAKE-QTR", None, "完全不匹配或者没有参考价值"),
    ],
)
def test_an_empty_label_becomes_the_first_one(
    name: str, choices: list[str] | None, expected: str
) -> None:
    assert TASKS[name].parse(" \n", choices).items == ((expected,),)


@pytest.mark.parametrize("name", ["SentimentAnalyze", "TextMatching"])
def test_elsewhere_an_empty_answer_is_no_label(name: str) -> None:
    task = TASKS[name]
    assert task.parse(" \n").items == ()
    assert not any(is_correct(task, "", label) for label in task.labels)


def test_a_label_outside_the_choices_is_kept_and_wrong() -> None:
    task = TASKS["CHIP-CTC"]
    assert task.parse("国籍", ["疾病", "年龄"]).items == (("国籍",),)
    assert not is_correct(task, "国籍", "年龄", ["疾病", "年龄"])


@pytest.mark.parametrize(
    ("name", "answer", "choices", "items", "unparsed"),
    [
        (
            "CMeEE-V2",
            f"{NER_LEAD}\n疾病实体：麻疹，麻疹\n药物实体：退烧药\n没写完",
            ["疾病"],
            [("疾病", "麻疹")],
            ["药物实体：退烧药", "没写完"],
        ),
        (
            "CMeIE",
            "具有预防关系的头尾实体对如下：头实体为甲。头实体为乙，尾实体为丙。\n具有病因关系",
            ["预防"],
            [("乙", "预防", "丙")],
            ["头实体为甲", "具有病因关系"],
        ),
        ("CHIP-CDN", "胃炎，感冒，胃炎", ["胃炎"], [("胃炎",)], ["感冒"]),
        (
            "CHIP-CDEE",
            "发生状态：否定；主体词：热\n主体词：咳；程度：重；描述词：轻，",
            None,
            [("咳", "", "轻", "")],
            ["发生状态：否定；主体词：热", "程度：重"],
        ),
        (
            "IMCS-V2-SR",
            f"{SR_LEAD}\n鼻塞\n咳：轻：{HAS}\n：{HAS}\n吐：\n热：不好说",
            None,
            [("热", "不好说")],
            ["鼻塞", f"咳：轻：{HAS}", f"：{HAS}", "吐："],
        ),
        (
            "IMCS-V2-MRG",
            "主诉：咳。\n主诉：热。\n医嘱：休息。",
            None,
            [("主诉", "咳。")],
            ["主诉：热。", "医嘱：休息。"],
        ),
        ("NER", "人名：无，柳青禾\n物名：桌", None, [("人名", "柳青禾")], ["物名：桌"]),
    ],
)
def test_what_does_not_parse_is_lost_but_shown(
    name: str,
    answer: str,
    choices: list[str] | None,
    items: list[tuple[str, ...]],
    unparsed: list[str],
) -> None:
    parsed = TASKS[name].parse(answer, choices)
    assert parsed.items == tuple(items)
    assert parsed.unparsed == tuple(unparsed)


FRAGMENTS = st.sampled_from(
    [*"：，；。\n", "实体", "疾病", "主体词", "头实体为", "，尾实体为", "具有", "人名"]
)
TEXTS = st.text() | st.lists(FRAGMENTS | st.text(max_size=3)).map("".join)


@ALL_TASKS
@settings(max_examples=40, deadline=None)
@given(text=TEXTS, choices=st.none() | st.lists(st.text()))
def test_any_text_is_an_answer(task: Task, text: str, choices: list[str] | None) -> None:
    parsed = task.parse(text, choices)
    for language in ("zh", "en"):
        columns, rows = parsed.table(language)
        assert all(len(row) == len(columns) for row in rows)
    assert len(set(parsed.items)) == len(parsed.items)
    assert exact_match(task, text, text, choices)


def test_the_order_of_items_does_not_matter_their_type_does() -> None:
    task, choices = TASKS["CMeEE-V2"], ["疾病", "药物"]
    target = "疾病实体：甲，乙\n药物实体：丙"
    assert exact_match(task, "药物实体：丙\n疾病实体：乙，甲", target, choices)
    assert not exact_match(task, "疾病实体：甲，乙，丙", target, choices)
    assert not exact_match(task, "", target, choices)


def test_only_classification_answers_are_right_or_wrong() -> None:
    assert is_correct(TASKS["SentimentAnalyze"], " 积极\n", "积极")
    assert not is_correct(TASKS["SentimentAnalyze"], "消极", "积极")
    with pytest.raises(ValueError, match="MedDG is generation"):
        is_correct(TASKS["MedDG"], "多喝水", "多喝水")


def as_pattern(task: Task) -> re.Pattern[str]:
    """The task's template, with groups for its fields and the closing 答： left optional."""
    parts = re.split(r"\{(\w+)\}", task.template.removesuffix("\n答："))
    options = {field.name: "|".join(map(re.escape, field.options)) for field in task.fields}
    named = {field.name for field in task.fields}
    pattern = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            pattern += re.escape(part)
        elif part in named:
            pattern += f"(?P<{part}>{options[part] or '.+?'})"
        else:
            pattern += re.escape("，".join(task.labels))
    return re.compile(pattern + "(\n答：)?", re.DOTALL)


@needs_data
@ALL_TASKS
def test_prompts_are_worded_as_in_the_training_data(task: Task) -> None:
    pattern, seen = as_pattern(task), 0
    for record in records("train")[task.name]:
        text = record["input"]
        if not (match := pattern.fullmatch(text)):
            continue
        fields = {name: match[name] for name in match.groupdict()}
        offered = record.get("answer_choices")
        if CHOICES in fields and fields[CHOICES] != "，".join(offered or ()):
            continue  # another wording that the pattern happens to fit
        prompt = text if task.dataset == "firefly" else text.removesuffix("\n答：") + "\n答："
        assert task.prompt(fields) == prompt
        assert task.choices(fields) == (offered and tuple(offered))
        seen += 1
    assert seen / len(records("train")[task.name]) > 0.1


NOTHING = {
    "CMeEE-V2": "上述句子没有指定类型实体",
    "CMeIE": "没有指定类型的三元组",
    "CHIP-CDN": "没有对应的标准化实体",
}
LEADS = {
    "CMeEE-V2": NER_LEAD,
    "IMCS-V2-NER": NER_LEAD,
    "IMCS-V2-SR": SR_LEAD,
    "CHIP-CDEE": "上述句子中的临床发现事件如下：",
    "CHIP-MDCFNPC": "上述对话中临床发现实体以及其阴阳性判别如下：",
    "IMCS-V2-MRG": "上述问诊对话的诊疗报告如下：",
}


def written(task: Task, parsed: Parsed, choices: list[str]) -> set[str]:
    """The lines of the answer that says these items."""
    items = parsed.items
    if not items and task.name in NOTHING:
        return {NOTHING[task.name]}
    match parsed.kind:
        case "terms":
            lines = ["，".join(term for (term,) in items)]
        case "entities":
            colon, none = ("：", "无") if task.name == "NER" else ("实体：", "")
            lines = [
                f"{kind}{colon}" + ("，".join(word for of, word in items if of == kind) or none)
                for kind in choices
            ]
        case "triples":
            lines = [
                f"具有{relation}关系的头尾实体对如下："
                + "".join(f"头实体为{a}，尾实体为{b}。" for a, of, b in items if of == relation)
                for relation in choices
            ]
        case "events":
            names = ("主体词", "发生状态", "描述词", "解剖部位")
            lines = [
                "；".join(f"{name}：{value}" for name, value in zip(names, item, strict=True))
                for item in items
            ]
        case _:
            lines = ["：".join(item) for item in items]
    return {*lines, *filter(None, [LEADS.get(task.name)])}


@needs_data
@pytest.mark.parametrize("split", ["train", "dev", "test"])
@ALL_TASKS
def test_published_answers_read_and_written_again_are_the_same(task: Task, split: str) -> None:
    for record in records(split)[task.name]:
        target, choices = record["target"], record.get("answer_choices")
        parsed = task.parse(target, choices)
        lines = set(target.split("\n"))
        if parsed.kind == "terms":  # a keyword list may name a word twice
            lines = {"，".join(dict.fromkeys(target.split("，")))}
        assert parsed.unparsed == ()
        assert written(task, parsed, choices or list(task.labels)) == lines
        if parsed.kind == "label":
            assert target in task.answers(choices)
        if parsed.kind == "attributes":
            assert {status for _, status in parsed.items} <= set(choices or ())
