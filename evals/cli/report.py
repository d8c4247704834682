"""`python -m evals report | compare | harness`: boards, two runs by task, the harness's tasks."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from cgclora.cli.common import AddCommand
from evals.cli.common import data_options, dataset
from evals.methods import SINGLE

REPORT = """Rank methods by the runs below some folders. Needs neither a model nor the data.

  python -m evals report
  python -m evals report runs --reference 'LoRA (Full)' --markdown --out report.md
  python -m evals report runs --budget 2e6 --language zh

Runs that answered the same records are on one board; runs of a method that differ in the seed only
are one row of it. Below a board stands a verdict in words: whether sharing helps, which method to
take, and how many more records would tell those apart that cannot be told apart. Without a folder
the results in the package are shown."""

COMPARE = """Compare two runs by task, with intervals and significance tests.

  python -m evals compare runs/cgc runs/lora
  python -m evals compare runs/cgc runs/lora --data test.jsonl

  python -m evals compare lm-eval-output/one lm-eval-output/other
  python -m evals compare logs/one.eval logs/other.eval --metric includes

Without --data the replicates in the run folders are compared (paired bootstrap). With it the
answers are scored again, and the test is a paired permutation of the answers.

Logs of lm-evaluation-harness (made with --log_samples) and of inspect are compared sample by
sample; items are paired by their ids, and a task whose items differ is left out. A run folder is
compared with a log of `lm_eval --tasks promptcblue`: both are scored by the same rules."""

HARNESS = """Print the folder of our tasks for lm-evaluation-harness, for its --include_path.

  lm_eval --tasks promptcblue --include_path "$(python -m evals harness)" ...

The group promptcblue has the 16 tasks of PromptCBLUE, scored as `python -m evals score` does it."""


def add(command: AddCommand) -> None:
    """Add these commands to a command line."""
    report = command("report", REPORT, _report)
    report.add_argument("roots", type=Path, nargs="*", help="folders with runs at any depth")
    report.add_argument("--reference", help=f"reference of the gains (default: {SINGLE})")
    report.add_argument(
        "--budget", type=_parameters, help="trained parameters that you can afford, such as 2e6"
    )
    report.add_argument(
        "--language", choices=["en", "zh"], default="en", help="of the verdicts (default: en)"
    )
    form = report.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="Markdown instead of plain text")
    form.add_argument("--json", action="store_true", help="JSON, for machines")
    report.add_argument("--out", type=Path, help="file to write instead of printing")
    compare = command("compare", COMPARE, _compare)
    what = "run folder, results_*.json of lm-evaluation-harness, log of inspect, or their folder"
    compare.add_argument("first", type=Path, metavar="RUN_A", help=what)
    compare.add_argument("second", type=Path, metavar="RUN_B", help="likewise")
    compare.add_argument(
        "--metric",
        help="of logs: a metric, maybe with its filter, or a scorer (default: each task's first)",
    )
    data_options(compare, default="the runs' own replicates")
    command("harness", HARNESS, _harness)


def _report(options: argparse.Namespace) -> None:
    from cgclora.storage import atomic_io
    from evals.leaderboard import report
    from evals.leaderboard.board import boards
    from evals.runs.run_dir import RunError

    roots = options.roots or [Path(__file__).parents[2] / "assets" / "results"]
    leaderboards = boards(roots)
    if not (leaderboards.boards or leaderboards.unscored or leaderboards.damaged):
        raise RunError(f"no run lies below {', '.join(map(str, roots))}: name another folder.")
    told = {"language": options.language, "budget": options.budget}
    text = (
        atomic_io.json_text(report.values(leaderboards, options.reference, **told))
        if options.json
        else report.report(leaderboards, options.reference, markdown=options.markdown, **told)
    )
    if options.out:
        atomic_io.write_text(options.out, text)
    else:
        print(text, end="")


def _parameters(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of parameters: give one like 2e6.")
    return int(number)


def _compare(options: argparse.Namespace) -> None:
    import dataclasses

    from evals.leaderboard.comparison import compare
    from evals.leaderboard.tables import comparison_table
    from evals.runs.harness.reader import read

    runs = read(options.first, options.metric), read(options.second, options.metric)
    comparison = compare(*runs, dataset(options) if options.data else None)
    if options.json:
        print(json.dumps(dataclasses.asdict(comparison), ensure_ascii=False))
    else:
        print(comparison_table(comparison).text())


def _harness(_: argparse.Namespace) -> None:
    from evals.runs.harness.pack import FOLDER

    print(FOLDER)
