"""`python -m evals tasks | compare-methods`: what a user's data holds, and methods ranked on it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cgclora.cli.common import AddCommand, load
from evals.cli.common import answering_options, print_line

if TYPE_CHECKING:
    from evals.experiments.own_data.plan import ComparisonPlan
    from evals.experiments.own_data.wishes import Wishes
    from evals.leaderboard.board import Board
    from evals.tasks import Language

TASKS = """Print the tasks of some data that are not built in: kind of answer, labels, prompt
template, metrics and longest answer, as recognised from the records or set in `tasks.toml`.

  python -m evals tasks mine.jsonl > tasks.toml

Beside the data, the table says how answers are read and scored; keys that it leaves out are
recognised again."""

COMPARE = """Compare methods on your own tasks: train, answer, score, and print the leaderboard.

  python -m evals compare-methods mine.jsonl --out runs/comparisons/mine
  python -m evals compare-methods mine.jsonl --out runs/comparisons/mine --minutes 60 --seeds 3
  python -m evals compare-methods data-folder --out runs/comparisons/mine --plan

The data is a file with an object a line ({"task": ..., "input": ..., "target": ...}), a folder with
the splits train, dev and test, or a hub id. Splits that are missing are made of the train records:
equal prompts stay together, labels keep their shares. `python -m evals tasks` shows how answers are
read and scored.

All methods get the same records, steps and learning rates; of these the one with the lowest dev
loss counts. Epochs and records are chosen so that all of it takes about --minutes, unless options
set them. The plan is kept in the folder: the same command resumes the work, and more methods and
seeds may be added. The web app's Compare tab runs this command."""


def add(command: AddCommand) -> None:
    """Add these commands to a command line."""
    tasks = command("tasks", TASKS, _print_tasks)
    tasks.add_argument("data", nargs="?", help="file or folder; default: $CGCLORA_DATA")
    tasks.add_argument("--split", default="train", help="of a folder (default train)")
    _add_options(command("compare-methods", COMPARE, _compare))


def _print_tasks(options: argparse.Namespace) -> None:
    from evals.data import datasets
    from evals.tasks.recognition import to_toml

    dataset = datasets.read(options.data, split=options.split)
    own = {entry["name"] for entry in dataset.own}
    if built_in := [name for name in dataset.tasks if name not in own]:
        print_line(f"built in, and not listed: {', '.join(built_in)}")
    print(to_toml(dataset.own), end="")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="file, folder or hub id")
    parser.add_argument("--dev", type=Path, help="file of dev records (default: see above)")
    parser.add_argument("--test", type=Path, help="file of test records (default: see above)")
    parser.add_argument("--task", action="append", default=[], help="only this task (repeat)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--method", action="append", help="compare this method (repeat)")
    parser.add_argument("--seeds", type=int, help="number of training seeds (default 1)")
    parser.add_argument("--rate", type=float, action="append", help="try this rate (repeat)")
    parser.add_argument("--minutes", type=float, help="time to fit (default 15)")
    parser.add_argument("--epochs", type=float, help="default: what fits")
    parser.add_argument("--train-records", type=int, help="of a task (default: what fits)")
    parser.add_argument("--test-records", type=int, help="of a task (default: what fits)")
    parser.add_argument(
        "--language", choices=("en", "zh"), default="en", help="of the verdict (default en)"
    )
    parser.add_argument("--plan", action="store_true", help="print the plan, and do nothing")
    answering_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def _compare(options: argparse.Namespace) -> None:
    from evals.experiments.grid import Grid
    from evals.experiments.own_data.comparison import DATA_FOLDER, read_comparison

    plan = _plan(options)
    if options.plan:
        print(_as_json(plan) if options.json else _as_text(plan))
        return
    print_line(_as_text(plan))
    grid = Grid(
        plan.recipe,
        load(options),
        options.out / DATA_FOLDER,
        options.out,
        batch_size=options.batch_size,
        forgetting=True,
    )
    outcome = grid.run(report=print_line)
    if outcome.left:
        print_line(f"{len(outcome.left)} cells wait for another process or for the package cma")
    comparison = read_comparison(options.out)
    if comparison is not None and comparison.board is not None:
        _print_board(comparison.board, options.language, as_json=options.json)


