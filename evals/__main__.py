"""The judge's command line: `python -m evals run | predict | score | report | compare | ...`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgclora.cli.common import command_line, load
from cgclora.cli.exit_codes import run
from cgclora.data.readers import task_name
from evals.cli import bench, docs, grid, scaling, speed
from evals.cli.grid import answering_options

if TYPE_CHECKING:
    from evals.data.datasets import Dataset
    from evals.runs.evaluate import Engine
    from evals.runs.run_dir import Run

PREDICT = """Answer every record of a data file, with adapters, the bare backbone, or a server.

  python -m evals predict --adapter assets/adapters/medical --data test.jsonl --run runs/medical
  python -m evals predict --method Backbone --data test.jsonl --run runs/backbone
  python -m evals predict --server http://127.0.0.1:8000/v1 --model '*=medical' ...
  python -m evals predict --server http://127.0.0.1:8000/v1 --models bundle/models.json ...

Several --adapter share the tasks out; a task that none of them knows is left out, or with no
--adapter at all answered by the bare backbone. Without --data the folder in CGCLORA_DATA is read.
A call that was cut short goes on when it is given again. A server's API key, if it wants one, is
read from CGCLORA_SERVER_KEY. Needs no scoring packages: score later, here or elsewhere."""

SCORE = """Score a run from its predictions and the data that it answered. It may be scored again.

  python -m evals score runs/medical --data test.jsonl"""

RUN = """Predict, then score: the two commands one after the other, with the options of `predict`.

  python -m evals run --adapter assets/adapters/medical --data test.jsonl --run runs/medical"""

REPORT = """Rank methods by the runs below some folders. Needs neither a model nor the data.

  python -m evals report
  python -m evals report runs --reference 'LoRA (Full)' --markdown --out report.md

Runs that answered the same records stand on one board; runs of a method that differ in the seed
alone are one row of it. Without a folder the results that come with the package are shown."""

COMPARE = """Compare two runs task by task: who answers better, and whether that may be chance.

  python -m evals compare runs/cgc runs/lora
  python -m evals compare runs/cgc runs/lora --data test.jsonl

Without --data the replicates that stay with each run are compared (paired bootstrap). With it the
answers are scored anew, and the test is a paired permutation of the answers."""

CLASSIFICATION = """Score the classification tasks of an adapter beside the bare backbone.

  python -m evals classification --adapter runs/mine/adapter --data test.jsonl --write

With --write the table goes into the adapter's manifest, under `classification`."""


DETECTION = """Fit the model that tells which task a text is for, and score it on dev and test.

  python -m evals detection fit --data my-data --out assets/detection.safetensors

Takes some minutes on one core. The same data gives the same file, byte for byte; the manifest
beside it says what it was made of and how often it is right."""


JOBS = """Run the jobs that wait in a folder, one after another, until there is none for a while.

  python -m evals jobs runs/jobs

The web app starts this by itself when somebody submits a job; given twice, the second one ends."""

