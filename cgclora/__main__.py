"""The command line, `python -m cgclora`: train, generate, serve, inspect, bench and more."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgclora import (
    accelerate_command,
    affinity_command,
    export_command,
    growing_command,
    import_command,
    router_command,
    scaling_command,
    serve_command,
    train_command,
)
from cgclora.commands import backbone_options, command_line, int8_option, load
from cgclora.exit_codes import run

GENERATE = """Answer prompts with a task's experts.

  python -m cgclora generate --adapter assets/adapters/medical --task KUAKE-QIC "..."
  echo "..." | python -m cgclora generate --adapter runs/mine/adapter --task NER
  python -m cgclora generate --adapter runs/mine/adapter --file questions.jsonl --json

Without --adapter the bare backbone answers. A file's lines have the fields of training data
(`target` may be missing), and every line may name another task: they share batches."""

INSPECT = """Show what an adapter is: sizes, ranks, where it comes from, and how much of each task's
gate goes to common and to specific experts. Needs no backbone.

  python -m cgclora inspect assets/adapters/medical"""

BENCH = """Measure speed side by side on this machine: training steps against PEFT and a loop over
experts, folded and unfolded decoding, tasks of many clusters, growth with the number of experts,
start-up time. Needs the package peft. Takes some minutes; nothing else should run meanwhile.

  python -m cgclora bench --out bench.json"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    return run(lambda: options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser, command = command_line(
        "python -m cgclora",
        "CGC-LoRA: one frozen language model, many tasks, experts shared and specific.",
    )

    train_command.add_options(command("train", train_command.HELP, train_command.execute))

    generate = command("generate", GENERATE, _generate)
    generate.add_argument("prompt", nargs="?", help="the prompt; without it, standard input")
    backbone_options(generate)
    int8_option(generate)
    generate.add_argument("--adapter", type=Path, help="adapter folder; without it, the backbone")
    generate.add_argument("--task", help="task whose experts answer")
    generate.add_argument("--file", help="file of records to answer instead of one prompt")
    generate.add_argument("--max-new-tokens", type=int, default=128)
    generate.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    generate.add_argument("--top-p", type=float, default=1.0)
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--stop", action="append", default=[], help="text that ends the answer")
    generate.add_argument("--choice", action="append", help="allow only the choices given")
    generate.add_argument("--batch-size", type=int, default=16, help="for --file")
    generate.add_argument("--json", action="store_true", help="an object a line, for machines")

    inspect = command("inspect", INSPECT, _inspect)
    inspect.add_argument("adapter", type=Path, help="adapter folder")
    inspect.add_argument("--json", action="store_true", help="the same for machines")

    bench = command("bench", BENCH, _bench)
    backbone_options(bench)
    bench.add_argument("--out", type=Path, help="also write the JSON to this file")
    bench.add_argument("--only", action="append", help="run these parts only, by name")
    bench.add_argument("--repeats", type=int, default=5, help="timings a method (default 5)")
    bench.add_argument("--json", action="store_true", help="print JSON instead of a table")
    affinity_command.add_options(
        command("affinity", affinity_command.HELP, affinity_command.execute)
    )
    export_command.add_options(command("export", export_command.HELP, export_command.execute))
    import_command.add_options(command("import", import_command.HELP, import_command.execute))
    router_command.add_options(command("router", router_command.HELP, router_command.execute))
    growing_command.add_options(command("add-task", growing_command.ADD, growing_command.add))
    growing_command.drop_options(command("drop-task", growing_command.DROP, growing_command.drop))
    scaling_command.add_options(command("scaling", scaling_command.HELP, scaling_command.execute))
    serve_command.add_options(command("serve", serve_command.HELP, serve_command.execute))
    accelerate_config = command(
        "accelerate-config", accelerate_command.HELP, accelerate_command.execute
    )
    accelerate_command.add_options(accelerate_config)
    return parser


# generate ---------------------------------------------------------------------------------


def _generate(options: argparse.Namespace) -> None:
    from cgclora.adapter import Adapter
    from cgclora.decoding import generate, stream

    requests = _requests(options)
    backbone = load(options)
    adapter = Adapter.load(options.adapter, backbone).for_inference() if options.adapter else None
    if options.file is None and not options.json:
        for piece in stream(backbone, requests, adapter):
            print(piece.text, end="", flush=True)
        print()
        return
    answers = generate(backbone, requests, adapter, batch_size=options.batch_size)
    for request, answer in zip(requests, answers, strict=True):
        if options.json:
            facts = {"task": request.task, **vars(answer)}
            print(json.dumps(facts, ensure_ascii=False))
        else:
            print(answer.text)


