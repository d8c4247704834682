"""Choices that may be replaced while somebody chooses.

The browser puts an update in piece by piece, so an event in between may bring a value of the
choices before it. Gradio would call that an error; what handles the event knows better.
"""

from abc import ABCMeta
from typing import Any

import gradio as gr
from gradio.components import Component


def _as_it_came(_: Component, payload: Any) -> Any:
    return payload


def _lenient(kind: type[Component]) -> Any:
    # Not by the metaclass of Gradio's components, which writes a stub file beside the source.
    members = {"is_template": True, "preprocess": _as_it_came, "__module__": __name__}
    return ABCMeta.__new__(type(kind), kind.__name__, (kind,), members)


Choice: Any = _lenient(gr.Radio)
Choices: Any = _lenient(gr.CheckboxGroup)
Pick: Any = _lenient(gr.Dropdown)
