r"""Eight of the 23 Firefly kinds: those that our data pack covers.

One record, as the files hold it (the sentence is ours):

    {"kind": "SentimentAnalyze",
     "input": "判断下面这句评论的情感倾向是积极还是消极：\n灯光柔和，看书不累眼睛",
     "target": "积极"}

A record names no choices: a kind has one fixed answer format. Its prompts are worded in several
ways; `template` is one that the data uses often. Answer formats and licences are those of our pack,
which has only kinds and schema in common with the Firefly corpus. `firefly_corpus` has the other
kinds.
"""

from functools import partial

from evals.tasks import parsing
from evals.tasks.task import Field, Task

_general = partial(Task, dataset="firefly", cluster="general")

_ABSTRACT = Field("text", "论文摘要", "Abstract", multiline=True)
_TRANSLATIONS = ("把下面的文言文翻译成现代文：", "把这句话翻译成文言文：")

TASKS = (
    _general(
        name="ClassicalChinese",
        title_zh="文言文与现代文互译",
        title_en="Classical Chinese",
        description_zh="文言文译成现代文，或现代文译成文言文。",
        description_en="Translate classical into modern Chinese, or back.",
        kind="generation",
        max_new_tokens=96,
        fields=(
            Field("text", "原文", "Text", multiline=True),
            Field(
                "instruction",
                "方向",
                "Direction",
                default=_TRANSLATIONS[0],
                options=_TRANSLATIONS,
            ),
        ),
        template="{instruction}\n{text}",
        reader=parsing.free_text,
        licence="MIT",
    ),
    _general(
        name="Couplet",
        title_zh="对对联",
        title_en="Couplets",
        description_zh="根据上联对出字数相同、词性相对的下联。",
        description_en="Answer the first line of a couplet with a second that mirrors it.",
        kind="generation",
        max_new_tokens=32,
        fields=(Field("text", "上联", "First line"),),
        template="请根据上联对出下联：\n{text}",
        reader=parsing.free_text,
        licence="MIT",
    ),
    _general(
        name="AncientPoem",
        title_zh="古诗词续写",
        title_en="Classical poems",
        description_zh="由首句续写一首古诗或词。",
        description_en="Continue a classical poem from its opening.",
        kind="generation",
        max_new_tokens=96,
        fields=(
            Field("text", "首句", "Opening"),
            Field("title", "标题", "Title"),
            Field("author", "作者", "Author", default="无名氏"),
        ),
        template="{text}\n这是{author}的《{title}》的首句，请写出后面的句子。",
        reader=parsing.free_text,
        licence="MIT",
    ),
    _general(
        name="Summary",
        title_zh="拟标题",
        title_en="Title from abstract",
        description_zh="为一段论文摘要拟一个标题。",
        description_en="Condense an abstract into a title.",
        kind="generation",
        max_new_tokens=40,
        fields=(_ABSTRACT,),
        template="请为下面的论文摘要拟一个标题：\n{text}",
        reader=parsing.free_text,
        licence="Apache-2.0",
    ),
    _general(
        name="KeywordRecognition",
        title_zh="关键词提取",
        title_en="Keywords",
        description_zh="列出一段论文摘要的关键词。",
        description_en="List the keywords of an abstract.",
        kind="extraction",
        max_new_tokens=48,
        fields=(_ABSTRACT,),
        template="为下面的文本生成关键词：\n{text}",
        reader=parsing.terms,
        licence="Apache-2.0",
    ),
    _general(
        name="SentimentAnalyze",
        title_zh="情感分析",
        title_en="Sentiment",
        description_zh="判断一句评论是积极还是消极。",
        description_en="Decide whether a review is positive or negative.",
        kind="classification",
        max_new_tokens=8,
        fields=(Field("text", "评论", "Review", multiline=True),),
        template="判断下面这句评论的情感倾向是积极还是消极：\n{text}",
        reader=parsing.label(),
        strict_reader=parsing.label(strict=True),
        labels=("积极", "消极"),
        licence="MIT",
    ),
    _general(
        name="NER",
        title_zh="新闻实体识别",
        title_en="Named entities",
        description_zh="从新闻语句中找出人名、地名和机构名。",
        description_en="Find persons, places and organisations in a line of news.",
        kind="extraction",
        max_new_tokens=64,
        fields=(Field("text", "新闻语句", "Line of news", multiline=True),),
        template="从下面的新闻语句中抽取人名、地名、机构名：\n{text}",
        reader=parsing.entities(nothing="无", strict=True),
        labels=("人名", "地名", "机构名"),
        licence="MIT",
        version="2",
    ),
    _general(
        name="TextMatching",
        title_zh="文本匹配",
        title_en="Text matching",
        description_zh="判断两个问题的意思是否相似。",
        description_en="Decide whether two questions are alike.",
        kind="classification",
        max_new_tokens=8,
        fields=(
            Field("first", "问题一", "First question"),
            Field("second", "问题二", "Second question"),
        ),
        template=(
            "判断下面两个问题的意思是否相似，回答“相似”或“不相似”：\n"
            "问题1：{first}\n问题2：{second}"
        ),
        reader=parsing.label(),
        strict_reader=parsing.label(strict=True),
        labels=("相似", "不相似"),
        licence="CC-BY-NC-4.0",
    ),
)
