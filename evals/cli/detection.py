"""`python -m evals detection`: fit the model that tells tasks apart."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = """Fit the model that tells which task a text is for, and score it on dev and test.

  python -m evals detection fit --data my-data --out assets/detection.safetensors

Takes some minutes on one core. The same data gives the same file, byte for byte; the manifest
beside it says what it was made of and how often it is right."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("action", choices=("fit",))
    parser.add_argument("--data", help="folder or hub id; default: $CGCLORA_DATA")
    parser.add_argument("--out", type=Path, required=True, help="file, .safetensors")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.config import ConfigError
    from evals.detection.fit import fit

    if options.out.suffix != ".safetensors":  # the manifest takes the name with .json
        raise ConfigError(f"--out is {options.out}: name a file that ends with .safetensors.")
    manifest = fit(options.data, options.out)
    for split in ("dev", "test"):
        for form, facts in manifest[split].items():
            low, high = facts["interval"]
            print(
                f"{split:<4}  {form:<5}  {facts['accuracy@1']:.3f} ({low:.3f}-{high:.3f})  "
                f"among three {facts['accuracy@3']:.3f}  n {facts['texts']}"
            )
