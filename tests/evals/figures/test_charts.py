"""Pictures of a board: what they say, and that they can be read."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page, sync_playwright

from evals import methods
from evals.figures import charts, palette, pareto
from evals.figures.heatmaps import _SCALE
from evals.figures.label_layout import Point, label_places
from evals.leaderboard.board import Board, UnknownEntryError, gains, leaders, wins
from evals.leaderboard.entries import Entry, TaskScore, ranked
from evals.runs.scored_run import TaskFacts
from evals.scoring.effect_sizes import OVERALL
from evals.scoring.statistics import Estimate, mean_estimate, mean_of, spread, summarise
from evals.tasks import TASKS
from tests.browser.driver import find_browser
from tests.helpers.colours import contrast, linear

ROOT = Path(__file__).parents[3]
METHODS = [*methods.METHODS]
MEDICAL = ["CMeEE-V2", "CHIP-CDN", "CHIP-CTC", "KUAKE-QIC", "IMCS-V2-NER", "MedDG"]
UNTRAINED = {"Backbone", "LoRAHub"}

WHITE, NEAR_BLACK = "#ffffff", "#0b0f19"


# A board ----------------------------------------------------------------------------------


def make_board(
    methods: Sequence[str] = METHODS, tasks: Sequence[str] = MEDICAL, seed: int = 0
) -> Board:
    """A board of made-up scores: like a real one in shape, and the same at every call."""
    random = np.random.default_rng(seed)
    hard = random.uniform(0.45, 0.8, len(tasks))
    entries = [
        make_entry(method, tasks, hard + random.normal(0.012 * place, 0.02), random, place)
        for place, method in enumerate(methods)
    ]
    return Board(
        id="0123456789ab",
        clusters={"medical": tuple(tasks)},
        split="test",
        tasks=tuple(TaskFacts(task, "accuracy", 200, "d" * 8, "1") for task in tasks),
        entries=ranked(entries),
    )


def make_entry(
    method: str, tasks: Sequence[str], level: Any, random: np.random.Generator, place: int
) -> Entry:
    scores = {}
    means = np.clip(level + random.normal(0, 0.03, len(tasks)), 0.05, 0.9)
    trained = method not in UNTRAINED
    for task, mean in zip(tasks, means, strict=True):
        by_seed = mean + random.normal(0, 0.01, 3 if trained else 1)
        drawn = by_seed.mean() + random.normal(0, 0.03, 500)
        values = by_seed.tolist()
        estimate = summarise(float(by_seed.mean()), drawn, 200)
        scores[task] = TaskScore(estimate, spread(values), drawn, tuple(values))
    overall = mean_of([(one.estimate.value, one.replicates, 200) for one in scores.values()])
    middle = overall[0]
    return Entry(
        name=method,
        method=method,
        label="",
        backbone="tiny",
        folders=(f"runs/{method}",),
        seeds=(0, 1, 2) if trained else (None,),
        scores=scores,
        replicates=overall[1],
        overall=summarise(*overall),
        spread=spread([middle - 0.006, middle + 0.001, middle + 0.005] if trained else [middle]),
        parameters=None if method == "Backbone" else 400_000 * 2 ** (place % 5) + 1000 * place,
        total_rank=None if method == "Backbone" else 8 * (1 + place % 3),
        active_rank=None if method == "Backbone" else 4 * 2 ** (place % 4),
        training_seconds=300.0 * 1.4**place if trained else None,
        peak_memory=1_500_000_000 + 90_000_000 * place,
        tokens=30.0 + 2 * (place * 5 % 7),
        seconds=1.0,
        created="2026-01-01T00:00:00+00:00",
        forgotten=None,
        forgetting=mean_estimate(random.normal(0.02 * place, 0.1, 48)) if trained else None,
    )


@pytest.fixture(scope="module")
def board() -> Board:
    return make_board()


FIGURES: dict[str, Callable[..., go.Figure]] = {
    "overall": charts.overall,
    "seeds": charts.seeds,
    "per_task": charts.per_task,
    "seesaw": lambda board, language: charts.seesaw(board, language=language),
    "heat_map": charts.heat_map,
    "win_matrix": charts.win_matrix,
    "radar": lambda board, language: charts.radar(board, ["CGC-LoRA", "LoRA (Full)"], language),
    "pareto": charts.pareto,
    "pareto by time": lambda board, language: charts.pareto(board, language, "training_seconds"),
    "pareto by rank": lambda board, language: charts.pareto(board, language, "active_rank"),
    "forgetting by memory": lambda board, language: charts.pareto(
        board, language, "peak_memory", "forgetting"
    ),
    "size by score": lambda board, language: charts.pareto(
        board, language, "overall", "parameters"
    ),
    "speed by forgetting": lambda board, language: charts.pareto(
        board, language, "forgetting", "tokens_per_second"
    ),
}
each_figure = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)


def traces(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def marks(trace: Any) -> list[tuple[float, float, float]]:
    """Value, low and high of each mark that is seen."""
    return [
        (x, x - less, x + more)
        for x, less, more in zip(
            trace.x, trace.error_x.arrayminus, trace.error_x.array, strict=True
        )
        if x is not None
    ]


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings([*value.values()])
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


def chinese(figure: go.Figure) -> set[str]:
    return {
        one for one in strings(json.loads(figure.to_json())) if re.search("[\u4e00-\u9fff]", one)
    }


# Colours ----------------------------------------------------------------------------------

# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB.
EYES = {
    "all three cones": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
FAMILIES = {method: methods.family(method) for method in METHODS}


def lab(rgb: Any) -> Any:
    """CIELAB under D65."""
    xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ) @ np.clip(rgb, 0, 1)
    x, y, z = np.cbrt(xyz / [0.9505, 1, 1.089])  # no colour here is near enough black to matter
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES.values(), ids=EYES)
def test_families_of_methods_stay_apart_for_every_kind_of_colour_vision(eye: Any) -> None:
    seen = {method: lab(eye @ linear(palette.colour(method))) for method in METHODS}
    distances = {
        (one, other): float(np.linalg.norm(seen[one] - seen[other]))
        for one, other in itertools.combinations(METHODS, 2)
        if FAMILIES[one] != FAMILIES[other]
    }
    assert min(distances.values()) > 15, min(distances, key=distances.__getitem__)


@pytest.mark.parametrize("method", [*METHODS, "another", "a third", "and so on"])
def test_a_method_is_seen_on_light_and_on_dark(method: str) -> None:
    assert contrast(palette.colour(method), WHITE) >= 3
    assert contrast(palette.colour(method), NEAR_BLACK) >= 3


def test_no_two_methods_look_alike() -> None:
    assert len({palette.colour(method) for method in METHODS}) == len(METHODS)
    for family in set(FAMILIES.values()):
        members = [method for method in METHODS if FAMILIES[method] == family]
        assert len({palette.symbol(method) for method in members}) == len(members)


def test_an_unknown_method_looks_the_same_in_every_process() -> None:
    names = ["DoRA", "AdaLoRA", "提示微调"]
    code = (
        "from evals.figures.palette import colour, symbol\n"
        f"print([(colour(name), symbol(name)) for name in {names!r}])"
    )
    said = {
        subprocess.check_output(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed}, text=True
        ).strip()
        for seed in ("1", "2")
    }
    assert said == {str([(palette.colour(name), palette.symbol(name)) for name in names])}


def test_entries_of_one_method_share_its_colour_and_differ_in_their_marks(board: Board) -> None:
    first, *others = board.entries
    twin = dataclasses.replace(first, name=f"{first.name} · twin")
    twins = dataclasses.replace(board, entries=(first, twin, *others))
    drawn = traces(charts.per_task(twins, "en"))
    one, other = drawn[first.name].marker, drawn[twin.name].marker
    assert one.color == other.color
    assert set(one.symbol).isdisjoint(other.symbol)


# All figures ------------------------------------------------------------------------------


@each_figure
def test_a_figure_is_transparent_and_takes_the_width_of_its_place(
    draw: Callable[..., go.Figure], board: Board
) -> None:
    layout = draw(board, "zh").layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert layout.width is None
    assert contrast(layout.font.color, WHITE) > 3.5
    assert contrast(layout.font.color, NEAR_BLACK) > 3.5


@each_figure
def test_words_are_in_the_link_language_for(draw: Callable[..., go.Figure], board: Board) -> None:
    assert not chinese(draw(board, "en"))
    assert chinese(draw(board, "zh"))


@each_figure
def test_an_empty_board_says_what_to_do(draw: Callable[..., go.Figure], board: Board) -> None:
    empty = dataclasses.replace(board, entries=())
    with pytest.raises(ValueError, match=r"0123456789ab has no entry: score some runs first"):
        draw(empty, "en")


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in {"seesaw", "radar"}])
@pytest.mark.parametrize("method", ["CGC-LoRA", "Backbone", "somebody else's"])
def test_one_entry_is_enough(name: str, method: str) -> None:
    alone = make_board([method], MEDICAL[:1])
    assert method in FIGURES[name](alone, "en").to_json()


@pytest.mark.parametrize("name", ["overall", "seeds", "per_task", "seesaw"])
def test_a_figure_grows_with_the_number_of_its_rows(name: str) -> None:
    methods = ["LoRA (Single)", "CGC-LoRA", "MOE-LoRA"]
    few, many = make_board(methods, MEDICAL[:2]), make_board()
    assert FIGURES[name](many, "en").layout.height > FIGURES[name](few, "en").layout.height + 100


def test_a_task_that_nobody_knows_is_called_by_its_name() -> None:
    unknown = make_board(["CGC-LoRA", "MOE-LoRA"], ["Somebody-s-task"])
    assert charts.per_task(unknown, "en").layout.yaxis.ticktext == ("Somebody-s-task",)


# Each figure ------------------------------------------------------------------------------


def test_the_overview_shows_each_mean_with_its_interval_and_rank(board: Board) -> None:
    figure = charts.overall(board, "en")
    assert [trace.name for trace in figure.data] == [entry.name for entry in board.entries]
    for trace, entry in zip(figure.data, board.entries, strict=True):
        of = entry.overall
        assert marks(trace) == [pytest.approx([100 * of.value, 100 * of.low, 100 * of.high])]
    labels = zip(figure.layout.yaxis.ticktext, board.entries, strict=True)
    assert all(label.endswith(f"<b>#{entry.rank}</b>") for label, entry in labels)
    assert figure.layout.yaxis.range == (len(METHODS) - 0.5, -0.5)  # the best at the top


def test_details_tell_interval_records_seeds_and_costs(board: Board) -> None:
    (entry,) = (one for one in board.entries if one.name == "CGC-LoRA")
    details = traces(charts.overall(board, "en"))["CGC-LoRA"].hovertext[-1]
    low, high = 100 * entry.overall.low, 100 * entry.overall.high
    assert f"95% interval {low:.1f} to {high:.1f}" in details
    assert "1,200 records · seeds 0, 1, 2" in details
    assert "3 seeds: " in details
    assert "standard deviation 0.6" in details
    assert "Trained parameters: 6.4 M" in details
    assert "Training time: 19.2 min" in details
    backbone = traces(charts.overall(board, "en"))["Backbone"].hovertext[-1]
    assert "not trained" in backbone
    assert "parameters" not in backbone


def test_an_interval_beside_its_value_gets_no_negative_bar() -> None:
    board = make_board(["CGC-LoRA"])
    (entry,) = board.entries
    odd = dataclasses.replace(entry.overall, value=0.5, low=0.6, high=0.7)
    board = dataclasses.replace(board, entries=(dataclasses.replace(entry, overall=odd),))
    assert marks(charts.overall(board).data[0]) == [pytest.approx([50, 50, 70])]


def test_each_task_shows_each_entry_with_its_interval(board: Board) -> None:
    figure = charts.per_task(board, "en")
    assert figure.layout.yaxis.ticktext[0] == TASKS[MEDICAL[0]].title_en
    for entry in board.entries:
        trace = traces(figure)[entry.name]
        estimates = [entry.scores[task].estimate for task in MEDICAL]
        assert [*trace.y[1:]] == MEDICAL
        assert marks(trace) == [
            pytest.approx([100 * one.value, 100 * one.low, 100 * one.high]) for one in estimates
        ]
        assert "200 records" in trace.hovertext[1]


def test_no_interval_leaves_the_axis(board: Board) -> None:
    for figure in (charts.overall(board), charts.per_task(board)):
        ends = [end for trace in figure.data for mark in marks(trace) for end in mark]
        low, high = figure.layout.xaxis.range
        assert low < min(ends)
        assert max(ends) < high


def test_the_seesaw_has_room_for_what_is_switched_on_alone(board: Board) -> None:
    axis = charts.seesaw(board).layout.xaxis
    assert axis.autorange is True
    assert axis.range is None


def test_the_seesaw_shows_the_gains_over_its_reference(board: Board) -> None:
    figure = charts.seesaw(board, "MOE-LoRA", "en")
    found = gains(board, "MOE-LoRA")
    assert set(traces(figure)) == set(METHODS) - {"MOE-LoRA"}
    for name, trace in traces(figure).items():
        own = [found[name][row] for row in [OVERALL, *MEDICAL]]
        assert marks(trace) == [
            pytest.approx([100 * one.value, 100 * one.low, 100 * one.high]) for one in own
        ]
        hollow = [symbol.endswith("-open") for symbol in trace.marker.symbol[1:]]
        assert hollow == [not one.significant for one in own]
    assert "adjusted p = " in figure.data[0].hovertext[1]


def test_the_seesaw_starts_with_few_methods_and_solid_marks_in_its_legend(board: Board) -> None:
    drawn = traces(charts.seesaw(board))
    seen = {name for name, trace in drawn.items() if trace.visible is True}
    assert seen == {"CGC-LoRA", "MOE-LoRA", "LoRA (Full)"}
    assert all(trace.visible == "legendonly" for name, trace in drawn.items() if name not in seen)
    assert all(trace.x[0] is None for trace in drawn.values())
    assert all(trace.marker.symbol[0] == palette.symbol(name) for name, trace in drawn.items())


def test_the_seesaw_of_other_methods_shows_them_all() -> None:
    board = make_board(["LoRA (Single)", "LoRAHub", "somebody else's"])
    assert {trace.visible for trace in charts.seesaw(board).data} == {True}


def test_a_seesaw_needs_its_reference_and_another_entry(board: Board) -> None:
    with pytest.raises(UnknownEntryError, match=r"no entry is called 'DoRA'.*CGC-LoRA"):
        charts.seesaw(board, "DoRA")
    with pytest.raises(ValueError, match=r"LoRA \(Single\) stands alone"):
        charts.seesaw(make_board(["LoRA (Single)"]))


def test_seeds_are_shown_from_the_lowest_to_the_highest(board: Board) -> None:
    shown = {
        trace.y[0]: trace for trace in charts.seeds(board, "en").data if trace.hovertext is not None
    }
    for entry in board.entries:
        of = entry.spread
        several = [of.low, of.mean, of.high] if of.seeds > 1 else [of.mean]
        assert shown[entry.name].x == pytest.approx([100 * one for one in several])
    assert shown["Backbone"].marker.symbol == "circle-open"


def test_one_seed_is_said_not_to_be_a_measurement() -> None:
    board = make_board(["CGC-LoRA"])
    (entry,) = board.entries
    single = dataclasses.replace(entry, seeds=(0,), spread=spread([0.5]))
    board = dataclasses.replace(board, entries=(single,))
    details = [trace.hovertext for trace in charts.seeds(board, "en").data]
    assert any(one and "One seed: training noise not measured" in one[0] for one in details)


def test_tiles_are_coloured_from_the_worst_of_a_task_to_its_best(board: Board) -> None:
    (tiles,) = charts.heat_map(board, "en").data
    values = np.array(
        [
            [one.overall.value, *(s.estimate.value for s in one.scores.values())]
            for one in board.entries
        ]
    )
    shades = np.array(tiles.z)
    assert shades.max(axis=0) == pytest.approx(np.ones(len(MEDICAL) + 1))
    assert shades.min(axis=0) == pytest.approx(-np.ones(len(MEDICAL) + 1))
    assert (shades.argsort(axis=0) == values.argsort(axis=0)).all()


def test_tiles_tell_scores_and_set_in_bold_who_may_be_the_best(board: Board) -> None:
    (tiles,) = charts.heat_map(board, "en").data
    best = leaders(board) | {OVERALL: {one.name for one in board.entries if one.rank == 1}}
    for entry, row, details in zip(board.entries, tiles.text, tiles.hovertext, strict=True):
        for task, number, detail in zip([OVERALL, *MEDICAL], row, details, strict=True):
            of = entry.overall if task == OVERALL else entry.scores[task].estimate
            written = f"{100 * of.value:.1f}"
            assert number == (f"<b>{written}</b>" if entry.name in best[task] else written)
            assert f"{100 * of.low:.1f} to {100 * of.high:.1f}" in detail


def test_differences_that_are_mostly_noise_get_pale_tiles() -> None:
    board = make_board(["CGC-LoRA", "MOE-LoRA"], MEDICAL[:1])
    first, second = board.entries
    near = dataclasses.replace(first.overall, value=first.overall.value - 0.001)
    board = dataclasses.replace(board, entries=(first, dataclasses.replace(second, overall=near)))
    (tiles,) = charts.heat_map(board).data
    assert np.abs(np.array(tiles.z)[:, 0]) == pytest.approx([0.05, 0.05])


def test_many_tasks_stand_below_each_other() -> None:
    medical = [name for name, task in TASKS.items() if task.cluster == "medical"]
    board = make_board(tasks=medical)
    (tiles,) = charts.heat_map(board).data
    assert [*tiles.y] == [OVERALL, *medical]
    assert [*tiles.x] == [entry.name for entry in board.entries]
    number = re.sub("<.*?>", "", tiles.text[3][2])
    assert number == f"{100 * board.entries[2].scores[medical[2]].estimate.value:.0f}"


@pytest.mark.parametrize("colour", [colour for _, colour in _SCALE])
def test_numbers_can_be_read_on_tiles_and_tiles_be_seen_on_the_page(colour: str) -> None:
    assert contrast(colour, WHITE) >= 4.5
    assert contrast(colour, NEAR_BLACK) >= 3


def test_the_win_matrix_says_how_probably_and_how_often_row_beats_column(board: Board) -> None:
    (tiles,) = charts.win_matrix(board, "en").data
    duels = wins(board)
    names = [entry.name for entry in board.entries]
    for row, one in enumerate(names):
        for column, other in enumerate(names):
            if one == other:
                assert tiles.text[row][column] == ""
                continue
            percent, won = tiles.text[row][column].split("<br>")
            probability = duels[one][other].probability
            assert abs(int(percent) - 100 * probability) <= 1
            assert 1 <= int(percent) <= 99  # never certain
            assert int(won) == duels[one][other].won
            assert tiles.z[row][column] == pytest.approx(2 * probability - 1)
    assert np.isnan(np.diag(np.array(tiles.z))).all()
    hover = tiles.hovertext[0][len(names) - 1]
    assert "higher mean in >99 % of the resamples" in hover
    assert "scores higher on 6 of 6" in hover


def test_a_radar_is_closed_and_has_a_spoke_for_each_task(board: Board) -> None:
    figure = charts.radar(board, ["LoRA (Single)", "CGC-LoRA"], "en")
    assert [trace.name for trace in figure.data] == ["LoRA (Single)", "CGC-LoRA"]
    (entry,) = (one for one in board.entries if one.name == "CGC-LoRA")
    scores = [100 * entry.scores[task].estimate.value for task in MEDICAL]
    assert figure.data[1].r == pytest.approx([*scores, scores[0]])
    assert len({*figure.data[1].theta}) == len(MEDICAL)


def test_a_radar_of_nobody_is_an_error(board: Board) -> None:
    with pytest.raises(ValueError, match="at least one method"):
        charts.radar(board, [])
    with pytest.raises(UnknownEntryError, match="DoRA"):
        charts.radar(board, ["DoRA"])


# Costs and names --------------------------------------------------------------------------


@pytest.mark.parametrize("x", ["parameters", "active_rank", "training_seconds"])
def test_nothing_cheaper_equals_what_is_on_the_frontier(board: Board, x: charts.Quantity) -> None:
    frontier = charts.pareto(board, "en", x).data[0]
    assert frontier.name == "Frontier"
    corners = {
        (round(cost, 3), round(score, 6))
        for cost, score in zip(frontier.x, frontier.y, strict=True)
    }
    for entry in board.entries:
        cost = getattr(entry, x)
        if cost is None:
            continue
        beaten = any(
            other is not entry
            and (price := getattr(other, x)) is not None
            and price <= cost
            and other.overall.value >= entry.overall.value
            for other in board.entries
        )
        on_it = (round(cost, 3), round(100 * entry.overall.value, 6)) in corners
        assert on_it is not beaten, entry.name


def test_what_costs_nothing_is_a_line_across(board: Board) -> None:
    figure = charts.pareto(board, "en", "training_seconds")
    drawn = traces(figure)
    low, high = (10**end for end in figure.layout.xaxis.range)
    for name in UNTRAINED:
        (entry,) = (one for one in board.entries if one.name == name)
        assert {*drawn[name].y} == {100 * entry.overall.value}
        assert low < drawn[name].x[0] < 1.01 * low
        assert high / 1.01 < drawn[name].x[-1] < high
    assert drawn["CGC-LoRA"].error_y.array[0] > 0


def four(**values: Sequence[float | None]) -> Board:
    """A board of four methods A to D with these quantities; scores are .5 but for theirs."""
    (entry,) = make_board(["CGC-LoRA"]).entries
    entries = []
    for i, name in enumerate("ABCD"):
        given = {key: of[i] for key, of in values.items()}
        for key in {"overall", "forgetting"} & given.keys():
            value = given[key]
            given[key] = value and Estimate(value, value - 0.01, value + 0.01, 0.005, 48)
        if "tokens_per_second" in given:
            given |= {"tokens": given.pop("tokens_per_second"), "seconds": 1.0}
        entries.append(dataclasses.replace(entry, name=name, **given))
    return dataclasses.replace(make_board(["CGC-LoRA"]), entries=tuple(entries))


@pytest.mark.parametrize(
    ("x", "y", "values", "corners"),
    [
        # Less forgetting and more speed: C is slower than A, which forgets as little.
        (
            "forgetting",
            "tokens_per_second",
            ((0.1, 0.2, 0.1, 0.4), (20, 50, 10, 40)),
            [(0.1, 20), (0.2, 20), (0.2, 50), (None, 50)],
        ),
        # More score and fewer parameters, from the right to the left: B is worse than D.
        (
            "overall",
            "parameters",
            ((0.4, 0.5, 0.7, 0.6), (1e6, 4e6, 8e6, 2e6)),
            [(70, 8e6), (60, 8e6), (60, 2e6), (40, 2e6), (40, 1e6), (None, 1e6)],
        ),
        # Less of both: A alone.
        (
            "peak_memory",
            "total_rank",
            ((1e9, 2e9, 3e9, 4e9), (2, 4, 8, 16)),
            [(1e9, 2), (None, 2)],
        ),
        # More of both: D is the fastest, A the best.
        (
            "tokens_per_second",
            "overall",
            ((10, 20, 30, 40), (0.8, 0.3, 0.2, 0.4)),
            [(40, 40), (10, 40), (10, 80), (None, 80)],
        ),
    ],
)
def test_the_front_knows_which_way_is_better_on_each_axis(
    x: charts.Quantity, y: charts.Quantity, values: Any, corners: list[tuple[float | None, float]]
) -> None:
    figure = charts.pareto(four(**{x: values[0], y: values[1]}), "en", x, y)
    front, axis = figure.data[0], figure.layout.xaxis
    low, high = (10**end for end in axis.range) if axis.type == "log" else axis.range
    worst = low if x in ("overall", "tokens_per_second") else high
    expected = [(worst if one is None else one, other) for one, other in corners]
    np.testing.assert_allclose([*zip(front.x, front.y, strict=True)], expected, rtol=1e-6)


def test_an_unknown_quantity_is_a_line_and_two_are_nothing() -> None:
    board = four(forgetting=(0.1, None, 0.3, None), peak_memory=(1e9, 2e9, None, None))
    figure = charts.pareto(board, "en", "peak_memory", "forgetting")
    drawn = traces(figure)
    assert [*drawn] == ["Frontier", "A", "B", "C"]
    assert [*drawn["B"].x] == pytest.approx([2e9] * 40)  # upright, from end to end
    low, high = figure.layout.yaxis.range
    assert low < drawn["B"].y[0] < drawn["B"].y[-1] < high
    assert [*drawn["C"].y] == pytest.approx([0.3] * 40)
    assert marks_up(drawn["A"]) == pytest.approx((0.1, 0.09, 0.11))
    assert drawn["A"].error_x.array is None
    across = charts.pareto(board, "en", "forgetting", "peak_memory").data[1]
    assert across.error_x.array == pytest.approx([0.01])
    assert across.error_y.array is None


def marks_up(trace: Any) -> tuple[float, float, float]:
    (value,), (below,), (above,) = trace.y, trace.error_y.arrayminus, trace.error_y.array
    return value, value - below, value + above


def test_only_what_is_known_of_some_method_can_be_an_axis(board: Board) -> None:
    assert pareto.known(board) == pareto.QUANTITIES
    nothing = four(forgetting=(None,) * 4, peak_memory=(None,) * 4, training_seconds=(None,) * 4)
    missing = {"forgetting", "peak_memory", "training_seconds"}
    assert {*pareto.known(nothing)} == {*pareto.QUANTITIES} - missing


def test_details_say_what_is_forgotten_and_needed() -> None:
    drawn = traces(charts.pareto(four(forgetting=(0.1234, None, None, None)), "en"))
    lines = drawn["A"].hovertext[0].split("<br>")
    assert "Forgetting in nats a token: +0.123, 95% interval +0.113 to +0.133" in lines
    assert "Peak memory: 1.5 GB" in lines
    assert "Speed in tokens/s: 30" in lines


def test_a_board_without_costs_has_no_frontier() -> None:
    figure = charts.pareto(make_board(["Backbone"]), "en")
    assert [*traces(figure)] == ["Backbone"]


@pytest.mark.parametrize("factor", [1.0, 3.0, 40.0, 3000.0])
@pytest.mark.parametrize("x", ["parameters", "active_rank", "training_seconds"])
def test_a_cost_axis_has_some_ticks_and_not_too_many(x: charts.Quantity, factor: float) -> None:
    board = make_board(["CGC-LoRA", "MOE-LoRA"])
    for cheapest in (1, 3, 7, 13, 90):
        first, second = (
            dataclasses.replace(entry, **{x: cheapest * more})
            for entry, more in zip(board.entries, (1, factor), strict=True)
        )
        axis = charts.pareto(
            dataclasses.replace(board, entries=(first, second)), "en", x
        ).layout.xaxis
        assert 1 <= len(axis.tickvals) <= 6
        assert len({*axis.ticktext}) == len(axis.tickvals)
        assert all(axis.range[0] <= np.log10(tick) <= axis.range[1] for tick in axis.tickvals)


def test_costs_are_written_in_their_units(board: Board) -> None:
    assert "500 k" in charts.pareto(board, "en").layout.xaxis.ticktext
    assert "30 min" in charts.pareto(board, "en", "training_seconds").layout.xaxis.ticktext
    assert "30 分钟" in charts.pareto(board, "zh", "training_seconds").layout.xaxis.ticktext


unit = st.floats(0, 1)
some_points = st.lists(
    st.builds(
        lambda x, y, reach, letters, kind: Point(
            *(0.0 if kind == "across" else x, 0.0 if kind == "upright" else y),
            *(y - reach, y + reach, "x" * letters),
            across=kind == "across",
            upright=kind == "upright",
            left=x - reach,
            right=x + reach,
        ),
        unit,
        unit,
        st.floats(0, 0.2),
        st.integers(1, 24),
        st.sampled_from(["point", "across", "upright"]),
    ),
    max_size=14,
)


@given(some_points)
@settings(max_examples=60, deadline=None)
def test_names_cover_neither_each_other_nor_a_point_nor_leave_the_plot(
    points: list[Point],
) -> None:
    for width in (290.0, 1110.0):
        places = label_places(points, [], (290, 1110), 340)
        boxes = [
            box_of(point, place, width, 340)
            for point, place in zip(points, places, strict=True)
            if place is not None
        ]
        for left, bottom, right, top in boxes:
            assert left >= 0
            assert bottom >= 0
            assert right <= width
            assert top <= 340
            for point in points:
                inside = point.across or left < point.x * width < right
                assert not (inside and (point.upright or bottom < point.y * 340 < top))
        for one, other in itertools.combinations(boxes, 2):
            apart = one[2] <= other[0] or other[2] <= one[0]
            assert apart or one[3] <= other[1] or other[3] <= one[1]


def box_of(
    point: Point, place: str, width: float, height: float
) -> tuple[float, float, float, float]:
    """What a name covers at 12 pixels a letter's height, as plotly places it."""
    level, side = place.split()
    long = 6.8 * len(point.name)
    left = point.x * width + (9 if side == "right" else -9 - long)
    middle = point.y * height + {"top": 16.5, "middle": 0, "bottom": -16.5}[level]
    return left, middle - 7.5, left + long, middle + 7.5


