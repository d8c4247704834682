"""`python -m cgclora generate`: answers of a task's experts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cgclora.cli.common import backbone_options, four_bit_option, int8_option, load

HELP = """Answer prompts with a task's experts.

  python -m cgclora generate --adapter assets/adapters/medical --task KUAKE-QIC "..."
  echo "..." | python -m cgclora generate --adapter runs/mine/adapter --task NER
  python -m cgclora generate --adapter runs/mine/adapter --file questions.jsonl --json

Without --adapter the bare backbone answers. A file's lines have the fields of training data
(`target` may be missing), and every line may name another task: they share batches."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("prompt", nargs="?", help="the prompt; without it, standard input")
    backbone_options(parser)
    four_bit_option(parser)
    int8_option(parser)
    parser.add_argument(
        "--adapter", type=Path, help="adapter folder or hub id; without it, the backbone"
    )
    parser.add_argument("--task", help="task whose experts answer")
    parser.add_argument("--file", help="file of records to answer instead of one prompt")
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

    requests = _requests(options)
    backbone = load(options)
    adapter = Adapter.load(options.adapter, backbone).for_inference() if options.adapter else None
    engine = Engine(backbone, adapter, Limits(batch_size=options.batch_size))
    if options.file is None and not options.json:
        for piece in engine.stream(requests):
            print(piece.text, end="", flush=True)
        print()
        return
    for request, answer in zip(requests, engine.generate(requests), strict=True):
        if options.json:
            facts = {"task": request.task, **vars(answer)}
            print(json.dumps(facts, ensure_ascii=False))
        else:
            print(answer.text)


def _requests(options: argparse.Namespace) -> list[Any]:
    from cgclora.config import ConfigError
    from cgclora.data.readers import read_records
    from cgclora.inference.request import Request

    if options.task is not None and options.adapter is None:
        raise ConfigError("--task needs --adapter: name the adapter that knows the task.")
    if options.file is not None and (options.prompt is not None or options.task is not None):
        raise ConfigError("--file has its own prompts and tasks: leave out prompt and --task.")
    prompts: list[tuple[str | None, str]]
    if options.file is not None:
        records = read_records(options.file, split="test", need_target=False)
        prompts = [(record.task, record.prompt) for record in records]
    else:
        prompt = sys.stdin.read().rstrip("\n") if options.prompt is None else options.prompt
        prompts = [(options.task, prompt)]
    if options.adapter is None:
        prompts = [(None, prompt) for _, prompt in prompts]
    elif any(task is None for task, _ in prompts):
        raise ConfigError("--adapter needs --task: name the task whose experts answer.")
    return [
        Request(
            task,
            prompt,
            max_new_tokens=options.max_new_tokens,
            stop=tuple(options.stop),
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
            choices=tuple(options.choice) if options.choice else None,
        )
        for task, prompt in prompts
    ]
