"""`python -m evals docs`: the tables of the documentation, made from the committed results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = """Regenerate the tables of README.md, docs and assets from the results in assets/results.

  python -m evals docs
  python -m evals docs --check

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. With --check nothing is written:
the stale files are named, and the exit code is 1 if there are any. Needs a clone of the project."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("--check", action="store_true", help="name stale files, write nothing")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.storage import atomic_io
    from evals.figures.docs_tables import generated

    root = Path(__file__).parents[2]
    texts = generated(root)
    stale = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    if not options.check:
        for path in stale:
            atomic_io.write_text(path, texts[path])
    for path in stale:
        print(f"{'stale' if options.check else 'written'}: {path.relative_to(root)}")
    if options.check and stale:
        sys.exit("run `python -m evals docs` and commit what it changes.")
