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
from tests.suites.backbones.configs import MULTIMODAL

HEAD = """# Backbones

Every family below loads by `--backbone` from a folder or a hub id; code that comes with a model is
never run. Of multimodal checkpoints the text model is adapted and answers; images are not read.

* **Adapted** are the linear layers of the text decoder, `--target-module` chooses among them.
  Routed experts and routers of a mixture are left as they are: they see tokens without their rows,
  and most hold all experts in one parameter. So gpt-oss is adapted in its attention, GLM-4.5,
  ERNIE 4.5 and DeepSeek in attention and dense layers.
* **Decoding** has a fast path of our own for Gemma 3, Llama, Qwen2 (and 2.5) and Qwen3. Others are
  answered by transformers with the same results; the log says so once, and `inspect` does.
* **Quantised checkpoints** are refused but for gpt-oss in MXFP4, whose experts become bf16 while
  they are loaded (42 GB for the 20B model). `--four-bit` quantises others: see
  [training](training.md#four-bits-and-a-24-gb-card).
* **PEFT** exports name layers that are called like routed experts by their weight
  (`target_parameters`), which PEFT 0.17 and later reads. vLLM is not given those: export to merged.
* **GLM-5, DeepSeek-V3.2** and others attend to the 2,048 tokens that an indexer picks, in a padded
  batch to the same ones, since the scores are equal bit for bit. Only tokens of equal score may be
  picked differently, which indexers of few heads have and released ones (16 to 64 heads) do not.
  Where there are fewer than 16, prompts of different length share no batch.

The table has every model type that `AutoModelForCausalLM` of transformers {transformers} knows,
and some multimodal ones, as a tiny random model in float64, or in float32 where its own code cannot
be run in float64: what `python -m tests.suites.backbones docs/backbones.md` finds with torch
{torch} on a CPU and PEFT {peft}. What has no tiny model here was not tried.

* **mixed batch**: rows of unequal length and different tasks are answered as plain transformers
  answers them one by one, with W + s * sum g B A in place of each adapted weight;
* **running batch**: so are rows that join a batch which others leave (continuous batching);
* **loss and gradients**: so are the loss of a mixed batch and its gradients by all parameters;
* **merged**, **PEFT**: so are the logits of a task's export, as transformers and PEFT load it.

{counts}

| model type | mixed batch | running batch | loss and gradients | merged | PEFT |
|---|---|---|---|---|---|
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
        cells = (cells[0], *[""] * (len(cells) - 1))
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
    for model_type in given.types or sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MULTIMODAL}):
        rows.append(examine(model_type))
        print(_line(rows[-1]), end="", file=sys.stderr, flush=True)
    if str(given.out) == "-":
        print(table(rows))
    else:
        write_text(given.out, table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