def test_a_lonely_name_stands_beside_its_point_unless_a_line_runs_there() -> None:
    point = Point(0.5, 0.5, 0.4, 0.6, "name")
    assert label_places([point], [], [300], 300) == ["middle right"]
    assert label_places([point], [(0.5, 0.5, 1.0, 0.5)], [300], 300) == ["middle left"]


def test_who_comes_first_gets_the_place() -> None:
    crowd = [Point(0.5, 0.5, 0.5, 0.5, "x" * 40)] * 9
    placed = [place is not None for place in label_places(crowd, [], [700], 300)]
    assert placed == sorted(placed, reverse=True)
    assert True in placed
    assert False in placed


# In a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def telephone() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.set_content(go.Figure().to_html(include_plotlyjs=True))  # the library, once
        yield page
        browser.close()


OUTSIDE = """async figure => {
    document.body.innerHTML = '<div id="place"></div>';
    document.body.style.margin = '8px';
    const place = document.getElementById('place');
    await Plotly.newPlot(place, figure.data, figure.layout, {responsive: true});
    const box = place.getBoundingClientRect();
    const texts = [...place.querySelectorAll('svg text')].filter(text => text.textContent);
    if (!texts.length) throw new Error('there is no word');
    return texts.filter(text => {
        const own = text.getBoundingClientRect();
        return own.left < box.left - 1 || own.right > box.right + 1
            || own.top < box.top - 1 || own.bottom > box.bottom + 1;
    }).map(text => text.textContent);
}"""


@pytest.mark.browser
@each_figure
@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_word_is_within_a_telephone_s_width(
    draw: Callable[..., go.Figure], language: str, board: Board, telephone: Page
) -> None:
    figure = json.loads(draw(board, language).to_json())
    assert telephone.evaluate(OUTSIDE, figure) == []
