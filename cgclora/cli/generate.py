"""`python -m cgclora generate`: answers of a task's experts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cgclora.cli.common import (
    backbone_options,
    choose_prompts,
    four_bit_option,
    has_prompts,
    int8_option,
    load,
    prompt_options,
)

if TYPE_CHECKING:
    from cgclora.config import PromptFormat
    from cgclora.data.records import Record
    from cgclora.inference.request import Request

HELP = """Answer prompts with a task's experts.

  python -m cgclora generate --adapter assets/adapters/medical --task KUAKE-QIC "..."
  echo "..." | python -m cgclora generate --adapter runs/mine/adapter --task NER
  python -m cgclora generate --adapter runs/mine/adapter --file questions.jsonl --json

Without --adapter the bare backbone answers. A file's lines have the fields of training data
(`target` may be missing), and every line may name another task: they share batches. An adapter gets
its prompts as it was trained with them; where it has a chat template, the last question of a
conversation is answered, else the first. Only the bare backbone's prompts can be chosen."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("prompt", nargs="?", help="the prompt; without it, standard input")
    backbone_options(parser)
    four_bit_option(parser)
    int8_option(parser)
    parser.add_argument(
        "--adapter", type=Path, help="adapter folder or hub id; without it, the backbone"
    )
    parser.add_argument(
        "--task", help="task whose experts answer; with --file, that of records which name none"
    )
    parser.add_argument("--file", help="file of records to answer instead of one prompt")
    prompt_options(parser.add_argument_group("prompts of the bare backbone"))
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", action="append", default=[], help="text that ends the answer")
    parser.add_argument("--choice", action="append", help="allow only the given choices (repeat)")
    parser.add_argument("--batch-size", type=int, default=16, help="for --file")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.adapter import Adapter
    from cgclora.inference.engine import Engine
    from cgclora.inference.request_queue import Limits

    records = _records(options)
    backbone = load(options)
    adapter, bare = None, None
    if options.adapter:
        adapter = Adapter.load(options.adapter, backbone).for_inference()
        prompt_format = adapter.config.prompt_format
    else:
        prompt_format = bare = choose_prompts(options, backbone.tokenizer)
    requests = _requests(options, records, prompt_format, bare)
    engine = Engine(backbone, adapter, Limits(batch_size=options.batch_size))
    if options.file is None and not options.json:
        for piece in engine.stream(requests):
            print(piece.text, end="", flush=True)
        print()
        return
    for request, answer in zip(requests, engine.generate(requests), strict=True):
        if options.json:
            told = {name: value for name, value in vars(answer).items() if value is not None}
            facts = {"task": request.task, **told}
            print(json.dumps(facts, ensure_ascii=False))
        else:
            print(answer.text)


def _records(options: argparse.Namespace) -> list[Record]:
    """What is asked, as records; checks the options."""
    from cgclora.config import ConfigError
    from cgclora.data.readers import read_records
    from cgclora.data.records import Record

    if options.adapter is None and options.task is not None and options.file is None:
        raise ConfigError("--task needs --adapter: name the adapter that knows the task.")
    if options.adapter and has_prompts(options):
        raise ConfigError(
            "an adapter has the template and system text of its training: leave out "
            "--template, --system and --template-option."
        )
    if options.file is not None:
        if options.prompt is not None:
            raise ConfigError("--file has its own prompts: leave out the prompt.")
        return read_records(options.file, split="test", task=options.task, need_target=False)
    if options.adapter and options.task is None:
        raise ConfigError("--adapter needs --task: name the task whose experts answer.")
    prompt = sys.stdin.read().rstrip("\n") if options.prompt is None else options.prompt
    return [Record("", options.task or "", prompt, "")]


def _requests(
    options: argparse.Namespace,
    records: Sequence[Record],
    prompt_format: PromptFormat,
    bare: PromptFormat | None,
) -> list[Request]:
    """The requests of records; `bare` is the format of the bare backbone, if it answers."""
    from cgclora.inference.request import Request

    takes_turns = prompt_format.template is not None
    asked = [one.last_question if takes_turns else one.question for one in records]
    return [
        Request.ask(
            None if bare else record.task,
            question,
            prompt_format=bare,
            max_new_tokens=options.max_new_tokens,
            stop=tuple(options.stop),
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
            choices=tuple(options.choice) if options.choice else None,
        )
        for record, question in zip(records, asked, strict=True)
    ]
