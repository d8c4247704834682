"""Choices that may be replaced while a visitor chooses.

The browser applies an update piece by piece, so an event may carry a value of the previous choices.
Gradio would raise an error; these components leave it to the event's handler.
"""

from abc import ABCMeta
from typing import Any

import gradio as gr
from gradio.components import Component


def _as_it_came(_: Component, payload: Any) -> Any:
    return payload


def _lenient(kind: type[Component]) -> Any:
    # Without the metaclass of Gradio's components, which writes a stub file beside the source.
    members = {"is_template": True, "preprocess": _as_it_came, "__module__": __name__}
    return ABCMeta.__new__(type(kind), kind.__name__, (kind,), members)


Choice: Any = _lenient(gr.Radio)
Choices: Any = _lenient(gr.CheckboxGroup)
Pick: Any = _lenient(gr.Dropdown)
