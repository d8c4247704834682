"""Tasks that are not built in: recognised from records, or told by a table."""

import itertools
import tomllib
from pathlib import Path

import pytest

from cgclora.data.records import DataError, Record
from cgclora.data.task_table import DESCRIPTIONS, TABLE_FILE
from evals.scoring.metrics import Pair, get_metric
from evals.tasks import parsing
from evals.tasks.recognition import (
    corrected,
    described,
    own_tasks,
    recognise,
    task_of,
    to_toml,
)

CITIES = ("上海", "广州", "成都", "西安", "大连", "厦门", "昆明", "青岛", "苏州", "长沙")


def records(name: str, pairs: list[tuple[str, str]], **facts: object) -> list[Record]:
    return [
        Record(f"{name}-{i}", name, prompt, target, **facts)  # type: ignore[arg-type]
        for i, (prompt, target) in enumerate(pairs)
    ]


LABELS = records(
    "评价",
    [(f"这条评论是好评还是差评？\n{c}的面很香", "好评") for c in CITIES]
    + [(f"这条评论是好评还是差评？\n{c}的汤太咸", "差评") for c in CITIES[:6]],
)
NUMBERS = records("换算", [(f"把 {n} 千米换成米。", f"{n * 1000:,} 米") for n in range(1, 21)])
ITEMS = records(
    "抽取",
    [(f"找出地名：\n从{a}到{b}", f"{a}，{b}") for a, b in itertools.pairwise(CITIES)]
    + [("找出地名：\n今天下雨", "无")],
)
PAIRS = records(
    "行程",
    [
        (f"整理行程：{a}出发，{b}过夜", f"出发：{a}\n过夜：{b}")
        for a, b in zip(CITIES, CITIES[2:], strict=False)
    ],
)
TEXTS = records(
    "介绍", [(f"介绍{c}", f"{c}是一座城市。那里的小吃很有名，游客一年四季都很多。") for c in CITIES]
)


@pytest.mark.parametrize(
    ("group", "kind", "answer", "expected"),
    [
        (LABELS, "classification", "差评", (("差评",),)),
        (NUMBERS, "number", "约 ２，000米。", (("2000", "米"),)),
        (ITEMS, "extraction", "上海、 西安", (("上海",), ("西安",))),
        (
            PAIRS,
            "extraction",
            "出发: 上海\n过夜：西安，成都",
            (("出发", "上海"), ("过夜", "西安"), ("过夜", "成都")),
        ),
        (TEXTS, "generation", " 很好。", (("很好。",),)),
    ],
)
def test_a_task_is_recognised_by_its_targets(group, kind, answer, expected):
    task = task_of(recognise(group[0].task, group))
    assert task.kind == kind
    assert task.parse(answer).items == expected
    for record in group:
        assert not task.parse(record.target).unparsed
        assert len(record.target) <= task.max_new_tokens


def test_labels_are_the_targets_by_frequency_or_what_is_offered():
    assert recognise("评价", LABELS)["labels"] == ["好评", "差评"]
    offered = records(
        "评价", [("好不好？", "好"), ("好不好？甲", "不好")], choices=("不好", "好", "说不清")
    )
    assert recognise("评价", offered)["labels"] == ["好", "不好", "说不清"]
    ratings = records("打分", [(f"打分：{c}", str(i % 5 + 1)) for i, c in enumerate(CITIES * 2)])
    assert recognise("打分", ratings)["kind"] == "classification"  # few numbers, often: marks
    few = records("少", [("甲", "对"), ("乙", "错"), ("丙", "对")])
    assert recognise("少", few)["kind"] == "generation"  # three records show no labels


def test_what_the_prompts_have_in_common_is_the_template():
    entry = recognise("评价", LABELS)
    assert entry["template"] == "这条评论是好评还是差评？\n{text}"
    task = task_of(entry)
    assert task.prompt({"text": "上海的面很香"}) == LABELS[0].prompt
    assert recognise("换算", NUMBERS)["template"] == "把 {text} 千米换成米。"
    braces = records("模板", [("填 {x}：甲", "一"), ("填 {x}：乙", "二")])
    assert task_of(recognise("模板", braces)).prompt({"text": "甲"}) == "填 {x}：甲"
    mixed = records("杂", [("介绍一下甲", "一"), ("请说说乙", "二")])
    assert recognise("杂", mixed)["template"] == "{text}"


