"""The frame of the page: header, loading status, tabs, and events of opening and closing."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import gradio as gr

from ui.components import render
from ui.components.html import script
from ui.components.texts import add_text, language_of
from ui.components.widgets import Bilingual

Handler = Callable[..., Any]

Updates = dict[Any, Any]
"""Updates of components."""

SILENT: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": []}
"""Settings of an event that shows no progress.

Without the empty list the browser still records a hidden progress for each output, and at every
step of any event it searches the whole page for each component that it has a record of.
"""

AT_ONCE: dict[str, Any] = {"api_visibility": "private", "queue": False, **SILENT}
"""Settings of a short event, which bypasses the queue."""

LAST: dict[str, Any] = {"trigger_mode": "always_last", **AT_ONCE}
"""The same for a frequent event: of those that arrive meanwhile only the last is processed."""

_POLL_SECONDS = 0.5  # of the loading status

_SWITCH_LANGUAGE = script("switch_language")
_SET_LANGUAGE = script("set_language")
# The address holds what is shown, so that it can be shared.
_REMEMBER = """(...values) => {
  const address = new URL(location);
  %s.forEach((name, place) => {
    const value = values[place];
    if (value === null || value === undefined || value === "" || value.length === 0) {
      address.searchParams.delete(name);
    } else address.searchParams.set(name, value);
  });
  history.replaceState(null, "", address);
}"""
# Gradio selects the first tab before the one that the address names.
_REMEMBER_TAB = """() => {
  if (document.documentElement.dataset.opened) (%s)("%s");
}"""


@dataclass(frozen=True)
class _Step:
    """A handler that runs when the page opens, or when a tab is shown."""

    handler: Handler | None
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    js: str | None = None


class Shell:
    """The frame, made in a page that is open for building.

    Attributes:
        bilingual: Makes components whose texts follow the visitor's language, for all tabs.
        status: Loading status.
        problems: What could not be loaded.
        clock: Ticks while something loads.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self.bilingual = Bilingual()
        self._page = page
        self._tab: dict[str, gr.Tab] = {}
        self._on_open: list[_Step] = []
        self._on_show: dict[str, list[_Step]] = {}
        self._on_close: list[Callable[[str], None]] = []
        add = self.bilingual
        with gr.Row(elem_id="top"):
            add(gr.HTML, {"value": render.header}, elem_id="head")
            with gr.Column(scale=0, min_width=200, elem_id="corner"):
                self._other_language = add(
                    gr.Button, "other_language", size="sm", elem_id="language"
                )
                self.status = gr.HTML(elem_id="status")
        self.problems = gr.HTML(elem_id="problems")
        self.clock = gr.Timer(_POLL_SECONDS)
        self._tabs = gr.Tabs(elem_id="tabs")

    def tab(self, name: str, title: tuple[str, str] | None = None) -> gr.Tab:
        """A new tab, to be filled: `with shell.tab("try"): ...`.

        Its name stands in the address (`?tab=`); the title is Chinese and English, by default the
        name.
        """
        key = f"tab {name}"
        add_text(key, *(title or (name, name)))
        with self._tabs:
            tab: gr.Tab = self.bilingual(gr.Tab, key, id=name, elem_id=f"tab-{name}")
        self._tab[name] = tab
        tab.select(None, None, None, js=_REMEMBER_TAB % (_remember(["tab"]), name), **AT_ONCE)
        return tab

    def on_open(
        self,
        handler: Handler | None,
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        js: str | None = None,
    ) -> None:
        """Run a handler when the page opens, after those registered before.

        They run in sequence, since concurrent events would each see another state of the page.
        The handler gets the address in `request.query_params`.
        """
        self._on_open.append(_Step(handler, inputs, outputs, js))

    def on_show(
        self, name: str, handler: Handler, inputs: Sequence[Any] = (), outputs: Sequence[Any] = ()
    ) -> None:
        """Run a handler whenever a tab is shown: by a click, or because the address names it.

        The handler takes a `request: gr.Request`, then the values of the inputs; it returns
        updates by component.
        """
        self._on_show.setdefault(name, []).append(_Step(handler, inputs, outputs))

    def on_close(self, handler: Callable[[str], None]) -> None:
        """Run a handler when a page is closed; it gets the session, see `session_of`."""
        self._on_close.append(handler)

    def wire(self) -> None:
        """Register the events of the page, once all tabs are made."""
        event = self._page.load(
            self._open, None, [self._tabs, *self.bilingual.components], **AT_ONCE
        ).then(None, self._other_language, None, js=_SET_LANGUAGE, **AT_ONCE)
        for step in self._on_open:
            event = event.then(step.handler, [*step.inputs], [*step.outputs], js=step.js, **AT_ONCE)
        for name, steps in self._on_show.items():
            self._tab[name].select(self._showing(name), *_parts(steps), **AT_ONCE)
        # One call for all tabs, so that the requested one is shown soon.
        every = [step for steps in self._on_show.values() for step in steps]
        event.then(self._show, None, _parts(every)[1], **AT_ONCE)
        self._page.unload(self._forget)
        self._other_language.click(None, self._other_language, None, js=_SWITCH_LANGUAGE, **AT_ONCE)

    def _show(self, request: gr.Request) -> Any:
        """Updates of the tab that the address names, whose components are as they were built.

        Their values are no inputs: the browser slows down with each input of any event.
        """
        name = self._selected(request)
        inputs, _ = _parts(self._on_show.get(name, []))
        return self._showing(name)(request, *(part.value for part in inputs))

    def _showing(self, name: str) -> Handler:
        """All steps of a tab as a single handler: an event each would take a round trip each."""

        def show(request: gr.Request, *values: Any) -> Any:
            rest, updates = iter(values), {}
            for step in self._on_show.get(name, []):
                inputs = islice(rest, len(step.inputs))
                if step.handler is not None:
                    updates.update(step.handler(request, *inputs))
            return updates or gr.skip()

        return show

    def _forget(self, request: gr.Request) -> None:
        for handler in self._on_close:
            handler(session_of(request))

    def _selected(self, request: gr.Request) -> str:
        """The tab that the address names, or the first one."""
        name = str(request.query_params.get("tab", ""))
        return name if name in self._tab else next(iter(self._tab))

    def _open(self, request: gr.Request) -> dict[Any, Any]:
        updates: dict[Any, Any] = self.bilingual.updates(language_of(request))
        return {**updates, self._tabs: gr.Tabs(selected=self._selected(request))}


def remember(event: Any, **components: Any) -> None:
    """After an event, write the values of components into the address, so that it can be shared.

    For components that the visitor changes; values that the event itself returns arrive too late.
    Each component's keyword is its name in the address; empty values are left out.
    """
    event.then(None, [*components.values()], None, js=_remember([*components]), **AT_ONCE)


def _parts(steps: Sequence[_Step]) -> tuple[list[Any], list[Any]]:
    """Inputs of all steps, one after another, and outputs of all."""
    outputs = dict.fromkeys(part for step in steps for part in step.outputs)
    return [part for step in steps for part in step.inputs], [*outputs]


def _remember(names: Sequence[str]) -> str:
    return _REMEMBER % json.dumps(names)


def session_of(request: gr.Request) -> str:
    """The unique id of the page that sent a request."""
    return request.session_hash or ""
