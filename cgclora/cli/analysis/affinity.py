"""`python -m cgclora affinity`: which tasks help one another, and the clusters that suggests."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgclora.cli.common import aligned, backbone_options, choose_prompts, load, prompt_options, show
from cgclora.data.forms import task_name
from cgclora.data.readers import read_records

HELP = """Measure how much a training step on one task helps another, and group the tasks by it.

One plain LoRA is trained on all tasks for a while. Every few steps each task's gradient is taken,
and how much a step along it would lower each task's loss (TAG, arXiv 2109.04617). The groups that
help their own most are what 1 + N clusters could be. The data is that of `train`.

  python -m cgclora affinity --data train.jsonl --run runs/affinity
  python -m cgclora affinity --data a.jsonl --data b.jsonl --run runs/affinity --measurements 40
  python -m cgclora affinity --from runs/affinity/affinity.json --groups 2-6 \\
      --prior assets/adapters/medical --prior assets/adapters/general

An interrupted run goes on when the same command is given again, and --measurements may grow. The
run folder gets affinity.json; --from groups the tasks of such a file anew, without measuring.
A prior grouping to compare with is given group by group: an adapter's folder stands for its tasks,
or NAME=TASK,TASK,..."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    source = parser.add_argument_group("what to measure")
    source.add_argument("--data", action="append", help="file, folder or hub id (repeat)")
    source.add_argument("--run", type=Path, help="run folder; the same one resumes")
    source.add_argument("--from", type=Path, dest="measured", help="group an affinity.json anew")
    source.add_argument("--task", type=task_name, action="append", help="these tasks only (repeat)")
    backbone_options(source)
    source.add_argument("--rank", type=int, default=16, help="of the LoRA (default 16)")
    _settings_options(parser.add_argument_group("how"))

    prompt_options(parser.add_argument_group("prompts"))

    groups = parser.add_argument_group("grouping")
    groups.add_argument(
        "--groups", type=_range, default=range(1, 9), metavar="N-M", help="how many (default 1-8)"
    )
    groups.add_argument(
        "--form",
        choices=("first-order", "lookahead"),
        default="first-order",
        help="whose groups to print (default first-order, which is measured more often)",
    )
    groups.add_argument(
        "--unit",
        choices=("loss", "task"),
        default="loss",
        help="affinities as shares of the loss, as TAG has them, or each task's relative to its "
        "usual ones, so that all tasks have the same say",
    )
    groups.add_argument(
        "--prior", action="append", default=[], help="a group of a known grouping (repeat)"
    )
    parser.add_argument("--out", type=Path, help="file for the result (default: in the run folder)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _settings_options(how: argparse._ArgumentGroup) -> None:
    """Those of `AffinitySettings`; a default of None leaves its own."""
    for name, text in (
        ("measurements", "how many (default 20)"),
        ("every", "joint training steps before each (default 8)"),
        ("records", "of a task for its step, at least (default 2)"),
        ("loss-records", "of a task for its loss, at least (default 2)"),
        ("tokens", "of a task for each, where its records are short (default 320)"),
        ("lookahead-every", "take that form every so many measurements, 0 never (default 2)"),
        ("batch-size", "of the joint training (default 8)"),
        ("max-length", "longest record in tokens (default 512)"),
        ("seed", "of draws and first weights (default 0)"),
    ):
        how.add_argument(f"--{name}", type=int, help=text)
    how.add_argument("--step", choices=("adam", "sgd"), help="direction of a step (default adam)")
    how.add_argument(
        "--step-rate", type=float, help="of a step (default: the learning rate over the tasks)"
    )
    how.add_argument("--learning-rate", type=float, help="of the joint training (default 1e-3)")
    how.add_argument(
        "--sampling",
        choices=("proportional", "uniform", "temperature"),
        help="of the joint training (default uniform)",
    )
    how.add_argument("--temperature", type=float, help="of that sampling")
    how.add_argument(
        "--weighting", choices=("token", "record"), help="what counts alike (default record)"
    )


def _range(text: str) -> range:
    """`N-M` or `N`, for argparse, which reports the ValueError of anything else."""
    first, _, last = text.partition("-")
    sizes = range(int(first), int(last or first) + 1)
    if not sizes or sizes[0] < 1:
        raise ValueError(text)
    return sizes


def execute(options: argparse.Namespace) -> None:
    """Measure, or read what was measured; group, write and print."""
    from cgclora.config import ConfigError
    from cgclora.storage import atomic_io

    if (options.measured is None) == (options.run is None):
        raise ConfigError("give --run to measure, or --from to group what was measured.")
    if options.measured is None and not options.data:
        raise ConfigError("--run needs --data: name the records to measure on.")
    for option, given in (("--task", options.task), ("--data", options.data)):
        if options.measured is not None and given:
            raise ConfigError(
                f"{option} says what to measure, and --from groups what was measured, all tasks "
                f"of it: leave {option} out, or measure with --run."
            )
    prior = prior_groups(options.prior) if options.prior else None
    result = _measure(options) if options.measured is None else read_result(options.measured)
    result["grouping"] = group(result, options.groups, prior, unit=options.unit)
    result = _rounded(result)
    out = options.out or (options.run / "affinity.json" if options.run else None)
    if out is not None:
        text = atomic_io.json_text(result)
        text = re.sub(
            r"\[\n[-+.eE\d,\s]+\]", lambda row: f"[{' '.join(row[0][1:-1].split())}]", text
        )
        atomic_io.write_text(out, text)  # each list of numbers on a line
    show(result, summary(result, options.form.replace("-", "_")), options)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    import dataclasses

    from cgclora.adapter import Adapter
    from cgclora.analysis.affinity import measure
    from cgclora.analysis.affinity_settings import AffinitySettings
    from cgclora.config import AdapterConfig

    given = {
        field.name: value
        for field in dataclasses.fields(AffinitySettings)
        if (value := getattr(options, field.name)) is not None
    }
    settings = AffinitySettings(**given)
    records = [record for source in options.data for record in read_records(source)]
    tasks = options.task or sorted({record.task for record in records})
    records = [record for record in records if record.task in set(tasks)]
    backbone = load(options)
    prompts = vars(choose_prompts(options, backbone.tokenizer))
    config = AdapterConfig.lora(tasks, options.rank, **prompts)
    adapter = Adapter.attach(backbone, config, seed=settings.seed)
    return measure(adapter, backbone.tokenizer, records, settings, options.run)


def prior_groups(words: Sequence[str]) -> dict[str, list[str]]:
    """A grouping from the command line: adapters by folder or hub id, or NAME=TASK,TASK,...

    Raises:
        ConfigError: Two groups have one name.
        AdapterError: A folder is no adapter.
    """
    from cgclora.config import ConfigError
    from cgclora.storage.adapter_dir import read_manifest
    from cgclora.storage.hub import adapter_folder, adapter_name

    groups: dict[str, list[str]] = {}
    for word in words:
        name, equals, tasks = word.partition("=")
        if equals and not Path(word).is_dir():
            members = [task.strip() for task in tasks.split(",") if task.strip()]
        else:
            name, members = adapter_name(word), list(read_manifest(adapter_folder(word))[1].tasks)
        if name in groups:
            raise ConfigError(f"--prior names the group {name!r} twice.")
        groups[name] = members
    return groups


def read_result(path: Path) -> dict[str, Any]:
    """What an earlier call wrote.

    Raises:
        DataError: It is no result of this command.
        OSError: It cannot be read.
    """
    from cgclora.analysis.affinity_state import FORMS, with_means
    from cgclora.data.records import DataError

    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        count = len(result["tasks"])
        for one in result["measurements"]:
            for form in FORMS:
                if form in one and [len(row) for row in one[form]] != [count] * count:
                    raise ValueError(f"a matrix is not {count} x {count}")
        result |= with_means(result["measurements"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no result of `cgclora affinity`: {error!r}.") from error
    return dict(result)


def group(
    result: Mapping[str, Any],
    sizes: Sequence[int],
    prior: Mapping[str, Sequence[str]] | None,
    *,
    unit: str = "loss",
) -> dict[str, Any]:
    """The groups that both forms suggest, and how far they agree.

    Returns:
        `unit`, where `task` is that of `grouping_report.equalised`; `first_order` and `lookahead`,
        see `grouping_report.report`, None where not taken; `agreement`, the rank correlation of
        both over pairs of tasks, from the measurements that have both.

    Raises:
        ConfigError: The prior does not have each task once.
    """
    from cgclora.analysis.affinity_state import FORMS, linearised, pooled
    from cgclora.analysis.grouping_report import equalised, rank_correlation, report
    from cgclora.config import ConfigError

    tasks = result["tasks"]
    possible = [size for size in sizes if size <= len(tasks)] or [len(tasks)]
    grouping: dict[str, Any] = {"unit": unit, "agreement": None}
    for form in FORMS:
        if result[form] is None:
            grouping[form] = None
            continue
        try:
            values, spread = (of(result["measurements"], form) for of in (pooled, linearised))
            if unit == "task":  # both have one mean, and so one unit
                values, spread = equalised(values), equalised(spread)
            grouping[form] = report(values, tasks, possible, spread=spread, prior=prior)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    both = [one for one in result["measurements"] if "lookahead" in one]
    if both and len(tasks) > 2:
        means = [pooled(both, form).mean(axis=0) for form in FORMS]
        grouping["agreement"] = rank_correlation(*means)
    return grouping


def _rounded(value: Any) -> Any:
    """JSON values with numbers of 6 significant digits, which is more than any of them has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return {k: _rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def summary(result: Mapping[str, Any], form: str) -> str:
    """The result in words and a table."""
    words = form.replace("_", " ")
    report = result["grouping"][form]
    if report is None:
        return f"the {words} form was not measured."
    lines = [
        f"{len(result['tasks'])} tasks, {report['measurements']} measurements, {words} form",
        f"mean affinity with all in one group: {report['one_group']:+.5f}"
        + (" of each task's usual one" if result["grouping"]["unit"] == "task" else ""),
    ]
    for value, between in (
        (report["split_half"], "every other measurement and the rest"),
        (result["grouping"]["agreement"], "first order and lookahead"),
    ):
        if value is not None:
            lines.append(f"rank correlation of {between}: {value:.2f}")
    lines += ["", *_table(report)]
    suggested = report["suggested"]
    for one in report["groupings"]:
        if one["asked"] == suggested or (suggested is None and one is report["groupings"][-1]):
            title = "suggested groups" if suggested else "groups"
            lines += ["", f"{title}: {len(one['groups'])}"]
            lines += [f"  {i}  {', '.join(names)}" for i, names in enumerate(one["groups"], 1)]
    return "\n".join(lines)


def _table(report: Mapping[str, Any]) -> list[str]:
    """A line for each number of groups."""
    rows = [
        ("groups", "gain", "held out", "stability", "like prior"),
        *(
            (
                str(one["asked"]),
                _with_error(one["gain"], one["standard_error"]),
                _with_error(one["held_out_gain"], one["held_out_standard_error"]),
                "" if one["stability"] is None else f"{one['stability']:.2f}",
                "" if one["prior_ari"] is None else f"{one['prior_ari']:.2f}",
            )
            for one in report["groupings"]
        ),
    ]
    if prior := report["prior"]:
        rows.append(("prior", _with_error(prior["gain"], prior["standard_error"]), "", "", ""))
    return aligned(rows)


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{value:+.5f}" + ("" if error is None else f" ± {error:.5f}")
