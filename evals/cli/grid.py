"""`python -m evals matrix`: plan and run a comparison, and keep it in part files."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

from cgclora.cli.common import load
from evals.cli.common import answering_options, print_line

HELP = """Run a comparison: train and answer what is missing until the time is up.

  python -m evals matrix small --out runs/small --plan --minutes 60
  python -m evals matrix small --out runs/small --minutes 60
  python -m evals matrix my-recipe.toml --data my-data --out runs/mine
  python -m evals matrix small --out runs/small --parts parts
  python -m evals matrix --from-parts parts --out runs/small

The recipe, a TOML file or the name of one in the package, sets data, sizes, steps and tuning for
all methods alike. Adapters of a seed train side by side: its learning rates first, then the other
clusters with the chosen rates. All its cells are answered before the next seed begins. The same
command resumes the work, here or on a machine with a copy of the folder; two commands on one folder
share the work.

With --plan nothing is done: 20 steps are measured, and the remaining work is listed with its time
on this device and with what ends within --minutes.

With --parts finished work is also kept in a few files of limited size, for machines with little
room for results: part-weights-* hold adapters, the others everything else. With --from-parts they
are restored first; without a recipe nothing else is done."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("recipe", nargs="?", help="TOML file, or paper, small, main or full")
    parser.add_argument("--out", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--minutes", type=_positive, default=math.inf, help="default: no limit")
    parser.add_argument("--plan", action="store_true", help="list the remaining work and its time")
    parser.add_argument(
        "--side-by-side",
        type=int,
        metavar="N",
        help="maximum adapters in a pass (default: by device)",
    )
    parser.add_argument("--data", help="folder or hub id; default: $CGCLORA_DATA")
    parser.add_argument("--parts", type=Path, metavar="FOLDER", help="keep finished work there")
    parser.add_argument(
        "--part-size", type=_positive, default=15, metavar="MB", help="of 10^6 bytes (default 15)"
    )
    parser.add_argument("--from-parts", type=Path, metavar="FOLDER", help="restore these parts")
    answering_options(parser)
    parser.add_argument(
        "--forgetting", action="store_true", help="measure what each method costs on other texts"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def _positive(text: str) -> float:
    """A positive number, for argparse, which reports the ValueError of anything else."""
    number = float(text)
    if not number > 0:  # nan, too
        raise ValueError(text)
    return number


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.config import ConfigError
    from evals.experiments.grid import Grid
    from evals.experiments.grid_plan import plan
    from evals.experiments.parts.parts import write_parts
    from evals.experiments.recipe import read_recipe

    if not (options.recipe or options.from_parts):
        raise ConfigError("matrix needs a recipe, or --from-parts to restore a comparison.")
    if options.side_by_side is not None and options.side_by_side < 1:
        raise ConfigError(f"--side-by-side must be at least 1, got {options.side_by_side}.")
    if options.from_parts:
        _restore_parts(options)
        if not options.recipe:
            return

    def keep() -> None:
        if options.parts:
            write_parts(options.out, options.parts, options.part_size)

    recipe = read_recipe(options.recipe)  # before the backbone, which takes seconds
    grid = Grid(
        recipe,
        load(options),
        options.data,
        options.out,
        batch_size=options.batch_size,
        finished=keep,
        members=options.side_by_side,
        forgetting=options.forgetting,
    )
    if options.plan:
        planned = plan(grid)
        as_json = json.dumps({**dataclasses.asdict(planned), "seconds": planned.seconds})
        print(as_json if options.json else planned.text(options.minutes), end="")
        return
    keep()  # reports damaged parts before hours of work
    try:
        outcome = grid.run(60 * options.minutes, print_line)
    finally:
        keep()  # also what was trained for unfinished cells
    if options.json:
        print(json.dumps(dataclasses.asdict(outcome), default=str, ensure_ascii=False))
        return
    print(f"{outcome.done} cells are done, {len(outcome.left)} are left")
    if outcome.elsewhere:
        print("the rest waits for another process, or needs the package cma")
    if outcome.unscored:
        print(
            f"{len(outcome.unscored)} are not scored: repeat the command where jieba is installed"
        )


def _restore_parts(options: argparse.Namespace) -> None:
    from evals.experiments.parts.parts import read_parts

    restored = read_parts(options.from_parts, options.out)
    if options.json and not options.recipe:
        print(json.dumps(dataclasses.asdict(restored), ensure_ascii=False))
        return
    print_line(f"{len(restored.written)} folders are put back, {len(restored.there)} were there")
    for path, names in restored.missing.items():
        print_line(f"missing: {path}, which is in {', '.join(names)}")
