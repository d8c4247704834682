"""`python -m evals jobs`: the worker of a job queue."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = """Run the queued jobs of a folder, one after another, until there was none for a while.

  python -m evals jobs runs/jobs

The web app starts this when a job is submitted; a second worker of a folder ends at once."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("root", type=Path, help="folder of the jobs")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds to wait for more")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    import signal

    from evals.jobs.worker import work

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # ends its job, too
    work(options.root, options.idle)
