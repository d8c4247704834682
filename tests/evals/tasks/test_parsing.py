"""Answers: read by the official scorer's rules, odd ones too, or by strict ones that find less."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.tasks import TASKS, Parsed, Task, exact_match, parsing

ALL_TASKS = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
WITH_A_FORM = [name for name, task in TASKS.items() if task.reader is not parsing.free_text]

NER_LEAD = "上述句子中的实体包含："
SR_LEAD = "当前对话中的症状及其阴阳性判断为："
HAS, HAS_NOT = "患有该症状", "没有患有该症状"
UNCERTAIN = "无法根据上下文确定病人是否患有该症状"
FOUND = "已有症状疾病或者假设未来可能发生的疾病等"
UNSAID = "没有回答、不知道、回答不明确或者模棱两可不好推断"

# Answers as the datasets write them, and the items in them, counted by hand: two for each task
# whose answers have a form.
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
    ("CHIP-STS", "相同", ["相同", "不同"], "label", [("是的",)]),
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
    ("NLI", "中立", None, "label", [("中立",)]),
    ("NLI", "蕴涵", None, "label", [("蕴含",)]),
]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("name", "answer", "choices", "kind", "items"), ANSWERS)
def test_a_well_formed_answer_is_read_whole(
    name: str,
    answer: str,
    choices: list[str] | None,
    kind: str,
    items: list[tuple[str, ...]],
    strict: bool,
) -> None:
    assert TASKS[name].parse(answer, choices, strict=strict) == Parsed(kind, tuple(items))


def test_every_task_with_a_form_has_two_answers_above() -> None:
    names = [name for name, *_ in ANSWERS]
    assert {name: names.count(name) for name in names} == dict.fromkeys(WITH_A_FORM, 2)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in WITH_A_FORM])
def test_free_text_is_trimmed_and_otherwise_kept(name: str) -> None:
    task = TASKS[name]
    assert task.kind == "generation"
    assert task.parse(" 先观察。\n多喝水：\n") == Parsed("text", (("先观察。\n多喝水：",),))
    assert task.parse(" \n") == Parsed("text", ())


# Labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "choices", "expected"),
    [
        ("CHIP-CTC", ["疾病"], "非上述类型"),
        ("KUAKE-QIC", None, "非上述类型"),
        ("IMCS-V2-DAC", ["给出诊断"], "非上述类型"),
        ("CHIP-STS", None, "是的"),
        ("CHIP-STS", ["不同", "相同"], "是的"),
        ("KUAKE-IR", ["不相关", "相关"], "相关"),
        ("KUAKE-QQR", ["后者是前者的语义子集", "完全一致"], "完全一致"),
        ("KUAKE-QTR", ["完全匹配"], "完全不匹配或者没有参考价值"),
    ],
)
def test_an_empty_label_is_the_first_of_the_scorer_wherever_the_record_lists_it(
    name: str, choices: list[str] | None, expected: str
) -> None:
    task = TASKS[name]
    assert task.parse(" \n", choices) == Parsed("label", ((expected,),))
    assert task.parse(" \n", choices, strict=True) == Parsed("label", ())


@pytest.mark.parametrize("name", ["SentimentAnalyze", "TextMatching", "NLI"])
def test_elsewhere_an_empty_answer_is_no_label(name: str) -> None:
    task = TASKS[name]
    assert task.parse(" \n").items == ()
    assert not any(exact_match(task, "", label) for label in task.labels)


@pytest.mark.parametrize(
    "name", [name for name, task in TASKS.items() if task.kind == "classification"]
)
def test_a_label_outside_the_choices_is_kept_and_wrong_or_strictly_none(name: str) -> None:
    task = TASKS[name]
    offered = task.labels[:2]
    assert task.parse("猜不到", offered) == Parsed("label", (("猜不到",),))
    assert not any(exact_match(task, "猜不到", label, offered) for label in offered)
    assert task.parse("猜不到", offered, strict=True) == Parsed("label", (), ("猜不到",))


def test_the_choices_of_a_record_win_over_those_of_the_task() -> None:
    task = TASKS["KUAKE-QQR"]
    four = ["完全一致", "后者是前者的语义子集", "后者是前者的语义父集", "语义无直接关联"]
    for label in four:
        assert task.parse(label, four, strict=True).items == ((label,),)
    assert task.parse(four[2], strict=True).items == ()
    assert task.parse(task.labels[2], four, strict=True).items == ()


def test_the_two_wordings_of_a_question_pair_are_the_same_label() -> None:
    task = TASKS["CHIP-STS"]
    assert exact_match(task, "是的", "相同", ["相同", "不同"])
    assert exact_match(task, "不同", "不是", ["是的", "不是"])
    assert not exact_match(task, "相同", "不是", ["是的", "不是"])


# Odd rules ------------------------------------------------------------------------------------

# What the official scorer makes of malformed answers, and what is left of it when read strictly:
# task, answer, choices, items, unparsed, strict items, strictly unparsed.
ODD = {
    "a type without its colon is part of the mention": (
        *("CMeEE-V2", "疾病实体:麻疹\n疾病实体感冒，肺炎", ["疾病"]),
        *([("疾病", "疾病实体:麻疹"), ("疾病", "疾病实体感冒"), ("疾病", "肺炎")], []),
        *([], ["疾病实体:麻疹", "疾病实体感冒，肺炎"]),
    ),
    "a type again within its line vanishes": (
        *("CMeEE-V2", "疾病实体：麻疹，疾病实体：肺炎", ["疾病"]),
        *([("疾病", "麻疹"), ("疾病", "肺炎")], []),
        *([], ["疾病实体：麻疹，疾病实体：肺炎"]),
    ),
    "an indented line is lost": (
        *("IMCS-V2-NER", " 症状实体：咳嗽", ["症状"]),
        *([], ["症状实体：咳嗽"], [], ["症状实体：咳嗽"]),
    ),
    "a type that was not offered is lost, a mention counts once": (
        *("IMCS-V2-NER", f"{NER_LEAD}\n症状实体：咳，咳\n药物实体：甲\n没写", ["症状"]),
        *([("症状", "咳")], ["药物实体：甲", "没写"]),
        *([("症状", "咳")], ["药物实体：甲", "没写"]),
    ),
    "entities need no lead line": (
        *("IMCS-V2-NER", "症状实体：咳 ， 热，", ["症状"]),
        *([("症状", "咳"), ("症状", "热")], [], [("症状", "咳"), ("症状", "热")], []),
    ),
    "a relation that was not offered is an item": (
        *("CMeIE", "具有病因关系的头尾实体对如下：头实体为甲，尾实体为乙。", ["预防"]),
        *([("甲", "病因", "乙")], []),
        *([], ["具有病因关系的头尾实体对如下：头实体为甲，尾实体为乙。"]),
    ),
    "a pair needs no relation": (
        *("CMeIE", "答案头实体为甲，尾实体为乙", ["预防"]),
        *([("答案甲", "头实体为甲，尾实体为乙", "乙")], []),
        *([], ["答案头实体为甲，尾实体为乙"]),
    ),
    "a second tail is lost, and a head needs no title": (
        *("CMeIE", "具有预防关系的头尾实体对如下：甲，尾实体为乙，尾实体为丙。丁", ["预防"]),
        *([("甲", "预防", "乙")], ["丙", "丁"]),
        *([], ["甲，尾实体为乙，尾实体为丙", "丁"]),
    ),
    "the sides of a pair may be empty": (
        *("CMeIE", "具有预防关系的头尾实体对如下：头实体为，尾实体为乙。头实体为丙", ["预防"]),
        *([("", "预防", "乙")], ["头实体为丙"]),
        *([], ["头实体为，尾实体为乙", "头实体为丙"]),
    ),
    "only listed terms count, each once": (
        *("CHIP-CDN", "胃炎，感冒，胃炎", ["胃炎"]),
        *([("胃炎",)], ["感冒"], [("胃炎",)], ["感冒"]),
    ),
    "only the last line has terms": (
        *("CHIP-CDN", "胃炎\n贫血", ["胃炎", "贫血"]),
        *([("贫血",)], ["胃炎"], [("贫血",)], ["胃炎"]),
    ),
    "a line break at the end loses all terms": (
        *("CHIP-CDN", "胃炎\n", ["胃炎"]),
        *([], ["胃炎"], [], ["胃炎"]),
    ),
    "the first line is no event": (
        *("CHIP-CDEE", "主体词：热；发生状态：\n主体词：咳", None),
        *([("咳", "", "", "")], ["主体词：热；发生状态："]),
        *([("咳", "", "", "")], ["主体词：热；发生状态："]),
    ),
    "every further line is an event, blank or not": (
        *("CHIP-CDEE", "上述句子中的临床发现事件如下：\n不清楚\n", None),
        *([("", "", "", "")], ["不清楚"]),
        *([], ["不清楚"]),
    ),
    "of an attribute that comes twice the last counts": (
        *("CHIP-CDEE", "\n主体词：咳；描述词：重；描述词：轻；描述词：重", None),
        *([("咳", "", "重", "")], []),
        *([], ["主体词：咳；描述词：重；描述词：轻；描述词：重"]),
    ),
    "a value that starts with the next attribute fills both": (
        *("CHIP-CDEE", "\n主体词：发生状态：否定", None),
        *([("发生状态：否定", "否定", "", "")], []),
        *([], ["主体词：发生状态：否定"]),
    ),
    "an indented attribute is lost": (
        *("CHIP-CDEE", "\n主体词：咳； 描述词：轻；程度：重", None),
        *([("咳", "", "", "")], ["描述词：轻", "程度：重"]),
        *([], ["主体词：咳； 描述词：轻；程度：重"]),
    ),
    "descriptors are a list, a finding is not": (
        *("CHIP-CDEE", "\n主体词：咳， 喘；描述词：轻， 干，；解剖部位：胸，胸", None),
        *([("咳， 喘", "", "轻，干", "胸，胸")], [], [("咳， 喘", "", "轻，干", "胸，胸")], []),
    ),
    "an event needs no finding": (
        *("CHIP-CDEE", "\n发生状态：否定", None),
        *([("", "否定", "", "")], [], [], ["发生状态：否定"]),
    ),
    "a status that was not offered is the uncertain one": (
        *("IMCS-V2-SR", f"{SR_LEAD}\n热：不好说\n咳：{HAS} \n吐：", None),
        *([("热", UNCERTAIN), ("咳", UNCERTAIN), ("吐", UNCERTAIN)], []),
        *([], ["热：不好说", f"咳：{HAS}", "吐："]),
    ),
    "a status that was not offered is 不标注, which never is": (
        *("CHIP-MDCFNPC", "\n热：有", [FOUND]),
        *([("热", "不标注")], [], [], ["热：有"]),
    ),
    "a finding has one colon, not two and not an ASCII one": (
        *("IMCS-V2-SR", f"{SR_LEAD}\n鼻塞\n咳：轻：{HAS}\n热:{HAS}\n 吐 ：{HAS}", None),
        *([("吐", HAS)], ["鼻塞", f"咳：轻：{HAS}", f"热:{HAS}"]),
        *([("吐", HAS)], ["鼻塞", f"咳：轻：{HAS}", f"热:{HAS}"]),
    ),
    "a finding may be empty": (
        *("IMCS-V2-SR", f"{SR_LEAD}\n：{HAS}", None),
        *([("", HAS)], [], [], [f"：{HAS}"]),
    ),
    "the first line is no finding": (
        *("IMCS-V2-SR", f"热：{HAS}\n咳：{HAS_NOT}", None),
        *([("咳", HAS_NOT)], [f"热：{HAS}"], [("咳", HAS_NOT)], [f"热：{HAS}"]),
    ),
    "blank lines above do not count as the first of a report": (
        *("IMCS-V2-MRG", "\n\n主诉：咳。\n诊断：感冒。", None),
        *([("诊断", "感冒。")], ["主诉：咳。"], [("诊断", "感冒。")], ["主诉：咳。"]),
    ),
    "the first line is no section": (
        *("IMCS-V2-MRG", "主诉：咳。\n诊断：感冒。\n医嘱：休息。", None),
        *([("诊断", "感冒。")], ["主诉：咳。", "医嘱：休息。"]),
        *([("诊断", "感冒。")], ["主诉：咳。", "医嘱：休息。"]),
    ),
    "of a section that comes twice the last counts": (
        *("IMCS-V2-MRG", "报告\n主诉：咳。\n主诉：热。", None),
        *([("主诉", "热。")], ["报告", "咳。"]),
        *([], ["报告", "咳。", "热。"]),
    ),
    "what follows the last of its titles is a section": (
        *("IMCS-V2-MRG", "报告\n诊断：初步诊断：感冒。", None),
        *([("诊断", "感冒。")], ["报告", "初步"]),
        *([], ["报告", "初步", "感冒。"]),
    ),
    "a section needs its title first and its own colon": (
        *("IMCS-V2-MRG", "报告\n 主诉：咳。\n诊断:感冒。", None),
        *([], ["报告", "主诉：咳。", "诊断:感冒。"], [], ["报告", "主诉：咳。", "诊断:感冒。"]),
    ),
    "names are read strictly in news": (
        *("NER", "人名：无，柳青禾\n地名昆明\n物名：桌", None),
        *([("人名", "柳青禾")], ["地名昆明", "物名：桌"]),
        *([("人名", "柳青禾")], ["地名昆明", "物名：桌"]),
    ),
}
Rows = list[tuple[str, ...]]


@pytest.mark.parametrize(
    ("name", "answer", "choices", "items", "unparsed", "strict_items", "strictly_unparsed"),
    ODD.values(),
    ids=ODD,
)
def test_a_malformed_answer_is_read_as_officially_or_strictly(
    name: str,
    answer: str,
    choices: list[str] | None,
    items: Rows,
    unparsed: list[str],
    strict_items: Rows,
    strictly_unparsed: list[str],
) -> None:
    official = TASKS[name].parse(answer, choices)
    assert (list(official.items), list(official.unparsed)) == (items, unparsed)
    strict = TASKS[name].parse(answer, choices, strict=True)
    assert (list(strict.items), list(strict.unparsed)) == (strict_items, strictly_unparsed)


# Any answer -----------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [
        *("：", "，", "；", "。", ":", " ", "\n", "\n", "实体", "疾病", "预防", HAS, "相同", "无"),
        *("主体词：", "发生状态：", "描述词：", "主诉：", "诊断：", "人名：", "头实体为"),
        *("，尾实体为", "具有", "关系的头尾实体对如下："),
    ]
)
TEXTS = st.text() | st.lists(FRAGMENTS | st.text(max_size=3), max_size=20).map("".join)
CHOICES = st.none() | st.lists(
    st.text(max_size=4) | FRAGMENTS | st.sampled_from(["", "(.*", "[a", "\\", "{0}"]), max_size=4
)
any_answer = settings(max_examples=50, deadline=None)


@ALL_TASKS
@any_answer
@given(text=TEXTS, choices=CHOICES, strict=st.booleans())
def test_any_text_is_an_answer(
    task: Task, text: str, choices: list[str] | None, strict: bool
) -> None:
    parsed = task.parse(text, choices, strict=strict)
    for language in ("zh", "en"):
        columns, rows = parsed.table(language)
        assert all(len(row) == len(columns) for row in rows)
    assert len(set(parsed.items)) == len(parsed.items)
    assert all(part and part == part.strip() for part in parsed.unparsed)
    assert exact_match(task, text, text, choices)


@ALL_TASKS
@any_answer
@given(text=TEXTS, choices=CHOICES)
def test_a_strict_reader_finds_nothing_that_the_official_one_does_not(
    task: Task, text: str, choices: list[str] | None
) -> None:
    strict = task.parse(text, choices, strict=True)
    assert set(strict.items) <= set(task.parse(text, choices).items)


def test_the_order_of_items_does_not_matter_their_type_does() -> None:
    task, choices = TASKS["CMeEE-V2"], ["疾病", "药物"]
    target = "疾病实体：甲，乙\n药物实体：丙"
    assert exact_match(task, "药物实体：丙\n疾病实体：乙，甲", target, choices)
    assert not exact_match(task, "疾病实体：甲，乙，丙", target, choices)
    assert not exact_match(task, "", target, choices)


def test_a_label_is_right_or_wrong() -> None:
    assert exact_match(TASKS["SentimentAnalyze"], " 积极\n", "积极")
    assert not exact_match(TASKS["SentimentAnalyze"], "消极", "积极")