def test_a_table_sets_what_it_says_and_nothing_else(tmp_path: Path):
    table = tmp_path / TABLE_FILE
    table.write_text(
        '[[tasks]]\nname = "评价"\ntitle = ["口碑", "Reviews"]\nmax_new_tokens = 3\n', "utf-8"
    )
    first, second = own_tasks({"评价": LABELS, "换算": NUMBERS}, table)
    assert first == {**recognise("评价", LABELS), "title": ["口碑", "Reviews"], "max_new_tokens": 3}
    assert second == recognise("换算", NUMBERS)
    table.write_text('[[tasks]]\nname = "换算"\nkind = "generation"\n', "utf-8")
    task = task_of(own_tasks({"换算": NUMBERS}, table)[0])
    assert task.reader is parsing.free_text
    assert "chrf" in task.metrics


def test_an_adapter_describes_what_the_table_does_not(tmp_path: Path):
    table = tmp_path / TABLE_FILE
    trained = {"评价": {"name": "评价", "max_new_tokens": 3, "title": ["口碑", "Reviews"]}}
    (entry,) = own_tasks({"评价": LABELS}, table, trained)
    assert entry == {**recognise("评价", LABELS), **trained["评价"]}
    table.write_text('[[tasks]]\nname = "评价"\nmax_new_tokens = 5\n', "utf-8")
    (entry,) = own_tasks({"评价": LABELS}, table, trained)
    assert entry == {**recognise("评价", LABELS), "max_new_tokens": 5}
    with pytest.raises(DataError, match="the adapter: 换算 has unknown keys colour"):
        own_tasks({"换算": NUMBERS}, table, {"换算": {"name": "换算", "colour": "red"}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = 3", "must have a list"),
        ("[[tasks]]\nkind = 'number'", "must have a list"),
        ("[[tasks", "cannot be read as TOML"),
        ("[[tasks]]\nname = '评价'\ncolour = 'red'", "unknown keys colour"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / TABLE_FILE).write_text(text, "utf-8")
    with pytest.raises(DataError, match=message):
        own_tasks({"评价": LABELS}, tmp_path / TABLE_FILE)


FIELD = {"name": "text", "label": ["文本", "Text"]}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"reader": "nothing"}, {"kind": "song"}, {"fields": [{}]}, {"fields": []}),
        *({"title": "评价"}, {"description": ["好"]}, {"labels": "好评"}, {"labels": []}),
        *({"max_new_tokens": 0}, {"max_new_tokens": "3"}, {"metrics": ["luck"]}),
        *({"template": "评价"}, {"template": "{text} {more}"}, {"template": "{text"}),
        {"fields": [FIELD, {**FIELD, "name": "unused"}]},
        {"fields": [{**FIELD, "name": name} for name in "abcd"], "template": "{a}{b}{c}{d}"},
        # What `str.format` would do beyond filling in a text.
        *({"template": "{text.__class__}"}, {"template": "{text[0]}"}, {"template": "{text!r}"}),
        {"template": "{text:>999999999}"},
    ],
)
def test_a_wrong_entry_is_refused(wrong):
    with pytest.raises(DataError, match="described wrongly"):
        task_of({**recognise("评价", LABELS), **wrong})


def test_a_task_without_any_target_is_refused():
    with pytest.raises(DataError, match="no record with a target"):
        recognise("空", records("空", [("甲", "")]))


def test_the_printed_table_says_the_same(tmp_path: Path):
    groups = (LABELS, NUMBERS, ITEMS, PAIRS, TEXTS)
    entries = [recognise(group[0].task, group) for group in groups]
    table = tmp_path / TABLE_FILE
    table.write_text(to_toml(entries), "utf-8")
    assert len(tomllib.loads(table.read_text("utf-8"))["tasks"]) == len(groups)
    assert own_tasks({group[0].task: group for group in groups}, table) == entries


