"""The command line: `python -m cgclora train | generate | inspect | bench`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora import scaling_command
from cgclora.commands import command_line
from cgclora.exit_codes import run

if TYPE_CHECKING:
    from cgclora.backbone import Backbone

TRAIN = """Train one adapter on many tasks. The data is JSONL, an object a line:

  {"task": "NER", "input": "the whole prompt", "target": "the answer"}

(`task_dataset` and `kind` name the task too, so PromptCBLUE and Firefly files work as they are.)
The run folder holds log, checkpoints and, at the end, the adapter with the lowest dev loss. An
interrupted run goes on when the same command is given again; SIGTERM lets it write a checkpoint.

  python -m cgclora train --data train.jsonl --dev dev.jsonl --run runs/mine
  python -m cgclora train --data train.jsonl --dev dev.jsonl --run runs/lora --method lora --rank 16
  accelerate launch --num_processes 2 -m cgclora train ..."""

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
experts, folded and unfolded decoding, growth with the number of experts, start-up time. Needs the
package peft. Takes some minutes; nothing else should run meanwhile.

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

    _train_options(command("train", TRAIN, _train))

    generate = command("generate", GENERATE, _generate)
    generate.add_argument("prompt", nargs="?", help="the prompt; without it, standard input")
    _backbone_option(generate)
    generate.add_argument("--adapter", type=Path, help="adapter folder; without it, the backbone")
    generate.add_argument("--task", help="task whose experts answer")
    generate.add_argument("--file", type=Path, help="JSONL of prompts instead of one prompt")
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
    _backbone_option(bench)
    bench.add_argument("--out", type=Path, help="also write the JSON to this file")
    bench.add_argument("--only", action="append", help="run these parts only, by name")
    bench.add_argument("--repeats", type=int, default=5, help="timings a method (default 5)")
    bench.add_argument("--json", action="store_true", help="print JSON instead of a table")
    scaling_command.add_options(command("scaling", scaling_command.HELP, scaling_command.execute))
    return parser


def _backbone_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backbone", help="local folder or hub id; without it, the embedded Gemma 3 270M"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps (default: the best)")
    parser.add_argument("--dtype", default="auto", help="bfloat16, float32 (default: the fastest)")


def _load(options: argparse.Namespace) -> Backbone:
    from cgclora.backbone import EMBEDDED, load_backbone

    source = options.backbone or EMBEDDED
    return load_backbone(source, device=options.device, dtype=options.dtype)


# train ------------------------------------------------------------------------------------


def _train_options(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, required=True, help="training records, JSONL")
    data.add_argument("--dev", type=Path, required=True, help="dev records, JSONL")
    data.add_argument("--run", type=Path, required=True, help="run folder; the same one resumes")
    data.add_argument("--task", action="append", help="train these tasks only (repeat)")
    data.add_argument("--records-per-task", type=int, default=0, help="0 takes all")
    data.add_argument(
        "--records-of",
        type=_task_number,
        action="append",
        default=[],
        metavar="TASK=N",
        help="another number for this task (repeat)",
    )
    data.add_argument("--dev-records-per-task", type=int, default=0, help="0 takes all")
    data.add_argument("--max-length", type=int, default=1024, help="longest record in tokens")
    data.add_argument("--licence", help="licence of the data and so of the adapter, noted with it")
    _backbone_option(parser)

    method = parser.add_argument_group("method")
    method.add_argument("--method", choices=("cgc-lora", "moe-lora", "lora"), default="cgc-lora")
    method.add_argument("--common", type=int, default=4, help="common experts (cgc-lora)")
    method.add_argument("--specific", type=int, default=1, help="experts a task (cgc-lora)")
    method.add_argument("--expert-rank", type=int, default=2, help="rank of an expert (cgc-lora)")
    method.add_argument("--rank", type=int, default=16, help="total rank (lora, moe-lora)")
    method.add_argument("--experts", type=int, default=8, help="experts (moe-lora)")
    method.add_argument("--gate", choices=("task", "uniform", "none"), help="default: the method's")
    method.add_argument("--gate-scope", choices=("layer", "model"), help="default: the method's")
    method.add_argument("--alpha", type=float, help="default: the method's")
    method.add_argument("--dropout", type=float, default=0.0)
    method.add_argument("--target-module", action="append", help="adapt these only (repeat)")

    how = parser.add_argument_group("training")
    how.add_argument("--epochs", type=float, default=2.0)
    how.add_argument("--batch-size", type=int, default=8)
    how.add_argument("--accumulation", type=int, default=1)
    how.add_argument("--learning-rate", type=float, default=1e-3)
    how.add_argument("--gate-learning-rate", type=float, help="default: the learning rate")
    how.add_argument(
        "--sampling", choices=("proportional", "uniform", "temperature"), default="proportional"
    )
    how.add_argument("--temperature", type=float, default=2.0, help="of that sampling")
    how.add_argument(
        "--weighting",
        choices=("token", "record"),
        default="token",
        help="what counts alike in the loss (default: each target token)",
    )
    how.add_argument("--warmup", type=float, default=0.05, help="share of the steps")
    how.add_argument("--weight-decay", type=float, default=0.0)
    how.add_argument("--evaluations", type=int, default=8, help="dev losses, evenly spread")
    how.add_argument("--patience", type=int, default=0, help="evaluations without gain; 0: no stop")
    how.add_argument("--gradient-checkpointing", action="store_true")
    how.add_argument("--seed", type=int, default=0)
    how.add_argument("--half", action="store_true", help="save the adapter in bf16, half the size")
    how.add_argument("--json", action="store_true", help="print the manifest as JSON")


def _task_number(text: str) -> tuple[str, int]:
    """`TASK=N` as a pair, for argparse, which reports the ValueError of anything else."""
    task, _, number = text.rpartition("=")
    if not task:
        raise ValueError(text)
    return task, int(number)


def _train(options: argparse.Namespace) -> None:
    import dataclasses

    import torch

    from cgclora.adapter import Adapter
    from cgclora.data import read_records
    from cgclora.settings import TrainingSettings
    from cgclora.training import train

    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    options.records_of = dict(options.records_of)
    settings = TrainingSettings(**{name: getattr(options, name) for name in names})
    train_records = read_records(options.data, tasks=options.task)
    tasks = options.task or sorted({record.task for record in train_records})
    dev_records = read_records(options.dev, tasks=tasks)
    config = _config(options, tasks)
    backbone = _load(options)
    with _told_to_stop() as stop:
        manifest = train(
            Adapter.attach(backbone, config, seed=options.seed),
            backbone.tokenizer,
            train_records,
            dev_records,
            settings,
            options.run,
            dtype=torch.bfloat16 if options.half else None,
            facts={"method": options.method}
            | ({"licence": options.licence} if options.licence else {}),
            stop=stop,
        )
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Its threads would now and then abort a process that ends with the group still open.
        torch.distributed.destroy_process_group()
    if not manifest:
        return  # another process of this run writes and reports
    if options.json:
        print(json.dumps(manifest, ensure_ascii=False))
    else:
        best = manifest["training"]["best_dev_loss"]
        print(f"dev loss {best:.4f} · adapter in {options.run / 'adapter'}")


@contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool] | None]:
    """Whether SIGTERM has come, instead of dying of it; None where several processes train."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not (alone and threading.current_thread() is threading.main_thread()):
        yield None
        return
    told = threading.Event()
    earlier = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _config(options: argparse.Namespace, tasks: Sequence[str]) -> Any:
    from cgclora.config import AdapterConfig

    changes = {
        name: value
        for name in ("gate", "gate_scope", "alpha", "dropout")
        if (value := getattr(options, name)) is not None
    }
    if options.target_module:
        changes["target_modules"] = tuple(options.target_module)
    if options.method == "lora":
        return AdapterConfig.lora(tasks, options.rank, **changes)
    if options.method == "moe-lora":
        return AdapterConfig.moe_lora(tasks, options.experts, options.rank, **changes)
    sizes = {name: getattr(options, name) for name in ("common", "specific", "expert_rank")}
    return AdapterConfig(tuple(tasks), **sizes, **changes)


