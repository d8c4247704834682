"""The page as Gradio serves it, but for values that it never sends: nobody has to bear with those.

A browser sends what the components hold. Anybody else may send anything to the same handlers, which
need not know.
"""

from __future__ import annotations

import logging
import math
import os
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.components import Component
from gradio.state_holder import SessionState

from ui.server.log import note

# After each event, Gradio would sum up the thousand before it, for a monitor that nobody opens.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))

_DEEPEST = 20
_LARGEST = 2**53  # beyond, numbers of JavaScript are no longer whole

_KINDS: tuple[tuple[type[Component], tuple[type, ...]], ...] = (
    (gr.Checkbox, (bool,)),
    (gr.CheckboxGroup, (list,)),
    (gr.Dataset, (int,)),
    (gr.Dropdown, (str, list)),
    (gr.Number, (int, float)),
    (gr.Radio, (str,)),
    (gr.Slider, (int, float)),
    (gr.Textbox, (str,)),
)
"""What a component holds unless it is empty; as to the others, handlers look for themselves."""

_NEVER_EMPTY = (gr.Dataset, gr.Slider)

_log = logging.getLogger(__name__)


class Page(gr.Blocks):
    """Blocks whose handlers get what their components can hold, and nothing else."""

    async def process_api(
        self, block_fn: BlockFunction | int, *args: Any, **others: Any
    ) -> dict[str, Any]:
        """As Gradio does it.

        Raises:
            gr.Error: What came with the event is nothing that a page sends, or the event is one
                that a page handles alone.
        """
        called = self.fns.get(block_fn) if isinstance(block_fn, int) else block_fn
        if called is not None and called.fn is None:
            raise _refusal("an event without a handler here")
        event = others.get("event_data")
        if event is not None and not (is_plain(event._data) and _has_no_file(event._data)):
            raise _refusal("an event with values that no page sends")
        told: dict[str, Any] = await super().process_api(block_fn, *args, **others)
        return told

    async def preprocess_data(
        self,
        block_fn: BlockFunction,
        inputs: list[Any],
        state: SessionState | None,
        explicit_call: bool = False,
    ) -> list[Any]:
        """As Gradio does it.

        Raises:
            gr.Error: A value is nothing that the page sends.
        """
        if len(inputs) < len(block_fn.inputs):
            raise _refusal("too few values")
        for component, value in zip(block_fn.inputs, inputs, strict=False):
            if not (is_plain(value) and _fits(component, value)):
                raise _refusal(f"not what a {type(component).__name__} holds")
        try:
            values: list[Any] = await super().preprocess_data(
                block_fn, inputs, state, explicit_call
            )
        except Exception as error:  # a choice that there is not, a file of somebody else, ...
            raise _refusal(type(error).__name__) from error
        return values


def is_plain(value: Any, deepest: int = _DEEPEST) -> bool:
    """Whether a JSON value can be worked with: finite numbers, whole characters, not too deep."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, int | float):
        return math.isfinite(value) and abs(value) <= _LARGEST
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return deepest > 0 and all(is_plain(one, deepest - 1) for one in value)
    return True


def _has_no_file(value: Any) -> bool:
    """Whether Gradio takes nothing in a JSON value for a file: no event of a page has one."""
    if isinstance(value, dict):
        return "path" not in value and all(map(_has_no_file, value.values()))
    return not isinstance(value, list) or all(map(_has_no_file, value))


def _fits(component: Any, value: Any) -> bool:
    if value is None:
        return not isinstance(component, _NEVER_EMPTY)
    known = next((kinds for kind, kinds in _KINDS if isinstance(component, kind)), None)
    if isinstance(value, list) and known is not None:
        return list in known and all(isinstance(one, str) for one in value)
    return known is None or type(value) in known  # True is no number


def _refusal(reason: str) -> gr.Error:
    note(_log, "refused values", reason=reason)
    return gr.Error("This is nothing that the page sends: load it again.", print_exception=False)
