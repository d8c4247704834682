"""`python -m evals report`: leaderboards from run folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from evals.methods import SINGLE

HELP = """Rank methods by the runs below some folders. Needs neither a model nor the data.

  python -m evals report
  python -m evals report runs --reference 'LoRA (Full)' --markdown --out report.md

Runs that answered the same records stand on one board; runs of a method that differ in the seed
alone are one row of it. Without a folder the results that come with the package are shown."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("roots", type=Path, nargs="*", help="folders with runs at any depth")
    parser.add_argument("--reference", help=f"over whom gains are shown (default: {SINGLE})")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="Markdown instead of plain text")
    form.add_argument("--json", action="store_true", help="JSON, for machines")
    parser.add_argument("--out", type=Path, help="file to write instead of printing")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.storage import atomic_io
    from evals.leaderboard import tables
    from evals.leaderboard.board import boards
    from evals.runs.run_dir import RunError

    roots = options.roots or [Path(__file__).parents[2] / "assets" / "results"]
    leaderboards = boards(roots)
    if not (leaderboards.boards or leaderboards.unscored or leaderboards.damaged):
        raise RunError(f"no run lies below {', '.join(map(str, roots))}: name another folder.")
    text = (
        atomic_io.json_text(tables.values(leaderboards, options.reference))
        if options.json
        else tables.report(leaderboards, options.reference, markdown=options.markdown)
    )
    if options.out:
        atomic_io.write_text(options.out, text)
    else:
        print(text, end="")
