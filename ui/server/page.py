"""Gradio's page, which refuses values that its own components never send.

A browser sends what the components hold; other clients may send anything. So handlers need not
validate types.
"""

import logging
import math
import os
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.components import Component
from gradio.state_holder import SessionState

from ui.server.log import note

# After each event Gradio would aggregate the last thousand for its monitor, which is not used.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))

_MAX_DEPTH = 20
_LARGEST = 2**53  # JavaScript has no exact integers beyond

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
"""Types of a component's value unless it is empty; handlers check those of other components."""

_NEVER_EMPTY = (gr.Dataset, gr.Slider)

_log = logging.getLogger(__name__)


class Page(gr.Blocks):
    """Blocks whose handlers get only values that their components can hold."""

    async def process_api(
        self, block_fn: BlockFunction | int, *args: Any, **others: Any
    ) -> dict[str, Any]:
        """Process an event as Gradio does.

        Raises:
            gr.Error: The event's data is invalid, or the event has no handler on the server.
        """
        called = self.fns.get(block_fn) if isinstance(block_fn, int) else block_fn
        if called is not None and called.fn is None:
            raise _refusal("an event without a handler on the server")
        event = others.get("event_data")
        # The event of an upload comes with its file, which no handler of ours takes from there.
        takes_it = called is None or called.collects_event_data
        if event is not None and not (
            is_plain(event._data) and (_has_no_file(event._data) or not takes_it)
        ):
            raise _refusal("invalid event data")
        result: dict[str, Any] = await super().process_api(block_fn, *args, **others)
        return result

    async def preprocess_data(
        self,
        block_fn: BlockFunction,
        inputs: list[Any],
        state: SessionState | None,
        explicit_call: bool = False,
    ) -> list[Any]:
        """Preprocess values as Gradio does.

        Raises:
            gr.Error: A value is invalid for its component.
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
        except Exception as error:  # an unknown choice, another session's file, ...
            raise _refusal(type(error).__name__) from error
        return values


def is_plain(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """Whether a JSON value has finite numbers, no lone surrogates, and limited depth."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, int | float):
        return math.isfinite(value) and abs(value) <= _LARGEST
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_plain(one, depth - 1) for one in value)
    return True


def _has_no_file(value: Any) -> bool:
    """Whether a JSON value holds nothing that Gradio takes for a file."""
    if isinstance(value, dict):
        return "path" not in value and all(map(_has_no_file, value.values()))
    return not isinstance(value, list) or all(map(_has_no_file, value))


def _fits(component: Any, value: Any) -> bool:
    if value is None:
        return not isinstance(component, _NEVER_EMPTY)
    types = next((kinds for kind, kinds in _KINDS if isinstance(component, kind)), None)
    if isinstance(value, list) and types is not None:
        return list in types and all(isinstance(one, str) for one in value)
    return types is None or type(value) in types  # True is not a number


def _refusal(reason: str) -> gr.Error:
    note(_log, "refused values", reason=reason)
    return gr.Error("This is nothing that the page sends: load it again.", print_exception=False)