AFFINITY = """Draw what `python -m cgclora affinity` measured: heat map or page.

  python -m evals affinity runs/affinity/affinity.json --groups 2 --out affinity.svg
  python -m evals affinity runs/affinity/affinity.json --page assets/results/affinity

A page is a folder with the result, the heat map (SVG) and a README.md of tables."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    from evals.runs.run_dir import RunError
    from evals.tasks.names import UnknownNameError

    options = _parser().parse_args(arguments)
    return run(lambda: options.command(options), also={RunError: 6, UnknownNameError: 2})


def _parser() -> argparse.ArgumentParser:
    parser, command = command_line(
        "python -m evals",
        "Judge adapters on Chinese tasks: answer the data, then score the answers.",
    )

    _predict_options(command("run", RUN, _run))
    _predict_options(command("predict", PREDICT, _predict_only))

    score = command("score", SCORE, _score)
    score.add_argument("run", type=Path, help="run folder")
    _data_options(score)

    grid.add(command)

    report = command("report", REPORT, _report_boards)
    report.add_argument("roots", type=Path, nargs="*", help="folders with runs at any depth")
    report.add_argument("--reference", help="over whom gains are shown (default: LoRA (Single))")
    form = report.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="Markdown instead of plain text")
    form.add_argument("--json", action="store_true", help="JSON, for machines")
    report.add_argument("--out", type=Path, help="file to write instead of printing")

    compare = command("compare", COMPARE, _compare)
    compare.add_argument("first", type=Path, metavar="RUN_A", help="run folder")
    compare.add_argument("second", type=Path, metavar="RUN_B", help="run folder")
    _data_options(compare, default="the runs' own replicates")

    table = command("classification", CLASSIFICATION, _classification)
    table.add_argument("--adapter", type=Path, required=True, help="adapter folder")
    table.add_argument("--data", required=True, help="file, folder or hub id")
    table.add_argument("--backbone", help="local folder or hub id; default: the embedded one")
    table.add_argument("--most", type=int, default=0, help="first so many of a task; 0 takes all")
    table.add_argument("--batch-size", type=int, default=16)
    table.add_argument("--write", action="store_true", help="put the table into the manifest")

    speed.add(command)
    bench.add_options(command("bench", bench.HELP, bench.execute))
    scaling.add_options(command("scaling", scaling.HELP, scaling.execute))
    docs.add_options(command("docs", docs.HELP, docs.execute))

    detection = command("detection", DETECTION, _detection)
    detection.add_argument("action", choices=("fit",))
    detection.add_argument("--data", help="folder or hub id; default: $CGCLORA_DATA")
    detection.add_argument("--out", type=Path, required=True, help="file, .safetensors")

    affinity = command("affinity", AFFINITY, _affinity)
    affinity.add_argument("result", type=Path, help="affinity.json")
    to = affinity.add_mutually_exclusive_group(required=True)
    to.add_argument("--out", type=Path, help="heat map to write, .svg")
    to.add_argument("--page", type=Path, help="folder to write all into")
    affinity.add_argument(
        "--form", choices=("first-order", "lookahead"), default="first-order", help="for --out"
    )
    affinity.add_argument("--groups", type=int, default=0, help="default: as suggested")

    jobs = command("jobs", JOBS, _jobs)
    jobs.add_argument("root", type=Path, help="folder of the jobs")
    jobs.add_argument("--idle", type=float, default=10.0, help="seconds to wait for more")
    return parser


def _data_options(parser: argparse.ArgumentParser, default: str = "$CGCLORA_DATA") -> None:
    parser.add_argument("--data", help=f"file, folder or hub id; default: {default}")
    parser.add_argument("--split", default="test", help="of a folder or hub id (default test)")
    parser.add_argument("--skip-bad", action="store_true", help="pass over bad lines, counted")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def _predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="run folder to make")
    _data_options(parser)
    parser.add_argument("--task", type=task_name, action="append", help="these tasks only (repeat)")
    parser.add_argument("--per-task", type=int, default=0, help="records of a task; 0 takes all")
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="may repeat")
    answering_options(parser)
    parser.add_argument("--server", metavar="URL", help="completions API that answers instead")
    parser.add_argument(
        "--model",
        type=_task_model,
        action="append",
        default=[],
        metavar="TASK=NAME",
        help="the server's model for a task; '*' stands for all others, {task} for each (repeat)",
    )
    parser.add_argument(
        "--models", type=Path, help="models.json of `python -m cgclora export --format vllm`"
    )
    parser.add_argument("--method", help="name on the leaderboard (default: the adapter's method)")
    parser.add_argument("--label", default="", help="what tells this run from others of its method")
    parser.add_argument(
        "--prompt", choices=("plain", "task name"), default="plain", help="see LoRA (Full+TP)"
    )


def _task_model(text: str) -> tuple[str, str]:
    """`TASK=NAME` as a pair, for argparse, which reports the ValueError of anything else."""
    task, equals, name = text.partition("=")
    if not (task and equals and name):
        raise ValueError(text)
    return task_name(task), name


# predict and score ------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> None:
    from evals.runs.evaluate import score

    dataset = _dataset(options)
    run = _predict(options, dataset, to_be_scored=True)
    _report(score(run, dataset), as_json=options.json)


def _predict_only(options: argparse.Namespace) -> None:
    _report(_predict(options, _dataset(options)), as_json=options.json)


def _score(options: argparse.Namespace) -> None:
    from evals.runs.evaluate import score
    from evals.runs.run_dir import read_run

    _report(score(read_run(options.run), _dataset(options)), as_json=options.json)


def _dataset(options: argparse.Namespace) -> Dataset:
    from evals.data import datasets

    dataset = datasets.read(options.data, split=options.split, skip_bad=options.skip_bad)
    if dataset.problems:
        print(f"passed over {len(dataset.problems)} bad lines:", file=sys.stderr)
        for problem in dataset.problems[:5]:
            print(f"  {problem}", file=sys.stderr)
    return dataset


def _predict(options: argparse.Namespace, dataset: Dataset, *, to_be_scored: bool = False) -> Run:
    from evals.data import datasets
    from evals.runs.evaluate import predict

    engine, known, method, seed = _engine(options)
    chosen = datasets.only(dataset, _wanted(options.task, dataset, known))
    return predict(
        options.run,
        engine,
        datasets.limit(chosen, options.per_task, seed=0),
        method=options.method or method,
        label=options.label,
        seed=seed,
        prompt=options.prompt,
        to_be_scored=to_be_scored,
        progress=_print_progress,
    )


def _bundle(path: Path) -> tuple[dict[str, str], str]:
    """An exported bundle's model name for each task, and its separator.

    Raises:
        ConfigError: The file holds something else.
    """
    from cgclora.config import ConfigError

    try:
        bundle = json.loads(path.read_text(encoding="utf-8"))
        return dict(bundle["models"]), str(bundle["separator"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no models.json of an exported bundle: {error!r}.") from error


def _wanted(named: list[str] | None, dataset: Dataset, known: set[str] | None) -> list[str]:
    """The tasks to answer: those that are named, else all that somebody knows."""
    from cgclora.data.records import DataError

    wanted = named or [name for name in dataset.tasks if known is None or name in known]
    strange = [name for name in wanted if known is not None and name not in known]
    if strange or not wanted:
        raise DataError(
            f"no adapter that is given knows {', '.join(strange or dataset.tasks)}: "
            "add one that does with --adapter, or leave --adapter out to ask the bare backbone."
        )
    return wanted


def _engine(options: argparse.Namespace) -> tuple[Engine, set[str] | None, str, int | None]:
    """Who answers, the tasks it knows (None: any), its method's name and training seed."""
    from cgclora.config import ConfigError
    from evals.runs.engines import KEY_VARIABLE, LocalEngine, ServerEngine

    if options.server:
        if options.adapter or not (options.model or options.models) or not options.method:
            raise ConfigError(
                "--server needs --model or --models, and --method, and takes no --adapter."
            )
        models, separator = _bundle(options.models) if options.models else ({}, "\n")
        models |= dict(options.model)
        key = os.environ.get(KEY_VARIABLE)
        server = ServerEngine(options.server, models, separator=separator, key=key)
        known = set(models) if options.models and "*" not in models else None
        return server, known, options.method, None

    from cgclora.adapter import Adapter
    from evals.methods import spelled

    backbone = load(options)
    adapters: dict[str, Adapter] = {}
    manifests: list[Mapping[str, Any]] = []
    methods: set[str] = set()
    for number, folder in enumerate(options.adapter):
        adapter = Adapter.load(folder, backbone, name=f"adapter{number}").for_inference()
        manifests.append(adapter.manifest)
        methods.add(spelled(str(adapter.manifest.get("method", "adapter")), adapter.config))
        for task in adapter.config.tasks:
            if adapters.setdefault(task, adapter) is not adapter:
                raise ConfigError(f"two adapters know the task {task}: leave one of them out.")
    engine = LocalEngine(backbone, adapters, batch_size=options.batch_size)
    seeds = {manifest.get("training", {}).get("settings", {}).get("seed") for manifest in manifests}
    return (
        engine,
        set(adapters) if adapters else None,
        " + ".join(sorted(methods)) or "Backbone",
        seeds.pop() if len(seeds) == 1 else None,
    )