def _requests(options: argparse.Namespace) -> list[Any]:
    from cgclora.config import ConfigError
    from cgclora.records import read_records
    from cgclora.request import Request

    if options.task is not None and options.adapter is None:
        raise ConfigError("--task needs --adapter: name the adapter that knows the task.")
    if options.file is not None and (options.prompt is not None or options.task is not None):
        raise ConfigError("--file brings its own prompts and tasks: leave out prompt and --task.")
    questions: list[tuple[str | None, str]]
    if options.file is not None:
        records = read_records(options.file, split="test", need_target=False)
        questions = [(record.task, record.prompt) for record in records]
    else:
        prompt = sys.stdin.read().rstrip("\n") if options.prompt is None else options.prompt
        questions = [(options.task, prompt)]
    if options.adapter is None:
        questions = [(None, prompt) for _, prompt in questions]
    elif any(task is None for task, _ in questions):
        raise ConfigError("--adapter needs --task: name the task whose experts shall answer.")
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
        for task, prompt in questions
    ]


# inspect ----------------------------------------------------------------------------------


def _inspect(options: argparse.Namespace) -> None:
    from cgclora.lean import decoding_here
    from cgclora.storage import read_gates, read_manifest

    manifest, config = read_manifest(options.adapter)
    gates = read_gates(options.adapter).mean(dim=0)
    shares = {
        task: {
            "common": float(row[: config.common].sum() / row.sum()),
            "specific": float(row[config.common :].sum() / row.sum()),
        }
        for task, row in zip(config.tasks, gates, strict=True)
    }
    if options.json:
        facts = {
            "manifest": manifest,
            "config": config.to_dict(),
            "gate_shares": shares,
            "decoding": decoding_here(),
        }
        print(json.dumps(facts, ensure_ascii=False))
        return
    print(_describe(manifest, config, shares, decoding_here()))


def _describe(
    manifest: Mapping[str, Any],
    config: Any,
    shares: Mapping[str, Mapping[str, float]],
    decoding: str,
) -> str:
    training = manifest.get("training", {})
    facts = {
        "backbone": f"{manifest['backbone'].get('name') or 'unnamed'} "
        f"({manifest['backbone']['fingerprint'][:12]})",
        "experts": f"{config.common} common + {config.specific} x {len(config.tasks)} specific, "
        f"rank {config.expert_rank} each",
        "gate": f"{config.gate}, one a {config.gate_scope}",
        "rank": f"{config.total_rank} total, {config.active_rank} active",
        "trainable": f"{manifest['trainable_parameters']:,} parameters",
        "created": manifest.get("created", "unknown"),
        "commit": manifest.get("code", {}).get("commit", "unknown"),
        "dev loss": training.get("best_dev_loss", "unknown"),
        "licence": manifest.get("licence", "not stated"),
        "answers": decoding,
    }
    if "only" in training:
        facts["dev loss"] = f"{facts['dev loss']} of {', '.join(training['only'])}"
    if origin := manifest.get("origin"):
        facts["origin"] = _origin(origin)
    lines = [f"{name:<10} {value}" for name, value in facts.items()]
    width = max(len(task) for task in shares)
    lines += ["", f"{'task':<{width}}  common  specific"]
    lines += [
        f"{task:<{width}}  {share['common']:6.1%}  {share['specific']:8.1%}"
        for task, share in shares.items()
    ]
    lines += _score_lines(manifest.get("classification", {}).get("tasks", {}))
    return "\n".join(lines)


def _origin(origin: Mapping[str, Any]) -> str:
    """What `add-task` or `drop-task` made of which adapter."""
    parent = origin["sha256"][:12]
    if added := origin.get("added"):
        return f"{', '.join(added)} added to {parent}"
    return f"{', '.join(origin.get('dropped', ()))} dropped from {parent}"


def _score_lines(tasks: Mapping[str, Any]) -> list[str]:
    """The table of accuracies that `python -m evals classification --write` left, if it did."""
    if not tasks:
        return []
    methods = [name for name in next(iter(tasks.values())) if name != "records"]
    rows = [("accuracy (95 % interval)", *methods)]
    for task, scores in tasks.items():
        cells = [
            f"{scores[method]['accuracy']:.3f} ({low:.3f}-{high:.3f})"
            for method in methods
            for low, high in [scores[method]["interval"]]
        ]
        rows.append((f"{task}, {scores['records']} records", *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]


# bench ------------------------------------------------------------------------------------


def _bench(options: argparse.Namespace) -> None:
    from cgclora import bench, files

    report = bench.run(load(options), only=options.only, repeats=options.repeats)
    print(json.dumps(report) if options.json else bench.table(report), flush=True)
    if options.out:
        files.write_json(options.out, report)


if __name__ == "__main__":
    sys.exit(main())
