"""Components whose words follow the visitor's language."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from evals.tasks import Language
from ui.components.texts import Word, marker, text

Words = str | Callable[[Word], str]


class Bilingual:
    """Makes components and records which of their properties are translated.

    On first paint the browser inserts the words of its own language; `updates` switches to another.
    """

    def __init__(self) -> None:
        self.components: list[Any] = []
        self._words: list[dict[str, Words]] = []

    def __call__(self, kind: Callable[..., Any], words: dict[str, Words], **properties: Any) -> Any:
        """Make a component.

        Args:
            kind: Its class.
            words: Properties that are words: a key of `TEXTS`, or a function that builds on keys.
            properties: The others.
        """
        component = kind(**_spoken(words, marker), **properties)
        self.components.append(component)
        self._words.append(words)
        return component

    def updates(self, language: Language) -> dict[Any, Any]:
        """An update for each component, with its words in a language."""
        word = partial(text, language=language)
        return {
            component: gr.update(**_spoken(words, word))
            for component, words in zip(self.components, self._words, strict=True)
        }


def _spoken(words: dict[str, Words], word: Word) -> dict[str, Any]:
    return {name: word(key) if isinstance(key, str) else key(word) for name, key in words.items()}