def _print_progress(facts: Mapping[str, Any]) -> None:
    left = facts["seconds_left"]
    words = "" if left is None else f" · {left / 60:.1f} min left"
    print(f"{facts['done']}/{facts['total']}{words}", file=sys.stderr, flush=True)


def _report(run: Run, *, as_json: bool = False) -> None:
    if as_json:
        print(json.dumps({"manifest": run.manifest, "metrics": run.metrics}, ensure_ascii=False))
        return
    if run.metrics is None:
        print(f"{run.folder}: {sum(1 for _ in run.predictions().index)} answers, not scored yet")
        return
    width = max(map(len, run.metrics))
    for task, facts in run.metrics.items():
        main = facts["scores"][facts["main"]]
        interval = f"({main['low']:.3f}-{main['high']:.3f})"
        score = f"{main['value']:.3f} {interval}"
        print(f"{task:<{width}}  {score}  {facts['main']}, n {facts['samples']}")


# report and compare -----------------------------------------------------------------------


def _report_boards(options: argparse.Namespace) -> None:
    from cgclora.storage import atomic_io
    from evals.leaderboard import tables
    from evals.leaderboard.board import boards
    from evals.runs.run_dir import RunError

    roots = options.roots or [Path(__file__).parents[1] / "assets" / "results"]
    found = boards(roots)
    if not (found.boards or found.unscored or found.damaged):
        raise RunError(f"no run lies below {', '.join(map(str, roots))}: name another folder.")
    text = (
        atomic_io.json_text(tables.values(found, options.reference))
        if options.json
        else tables.report(found, options.reference, markdown=options.markdown)
    )
    if options.out:
        atomic_io.write_text(options.out, text)
    else:
        print(text, end="")