def _plan(options: argparse.Namespace) -> ComparisonPlan:
    """The plan of the folder, with added methods and seeds; or a new one, begun unless --plan."""
    from evals.data.splits import read_splits
    from evals.experiments.own_data.comparison import begin, newest_pace
    from evals.experiments.own_data.plan import make_plan, read_plan

    if (plan := read_plan(options.out)) is not None:
        return _extended(plan, options)
    wishes = _wishes(options)  # before the data, which may be large
    splits = read_splits(options.data, options.dev, options.test, tasks=options.task)
    for problem in splits.problems[:5]:
        print_line(f"skipped: {problem}")
    plan = make_plan(options.out.name, splits, wishes, newest_pace(options.out.parent))
    if not options.plan:
        begin(options.out, splits, plan)
    return plan


def _wishes(options: argparse.Namespace) -> Wishes:
    from evals.experiments.own_data.wishes import Wishes

    given = {
        "methods": options.method and tuple(options.method),
        "seeds": options.seeds,
        "learning_rates": options.rate and tuple(options.rate),
        "minutes": options.minutes,
        "train_records": options.train_records,
        "epochs": options.epochs,
        "test_records": options.test_records,
    }
    return Wishes(**{name: value for name, value in given.items() if value is not None})


def _extended(plan: ComparisonPlan, options: argparse.Namespace) -> ComparisonPlan:
    """A plan with the options' methods and seeds, which may be added to a begun comparison."""
    from cgclora.config import ConfigError

    fixed = ("rate", "epochs", "train_records", "test_records", "dev", "test", "task")
    if changed := [name for name in fixed if getattr(options, name)]:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ConfigError(
            f"{options.out} holds a comparison that has begun: leave {names} out, or choose "
            "another folder."
        )
    methods = tuple(dict.fromkeys([*plan.recipe.methods, *(options.method or ())]))
    seeds = max(len(plan.recipe.seeds), options.seeds or 0)
    recipe = dataclasses.replace(plan.recipe, methods=methods, seeds=tuple(range(seeds)))
    if recipe == plan.recipe:
        return plan
    extended = dataclasses.replace(plan, recipe=recipe)
    if not options.plan:
        extended.write(options.out)
    return extended


def _as_json(plan: ComparisonPlan) -> str:
    return json.dumps({**vars(plan), "work": vars(plan.work), "recipe": plan.recipe.to_dict()})


def _as_text(plan: ComparisonPlan) -> str:
    """The plan for a terminal."""
    recipe = plan.recipe
    lines = [
        f"{task}: {sizes['train']:,} train, {sizes['dev']:,} dev, {sizes['test']:,} test records"
        for task, sizes in plan.sizes.items()
    ]
    if plan.made:
        lines.append(f"{' and '.join(plan.made)} were split off the train records")
    lines += [
        f"left out of {split}: {count} records whose prompt is in a later split"
        for split, count in plan.leaked.items()
    ]
    limits = {name: count or "all" for name, count in vars(recipe.records).items()}
    rough = "" if plan.is_measured else ", a rough guess: nothing was measured here yet"
    lines += [
        f"methods: {', '.join(recipe.methods)}",
        f"seeds: {len(recipe.seeds)}; learning rates: {', '.join(map(str, recipe.learning_rates))}",
        f"at most {limits['train']} train, {limits['dev']} dev and {limits['test']} test records a "
        f"task, {recipe.training.epochs:g} epochs",
        f"expected: {plan.seconds / 60:.0f} minutes{rough}",
    ]
    return "\n".join(lines)


def _print_board(board: Board, language: Language, *, as_json: bool) -> None:
    from evals.leaderboard.report import board_parts, judged_values
    from evals.leaderboard.tables import reference_name

    reference = reference_name(board)
    if as_json:
        print(json.dumps(judged_values(board, reference, language=language), ensure_ascii=False))
        return
    parts = board_parts(board, reference, language=language)
    print("\n\n".join(part.text() for part in parts))
