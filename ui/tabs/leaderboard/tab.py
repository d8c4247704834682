"""The tab where methods are ranked: tables, pictures, and the samples behind every number."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from evals.figures.captions import title
from evals.leaderboard.board import Board
from evals.leaderboard.exports import board_as_json, board_csv
from evals.leaderboard.run_sources import Library
from evals.runs.run_dir import RunError
from evals.scoring.effect_sizes import OVERALL
from evals.tasks import Language
from ui.components.render import notice
from ui.components.texts import language_of, text
from ui.shell import AT_ONCE, LAST, Shell, remember
from ui.tabs.leaderboard import captions, samples
from ui.tabs.leaderboard.charts import numbers, picture
from ui.tabs.leaderboard.drilldown import Behind, behind, beside, pick
from ui.tabs.leaderboard.layout import LeaderboardLayout
from ui.tabs.leaderboard.query import Asked, Picked, Sight, address, look, turned
from ui.tabs.leaderboard.scripts import GO_BACK, GO_TO_SAMPLES, GO_TO_TOP, LISTEN, SAVE
from ui.tabs.leaderboard.table import board_table, budgets, text_table

Updates = dict[Any, Any]


class Leaderboard(LeaderboardLayout):
    """The tab's components and what they do.

    Args:
        shell: What stands around it; its tab is open for building.
        shipped: Folder of the run folders that came with the project.
        local: Folder of those that were made on this machine; it need not exist.
    """

    def __init__(self, shell: Shell, shipped: Path, local: Path) -> None:
        super().__init__(shell.bilingual)
        self.library = Library(shipped, local)
        self._wire(shell)

    def _wire(self, shell: Shell) -> None:
        self._asked = [
            *(self.board, self.view, self.find, self.families, self.budget, self.tasks),
            *(self.local, self.sort, self.reference, self.cost),
        ]
        self._picked = [
            *(self.entry, self.cell, self.against, self.seed, self.only, self.leaf),
        ]
        self._shown_parts = [
            *(self.verdict, self.body, self.about, self.settings, self.reference, self.cost),
            *(self.plot, self.table, self.apart),
        ]
        self._choice_parts = [self.board, self.tasks, self.budget]
        self._sample_parts = [
            *(self.panel, self.heading, self.choice, *self._picked, self.samples, self.pages),
            *(self.earlier, self.place, self.later, self.provenance),
        ]
        everything = [
            *(self.view, self.find, self.families, self.local, self.sort, self.filters),
            *(*self._shown_parts, *self._choice_parts, *self._sample_parts),
        ]
        shell.on_show("leaderboard", self._open, [*self._asked, self.entry, self.cell], everything)
        self._wire_board(everything)
        self._wire_samples()

    def _wire_board(self, everything: Sequence[Any]) -> None:
        inputs = [*self._asked, self.entry, self.cell]
        filters = [self.view, self.families, self.budget, self.tasks, self.reference, self.cost]
        # Not `input`, which an input method's or pasted characters do not trigger.
        typed = self.find.change
        for changed in (
            gr.on(
                [self.board.input, self.local.input], self._change_board, inputs, everything, **LAST
            ),
            gr.on(
                [typed, *(one.input for one in filters)],
                self._change,
                inputs,
                self._shown_parts,
                **LAST,
            ),
            self.clear.click(self._clear, inputs, everything, **LAST),
        ):
            self._remember(changed)
        self.plot.change(None, None, None, js=LISTEN, **AT_ONCE)
        for button, handler in ((self.csv, self._as_csv), (self.json, self._as_json)):
            button.click(handler, self._asked, self.file, **AT_ONCE).then(
                None, self.file, None, js=SAVE, **AT_ONCE
            )

    def _wire_samples(self) -> None:
        inputs = [*self._asked, *self._picked]
        outputs = [self.sort, self.table, *self._sample_parts]
        picked = self.table.select(self._pick, inputs, outputs, **LAST)
        self._remember(picked)
        picked.then(None, None, None, js=GO_TO_SAMPLES, **AT_ONCE)
        choices = [self.cell, self.against, self.seed, self.only]
        chosen = gr.on([one.input for one in choices], self._choose, inputs, outputs, **LAST)
        self._remember(chosen)
        for button, step in ((self.earlier, -1), (self.later, 1)):
            turned_over = button.click(self._turn(step), inputs, outputs, **LAST)
            self._remember(turned_over)
            turned_over.then(None, None, None, js=GO_TO_TOP, **AT_ONCE)
        self.close.click(None, None, None, js=GO_BACK, **AT_ONCE)
        self._remember(self.close.click(self._close, inputs, outputs, **LAST))

    def _remember(self, event: Any) -> None:
        fields = [*dataclasses.fields(Asked), *dataclasses.fields(Picked)]
        names = [address(field.name) for field in fields]
        remember(event, **dict(zip(names, [*self._asked, *self._picked], strict=True)))

    # The board ------------------------------------------------------------------------------

    def _open(  # Gradio hands over no `*values` before a request
        self,
        board: str | None,
        view: str,
        find: str,
        families: list[str],
        budget: str,
        tasks: list[str],
        local: bool,
        sort: str,
        reference: str,
        cost: str,
        entry: str,
        cell: str,
        request: gr.Request,
    ) -> Updates:
        """What the tab shows as it comes into view: at first what the address says."""
        language = language_of(request)
        if board:
            asked = Asked.of(
                board, view, find, families, budget, tasks, local, sort, reference, cost
            )
            sight = look(self.library, asked)
            return {**self._choices(sight, language), **self._show(sight, (entry, cell), language)}
        asked = Asked.from_address(request.query_params)
        picked = Picked.from_address(request.query_params)
        sight = look(self.library, asked)
        return {
            **self._controls(sight, language),
            **self._show(sight, (picked.entry, picked.cell), language),
            **self._behind(sight.every_entry, picked, language),
        }

    def _change_board(self, request: gr.Request, *values: Any) -> Updates:
        """Another board, or another set of runs: with choices of its own, and no filter."""
        asked = Asked.of(*values[:-2])
        asked = Asked(asked.board, asked.view, asked.find, local=asked.local, cost=asked.cost)
        return self._anew(asked, language_of(request))

    def _clear(self, request: gr.Request, *values: Any) -> Updates:
        """The whole board, nothing left out."""
        asked = Asked.of(*values[:-2])
        return self._anew(Asked(asked.board, asked.view, cost=asked.cost), language_of(request))

    def _anew(self, asked: Asked, language: Language) -> Updates:
        sight = look(self.library, asked)
        return {
            **self._controls(sight, language),
            **self._show(sight, ("", ""), language),
            **self._behind(None, Picked(), language),
        }

    def _change(self, request: gr.Request, *values: Any) -> Updates:
        """Another view, filter, or name that is searched for."""
        *asked, entry, cell = values
        sight = look(self.library, Asked.of(*asked))
        return self._show(sight, (entry, cell), language_of(request))

    def _controls(self, sight: Sight, language: Language) -> Updates:
        """What was asked for, as the components show it."""
        asked = sight.asked
        return {
            **self._choices(sight, language),
            self.view: gr.update(value=asked.view),
            self.find: gr.update(value=asked.find),
            self.families: gr.update(value=list(asked.families)),
            self.local: gr.update(value=asked.local),
            self.sort: asked.sort,
            self.filters: gr.update(open=bool(asked.filters)),
        }

    def _choices(self, sight: Sight, language: Language) -> Updates:
        """The boards that there are, and what one of them can be filtered by."""
        asked, board = sight.asked, sight.board
        sizes = {} if board is None else budgets(board, language)
        tasks = () if board is None else board.tasks
        return {
            self.board: gr.update(
                choices=captions.board_titles(sight.found, self.library, language),
                value=asked.board or None,
                visible=board is not None,
            ),
            self.tasks: gr.update(
                choices=[(title(task.name, language), task.name) for task in tasks],
                value=list(asked.tasks),
            ),
            self.budget: gr.update(
                choices=[(text("board_any", language), ""), *((w, n) for n, w in sizes.items())],
                value=asked.budget if asked.budget in sizes else "",
            ),
        }

    def _show(self, sight: Sight, picked: tuple[str, str], language: Language) -> Updates:
        """What was found, as the view that is asked for."""
        board, view = sight.board, sight.asked.view
        left_out = captions.left_out(sight.found, self.library, language)
        verdict = captions.verdict(sight, language)
        if board is None or sight.part is None:
            return {
                self.verdict: verdict,
                self.body: gr.update(visible=False),
                self.apart: left_out,
            }
        drawn = picture(sight, language)
        names = [entry.name for entry in sight.part.entries]
        return {
            self.verdict: verdict,
            self.body: gr.update(visible=True),
            self.about: _about(view, language) if drawn else "",
            self.settings: gr.update(visible=drawn is not None and view in ("seesaw", "pareto")),
            self.reference: gr.update(
                choices=names, value=sight.asked.reference or None, visible=view == "seesaw"
            ),
            self.cost: gr.update(visible=view == "pareto"),
            self.plot: gr.update(value=drawn, visible=drawn is not None),
            self.table: self._table(sight, picked, language),
            self.apart: captions.facts(board, language)
            + captions.published(board.cluster, language)
            + left_out,
        }

    def _table(self, sight: Sight, picked: tuple[str, str], language: Language) -> str:
        """The table, or a picture's numbers, or what to do where there is nothing to draw."""
        if sight.asked.view == "table" or not sight.entries:
            return board_table(sight, self.library, picked, language)
        found = numbers(sight)
        if found is None:
            return f'<p class="board-empty">{text("board_alone_seesaw", language)}</p>'
        return text_table(found, "unseen")

    # Files ----------------------------------------------------------------------------------

    def _as_csv(self, *values: Any) -> str:
        """The table as it is shown, for the browser to save."""
        sight = look(self.library, Asked.of(*values))
        if sight.part is None:
            return ""
        tasks = [task.name for task in sight.part.tasks]
        return _file(sight, "csv", "text/csv", board_csv(sight.entries, tasks))

    def _as_json(self, *values: Any) -> str:
        """What is shown with all its numbers, for the browser to save."""
        sight = look(self.library, Asked.of(*values))
        if sight.part is None:
            return ""
        content = board_as_json(sight.drawn, self.library)
        written = json.dumps(content, ensure_ascii=False, indent=2)
        return _file(sight, "json", "application/json", written)

    # Samples --------------------------------------------------------------------------------

    def _pick(self, event: gr.EventData, request: gr.Request, *values: Any) -> Any:
        """A header, a cell, or a mark of a picture was clicked."""
        asked, picked = self._read(values)
        language = language_of(request)
        data = event._data if isinstance(event._data, dict) else {}
        if "sort" in data:
            asked = dataclasses.replace(asked, sort=turned(asked.sort, str(data["sort"])))
            sight = look(self.library, asked)
            table = self._table(sight, (picked.entry, picked.cell), language)
            return {self.sort: sight.asked.sort, self.table: table}
        board = look(self.library, asked).every_entry
        words = data.get("words") or [data.get("entry"), data.get("cell")]
        if board is None or not isinstance(words, list):
            return gr.skip()
        reference = asked.reference if asked.view == "seesaw" else picked.against
        chosen = pick(board, [str(word) for word in words], reference)
        if chosen is None:  # the board has changed since it was shown
            return gr.skip()
        return self._choose_samples(asked, beside(board, chosen), language)

    def _choose(self, request: gr.Request, *values: Any) -> Updates:
        """Another task, method beside, seed or kind: from the first page."""
        asked, picked = self._read(values)
        picked = dataclasses.replace(picked, leaf="0")
        return self._choose_samples(asked, picked, language_of(request))

    def _turn(self, step: int) -> Callable[..., Updates]:
        """A handler that turns so many pages."""

        def turn(request: gr.Request, *values: Any) -> Updates:
            asked, picked = self._read(values)
            leaf = int(picked.leaf) + step if picked.leaf.isdecimal() else 0
            picked = dataclasses.replace(picked, leaf=str(max(0, leaf)))
            return self._choose_samples(asked, picked, language_of(request))

        return turn

    def _close(self, request: gr.Request, *values: Any) -> Updates:
        asked, _ = self._read(values)
        return self._choose_samples(asked, Picked(), language_of(request))

    def _read(self, values: Sequence[Any]) -> tuple[Asked, Picked]:
        count = len(self._asked)
        return Asked.of(*values[:count]), Picked.of(*values[count:])

    def _choose_samples(self, asked: Asked, picked: Picked, language: Language) -> Updates:
        sight = look(self.library, asked)
        updates = self._behind(sight.every_entry, picked, language)
        if sight.asked.view == "table":
            updates[self.table] = self._table(sight, (picked.entry, picked.cell), language)
        return updates

    def _behind(self, board: Board | None, picked: Picked, language: Language) -> Updates:
        """The panel of samples; closed where nothing is picked that exists."""
        try:
            found = None if board is None else behind(board, picked)
        except RunError as error:
            words = str(error)
            entries = board.entries if board else ()
            for folder in (folder for entry in entries for folder in entry.folders):
                words = words.replace(folder, self.library.name(folder))
            problem = notice(text("board_run_unreadable", language), verbatim=words)
            return {
                **self._readable(False),
                self.heading: samples.heading(picked.entry, "", language),
                self.entry: picked.entry,
                self.samples: problem,
                self.provenance: "",
            }
        if board is None or found is None:
            return {self.panel: gr.update(visible=False), self.entry: "", self.leaf: "0"}
        return {
            **self._readable(True),
            self.heading: samples.heading(found.entry.name, found.entry.method, language),
            **self._sample_choices(board, found, language),
            self.samples: self._sample_list(board, found, language),
            self.earlier: gr.update(interactive=found.first > 1),
            self.place: samples.place(found.first, found.last, found.count, language),
            self.later: gr.update(interactive=found.last < found.count),
            self.provenance: samples.provenance(
                found.run, self.library.name(found.run.folder), language
            ),
        }

    def _readable(self, readable: bool) -> Updates:
        """The panel, with what chooses among samples where there are some."""
        parts = (self.choice, self.only, self.pages)
        shown = {part: gr.update(visible=readable) for part in parts}
        return {self.panel: gr.update(visible=True), **shown}

    def _sample_choices(self, board: Board, found: Behind, language: Language) -> Updates:
        picked, entry = found.picked, found.entry
        tasks = [(text("board_overall", language), OVERALL)]
        tasks += [(title(task.name, language), task.name) for task in board.tasks]
        others = [one.name for one in board.entries if one.name != entry.name]
        beside_nobody = (text("board_nobody", language), "")
        seeds = [("–" if s is None else str(s), str(n)) for n, s in enumerate(entry.seeds)]
        return {
            self.entry: entry.name,
            self.cell: gr.update(choices=tasks, value=picked.cell),
            self.against: gr.update(
                choices=[beside_nobody, *((name, name) for name in others)], value=picked.against
            ),
            self.seed: gr.update(choices=seeds, value=picked.seed, visible=len(seeds) > 1),
            self.only: gr.update(
                choices=samples.kinds(
                    found.found, beside=found.other is not None, language=language
                ),
                value=picked.only,
                visible=True,
            ),
            self.leaf: picked.leaf,
        }

    def _sample_list(self, board: Board, found: Behind, language: Language) -> str:
        metrics = {task.name: task.metric for task in board.tasks}
        return samples.samples_table(
            found.found,
            found.page,
            [one for one in (found.entry, found.other) if one is not None],
            metrics.get(found.picked.cell, ""),
            language,
        )


def _about(view: str, language: Language) -> str:
    return captions.quiet([text(f"board_about {view}", language), text("board_click", language)])


def _file(sight: Sight, ending: str, kind: str, content: str) -> str:
    """A file for the browser to save, as the JSON that `SAVE` reads."""
    board = sight.part
    name = f"leaderboard-{board.cluster}-{board.id}" if board else "leaderboard"
    return json.dumps({"name": f"{name}.{ending}", "type": kind, "text": content})
