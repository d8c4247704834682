"""`python -m cgclora data`: what a model sees of records, and what of it is trained."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cgclora.cli.common import aligned, choose_prompts, prompt_options
from cgclora.data.forms import task_name
from cgclora.data.readers import read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cgclora.data.records import Encoded, Record

HELP = """Show what of the data is trained. Prints some records as the model sees them, the tokens
that the loss is taken on in brackets, or in colour on a terminal; then the number of records by
task, with their lengths in tokens. Only the backbone's tokenizer is loaded.

  python -m cgclora data chat.jsonl --task support --backbone Qwen/Qwen3-0.6B
  python -m cgclora data train.jsonl --backbone models/glm --show 1 --system "Answer briefly."
"""

_ON, _OFF = "\x1b[30;42m", "\x1b[0m"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("data", help="records: file, folder or hub id")
    parser.add_argument("--split", default="train", help="of a folder or hub id (default: train)")
    parser.add_argument(
        "--task", type=task_name, action="append", help="these tasks only, or the name of the one"
    )
    parser.add_argument(
        "--backbone", help="local folder or hub id; without it, the embedded Gemma 3 270M"
    )
    prompt_options(parser)
    parser.add_argument("--show", type=int, default=3, help="records to print (default: 3)")
    parser.add_argument("--max-length", type=int, default=1024, help="longest record in tokens")
    parser.add_argument("--json", action="store_true", help="print counts and tokens as JSON")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.data.records import encode
    from cgclora.models.backbone import EMBEDDED, load_tokenizer_of

    records = read_records(options.data, split=options.split, tasks=options.task)
    tasks = sorted({record.task for record in records})
    tokenizer, ends = load_tokenizer_of(options.backbone or EMBEDDED)
    prompt_format = choose_prompts(options, tokenizer)
    encoded, too_long = encode(
        records,
        tokenizer,
        tasks,
        prompt_format=prompt_format,
        max_length=options.max_length,
        ends=ends,
    )
    shown = [_pieces(item, tokenizer) for item in encoded[: max(0, options.show)]]
    counts = [_counts(task, place, records, encoded) for place, task in enumerate(tasks)]
    later = 0 if prompt_format.template else sum(record.later_answers for record in records)
    if options.json:
        facts = {"format": prompt_format.to_dict(), "tasks": counts, "later_turns": later}
        facts |= {"too_long": dict(too_long), "shown": shown}
        print(json.dumps(facts, ensure_ascii=False))
        return
    for item, pieces in zip(encoded, shown, strict=False):
        print(f"--- {tasks[item.task]}, {len(item.ids)} tokens, {item.target_tokens} trained")
        print(_marked(pieces, colour=_has_colour()))
    print("\n".join(aligned(_table(counts))))
    print(f"prompts: {'chat template' if prompt_format.template else 'plain'}")
    if too_long:
        print(f"reach beyond {options.max_length} tokens: {dict(too_long)}")
    if later:
        print(f"left out: {later} later turns; --template trains on them")


def _pieces(item: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Runs of tokens that are trained alike, as text."""
    pieces, at = [], 0
    for places in item.targets:
        for start, end, trained in (
            (at, places.start, False),
            (places.start, places.stop, True),
        ):
            ids = item.ids[start:end]
            text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            pieces.append({"text": text, "ids": ids, "trained": trained})
        at = places.stop
    return pieces


def _marked(pieces: Sequence[dict[str, Any]], *, colour: bool) -> str:
    marks = (_ON, _OFF) if colour else ("[[", "]]")
    return "".join(
        piece["text"].join(marks) if piece["trained"] else piece["text"] for piece in pieces
    )


def _has_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _counts(
    task: str, place: int, records: Sequence[Record], encoded: Sequence[Encoded]
) -> dict[str, Any]:
    items = [item for item in encoded if item.task == place]
    lengths = [len(item.ids) for item in items]
    return {
        "task": task,
        "records": Counter(record.task for record in records)[task],
        "sequences": len(items),
        "answers": sum(len(item.targets) for item in items),
        "tokens": sum(lengths),
        "trained": sum(item.target_tokens for item in items),
        "median": int(statistics.median(lengths)),
        "longest": max(lengths),
    }


def _table(counts: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [list(counts[0]), *([str(value) for value in one.values()] for one in counts)]
