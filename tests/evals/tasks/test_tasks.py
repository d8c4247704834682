"""Tasks: which there are, prompts in the published wording, published answers read back."""

import json
import os
import re
import string
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from evals.tasks import (
    CHOICES,
    TASKS,
    Parsed,
    Task,
    UnknownTaskError,
    clusters,
    exact_match,
    get_task,
)

ROOT = Path(__file__).resolve().parents[3]
DATA = os.environ.get("CGCLORA_DATA", "")
needs_data = pytest.mark.skipif(
    not DATA, reason="set CGCLORA_DATA to the folder that holds promptcblue/ and firefly/"
)
ALL_TASKS = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
# The adapters are trained on the data pack, and so know the tasks that it has.
CONFIGS = sorted((ROOT / "assets" / "adapters").glob("*/config.json"))
WITH_DATA = [name for path in CONFIGS for name in json.loads(path.read_bytes())["tasks"]]
TASKS_WITH_DATA = pytest.mark.parametrize(
    "task", [TASKS[name] for name in WITH_DATA], ids=WITH_DATA
)

# Every kind of the Firefly corpus, as its data card counts them.
FIREFLY = {
    *("ProseGeneration", "MRC", "JinYongGeneration", "TextCorrection", "ClassicalChinese"),
    *("StoryGeneration", "Couplet", "Cot", "Dictionary", "Translation", "Program"),
    *("SentimentAnalyze", "OpenQA", "AncientPoem", "TextMatching", "NLI", "Summary"),
    *("KeywordRecognition", "ProductDesc", "LyricGeneration", "Composition", "MusicComment", "NER"),
}
METRICS = {
    *("micro-f1/items", "accuracy", "macro-f1", "weighted-f1", "micro-f1/labels", "exact-match"),
    *("rouge-1/jieba", "rouge-2/jieba", "rouge-l/jieba", "rouge-1/char", "rouge-2/char"),
    *("rouge-l/char", "rouge-l/char/promptcblue", "rouge-l/sections", "bleu-4/char", "chrf"),
}
# Main metrics that do not follow from the kind alone (arXiv 2310.14151 and its scorer's code).
MAIN = {
    **dict.fromkeys(("CHIP-CTC", "IMCS-V2-DAC", "KUAKE-QIC"), "macro-f1"),
    **dict.fromkeys(("CHIP-STS", "KUAKE-IR", "KUAKE-QQR", "KUAKE-QTR"), "weighted-f1"),
    "IMCS-V2-MRG": "rouge-l/sections",
    "MedDG": "rouge-l/char/promptcblue",
}
MAIN_OF_KIND = {
    "classification": "accuracy",
    "extraction": "micro-f1/items",
    "normalization": "micro-f1/items",
    "generation": "rouge-l/jieba",
}


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
    medical, general = clusters()["medical"], clusters()["general"]
    assert (len(medical), len(general)) == (16, 23)
    assert set(general) == FIREFLY
    assert [*medical, *general] == list(TASKS)
    datasets = {name: task.dataset for name, task in TASKS.items()}
    assert datasets == dict.fromkeys(medical, "promptcblue") | dict.fromkeys(general, "firefly")


@ALL_TASKS
def test_a_task_has_words_in_both_languages(task: Task) -> None:
    labels = [(field.label_zh, field.label_en) for field in task.fields]
    for zh, en in [
        (task.title_zh, task.title_en),
        (task.description_zh, task.description_en),
        *labels,
    ]:
        assert re.search(r"[\u4e00-\u9fff]", zh)
        assert re.search("[a-z]", en)
        assert not re.search(r"[\u4e00-\u9fff]", en)
        assert "\n" not in zh + en


def test_a_title_belongs_to_one_task() -> None:
    assert len({task.title_zh for task in TASKS.values()}) == len(TASKS)
    assert len({task.title_en for task in TASKS.values()}) == len(TASKS)


@ALL_TASKS
def test_a_template_uses_exactly_its_fields(task: Task) -> None:
    named = [name for _, name, _, _ in string.Formatter().parse(task.template) if name]
    fields = [field.name for field in task.fields]
    offered = [CHOICES] if CHOICES in named and CHOICES not in fields else []
    assert sorted(named) == sorted(fields + offered)
    assert not offered or task.labels


@ALL_TASKS
def test_the_first_metric_is_the_one_that_the_dataset_reports(task: Task) -> None:
    assert task.metrics[0] == MAIN.get(task.name, MAIN_OF_KIND[task.kind])
    assert set(task.metrics) <= METRICS
    assert len(set(task.metrics)) == len(task.metrics) > 1


@ALL_TASKS
def test_classification_alone_and_always_has_labels_to_score(task: Task) -> None:
    of_labels = {"accuracy", "macro-f1", "weighted-f1", "micro-f1/labels"}
    assert of_labels.isdisjoint(task.metrics) == (task.kind != "classification")
    assert len(task.labels) > 1 or task.kind != "classification"


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
@TASKS_WITH_DATA
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


NER_LEAD = "上述句子中的实体包含："
SAME_QUESTION = {"相同": "是的", "不同": "不是"}
NOTHING = {
    "CMeEE-V2": "上述句子没有指定类型实体",
    "CMeIE": "没有指定类型的三元组",
    "CHIP-CDN": "没有对应的标准化实体",
}
LEADS = {
    "CMeEE-V2": NER_LEAD,
    "IMCS-V2-NER": NER_LEAD,
    "IMCS-V2-SR": "当前对话中的症状及其阴阳性判断为：",
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
@TASKS_WITH_DATA
def test_published_answers_read_and_written_again_are_the_same(task: Task, split: str) -> None:
    for record in records(split)[task.name]:
        target, choices = record["target"], record.get("answer_choices")
        parsed = task.parse(target, choices)
        lines = set(target.split("\n"))
        if parsed.kind == "terms":  # a keyword list may name a word twice
            lines = {"，".join(dict.fromkeys(target.split("，")))}
        elif task.name == "CHIP-STS":  # one of two wordings, which count as the same label
            lines = {SAME_QUESTION.get(target, target)}
        assert parsed.unparsed == ()
        assert task.parse(target, choices, strict=True) == parsed
        assert exact_match(task, target, target, choices)
        assert written(task, parsed, choices or list(task.labels)) == lines
        if parsed.kind == "label":
            assert target in task.answers(choices)
        if parsed.kind == "attributes":
            assert {status for _, status in parsed.items} <= set(choices or ())
