r"""The other 15 of the 23 Firefly kinds: those that our data pack does not cover.

One record, as the files hold it (the sentence is ours):

    {"kind": "Dictionary",
     "input": "请解释下面这个词语的意思：\\n晨练",
     "target": "早晨锻炼身体。"}

Kinds and schema are those of the Firefly corpus (github.com/yangjianxin1/Firefly). The wording of
the prompts is ours, since the corpus words each of them in many ways. Where the corpus is used, its
licence is for its user to look up: `LicenseRef-Firefly` says no more than that.
"""

from functools import partial

from evals.tasks import parsing
from evals.tasks.task import Field, Task

_corpus = partial(Task, dataset="firefly", cluster="general", licence="LicenseRef-Firefly")
_writing = partial(_corpus, kind="generation", reader=parsing.free_text)

_inference = partial(parsing.label, synonyms={"蕴涵": "蕴含"})  # the word is spelt both ways

_QUESTION = Field("question", "问题", "Question", multiline=True)
_TRANSLATIONS = ("把下面的英文翻译成中文：", "把下面的中文翻译成英文：")

TASKS = (
    _writing(
        name="ProseGeneration",
        title_zh="散文写作",
        title_en="Prose",
        description_zh="以给定的题目写一篇散文。",
        description_en="Write a piece of literary prose on a subject.",
        max_new_tokens=384,
        fields=(Field("title", "题目", "Subject"),),
        template="请以下面的题目写一篇散文：\n{title}",
    ),
    _writing(
        name="MRC",
        title_zh="阅读理解",
        title_en="Reading comprehension",
        description_zh="读一段文章，回答有关它的问题。",
        description_en="Read a passage and answer a question about it.",
        max_new_tokens=64,
        fields=(Field("passage", "文章", "Passage", multiline=True), _QUESTION),
        template="请阅读文章，然后回答问题。\n文章：{passage}\n问题：{question}",
    ),
    _writing(
        name="JinYongGeneration",
        title_zh="武侠小说续写",
        title_en="In the manner of Jin Yong",
        description_zh="用金庸小说的笔法续写一段文字。",
        description_en="Continue a passage in the manner of Jin Yong's novels.",
        max_new_tokens=384,
        fields=(Field("text", "开头", "Opening", multiline=True),),
        template="请用金庸武侠小说的笔法续写：\n{text}",
    ),
    _writing(
        name="TextCorrection",
        title_zh="文本纠错",
        title_en="Text correction",
        description_zh="改正句子里的错别字和语病。",
        description_en="Correct the slips in a sentence.",
        max_new_tokens=96,
        fields=(Field("text", "原句", "Sentence", multiline=True),),
        template="请改正下面句子里的错误，写出改好的句子：\n{text}",
    ),
    _writing(
        name="StoryGeneration",
        title_zh="故事创作",
        title_en="Stories",
        description_zh="从给定的开头或题目出发写一个故事。",
        description_en="Write a story from an opening or a subject.",
        max_new_tokens=384,
        fields=(Field("text", "开头或题目", "Opening or subject", multiline=True),),
        template="请根据下面的内容写一个故事：\n{text}",
    ),
    _writing(
        name="Cot",
        title_zh="逐步推理",
        title_en="Step-by-step reasoning",
        description_zh="先写出推理过程，再给出答案。",
        description_en="Reason in steps, then give the answer.",
        max_new_tokens=256,
        fields=(_QUESTION,),
        template="请先一步步地推理，再回答下面的问题：\n{question}",
    ),
    _writing(
        name="Dictionary",
        title_zh="词语释义",
        title_en="Dictionary",
        description_zh="解释一个词语或成语的意思。",
        description_en="Explain a word or an idiom.",
        max_new_tokens=128,
        fields=(Field("word", "词语", "Word"),),
        template="请解释下面这个词语的意思：\n{word}",
    ),
    _writing(
        name="Translation",
        title_zh="中英互译",
        title_en="Translation",
        description_zh="英文译成中文，或中文译成英文。",
        description_en="Translate English into Chinese, or back.",
        max_new_tokens=128,
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
    ),
    _writing(
        name="Program",
        title_zh="编写程序",
        title_en="Programs",
        description_zh="按要求写一段程序。",
        description_en="Write a program that does what is asked.",
        max_new_tokens=384,
        fields=(Field("text", "要求", "What it should do", multiline=True),),
        template="请按下面的要求写一段程序：\n{text}",
    ),
    _writing(
        name="OpenQA",
        title_zh="开放问答",
        title_en="Open questions",
        description_zh="凭已有的知识回答问题。",
        description_en="Answer a question from general knowledge.",
        max_new_tokens=256,
        fields=(_QUESTION,),
        template="请回答下面的问题：\n{question}",
    ),
    _corpus(
        name="NLI",
        title_zh="自然语言推理",
        title_en="Inference",
        description_zh="判断前提与假设之间是蕴含、矛盾还是中立。",
        description_en="Decide whether a premise entails a hypothesis, contradicts it, or neither.",
        kind="classification",
        max_new_tokens=8,
        fields=(
            Field("premise", "前提", "Premise", multiline=True),
            Field("hypothesis", "假设", "Hypothesis", multiline=True),
        ),
        template=(
            "判断下面的前提和假设是什么关系，回答“蕴含”“矛盾”或“中立”：\n"
            "前提：{premise}\n假设：{hypothesis}"
        ),
        reader=_inference(),
        strict_reader=_inference(strict=True),
        labels=("蕴含", "矛盾", "中立"),
    ),
    _writing(
        name="ProductDesc",
        title_zh="商品文案",
        title_en="Product descriptions",
        description_zh="根据商品的特点写一段文案。",
        description_en="Advertise a product from its features.",
        max_new_tokens=160,
        fields=(Field("features", "商品特点", "Features", multiline=True),),
        template="请根据下面的商品特点写一段文案：\n{features}",
    ),
    _writing(
        name="LyricGeneration",
        title_zh="歌词创作",
        title_en="Lyrics",
        description_zh="以给定的主题写一段歌词。",
        description_en="Write lyrics on a subject.",
        max_new_tokens=256,
        fields=(Field("topic", "主题", "Subject"),),
        template="请以下面的主题写一段歌词：\n{topic}",
    ),
    _writing(
        name="Composition",
        title_zh="作文",
        title_en="School essays",
        description_zh="以给定的题目写一篇作文。",
        description_en="Write a school essay on a subject.",
        max_new_tokens=512,
        fields=(Field("title", "题目", "Subject", multiline=True),),
        template="请以下面的题目写一篇作文：\n{title}",
    ),
    _writing(
        name="MusicComment",
        title_zh="歌曲评论",
        title_en="Music comments",
        description_zh="为一首歌写一条听众评论。",
        description_en="Write a listener's comment on a song.",
        max_new_tokens=96,
        fields=(Field("song", "歌名", "Song"), Field("singer", "歌手", "Singer")),
        template="请为{singer}的歌曲《{song}》写一条评论。",
    ),
)
