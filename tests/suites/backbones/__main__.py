"""Write what is found for all model types: `python -m tests.suites.backbones docs/backbones.md`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client

import peft
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from cgclora.storage.atomic_io import write_text
from tests.suites.backbones.checks import EQUAL, Row, examine

HEAD = """# Backbones

Every model type that `AutoModelForCausalLM` of transformers {transformers} knows, as a tiny random
model in float64, or in float32 where its own code cannot be run in float64. A table of
`python -m tests.suites.backbones docs/backbones.md`, with torch {torch} on a CPU and PEFT {peft};
what has no tiny model here was not tried.

* **mixed batch**: rows of unequal length and different tasks are answered as plain transformers
  answers them one by one, with W + s * sum g B A in place of each adapted weight;
* **loss and gradients**: so are the loss of such a batch and its gradients by all parameters;
* **merged**, **PEFT**: so are the logits of a task's export, as transformers and PEFT load it.

{counts}

| model type | mixed batch | loss and gradients | merged | PEFT |
|---|---|---|---|---|
"""


def table(rows: Sequence[Row]) -> str:
    """The page."""
    whole = sum(set(row.cells) == {EQUAL} for row in rows)
    made = sum(not row.mixed.startswith("no tiny model") for row in rows)
    return HEAD.format(
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        peft=peft.__version__,
        counts=f"{whole} of {made} that were tried are equal in all, {len(rows)} are known.",
    ) + "".join(map(_line, rows))


def _line(row: Row) -> str:
    cells = row.cells
    if len(set(cells)) == 1 and cells[0] != EQUAL:
        cells = (cells[0], "", "", "")
    shown = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {row.model_type} | {' | '.join(shown)} |\n"


def main(words: Sequence[str] | None = None) -> int:
    """Examine model types and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites.backbones", description=__doc__)
    parser.add_argument("out", type=Path, help="where; - prints it")
    parser.add_argument("types", nargs="*", help="these alone")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows = []
    for model_type in given.types or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        rows.append(examine(model_type))
        print(_line(rows[-1]), end="", file=sys.stderr, flush=True)
    if str(given.out) == "-":
        print(table(rows))
    else:
        write_text(given.out, table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
