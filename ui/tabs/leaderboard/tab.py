"""The tab where methods are ranked: table, charts, and the samples behind every number."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from evals.figures import pareto
from evals.figures.captions import text as words
from evals.figures.captions import title
from evals.leaderboard.board import Board
from evals.leaderboard.run_sources import Library
from evals.runs.run_dir import RunError
from evals.scoring.effect_sizes import OVERALL
from evals.tasks import Language
from ui.components.html import block, quiet
from ui.components.render import notice
from ui.components.texts import language_of, text
from ui.shell import AT_ONCE, LAST, Shell, Updates, remember
from ui.tabs.leaderboard import captions, drilldown, sharing
from ui.tabs.leaderboard.drilldown import DrillDown, drill_down, select_marker, with_other
from ui.tabs.leaderboard.exports import Exports
from ui.tabs.leaderboard.layout import (
    GO_BACK,
    GO_TO_SAMPLES,
    GO_TO_TOP,
    LISTEN,
    LeaderboardLayout,
)
from ui.tabs.leaderboard.query import BoardView, Query, Selection, address, run_query, toggle_sort
from ui.tabs.leaderboard.table import board_table, budgets, chart, text_table


class Leaderboard(LeaderboardLayout):
    """The tab's components and their events, for run folders of the project and of this machine."""

    def __init__(self, shell: Shell, shipped: Path, local: Path) -> None:
        super().__init__(shell.bilingual)
        self.library = Library(shipped, local)
        self._query = [
            *(self.board, self.cluster, self.view, self.find, self.families, self.budget),
            *(self.tasks, self.local, self.sort, self.reference, self.cost, self.versus),
        ]
        self._selection = [*(self.entry, self.cell, self.against, self.seed, self.only, self.leaf)]
        self._board_parts = [
            *(self.verdict, self.body, self.about, self.settings, self.reference, self.cost),
            *(self.versus, self.plot, self.table, self.apart),
            *(self.newest, self.share, self.citation),
        ]
        self._sample_parts = [
            *(self.panel, self.heading, self.choice, *self._selection, self.samples, self.pages),
            *(self.earlier, self.place, self.later, self.provenance),
        ]
        self._wire_board(shell)
        self._wire_samples()
        self.exports = Exports(self, self.library, self._query)

    def _wire_board(self, shell: Shell) -> None:
        everything = [
            *(self.view, self.find, self.families, self.local, self.sort, self.filters),
            *(self.board, self.others, self.cluster, self.tasks, self.budget),
            *[*self._board_parts, *self._sample_parts],
        ]
        inputs = [*self._query, *self._selection]
        shell.on_show("leaderboard", self.open, inputs, everything)
        boards = [self.board.input, self.local.input]
        self._remember(gr.on(boards, self.change_board, inputs, everything, **LAST))
        self._remember(self.cluster.input(self.change_cluster, inputs, everything, **LAST))
        self._remember(self.newest.click(self.show_newest, inputs, everything, **LAST))
        filters = [self.view, self.families, self.budget, self.tasks, self.reference, self.cost]
        filters += [self.versus]
        # The search uses `change`: `input` misses pasted text and input methods.
        changed = [self.find.change, *(one.input for one in filters)]
        self._remember(gr.on(changed, self.change, inputs, self._board_parts, **LAST))
        self._remember(self.clear.click(self.clear_filters, inputs, everything, **LAST))
        self.plot.change(None, None, None, js=LISTEN, **AT_ONCE)

    def _wire_samples(self) -> None:
        inputs = [*self._query, *self._selection]
        outputs = [self.sort, self.table, *self._sample_parts]
        selected = self.table.select(self.select, inputs, outputs, **LAST)
        self._remember(selected)
        selected.then(None, None, None, js=GO_TO_SAMPLES, **AT_ONCE)
        choices = [one.input for one in (self.cell, self.against, self.seed, self.only)]
        self._remember(gr.on(choices, self.first_page, inputs, outputs, **LAST))
        for button, pages in ((self.earlier, -1), (self.later, 1)):
            turned = button.click(self.turning(pages), inputs, outputs, **LAST)
            self._remember(turned)
            turned.then(None, None, None, js=GO_TO_TOP, **AT_ONCE)
        self.close.click(None, None, None, js=GO_BACK, **AT_ONCE)
        self._remember(self.close.click(self.close_samples, inputs, outputs, **LAST))

    def _remember(self, event: Any) -> None:
        fields = [*dataclasses.fields(Query), *dataclasses.fields(Selection)]
        names = [address(field.name) for field in fields]
        remember(event, **dict(zip(names, [*self._query, *self._selection], strict=True)))

    # The board ------------------------------------------------------------------------------

    def open(self, request: gr.Request, *values: Any) -> Updates:
        """Show the query that the page holds, else that of the address."""
        language = language_of(request)
        if values[0]:
            query, selection = self._read(values)
            shown = run_query(self.library, query)
            return {**self._choices(shown, language), **self._show(shown, selection, language)}
        address = request.query_params
        return self._restart(Query.from_address(address), Selection.from_address(address), language)

    def change_board(self, request: gr.Request, *values: Any) -> Updates:
        """Show another board, or other runs, without filters."""
        old, _ = self._read(values)
        kept = ("board", "view", "find", "local", "cost", "versus")
        query = Query(**{name: getattr(old, name) for name in kept})
        return self._restart(query, Selection(), language_of(request))

    def change_cluster(self, request: gr.Request, *values: Any) -> Updates:
        """Show another cluster of the board, with all its tasks."""
        query, selection = self._read(values)
        query = dataclasses.replace(query, tasks=(), budget="")
        return self._restart(query, selection, language_of(request))

    def show_newest(self, request: gr.Request, *values: Any) -> Updates:
        """Show the board with the newest run of this machine."""
        old, _ = self._read(values)
        found = self.library.newest_local(self.library.leaderboards(local=old.local))
        board = found[0].id if found else old.board
        query = Query(board, view=old.view, cost=old.cost, versus=old.versus)
        return self._restart(query, Selection(), language_of(request))

    def clear_filters(self, request: gr.Request, *values: Any) -> Updates:
        """Show the whole board."""
        old, _ = self._read(values)
        query = Query(old.board, view=old.view, cost=old.cost, versus=old.versus)
        return self._restart(query, Selection(), language_of(request))

    def change(self, request: gr.Request, *values: Any) -> Updates:
        """Show the board in another view or with other filters."""
        query, selection = self._read(values)
        return self._show(run_query(self.library, query), selection, language_of(request))

    def _restart(self, query: Query, selection: Selection, language: Language) -> Updates:
        """Show a query and a selection, in the inputs, too."""
        shown = run_query(self.library, query)
        query = shown.query
        return {
            **self._choices(shown, language),
            self.view: gr.update(value=query.view),
            self.find: gr.update(value=query.find),
            self.families: gr.update(value=list(query.families)),
            self.local: gr.update(value=query.local),
            self.sort: query.sort,
            self.filters: gr.update(open=bool(query.filters)),
            **self._show(shown, selection, language),
            **self._show_samples(shown.selectable, selection, language),
        }

    def _choices(self, shown: BoardView, language: Language) -> Updates:
        """The boards, and the tasks and sizes that the chosen one can be filtered by."""
        query, board = shown.query, shown.board
        sizes = {} if shown.selectable is None else budgets(shown.selectable, language)
        titles = captions.board_titles(shown.boards, self.library, language)
        is_first = not titles or query.board == titles[0][1]
        tasks: Sequence[str] = ()
        if board is not None:
            chosen = (query.cluster,) if query.cluster else board.clusters
            tasks = [task for cluster in chosen for task in board.clusters[cluster]]
        return {
            self.board: gr.update(choices=titles, value=query.board or None),
            self.others: gr.update(visible=len(titles) > 1, open=not is_first),
            self.cluster: gr.update(
                choices=captions.clusters(board, language) if board else [],
                value=query.cluster,
                visible=board is not None and len(board.clusters) > 1,
            ),
            self.tasks: gr.update(
                choices=[(title(task, language), task) for task in tasks], value=list(query.tasks)
            ),
            self.budget: gr.update(
                choices=[(text("board_any", language), ""), *((w, n) for n, w in sizes.items())],
                value=query.budget if query.budget in sizes else "",
            ),
        }

    def _show(self, shown: BoardView, selection: Selection, language: Language) -> Updates:
        """The board in the chosen view."""
        board, view = shown.board, shown.query.view
        left_out = captions.left_out(shown.boards, self.library, language)
        verdict = captions.verdict(shown, language)
        if board is None or shown.filtered is None:
            body = gr.update(visible=False)
            newest = {self.newest: gr.update(visible=False)}
            return {self.verdict: verdict, self.body: body, self.apart: left_out, **newest}
        drawn = chart(shown, language)
        names = [entry.name for entry in shown.filtered.entries]
        about = ""
        if view == "table" or not shown.entries:
            table = board_table(shown, self.library, selection, language)
        elif drawn is None:
            table = f'<p class="board-empty">{text("board_alone_seesaw", language)}</p>'
        else:
            about = quiet(text(f"board_about {view}", language), text("board_click", language))
            table = text_table(drawn[1], "unseen")
        return {
            self.verdict: verdict,
            self.body: gr.update(visible=True),
            self.about: about,
            self.settings: gr.update(visible=drawn is not None and view in ("seesaw", "pareto")),
            self.reference: gr.update(
                choices=names, value=shown.query.reference or None, visible=view == "seesaw"
            ),
            **self._axes(board, shown.query, language),
            self.plot: gr.update(value=drawn and drawn[0], visible=drawn is not None),
            self.table: table,
            self.apart: captions.facts(shown.filtered, language)
            + captions.published(shown.filtered, language)
            + left_out,
            self.newest: self._newest(shown, language),
            self.share: sharing.link_button(shown, language),
            self.citation: block(""),
        }

    def _axes(self, board: Board, query: Query, language: Language) -> Updates:
        """The choices of the Pareto plot's axes: what is known of any entry of the board."""
        axes = {self.cost: query.cost, self.versus: query.versus}
        known = {*pareto.known(board), *axes.values()}
        return {
            part: gr.update(
                choices=[
                    (words(one, language), one)
                    for one in pareto.QUANTITIES
                    if one == value or one in known.difference(axes.values())
                ],
                value=value,
                visible=query.view == "pareto",
            )
            for part, value in axes.items()
        }

    def _newest(self, shown: BoardView, language: Language) -> Any:
        words = captions.newest(shown, self.library, language)
        return gr.update(value=words, visible=bool(words))

    # Samples --------------------------------------------------------------------------------

    def select(self, event: gr.EventData, request: gr.Request, *values: Any) -> Any:
        """Sort by a clicked header, or show the samples of a clicked cell or marker."""
        query, selection = self._read(values)
        language = language_of(request)
        data = event._data if isinstance(event._data, dict) else {}
        if "sort" in data:
            query = dataclasses.replace(query, sort=toggle_sort(query.sort, str(data["sort"])))
            shown = run_query(self.library, query)
            table = board_table(shown, self.library, selection, language)
            return {self.sort: shown.query.sort, self.table: table}
        board = run_query(self.library, query).selectable
        words = data.get("words") or [data.get("entry"), data.get("cell")]
        if board is None or not isinstance(words, list):
            return gr.skip()
        reference = query.reference if query.view == "seesaw" else selection.against
        clicked = select_marker(board, [str(word) for word in words], reference)
        if clicked is None:  # the board has changed since it was shown
            return gr.skip()
        return self._choose_samples(query, with_other(board, clicked), language)

    def first_page(self, request: gr.Request, *values: Any) -> Updates:
        """Show another task, other method, seed or kind, from the first page."""
        query, selection = self._read(values)
        selection = dataclasses.replace(selection, leaf="0")
        return self._choose_samples(query, selection, language_of(request))

    def turning(self, pages: int) -> Callable[..., Updates]:
        """A handler that shows a later or an earlier page."""

        def turn(request: gr.Request, *values: Any) -> Updates:
            query, selection = self._read(values)
            leaf = int(selection.leaf) if selection.leaf.isdecimal() else 0
            selection = dataclasses.replace(selection, leaf=str(max(0, leaf + pages)))
            return self._choose_samples(query, selection, language_of(request))

        return turn

    def close_samples(self, request: gr.Request, *values: Any) -> Updates:
        """Close the panel of samples."""
        query, _ = self._read(values)
        return self._choose_samples(query, Selection(), language_of(request))

    def _read(self, values: Sequence[Any]) -> tuple[Query, Selection]:
        count = len(self._query)
        return Query.of(*values[:count]), Selection.of(*values[count:])

    def _choose_samples(self, query: Query, selection: Selection, language: Language) -> Updates:
        shown = run_query(self.library, query)
        updates = self._show_samples(shown.selectable, selection, language)
        if shown.query.view == "table":
            updates[self.table] = board_table(shown, self.library, selection, language)
        return updates

    def _show_samples(
        self, board: Board | None, selection: Selection, language: Language
    ) -> Updates:
        """The panel of samples; closed if the selection does not exist."""
        try:
            shown = None if board is None else drill_down(board, selection)
        except RunError as error:
            message = str(error)
            entries = board.entries if board else ()
            for folder in (folder for entry in entries for folder in entry.folders):
                message = message.replace(folder, self.library.name(folder))
            return {
                **self._open_panel(readable=False),
                self.heading: drilldown.heading(selection.entry, "", language),
                self.entry: selection.entry,
                self.samples: notice(text("board_run_unreadable", language), verbatim=message),
                self.provenance: "",
            }
        if board is None or shown is None:
            return {self.panel: gr.update(visible=False), self.entry: "", self.leaf: "0"}
        metrics = {task.name: task.metric for task in board.tasks}
        metric = metrics.get(shown.selection.cell, "")
        runs = {self.library.name(run.folder): run for run in shown.runs}
        return {
            **self._open_panel(readable=True),
            self.heading: drilldown.heading(shown.entry.name, shown.entry.method, language),
            **self._sample_choices(board, shown, language),
            self.samples: drilldown.samples_table(shown, metric, language),
            self.earlier: gr.update(interactive=shown.first > 1),
            self.place: drilldown.place(shown, language),
            self.later: gr.update(interactive=shown.last < shown.count),
            self.provenance: drilldown.provenance(runs, language),
        }

    def _open_panel(self, *, readable: bool) -> Updates:
        """The panel, with its choices unless the run cannot be read."""
        parts = (self.choice, self.only, self.pages)
        return {
            self.panel: gr.update(visible=True),
            **{part: gr.update(visible=readable) for part in parts},
        }

    def _sample_choices(self, board: Board, shown: DrillDown, language: Language) -> Updates:
        selection, entry = shown.selection, shown.entry
        tasks = [(text("board_overall", language), OVERALL)]
        tasks += [(title(task.name, language), task.name) for task in board.tasks]
        others = [(text("board_nobody", language), "")]
        others += [(one.name, one.name) for one in board.entries if one.name != entry.name]
        seeds = [("–" if s is None else str(s), str(n)) for n, s in enumerate(entry.seeds)]
        kinds = drilldown.kinds(shown, language)
        return {
            self.entry: entry.name,
            self.cell: gr.update(choices=tasks, value=selection.cell),
            self.against: gr.update(choices=others, value=selection.against),
            self.seed: gr.update(choices=seeds, value=selection.seed, visible=len(seeds) > 1),
            self.only: gr.update(choices=kinds, value=selection.only, visible=True),
            self.leaf: selection.leaf,
        }
