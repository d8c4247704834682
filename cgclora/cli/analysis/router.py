"""`python -m cgclora router`: find the task of prompts that name none."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.cli.common import show
from cgclora.data.readers import read_records

if TYPE_CHECKING:
    from cgclora.data.records import Record
    from cgclora.inference.router import TaskRouter

HELP = """Find the task, and so the cluster, of prompts that name none. Training fits a router for
its adapter; `fit` does so for older ones. `check` reports how often task and cluster of test
prompts are found among the tasks of all given adapters, and how often the router is sure.

  python -m cgclora router fit --adapter my-adapter --data train.jsonl --dev dev.jsonl
  python -m cgclora router check --adapter medical --adapter general --data test.jsonl
  python -m cgclora router route --adapter medical --adapter general "找出句子中的人名：…"

A router is fitted on the tasks of its own adapter only, so any adapters can be combined. Data is as
for training. With --write, `check` also writes each router's accuracy on its own tasks to the
adapter's manifest."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    actions = parser.add_subparsers(required=True, metavar="fit | check | route")

    fit = _action(actions, "fit", "fit the routers of adapters", _fit)
    _data_option(fit, "--data", "train records: file, folder or hub id (repeat)", required=True)
    _data_option(fit, "--dev", "dev records to check the router with (repeat)", required=False)

    check = _action(actions, "check", "report how often routers are right", _check)
    _data_option(check, "--data", "test records: file, folder or hub id (repeat)", required=True)
    check.add_argument("--write", action="store_true", help="write the scores to the manifests")
    check.add_argument("--out", type=Path, help="also write the JSON to this file")

    route = _action(actions, "route", "show the most likely tasks of a prompt", _route)
    route.add_argument("prompt", nargs="?", help="the prompt; without it, standard input")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    options.adapter = list(dict.fromkeys(options.adapter))
    options.action(options)


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(action=run)
    parser.add_argument(
        "--adapter",
        type=Path,
        action="append",
        required=True,
        help="adapter folder or hub id (repeat)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def _data_option(parser: argparse.ArgumentParser, name: str, text: str, *, required: bool) -> None:
    parser.add_argument(name, action="append", required=required, default=[], help=text)


def _fit(options: argparse.Namespace) -> None:
    from cgclora.analysis.router_accuracy import check
    from cgclora.data.records import data_hash
    from cgclora.inference.router import TaskRouter
    from cgclora.storage.adapter_dir import read_manifest

    records, dev = _records(options.data, "train"), _records(options.dev, "dev")
    reports = {}
    for folder in options.adapter:
        _, config = read_manifest(folder)
        own = _of_tasks(records, config.tasks)
        prompts = {task: [r.prompt for r in own if r.task == task] for task in config.tasks}
        router = TaskRouter.fit(prompts)
        train = {"data": data_hash(own), "records": len(own)}
        facts: dict[str, Any] = {"train": train, **_stamp()}
        if own_dev := _of_tasks(dev, config.tasks):
            facts["dev"] = _summary(check({folder.name: router}, own_dev), "data")
        router.save(folder, facts)
        reports[str(folder)] = facts
        if not options.json:
            size = len(router.to_bytes()) / 1000
            print(f"{folder}: {len(config.tasks)} tasks, {len(own)} prompts, {size:.0f} kB")
            print("\n".join(_lines(facts.get("dev", {}))))
    if options.json:
        print(json.dumps(reports, ensure_ascii=False))


def _check(options: argparse.Namespace) -> None:
    from cgclora.analysis.router_accuracy import check
    from cgclora.storage import atomic_io
    from cgclora.storage.adapter_dir import annotate, read_manifest

    routers, records = _routers(options.adapter), _records(options.data, "test")
    report = {**check(routers, records), **_stamp()}
    if len(routers) > 1:
        report["alone"] = {
            name: _summary(check({name: router}, records), "other tasks")
            for name, router in routers.items()
        }
    if options.write:
        for folder, (name, router) in zip(options.adapter, routers.items(), strict=True):
            if own := _of_tasks(records, router.tasks):
                facts = read_manifest(folder)[0].get("router", {})
                test = _summary(check({name: router}, own), "data", "tasks") | _stamp()
                annotate(folder, {"router": {**facts, "test": test}})
    if options.out:
        atomic_io.write_json(options.out, report)
    show(report, _table(report), options)


def _route(options: argparse.Namespace) -> None:
    import dataclasses
    import sys

    from cgclora.inference.router import JoinedRouter

    prompt = sys.stdin.read() if options.prompt is None else options.prompt
    router = JoinedRouter(_routers(options.adapter))
    routed = router.route(prompt)
    if options.json:
        print(json.dumps([dataclasses.asdict(one) for one in routed], ensure_ascii=False))
        return
    if router.choose(prompt) is None:
        print("not sure: the prompt is unlike those of all tasks. Name the task.")
    for one in routed[:5]:
        print(f"{one.probability:.3f}  {one.task}  ({one.cluster})")


def _records(sources: Sequence[str], split: str) -> list[Record]:
    return [
        record
        for source in sources
        for record in read_records(source, split=split, need_target=False)
    ]


def _of_tasks(records: Sequence[Record], tasks: Sequence[str]) -> list[Record]:
    return [record for record in records if record.task in tasks]


def _routers(folders: Sequence[Path]) -> dict[str, TaskRouter]:
    """Routers by the names of their folders, or by their paths if two names are equal."""
    from cgclora.inference.router import TaskRouter

    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return {name: TaskRouter.load(folder) for name, folder in zip(names, folders, strict=True)}


def _stamp() -> dict[str, Any]:
    from cgclora.storage import provenance

    return {
        "code": provenance.commit(),
        "versions": provenance.versions(("cgclora", "numpy", "safetensors")),
    }


def _summary(report: dict[str, Any], *more: str) -> dict[str, Any]:
    """The entries of a report that are saved for one router."""
    return {name: report[name] for name in ("task", "sure", "task when sure", *more)}


def _table(report: dict[str, Any]) -> str:
    lines = _lines(report)
    if report["confusions"]:
        lines += ["", "wrong:", *_rows(report["confusions"])]
    if report["other tasks"].get("sure"):
        lines += ["", "surely taken, of other tasks:", *_rows(report["other tasks"]["taken as"])]
    for name, alone in report.get("alone", {}).items():
        lines += ["", f"{name} alone:", *_lines(alone)]
    return "\n".join(lines)


def _lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for label, key, count in (
        ("task right", "task", "right"),
        ("cluster right", "cluster", "right"),
        ("router sure", "sure", "sure"),
        ("task then right", "task when sure", "right"),
        ("other tasks surely taken", "other tasks", "sure"),
    ):
        share = report.get(key, {})
        if share.get("records"):
            low, high = share["interval"]
            counts = f"{share[count]} of {share['records']} prompts"
            lines.append(f"{label:26}{share['share']:8.2%}  ({low:.2%} to {high:.2%})  {counts}")
    return lines


def _rows(confusions: list[dict[str, Any]]) -> list[str]:
    return [f"{row['records']:6}  {row['task']} as {row['as']} ({row['of']})" for row in confusions]