# generate ---------------------------------------------------------------------------------


def _generate(options: argparse.Namespace) -> None:
    from cgclora.adapter import Adapter
    from cgclora.decoding import generate, stream

    requests = _requests(options)
    backbone = _load(options)
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
    from cgclora.data import read_prompts
    from cgclora.decoding import Request

    if options.task is not None and options.adapter is None:
        raise ConfigError("--task needs --adapter: name the adapter that knows the task.")
    if options.file is not None and (options.prompt is not None or options.task is not None):
        raise ConfigError("--file brings its own prompts and tasks: leave out prompt and --task.")
    questions: list[tuple[str | None, str]]
    if options.file is not None:
        questions = [(record.task, record.prompt) for record in read_prompts(options.file)]
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
        facts = {"manifest": manifest, "config": config.to_dict(), "gate_shares": shares}
        print(json.dumps(facts, ensure_ascii=False))
        return
    print(_describe(manifest, config, shares))


def _describe(
    manifest: Mapping[str, Any], config: Any, shares: Mapping[str, Mapping[str, float]]
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
    }
    lines = [f"{name:<10} {value}" for name, value in facts.items()]
    width = max(len(task) for task in shares)
    lines += ["", f"{'task':<{width}}  common  specific"]
    lines += [
        f"{task:<{width}}  {share['common']:6.1%}  {share['specific']:8.1%}"
        for task, share in shares.items()
    ]
    lines += _score_lines(manifest.get("classification", {}).get("tasks", {}))
    return "\n".join(lines)


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

    report = bench.run(_load(options), only=options.only, repeats=options.repeats)
    print(json.dumps(report) if options.json else bench.table(report), flush=True)
    if options.out:
        files.write_json(options.out, report)


if __name__ == "__main__":
    sys.exit(main())
