"""`python -m cgclora accelerate-config`: where the configs for several processes lie."""

import argparse
from pathlib import Path

from cgclora.cli.common import show

_FOLDER = Path(__file__).parents[1] / "training" / "accelerate"

CONFIGS = {
    "ddp": "GPUs of one machine (or CPU processes), each with the whole backbone",
    "ddp_multi_node": "GPUs of several machines, each with the whole backbone",
    "fsdp": "GPUs that share one backbone, which fits none of them",
}

HELP = (
    """Print the path of a config for `accelerate launch`, for training by several processes:

"""
    + "\n".join(f"  {name:<14}  {purpose}" for name, purpose in CONFIGS.items())
    + """

The file's comments say what to change; --num_processes and the like change it for one run.

  accelerate launch --config_file "$(python -m cgclora accelerate-config ddp)" --num_processes 4 \\
      -m cgclora train --data train.jsonl --dev dev.jsonl --run runs/mine
  cp "$(python -m cgclora accelerate-config fsdp)" mine.yaml"""
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("name", choices=CONFIGS, help="which config")
    parser.add_argument("--json", action="store_true", help="print path and purpose as JSON")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    path = _FOLDER / f"{options.name}.yaml"
    facts = {"name": options.name, "path": str(path), "purpose": CONFIGS[options.name]}
    show(facts, str(path), options)
