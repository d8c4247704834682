"""`python -m evals matrix`: a comparison from its plan to its runs, in bits and in parts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

from cgclora.cli.common import load
from evals.cli.common import answering_options

HELP = """Run a comparison: train and answer what is missing until the time is up.

  python -m evals matrix small --out runs/small --plan --minutes 60
  python -m evals matrix small --out runs/small --minutes 60
  python -m evals matrix my-recipe.toml --data my-data --out runs/mine
  python -m evals matrix small --out runs/small --parts parts
  python -m evals matrix --from-parts parts --out runs/small

The recipe, a TOML file or the name of one that comes with the package, says data, sizes, steps and
tuning for all methods alike. What a seed needs is trained side by side: its learning rates first,
then the other clusters with the rates that were chosen. All its cells are answered before the next
seed begins. The same command goes on where it was, here or on another machine that the folder was
copied to; given twice at the same time, the two share the work out.

With --plan nothing is done: 20 steps are measured, and it is said what is left, how long that takes
here, and what of it ends within --minutes.

With --parts what is finished is also kept in a few files of limited size, for a machine that gives
back little: those named part-weights-* hold adapters, the others all else. With --from-parts they
are put back first; without a recipe that is all."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("recipe", nargs="?", help="TOML file, or paper, small, main or full")
    parser.add_argument("--out", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--minutes", type=_positive, default=math.inf, help="default: no end")
    parser.add_argument(
        "--plan", action="store_true", help="say what is left and how long it takes"
    )
    parser.add_argument(
        "--side-by-side", type=int, metavar="N", help="most adapters in a pass (default: by device)"
    )
    parser.add_argument("--data", help="folder or hub id; default: $CGCLORA_DATA")
    parser.add_argument("--parts", type=Path, metavar="FOLDER", help="keep what is finished there")
    parser.add_argument(
        "--part-size", type=_positive, default=15, metavar="MB", help="of 10^6 bytes (default 15)"
    )
    parser.add_argument("--from-parts", type=Path, metavar="FOLDER", help="put these parts back")
    answering_options(parser)
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
    from evals.experiments.grid import Grid, print_line
    from evals.experiments.grid_plan import plan
    from evals.experiments.parts import write_parts
    from evals.experiments.recipe import read_recipe

    if not (options.recipe or options.from_parts):
        raise ConfigError("matrix needs a recipe, or --from-parts to put a comparison back.")
    if options.side_by_side is not None and options.side_by_side < 1:
        raise ConfigError(f"--side-by-side must be at least 1, got {options.side_by_side}.")
    if options.from_parts:
        _put_parts_back(options)
        if not options.recipe:
            return

    def keep() -> None:
        if options.parts:
            write_parts(options.out, options.parts, options.part_size)

    recipe = read_recipe(options.recipe)  # before the backbone, which takes seconds
    matrix = Grid(
        recipe,
        load(options),
        options.data,
        options.out,
        batch_size=options.batch_size,
        finished=keep,
        members=options.side_by_side,
    )
    if options.plan:
        planned = plan(matrix)
        as_json = json.dumps({**dataclasses.asdict(planned), "seconds": planned.seconds})
        print(as_json if options.json else planned.text(options.minutes), end="")
        return
    keep()  # what is wrong with the parts is said before hours of work
    try:
        outcome = matrix.run(60 * options.minutes, print_line)
    finally:
        keep()  # what was trained for a cell that is not finished, too
    if options.json:
        print(json.dumps(dataclasses.asdict(outcome), default=str, ensure_ascii=False))
        return
    print(f"{outcome.done} cells are done, {len(outcome.left)} are left")
    if outcome.elsewhere:
        print("what is left is in another process's hands, or needs the package cma")
    if outcome.unscored:
        print(f"{len(outcome.unscored)} are not scored: give the command where jieba and such are")


def _put_parts_back(options: argparse.Namespace) -> None:
    from evals.experiments.grid import print_line
    from evals.experiments.parts import read_parts

    restored = read_parts(options.from_parts, options.out)
    if options.json and not options.recipe:
        print(json.dumps(dataclasses.asdict(restored), ensure_ascii=False))
        return
    print_line(f"{len(restored.written)} folders are put back, {len(restored.there)} were there")
    for path, names in restored.missing.items():
        print_line(f"missing: {path}, which is in {', '.join(names)}")