def _compare(options: argparse.Namespace) -> None:
    import dataclasses

    from evals.leaderboard.comparison import compare
    from evals.leaderboard.tables import comparison_table
    from evals.runs.run_dir import read_run

    runs = read_run(options.first), read_run(options.second)
    found = compare(*runs, _dataset(options) if options.data else None)
    if options.json:
        print(json.dumps(dataclasses.asdict(found), ensure_ascii=False))
    else:
        print(comparison_table(found).text())


# classification ---------------------------------------------------------------------------


def _classification(options: argparse.Namespace) -> None:
    from cgclora.adapter import Adapter
    from cgclora.models.backbone import EMBEDDED, load_backbone
    from cgclora.storage.adapter_dir import annotate
    from evals.data import datasets
    from evals.runs.classification import compare

    records = datasets.read(options.data).records
    backbone = load_backbone(options.backbone or EMBEDDED)
    adapter = Adapter.load(options.adapter, backbone).for_inference()
    report = compare(backbone, adapter, records, most=options.most, batch_size=options.batch_size)
    if options.write:
        annotate(options.adapter, {"classification": report})
    print(json.dumps(report, ensure_ascii=False, indent=2))


# detection --------------------------------------------------------------------------------


def _detection(options: argparse.Namespace) -> None:
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


# jobs -------------------------------------------------------------------------------------


def _affinity(options: argparse.Namespace) -> None:
    from cgclora.cli.affinity import read_result
    from cgclora.config import ConfigError
    from cgclora.storage import atomic_io
    from evals.figures.affinity import heat_map
    from evals.figures.affinity_page import RESULT, files_of

    result = read_result(options.result)
    try:
        if options.out:
            picture = heat_map(result, options.form.replace("-", "_"), options.groups)
            atomic_io.write_text(options.out, picture)
            return
        page = files_of(result, options.groups)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    options.page.mkdir(parents=True, exist_ok=True)
    atomic_io.write_text(options.page / RESULT, options.result.read_text(encoding="utf-8"))
    for name, text in page.items():
        atomic_io.write_text(options.page / name, text)


def _jobs(options: argparse.Namespace) -> None:
    import signal

    from evals.jobs.worker import work

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # so that it takes its job with it
    work(options.root, options.idle)


if __name__ == "__main__":
    sys.exit(main())