def test_the_version_changes_with_what_changes_scores_only():
    entry = recognise("评价", LABELS)
    assert task_of(entry).version == task_of({**entry, "title": ["口碑", "Reviews"]}).version
    assert task_of(entry).version != task_of({**entry, "max_new_tokens": 5}).version


@pytest.mark.parametrize(
    ("answer", "target", "value", "whole"),
    [
        ("2000 米", "2,000米", 1, 1),
        ("2000.0 千米", "2,000米", 1, 0),
        ("大约 -3.50", "-3.5", 1, 1),
        ("二十", "20", 0, 0),
        ("12", "120", 0, 0),
    ],
)
def test_numbers_match_by_value(answer, target, value, whole):
    pair = Pair(answer, target, parsing.number(answer, ()), parsing.number(target, ()))
    for name, expected in (("numeric-match", value), ("exact-match", whole)):
        metric = get_metric(name)
        assert metric.score(metric.statistics([pair]).sum(axis=0)) == expected


def test_only_numbers_are_compared_as_numbers():
    text = parsing.free_text("1", ())
    with pytest.raises(ValueError, match="use exact-match"):
        get_metric("numeric-match").statistics([Pair("1", "1", text, text)])


# Corrected in the page, stored in a manifest ----------------------------------------------


def test_a_whole_table_in_which_one_key_was_changed_says_that_alone():
    own = [recognise("评价", LABELS), recognise("换算", NUMBERS)]
    assert list(corrected(own, to_toml(own))) == own
    edited = to_toml(own).replace('["换算", "换算"]', '["单位换算", "Unit conversion"]')
    first, second = corrected(own, edited)
    assert first == own[0]
    assert second == {**own[1], "title": ["单位换算", "Unit conversion"]}
    assert list(corrected(own, "tasks = []")) == own  # what is left out is as recognised


def test_another_kind_brings_its_reader_although_the_table_still_has_the_old_one():
    own = [recognise("评价", LABELS)]
    (entry,) = corrected(own, to_toml(own).replace('"classification"', '"generation"'))
    task = task_of(entry)
    assert (task.kind, task.labels, task.reader) == ("generation", (), parsing.free_text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[tasks", "tasks.toml cannot be read as TOML"),
        ("[[tasks]]\nname = '评介'", "tasks.toml describes 评介, but .* own tasks are 评价"),
        ("[[tasks]]\nname = '评价'\nkind = 'song'", "kind must be one of classification"),
        ("[[tasks]]\nname = '评价'\ntemplate = '好'", "fields in braces: text"),
    ],
)
def test_a_wrong_correction_says_why(content, message):
    with pytest.raises(DataError, match=message):
        corrected([recognise("评价", LABELS)], content)


def test_a_manifest_gives_the_tasks_that_it_describes():
    whole = recognise("评价", LABELS)
    stored = tomllib.loads(to_toml([whole]))["tasks"][0]  # as training reads it from a table
    number = {"kind": "number", "title": ["单位换算", "Unit conversion"]}
    tasks = described({DESCRIPTIONS: {"评价": stored, "换算": number}})
    assert tasks["评价"].prompt({"text": "上海的面很香"}) == LABELS[0].prompt
    assert (tasks["评价"].labels, tasks["评价"].version) == (
        ("好评", "差评"),
        task_of(whole).version,
    )
    assert (tasks["换算"].title_en, tasks["换算"].kind) == ("Unit conversion", "number")
    assert tasks["换算"].parse("约 2,000 米").items == (("2000", "米"),)


def test_what_a_manifest_describes_wrongly_is_as_if_it_did_not():
    entries = {
        "评价": {"template": "{text.__class__}"},
        "新": {"colour": "red"},
        "NER": {"kind": "number"},  # built in
    }
    assert described({DESCRIPTIONS: entries}) == {}
    assert described({}) == {}
