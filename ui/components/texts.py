"""Every sentence of the app, in Chinese and English, and which of the two a visitor reads."""

import re
from collections.abc import Callable

import gradio as gr

from evals.tasks import Language
from ui.i18n import (
    about,
    benchmark,
    compare,
    export,
    gates,
    jobs,
    leaderboard,
    shell,
    train,
    try_it,
)

Word = Callable[[str], str]
"""A key of `TEXTS` in, words out: either a language's, or a marker that the browser translates."""

TEXTS: dict[str, tuple[str, str]] = {
    key: words
    for part in (shell, try_it, gates, leaderboard, jobs, benchmark, compare, train, export, about)
    for key, words in part.WORDS.items()
}
"""In Chinese and in English, by key."""

STAGES = {
    "downloading": "下载模型",
    "loading": "读入模型",
    "waiting for another process": "另一个进程正在转换同一个模型，等它完成",
    "joining the parts": "拼合模型文件",
    "converting the tokenizer": "转换分词器（只需一次，约半分钟）",
    "converting the weights": "转换权重（只需一次，约一分钟）",
    "saving": "保存转换好的模型",
    "packing the weights": "压缩权重，供快速解码",
}
"""How the loader's English sentence about a stage begins, and what it means in Chinese."""

LANGUAGES: tuple[Language, ...] = ("zh", "en")
I18N = gr.I18n(
    **{
        language: {key: words[place] for key, words in TEXTS.items()}
        for place, language in enumerate(LANGUAGES)
    }
)


def add_text(key: str, zh: str, en: str) -> None:
    """Add a text before the page is launched."""
    TEXTS[key] = (zh, en)
    I18N.translations["zh"][key], I18N.translations["en"][key] = zh, en


def text(key: str, language: Language, **values: object) -> str:
    """The words of a key, with `values` filled in."""
    return TEXTS[key][LANGUAGES.index(language)].format(**values)


def marker(key: str) -> str:
    """A stand-in that the browser replaces by the words of a key, in its own language."""
    return str(I18N(key))


def language_of(request: gr.Request | None) -> Language:
    """What a visitor reads: `?lang=`, else the first that the browser asks for, else Chinese."""
    if request is None:
        return "zh"
    preferred = [
        str(request.query_params.get("lang", "")),
        *re.findall(r"(?:^|,)\s*([A-Za-z]+)", request.headers.get("accept-language", "")),
    ]
    supported = [
        language for word in preferred for language in LANGUAGES if word.lower() == language
    ]
    return supported[0] if supported else "zh"
